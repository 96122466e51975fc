"""Many kinds of models, each trained for some steps with a method: links are exact, and nothing alive is cut.

`python tests/test_zoo.py` prints the table of docs/guides/models.md.
"""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from zoo import ZOO, built, output

import chts_core as chts
from chts_core.engine.forward import LAST, OF_OUTPUTS
from chts_core.engine.kinds import convertible
from chts_core.engine.layers import sparse_layers
from chts_core.percolation import percolate
from chts_core.tools.audit import audit
from chts_core.tools.export import load_links, save_links

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "models.md"
SETTINGS: dict[str, Any] = {"sparsity": 0.8, "total_steps": 8, "update_every": 2}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Percolation leaves out"),
    pytest.mark.filterwarnings("ignore:LSTM with projections"),  # of torch, about its speed
]


def trained(name: str, method: str, execution: str = "masked") -> tuple[chts.Sparsifier, dict[str, Any]]:
    """A model of the zoo after some steps with a method, and its inputs."""
    model, inputs = built(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    sparsifier = chts.Sparsifier(model, optimizer, method, include=ZOO[name].include, execution=execution, **SETTINGS)
    model.eval()  # without dropout, both executions do the same
    for _ in range(5):
        found = output(model, inputs)
        (found * torch.linspace(-1, 1, found.numel()).view(found.shape)).mean().backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    return sparsifier, inputs


@pytest.mark.parametrize("method", ["set", "rigl", "chts"])
@pytest.mark.parametrize("name", ZOO)
def test_links_are_exact_and_copies_are_equal(name: str, method: str, tmp_path: Path) -> None:
    sparsifier, inputs = trained(name, method)
    network = sparsifier.network
    assert audit(sparsifier) == []
    assert network.num_links() == {part: round(0.2 * math.prod(layer.shape)) for part, layer in network.parts.items()}
    assert any(row["regrown"] for row in sparsifier.history)
    for parameter, mask in sparsifier.masks.items():
        assert mask.shape == network.model.get_parameter(parameter).shape
    if method == "chts":
        smaller = sparsifier.compact(**inputs)
        expected = output(network.model, inputs).detach()
        torch.testing.assert_close(output(smaller, inputs), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
        save_links(network.model, tmp_path / "links.safetensors")
        loaded, _ = built(name)
        loaded.load_state_dict(load_links(tmp_path / "links.safetensors"))
        torch.testing.assert_close(output(loaded.eval(), inputs), expected, atol=0, rtol=0)


@pytest.mark.parametrize("name", ZOO)
def test_the_run_is_the_same_if_layers_store_only_their_links(name: str) -> None:
    masked, inputs = trained(name, "set")
    if not any(convertible(masked.network.model, parameter) for parameter in masked.masks):
        return
    stored, _ = trained(name, "set", "auto")
    assert stored.network.stored()
    for parameter, mask in masked.masks.items():
        assert torch.equal(stored.masks[parameter], mask)
    expected = output(masked.network.model, inputs).detach()
    found = output(stored.network.model, inputs)
    torch.testing.assert_close(found, expected, atol=1e-3 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("name", ZOO)
def test_percolation_cuts_all_links_without_an_effect_and_no_others(name: str) -> None:
    model, inputs = built(name)
    model.double().eval()
    inputs = {key: given.double() if given.is_floating_point() else given for key, given in inputs.items()}
    layers = sparse_layers(model, ZOO[name].include)
    graph = chts.plan(model, "chts", include=ZOO[name].include, **SETTINGS).graph
    parameters = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(0)
    masks = {
        name: torch.rand(layer.full_shape, generator=generator) < max(0.01, 2.5 / layer.shape[1])
        for name, layer in layers.items()
    }
    left = percolate(masks, graph)
    with torch.no_grad():
        for parameter_name, parameter in parameters.items():
            if "bias" in parameter_name.rpartition(".")[2]:  # so that a neuron without incoming links is always 0
                parameter.zero_()
        for name_, layer in layers.items():
            values = torch.randn(layer.shape, generator=generator, dtype=torch.float64) / 1.6
            layer.matrix(parameters[layer.parameter]).copy_(values * masks[name_].flatten(1))
    found = output(model, inputs)
    weighted = (found * torch.randn(found.shape, generator=generator, dtype=torch.float64)).sum()
    slopes = torch.autograd.grad(
        weighted, [parameters[layer.parameter] for layer in layers.values()], allow_unused=True
    )
    cut, kept = 0, 0
    for (name_, layer), slope in zip(layers.items(), slopes, strict=True):
        effect = layer.matrix(torch.zeros_like(parameters[layer.parameter]) if slope is None else slope) != 0
        gone, stays = (masks[name_] & ~left[name_]).flatten(1), left[name_].flatten(1)
        assert not bool(effect[gone].any()), name_
        cut += int(gone.sum())
        if name_ in graph.layers() and ZOO[name].finds_all:
            kept += int(stays.sum())
            assert bool(effect[stays].all()), name_
    connected = any(len(chain) > 1 for chain in graph.chains) or graph.attentions
    assert bool(cut) == bool(connected)
    assert kept or not (connected and ZOO[name].finds_all)


# --- the table of the guide ---


def row(name: str) -> list[str]:
    """What a plan says of a model: sparse share, known connections, what percolation leaves out."""
    model, _ = built(name)
    plan = chts.plan(model, "chts", include=ZOO[name].include, **SETTINGS)
    of_outputs = sum(size for size, why in plan.coverage.dense.values() if why in (LAST, OF_OUTPUTS))
    share = plan.coverage.sparse / (plan.coverage.total - of_outputs)
    layers = sparse_layers(model, ZOO[name].include)
    stored = sum(math.prod(layer.shape) for layer in layers.values() if convertible(model, layer.parameter))
    alone = {name for chain in plan.graph.chains if len(chain) == 1 for name in chain} | (
        layers.keys() - plan.graph.layers()
    )
    joined = 1 - sum(math.prod(layers[name].shape) for name in alone) / plan.coverage.sparse
    return [name, f"{share:.0%}", f"{joined:.0%}", f"{stored / plan.coverage.sparse:.0%}", ZOO[name].why]


def table() -> str:
    """The table of the guide."""
    head = ["model", "sparse", "percolated", "can store only links", "why less than 85 % is sparse"]
    rows = [head, ["---", *["--:"] * 3, "---"], *map(row, ZOO)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


@pytest.mark.parametrize("name", ZOO)
def test_most_of_each_model_is_sparse_and_the_guide_says_how_much(name: str) -> None:
    cells = row(name)
    assert (int(cells[1].rstrip("%")) >= 85) != bool(ZOO[name].why)
    assert f"| {' | '.join(cells)} |" in GUIDE.read_text(encoding="utf-8")


@pytest.mark.promise("train convolutions in torch.channels_last", "followed: the same links")
@pytest.mark.parametrize("method", ["rigl", "chts", "gmp"])
def test_the_memory_format_does_not_change_a_run(method: str) -> None:
    runs = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model, inputs = built("ResNet")
        model = model.double().to(memory_format=memory_format)
        images = inputs["x"].double().to(memory_format=memory_format)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        sparsifier = chts.Sparsifier(model, optimizer, method, **SETTINGS)
        sparsifier.rescale_weights()
        for _ in range(8):
            model(images).square().mean().backward()
            optimizer.step()
            sparsifier.step()
            optimizer.zero_grad()
        assert audit(sparsifier) == []
        assert model.stem.weight.is_contiguous(memory_format=memory_format)
        runs.append(sparsifier)
    for name, mask in runs[0].masks.items():
        assert torch.equal(runs[1].masks[name], mask)
        weights = (run.network.model.get_parameter(name).detach() for run in runs)
        torch.testing.assert_close(*weights, atol=1e-9, rtol=1e-6)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(table())
