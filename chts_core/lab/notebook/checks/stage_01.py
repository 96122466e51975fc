"""Checks of stage 01, networks as masks."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from chts_core import topology
from chts_core.diagnostics import clustering, degrees, path_length
from chts_core.lab.notebook.checks.slips import refuse


def links_per_output(links_per_output: float | None) -> None:
    """Degrees that fit: the number of links of each output."""
    assert links_per_output is not None, "replace None in the cell above with a number."
    mask = topology.receptive_field(100, 40, 0.1, generator=torch.Generator().manual_seed(0))
    counted = mask.sum(dim=1).unique().tolist()
    slips = {
        "the mean number of links of an input; give the number of links of each output": 10,
        "the number of absent links of each output; give the number of its existing links": 36,
        "the number of links of the whole layer; divide it by the number of outputs": 400,
    }
    refuse(links_per_output, slips, 1e-6)
    assert counted == [links_per_output], (
        f"{links_per_output} is not right; in the mask of the core, no output has {links_per_output} links."
    )


def small_world(small_world: Callable[[int, int, int, float, torch.Generator], Tensor | None]) -> None:
    """Build a small world: a function that draws a bipartite small world with an exact number of links."""
    generator = torch.Generator().manual_seed(0)
    for outputs, inputs, links in ((8, 4, 16), (4, 8, 16), (8, 4, 19), (6, 6, 18)):
        lattice = small_world(outputs, inputs, links, 0.0, generator)
        assert lattice is not None, "small_world() returns None; return a Boolean mask (outputs, inputs)."
        assert tuple(lattice.shape) == (outputs, inputs), (
            f"the mask has shape {tuple(lattice.shape)}, not {outputs, inputs}."
        )
        _check_lattice(lattice.bool(), links)
    lattice = small_world(8, 4, 16, 0.0, generator)
    assert lattice is not None
    for beta in (0.5, 1.0):
        tries = [small_world(8, 4, 16, beta, generator) for _ in range(500)]
        _check_rewired(torch.stack([mask.bool() for mask in tries if mask is not None]), lattice.bool(), beta)
    wide = small_world(4, 8, 16, 1.0, generator)
    assert wide is not None
    assert wide.sum(dim=0).unique().tolist() == [2], (
        "for 4 outputs, 8 inputs and 16 links at β = 1, each input must still have 2 links, because the "
        "inputs are the larger side."
    )
    for beta in (0.0, 0.1, 1.0):
        large = small_world(96, 64, 600, beta, generator)
        assert large is not None
        near = f"clustering {clustering(large.bool()):.2f}, path length {path_length(large.bool()).mean:.2f}"
        print(f"96 × 64, 600 links, β = {beta:.1f}: {near}")


def _check_lattice(mask: Tensor, links: int) -> None:
    """Check a lattice (β = 0): its number of links, the degrees on its larger side, and the lengths of its links."""
    where = f"for {mask.shape[0]} outputs, {mask.shape[1]} inputs and {links} links at β = 0,"
    assert int(mask.sum()) == links, f"{where} the mask has {int(mask.sum())} links."
    side, other = ("output", "input") if mask.shape[0] >= mask.shape[1] else ("input", "output")
    mask = mask if side == "output" else mask.T
    shares = mask.sum(dim=1)
    assert int(shares.max() - shares.min()) <= 1, (
        f"{where} the {side}s have {int(shares.min())} to {int(shares.max())} links. The {side}s are the larger side, "
        "so their numbers of links may differ by at most one."
    )
    nodes, others = mask.shape
    centres = (torch.arange(nodes) + 0.5) * others / nodes - 0.5
    apart = (torch.arange(others) - centres[:, None]).abs()
    distance = torch.minimum(apart, others - apart)
    for node in range(nodes):
        far = distance[node].masked_fill(~mask[node], -1).argmax()
        near = distance[node].masked_fill(mask[node], torch.inf).argmin()
        assert mask[node].all() or distance[node, far] <= distance[node, near] + 1e-4, (
            f"{where} {side} {node} is at position {centres[node]:g} on the ring of {other}s. It has a link to "
            f"{other} {int(far)}, but not to {other} {int(near)}, which is nearer, at a distance of "
            f"{distance[node, near]:g}."
        )


def _check_rewired(tries: Tensor, lattice: Tensor, beta: float) -> None:
    """Compare masks of the learner (8 × 4, 16 links) with masks of the core: numbers of links, degrees and places."""
    sizes = tries.sum(dim=(1, 2)).unique().tolist()
    assert sizes == [16], (
        f"at β = {beta}, your masks have {sizes[0]} to {sizes[-1]} links instead of 16; does your function lose "
        "a link if the new place already has a link?"
    )
    degrees = tries.sum(dim=2)
    assert (degrees == lattice.sum(dim=1)).all(), (
        f"at β = {beta}, the outputs have {int(degrees.min())} to {int(degrees.max())} links; each output must "
        "still have 2 links, as in the lattice."
    )
    moved = (lattice & ~tries).sum(dim=(1, 2))
    assert moved.any(), f"at β = {beta}, no link moves; remove some links and draw new ones."
    assert int(moved.max()) <= 16 * beta, (
        f"at β = {beta}, up to {int(moved.max())} of 16 links moved. Remove exactly {16 * beta:g} links; "
        "do not toss a coin for each link."
    )
    stayed = 1 - moved.double().mean().item() / 16
    generator = torch.Generator().manual_seed(1)
    core = torch.stack([topology.small_world(8, 4, 0.5, beta, generator=generator) for _ in range(500)])
    due = (core & lattice).double().sum().item() / (16 * len(core))
    assert stayed > 1 - beta + 0.02, (
        f"at β = {beta}, no removed link returns to its old place in your masks; the old place must be as likely as "
        "every other free place."
    )
    assert abs(stayed - due) < 0.025, (
        f"at β = {beta}, your masks contain {stayed:.0%} of the links of the lattice on average, but the core's masks "
        f"contain {due:.0%}. Do you remove all chosen links before you draw the first new link?"
    )
    often, wanted = tries.double().mean(0), core.double().mean(0)
    output, source = divmod(int((often - wanted).abs().argmax()), 4)
    assert torch.allclose(often, wanted, atol=0.14), (
        f"at β = {beta}, output {output} has a link to input {source} in {often[output, source]:.0%} of your masks, "
        f"but in {wanted[output, source]:.0%} of the core's masks. Are all free inputs equally likely?"
    )


def rich(next_one: float | None, next_two: float | None) -> None:
    """The rich get richer: the chances that the next newcomer and the next two newcomers choose node 3."""
    assert next_one is not None, "replace each None in the cell above with a number."
    assert next_two is not None, "replace each None in the cell above with a number."
    slips = {
        "the chance for five equally likely nodes, but a node with more links is chosen more often": 1 / 5,
        "the number of entries of node 3 in the list; divide it by the number of all entries": 3,
        "the share of the links that end at node 3; a newcomer draws one of the eight ends of the links": 3 / 4,
    }
    refuse(next_one, slips, 1e-3)
    assert abs(next_one - 3 / 8) < 1e-3, (
        f"{next_one} is not right for one newcomer; count the entries of node 3 in the list."
    )
    slips = {
        "the square of the first chance, but the first new link adds two entries, one of them for node 3": 9 / 64,
        "the chance for the second newcomer alone; both newcomers must choose node 3": 4 / 10,
        "the product of 3/8 and 4/9; a new link adds two entries": 3 / 8 * 4 / 9,
        "the product of 3/8 and 3/10; node 3 has one more entry after the first newcomer chooses it": 3 / 8 * 3 / 10,
        "the sum of the two chances; both newcomers must choose node 3, so multiply the chances": 3 / 8 + 4 / 10,
    }
    refuse(next_two, slips, 1e-3)
    assert abs(next_two - 0.15) < 1e-3, (
        f"{next_two} is not right for two newcomers; write down the list of entries after the first newcomer."
    )


def image_field(image_field: Callable[[int, int, int], Tensor | None], *, pixels: Tensor) -> None:
    """A receptive field for images: a function that links each neuron to the pixels nearest to it."""
    for height, width, degree in ((3, 3, 1), (2, 4, 3), (5, 4, 5), (4, 5, 9)):
        mask = image_field(height, width, degree)
        assert mask is not None, "image_field() returns None; return a Boolean mask (pixels, pixels)."
        count = height * width
        assert tuple(mask.shape) == (count, count), f"the mask has shape {tuple(mask.shape)}, not {count, count}."
        numbers = mask.bool().sum(dim=1)
        assert (numbers == degree).all(), (
            f"your neurons have {int(numbers.min())} to {int(numbers.max())} links; each neuron needs {degree}."
        )
        _check_nearest(mask.bool(), height, width)
    side = math.isqrt(len(pixels))
    mine = image_field(side, side, 9)
    assert mine is not None
    generator = torch.Generator().manual_seed(0)
    layers = {
        "your layer": mine.bool(),
        "BRF": topology.receptive_field(side**2, side**2, 9 / side**2, 0.0, generator=generator),
        "ER": topology.erdos_renyi(side**2, side**2, 9 / side**2, generator=generator),
    }
    others = ~torch.eye(side**2, dtype=torch.bool)
    for name, mask in layers.items():
        print(f"mean correlation of linked pixels, {name}: {pixels[mask & others].mean():.2f}")


def _check_nearest(mask: Tensor, height: int, width: int) -> None:
    """Check that each neuron is linked to its nearest pixels; among equally near pixels, any choice is right."""
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).tolist()
    for neuron, own in enumerate(places):
        distance = torch.tensor([math.dist(own, place) for place in places])
        far = int(distance.masked_fill(~mask[neuron], -1).argmax())
        near = int(distance.masked_fill(mask[neuron], torch.inf).argmin())
        assert distance[far] <= distance[near] + 1e-4, (
            f"in an image of {height} rows of {width} pixels, neuron {neuron} is in row {own[0]}, column {own[1]}. "
            f"It has a link to pixel {far} (row {places[far][0]}, column {places[far][1]}), but not to pixel {near} "
            f"(row {places[near][0]}, column {places[near][1]}), whose Euclidean distance is smaller."
        )


def four_cycles(four_cycles: Callable[[Tensor], int | None]) -> None:
    """Count the 4-cycles: a function that takes a mask and returns the number of its 4-cycles."""
    small = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    full = torch.ones(3, 3, dtype=torch.bool)
    block = torch.zeros(4, 5, dtype=torch.bool)
    block[:2, :3] = True
    counted = four_cycles(small)
    assert counted is not None, "four_cycles() returns None; return a number of cycles."
    assert counted != 6, (
        "6 is the number of links. If you counted cycles, you paired each output with itself and counted each pair "
        "in both orders."
    )
    assert counted != 4, "a cycle has four links; count each cycle only once."
    assert counted != 2, "you counted each pair of outputs in both orders; count each pair only once."
    assert counted == 1, (
        f"the mask with the rows 1100, 1110 and 0001 has 1 cycle, not {counted}; do you pair an output with itself?"
    )
    assert four_cycles(block) == 3, f"two outputs that share 3 inputs lie on 3 cycles, not {four_cycles(block)}."
    assert four_cycles(full) == 9, f"3 pairs of outputs with 3 cycles each make 9 cycles, not {four_cycles(full)}."


def names(names: Mapping[str, str | None], *, mystery: Mapping[str, Tensor], five: Mapping[str, Tensor]) -> None:
    """Five unknown networks: the answer gives the name of each shuffled network."""
    assert set(names) == set(mystery), f"keep the letters {', '.join(mystery)}."
    for letter, name in names.items():
        assert name is not None, f"for {letter}, replace None with the name of a network."
        assert name in five, f"{name!r} is not one of the names {', '.join(five)}."
    assert len(set(names.values())) == len(names), "each name belongs to one network; you used a name more than once."
    known = {_degree_lists(mask): name for name, mask in five.items()}
    for letter, mask in mystery.items():
        name = str(names[letter])
        if known[_degree_lists(mask)] != name:
            raise AssertionError(f"{letter} is not {name}: {_why_not(name, mask)}.")


def _degree_lists(mask: Tensor) -> tuple[tuple[int, ...], ...]:
    """The sorted degrees of the outputs and of the inputs. Shuffling does not change them."""
    return tuple(tuple(side.sort().values.tolist()) for side in degrees(mask))


def _why_not(name: str, mask: Tensor) -> str:
    """Say how a network differs from the network that the learner named."""
    outputs, inputs = degrees(mask)
    low, high = int(outputs.min()), int(outputs.max())
    if (high - low <= 1) != (name in ("BSW", "BRF")):
        rule = (
            "in BSW and BRF, the numbers of links of any two outputs differ by at most one"
            if high - low > 1
            else "only BSW and BRF give all outputs nearly equal numbers of links"
        )
        return f"its outputs have {low} to {high} links, but {rule}"
    empty = int((outputs == 0).sum() + (inputs == 0).sum())
    own, density = clustering(mask), mask.float().mean().item()
    return {
        "CSTI": f"it has {empty} neurons without links, but CSTI leaves more neurons without links",
        "BSF": f"no neuron has more than {max(high, int(inputs.max()))} links, but the hubs of BSF have more",
        "ER": f"its clustering is {own:.2f}, but the clustering of ER is near the density, {density:.2f}",
        "BSW": f"its clustering is {own:.2f}, but BSW is less clustered. Compare the two networks whose outputs have "
        "nearly equal degrees",
        "BRF": f"its clustering is {own:.2f}, but BRF is more clustered. Compare the two networks whose outputs have "
        "nearly equal degrees",
    }[name]
