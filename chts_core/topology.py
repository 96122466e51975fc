"""Initial bipartite networks: which links a layer starts with.

`erdos_renyi`, `receptive_field`, `small_world`, `scale_free` and `correlated` work for any numbers of outputs and
inputs. They take the sizes of the two sides, the density, a random generator and a device (default: the generator's).
They return a Boolean mask shaped like `nn.Linear.weight`, (out_features, in_features), on this device, with exactly
link_count(out_features, in_features, density) links. They raise a TypeError or ValueError for an invalid setting.
"""

import torch
from torch import Tensor

from chts_core import row_links
from chts_core.checks import check_density, check_features, check_generator, check_mask
from chts_core.compiled import row_draws
from chts_core.row_links import Degree
from chts_core.sampling import draw, gumbel


def link_count(out_features: int, in_features: int, density: float) -> int:
    """Number of links of a layer at a density: the nearest integer to density × out × in."""
    check_features(out_features, in_features)
    check_density(density)
    return round(density * out_features * in_features)


def erdos_renyi(
    out_features: int,
    in_features: int,
    density: float,
    *,
    generator: torch.Generator,
    device: torch.device | str | None = None,
) -> Tensor:
    """Erdős–Rényi (ER): an exact number of links, placed uniformly at random (the G(n, m) model)."""
    check_generator(generator)
    links = link_count(out_features, in_features, density)
    mask = row_links.any_of(out_features * in_features, links, generator)
    return mask.view(out_features, in_features).to(device or generator.device)


def receptive_field(
    out_features: int,
    in_features: int,
    density: float,
    r: float = 0.25,
    degree: Degree = "fixed",
    *,
    generator: torch.Generator,
    device: torch.device | str | None = None,
) -> Tensor:
    """Bipartite receptive field network (BRF): outputs prefer the inputs near them.

    The inputs form a ring. The centre of output i is at position (i + 1/2) · in/out - 1/2 of this ring. This position
    is on the diagonal of the mask (or up to half a column beside it, if all degrees are equal). An output of degree d
    draws d inputs without replacement, with probability ∝ (1 + distance)^(-(1-r)/r). r = 0 takes the d nearest inputs.
    r = 1 draws uniformly, which is ER with these output degrees. (Paper, "Bipartite receptive field network modelling".
    The published code rounds in/out to an integer, which leaves part of a longer input side without links.)

    With at least as many links as inputs, every input has a link at r = 0. With at least as many links as outputs,
    every output has a link at any r. Neither guarantee holds for degrees given as a tensor.

    Args:
        r: randomness in [0, 1].
        degree: "fixed": all outputs have the same degree (within 1). "uniform": degrees spread evenly over a range that
            is symmetric about their mean. The range is as wide as possible, but if there are enough links, the lowest
            degree is the distance between two centres or more, so that no input is left out at r = 0. A 1-D integer
            tensor: the degree of each output; the degrees must add up to the number of links. No degree may exceed the
            number of inputs.
    """
    check_generator(generator)
    if not 0 <= r <= 1:
        raise ValueError(f"r is {r}; expected a randomness in [0, 1]: 0 takes the nearest inputs, 1 is Erdős–Rényi.")
    links = link_count(out_features, in_features, density)
    where = generator.device
    degrees = row_links.output_degrees(out_features, in_features, links, degree, generator).to(where)
    centres = row_links.centres(degrees.double(), in_features)
    mask = torch.empty(out_features, in_features, dtype=torch.bool, device=where)
    if r == 0:
        row_links.set_nearest(mask, degrees, centres)
    else:
        race = row_draws.race if where.type == "cpu" else row_links.race
        race(mask, degrees, centres, (1 - r) / max(r, 1e-9), generator)  # the bound on r keeps the exponent finite
    return mask.to(device or where)


def small_world(
    out_features: int,
    in_features: int,
    density: float,
    beta: float = 0.25,
    *,
    generator: torch.Generator,
    device: torch.device | str | None = None,
) -> Tensor:
    """Bipartite small world (BSW): links to the nearest nodes of a ring; a share `beta` of them is rewired at random.

    This is the Watts-Strogatz model for two sides, with β = `beta` in [0, 1]. Each node of the larger side (the outputs
    if the sides are equal) starts with links to its K nearest nodes of the smaller side. K is the number of links per
    node of the larger side, rounded so that degrees differ by at most one. Then round(β · links) links, chosen
    uniformly, lose their end on the smaller side, all at once. Each node of the larger side draws as many new ends as
    it has lost, uniformly and without replacement, from the nodes that its remaining links do not reach. So the degrees
    of the larger side never change, and β = 1 is exactly ER with these degrees. A link may return to its old place,
    although the original Watts-Strogatz model forbids this. Here, such a ban would make β = 1 differ from ER in dense
    layers, and a full layer could not be rewired at all. (Paper, bipartite small world model.)

    For out_features >= in_features, β = 0 gives exactly the links of receptive_field(..., r=0, degree="fixed"). If the
    input side is larger, β = 0 gives the transpose of that network for (in_features, out_features). If there are at
    least as many links as nodes on the larger side, each of these nodes has a link at any β. At β = 0, every node of
    the smaller side has a link too.
    """
    check_generator(generator)
    if not 0 <= beta <= 1:
        raise ValueError(
            f"beta is {beta}; expected a share of rewired links in [0, 1]: 0 keeps the nearest links, 1 is Erdős–Rényi."
        )
    links = link_count(out_features, in_features, density)
    where = generator.device
    larger, smaller = max(out_features, in_features), min(out_features, in_features)
    degrees = row_links.output_degrees(larger, smaller, links, "fixed", generator).to(where)
    mask = torch.empty(larger, smaller, dtype=torch.bool, device=where)
    row_links.set_nearest(mask, degrees, row_links.centres(degrees.double(), smaller))
    mask.masked_scatter_(mask, ~row_links.any_of(links, round(beta * links), generator))
    fill = row_draws.fill if where.type == "cpu" else row_links.fill
    fill(mask, degrees, generator)
    return (mask if out_features >= in_features else mask.T.contiguous()).to(device or where)


def scale_free(
    out_features: int,
    in_features: int,
    density: float,
    *,
    generator: torch.Generator,
    device: torch.device | str | None = None,
) -> Tensor:
    """Bipartite scale-free network (BSF): a Barabási–Albert network whose links are then moved to join the two sides.

    1. A Barabási–Albert network grows over all out + in nodes. The first link joins an output and an input. The other
       nodes join in random order and share the remaining links evenly (within 1). Each new link goes to a node that is
       already there, with probability ∝ its degree. Two nodes can be linked twice.
    2. For every link within a side, one end is chosen at random. This end moves to a node of the other side, drawn with
       probability ∝ its degree in step 1. But a new node keeps its own end of its first link.
    3. Two links between the same nodes become one. To restore the number of links, absent links are drawn without
       replacement, with probability ∝ the product of the degrees of their ends in step 1. A link of a node with degree
       0 is drawn only if no other absent link is left.

    Both sides keep the power law k^-γ of the growth, with γ = 3. On average, step 2 multiplies all degrees of a
    side by the same factor, (out + in) / (2 · nodes of the side). A fit to a small network may give a smaller γ (paper:
    2.76). The degree of an output cannot exceed the number of inputs, and the degree of an input cannot exceed the
    number of outputs. This limit cuts off the tails of the degree distributions. In dense layers, it cuts them off
    almost completely. With at least out + in - 1 links, every node has a link. (Paper, bipartite scale-free model.
    Batagelj and Brandes 2005, "Efficient generation of large random networks", choose a node with probability ∝ its
    degree by a uniform draw from a list of link ends. Here, all draws are made at once and then resolved by pointer
    jumping, so the growth is vectorised.)
    """
    check_generator(generator)
    links = link_count(out_features, in_features, density)
    where = generator.device
    mask = torch.zeros(out_features, in_features, dtype=torch.bool, device=where)
    if links == 0:
        return mask.to(device or where)

    # The outputs are numbered first. Each node is in `ends` once per link, so a uniform draw from `ends` chooses a
    # node with probability ∝ its degree.
    newer, older = _barabasi_albert(out_features, in_features, links, generator)
    ends = torch.cat([newer, older])
    by_degree = [
        side[torch.randint(side.numel(), (links,), generator=generator, device=where)]
        for side in (ends[ends < out_features], ends[ends >= out_features])
    ]

    coin = torch.rand(links, generator=generator, device=where) < 0.5
    first = newer.diff(prepend=newer.new_full((1,), -1)) != 0
    stays, moves = (torch.where(coin & ~first, *pair) for pair in ((older, newer), (newer, older)))
    same_side = (newer < out_features) == (older < out_features)
    across = torch.where(stays < out_features, by_degree[1], by_degree[0])
    moves = torch.where(same_side, across, moves)
    mask[torch.minimum(stays, moves), torch.maximum(stays, moves) - out_features] = True

    degrees = torch.bincount(ends, minlength=out_features + in_features).double()
    products = torch.outer(degrees[:out_features], degrees[out_features:])
    mask |= draw(products, ~mask, links - int(mask.sum()), generator=generator)
    return mask.to(device or where)


def equal_partition(mask: Tensor, *, generator: torch.Generator) -> Tensor:
    """A network with the output degrees of `mask`, in which all inputs have the same number of links (within 1).

    Use this function for the first layer of a scale-free network. In such a network, chance decides which inputs are
    hubs, so some pixels would count far more than others. The outputs choose their inputs one after the other. An
    output with d links in `mask` takes the d inputs that have the fewest links so far. Ties are broken at random. The
    result has the shape of `mask`, on the generator's device. (Paper, Appendix E. In the first published code,
    `rewire_connections`, each output draws from all inputs, so the inputs have equal numbers of links only on average.)
    """
    check_mask(mask)
    check_generator(generator)
    links = torch.zeros(mask.shape[1], dtype=torch.float64, device=generator.device)
    result = torch.zeros(mask.shape, dtype=torch.bool, device=generator.device)
    for output, degree in enumerate(mask.sum(dim=1).tolist()):
        chance = torch.rand(links.shape, dtype=torch.float64, device=links.device, generator=generator)
        result[output, (links + chance).argsort()[:degree]] = True
        links += result[output]
    return result


def resort(before: Tensor, after: Tensor, soft: bool = False, *, generator: torch.Generator) -> Tensor:
    """The second of two layers, with its inputs permuted so that hubs of the first layer are also hubs of the second.

    The input with the most links goes to the neuron with the most links in `before`, and so on; ties are broken at
    random. If `soft` is true, the order of the inputs is drawn without replacement, with p ∝ links, and inputs without
    links come last. (Paper, Appendix E. The first published code, `rigid_resort` and `soft_resort`, orders the neurons
    of `before` from few links to many. But `soft_resort` draws inputs with many links first, so these inputs tend to go
    to neurons with few links. Here, inputs with many links go to neurons with many links in both forms.)

    Args:
        before: Boolean (neurons, in_features), the layer whose outputs are the inputs of `after`.
        after: Boolean (out_features, neurons). The result has the shape of `after`, on the generator's device.

    Raises:
        ValueError: if `after` does not have as many inputs as `before` has outputs.
    """
    check_mask(before, "before")
    check_mask(after, "after")
    check_generator(generator)
    if before.shape[0] != after.shape[1]:
        raise ValueError(
            f"before has {before.shape[0]} outputs but after has {after.shape[1]} inputs; expected two layers "
            "where the outputs of the first are the inputs of the second."
        )
    where = generator.device
    neurons = before.sum(dim=1).to(where).argsort(descending=True, stable=True)
    links = after.sum(dim=0).to(where).double()
    if soft:
        keys = links.log() + gumbel(links.shape, generator=generator)
    else:
        keys = links + torch.rand(links.shape, dtype=torch.float64, device=where, generator=generator)
    result = torch.empty(after.shape, dtype=torch.bool, device=where)
    result[:, neurons] = after.to(where)[:, keys.argsort(descending=True)]
    return result


def _barabasi_albert(
    out_features: int, in_features: int, links: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The newer and the older end of each link of a growing network with `links` >= 1 links, oldest link first."""
    where = generator.device
    outputs = torch.randperm(out_features, generator=generator, device=where)
    inputs = torch.randperm(in_features, generator=generator, device=where) + out_features
    joining = torch.cat([outputs[1:], inputs[1:]])
    joining = joining[torch.randperm(joining.numel(), generator=generator, device=where)]

    # Link 0 joins the first two nodes. Each new node brings its share of the other links, one after the other.
    newcomer = torch.arange(links - 1, device=where) * joining.numel() // max(links - 1, 1)
    newer = torch.cat([outputs[:1], joining[newcomer]])
    links_before = 1 + torch.searchsorted(newcomer, newcomer)

    # Slots 2l and 2l + 1 hold the newer and the older end of link l. An older end copies a random slot that was filled
    # before its new node joined. That slot is often a copy itself, so follow the copies until each points at a slot
    # that is not a copy.
    copied = torch.arange(2 * links, device=where)
    any_slot = torch.rand(links - 1, dtype=torch.float64, device=where, generator=generator)
    copied[3::2] = (any_slot * (2 * links_before)).long()
    while not torch.equal(copied, further := copied[copied]):
        copied = further
    slots = newer.repeat_interleave(2)
    slots[1] = inputs[0]
    return newer, slots[copied[1::2]]


class Correlation:
    """Pearson correlation of the features of a data set, in one pass over its batches.

    The class keeps the number of samples, the first sample, the mean, and the co-moments of all pairs (sums of products
    of deviations from the mean). The co-moments are features² float64 numbers, 75 MB for the 3072 features of CIFAR10,
    on the device of the first batch. The class computes deviations within each batch and merges the batches (Chan,
    Golub and LeVeque 1979), so the result is precise even if the mean is large. The class subtracts the first
    sample, so a constant feature has a variance of exactly 0.

        correlation = Correlation()
        for images, _ in loader:
            correlation.update(images.flatten(1))
        mask = correlated(1568, 784, 0.01, correlation.matrix(), generator=generator)
    """

    def __init__(self) -> None:
        self.count = 0
        self._first: Tensor | None = None

    def update(self, batch: Tensor) -> None:
        """Add a batch of samples, (samples, features), of any real dtype.

        Raises a TypeError or ValueError for any other input, a changed number of features, or infinite or NaN values.
        """
        if not isinstance(batch, Tensor) or batch.is_complex():
            what = batch.dtype if isinstance(batch, Tensor) else type(batch).__name__
            raise TypeError(f"batch is a {what}; expected a tensor of real numbers shaped (samples, features).")
        if batch.ndim != 2:
            raise ValueError(
                f"batch has shape {tuple(batch.shape)}; expected (samples, features). Flatten images with .flatten(1)."
            )
        if not bool(batch.isfinite().all()):
            raise ValueError("batch contains infinite or NaN values; expected finite values. Clean the data first.")
        samples, features = batch.shape
        if samples == 0:
            return
        if self._first is None:
            self._first = batch[0].detach().to(torch.float64, copy=True)
            self._mean = torch.zeros_like(self._first)
            self._comoments = self._first.new_zeros(features, features)
        if features != self._first.numel():
            raise ValueError(
                f"batch has {features} features but earlier batches had {self._first.numel()}; use one Correlation per "
                "data set."
            )

        values = batch.detach().to(self._first) - self._first
        mean = values.mean(0)
        values -= mean
        change = mean - self._mean
        total = self.count + samples
        self._comoments += values.T @ values + torch.outer(change, change) * (self.count * samples / total)
        self._mean += change * (samples / total)
        self.count = total

    def matrix(self) -> Tensor:
        """|r| of every pair of features: symmetric float64 (features, features), in [0, 1].

        |r| is 0 on the diagonal and for pairs with a constant feature. Raises a ValueError if no sample was added yet.
        """
        if self._first is None:
            raise ValueError("no batch was added; call update(batch) before matrix().")
        deviation = self._comoments.diagonal().sqrt()
        # Divide by one deviation at a time: the product of two small deviations could underflow.
        r = (self._comoments / deviation / deviation[:, None]).abs().nan_to_num(nan=0.0).clamp(max=1)
        # A matrix product may not be symmetric to the last digit, but equal correlations must tie.
        return ((r + r.T) / 2).fill_diagonal_(0)


def correlated(
    out_features: int,
    in_features: int,
    density: float,
    correlation: Tensor,
    *,
    generator: torch.Generator,
    device: torch.device | str | None = None,
) -> Tensor:
    """Correlated sparse topological initialisation (CSTI): the links between the most correlated input features.

    `correlation` is |r| of the input features, a square matrix of finite numbers >= 0, from :meth:`Correlation.matrix`.
    Node i of either side stands for feature i mod (number of features): the matrix is tiled to cover the layer (2×2 for
    twice the width) and cropped where the layer ends. The network has the links with the highest |r|. Ties, for
    example between copies in different tiles, are broken at random. Links with r = 0 come last. (Paper, baselines;
    Zhang et al., "Epitopological learning and Cannistraci-Hebb network shape intelligence brain-inspired theory for
    ultra-sparse advantage in deep learning", ICLR 2024.)
    """
    check_generator(generator)
    links = link_count(out_features, in_features, density)
    if not isinstance(correlation, Tensor):
        raise TypeError(
            f"correlation is a {type(correlation).__name__}; expected a tensor (features, features), "
            "as from Correlation().matrix()."
        )
    if correlation.ndim != 2 or correlation.shape[0] != correlation.shape[1] or correlation.numel() == 0:
        raise ValueError(f"correlation has shape {tuple(correlation.shape)}; expected (features, features).")
    if not bool((correlation.isfinite() & (correlation >= 0)).all()):
        raise ValueError(
            "correlation contains a negative, infinite or NaN value; expected |r| in [0, 1]. Take absolute values, "
            "and set 0 where a feature is constant."
        )
    features, where = correlation.shape[0], correlation.device
    rows, columns = (torch.arange(size, device=where) % features for size in (out_features, in_features))
    tiled = correlation[rows[:, None], columns]
    mask = draw(tiled, torch.ones_like(tiled, dtype=torch.bool), links, soft=False, generator=generator)
    return mask.to(device or generator.device)
