"""Layers that store their weight transposed evolve as their twins of `nn.Linear` do, link by link."""

import copy
from collections.abc import Callable
from typing import Any

import conv1d
import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional

import chts_core as chts
from chts_core import methods
from chts_core.tools.audit import Auditor, audit

STEPS, EVERY = 40, 4
SETTINGS: dict[str, Any] = {"sparsity": 0.7, "total_steps": STEPS, "update_every": EVERY}


def twins() -> tuple[nn.Sequential, nn.Sequential]:
    """A perceptron in float64, so that rounding chooses no link, and the same of transposed layers."""
    model = tiny.mlp((16, 24, 24, 12, 3)).double()
    layers = [conv1d.transposed(layer) if isinstance(layer, nn.Linear) else nn.Tanh() for layer in model]
    return model, nn.Sequential(*layers)


class Run:
    def __init__(self, model: nn.Module, method: Any, **settings: Any) -> None:
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        self.sparsifier = chts.Sparsifier(model, self.optimizer, method, **(SETTINGS | settings))

    def train(self, first: int = 0, last: int = STEPS) -> "Run":
        for step in range(first, last):
            self.optimizer.zero_grad()
            x, y = tiny.rows_and_classes(step)
            functional.cross_entropy(self.model(x.to(next(self.model.parameters()))), y).backward()
            self.optimizer.step()
            self.sparsifier.step()
        return self


def assert_alike(linear: Run, transposed: Run) -> None:
    assert linear.sparsifier.masks.keys() == transposed.sparsifier.masks.keys()
    for name, mask in linear.sparsifier.masks.items():
        assert torch.equal(transposed.sparsifier.masks[name], mask.T), name
        ours, theirs = (run.model.get_parameter(name).detach() for run in (transposed, linear))
        torch.testing.assert_close(ours, theirs.T, atol=1e-12, rtol=1e-9)


def without_seconds(run: Run) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.sparsifier.history]


RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    **{name: (name, {}) for name in chts.METHODS if name != "fc"},
    "removed links return": ("gmp", {"sparsity": 0.9}),
    "erdos_renyi": ("chts", {"distribution": "erdos_renyi"}),
    "scale-free, in place": (
        "chts with topology=ScaleFree(equal_partition=True, resort='soft')",
        {},
    ),
    "correlated": ("chts/paper_mlp", {"correlation": torch.rand(16, 16, generator=torch.Generator().manual_seed(0))}),
}


@pytest.mark.promise("attach to GPT-2, whose `Conv1D` has a transposed weight", "followed")
@pytest.mark.parametrize("kind", RUNS)
def test_the_links_are_those_of_a_twin(kind: str) -> None:
    method, settings = RUNS[kind]
    linear, transposed = (Run(model, method, **settings) for model in twins())
    assert linear.sparsifier.network.graph == transposed.sparsifier.network.graph
    assert_alike(linear, transposed)
    for step in range(0, STEPS, EVERY):
        linear.train(step, step + EVERY)
        transposed.train(step, step + EVERY)
        assert_alike(linear, transposed)
        assert audit(transposed.sparsifier) == []
    assert without_seconds(transposed) == without_seconds(linear)
    assert transposed.sparsifier.density() == linear.sparsifier.density()
    assert transposed.sparsifier.active_neurons() == linear.sparsifier.active_neurons()
    assert transposed.sparsifier.itop_rate() == linear.sparsifier.itop_rate()


def test_weights_are_rescaled_as_those_of_a_twin() -> None:
    linear, transposed = (Run(model, "set") for model in twins())
    for run in (linear, transposed):
        run.sparsifier.rescale_weights()
    assert_alike(linear, transposed)


@pytest.mark.parametrize("square", [True, False])
def test_masks_of_a_run_may_begin_another(square: bool) -> None:
    first = Run(twins()[1], "set").train()
    name = "2.weight" if square else "0.weight"
    mask = first.sparsifier.masks[name]
    again = Run(twins()[1], "set", initial_masks={name: mask})
    assert torch.equal(again.sparsifier.masks[name], mask)
    if not square:
        with pytest.raises(ValueError, match=r"'0\.weight' has shape \(24, 16\) but the mask has shape \(16, 24\)"):
            Run(twins()[1], "set", initial_masks={name: mask.T})


def test_regrown_links_are_told_by_their_place_in_the_weight() -> None:
    run = Run(twins()[1], "set")
    told: dict[str, Tensor] = {}
    run.sparsifier.register_regrowth_hook(told.__setitem__)
    before = {name: mask.clone() for name, mask in run.sparsifier.masks.items()}
    run.train(0, EVERY)
    for name, mask in run.sparsifier.masks.items():
        came = (mask & ~before[name]).flatten().nonzero().squeeze(1)
        assert len(came)
        assert torch.isin(came, told[name]).all()
        assert not run.model.get_parameter(name).detach().flatten()[told[name]].any()


# --- GPT-2 ---


def gpt2(attention: str = "sdpa", **settings: Any) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": tiny.VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16}
    config = GPT2Config(**(sizes | {"bos_token_id": 1, "eos_token_id": 2} | settings), attn_implementation=attention)
    return tiny.seeded(lambda: GPT2LMHeadModel(config), 0).eval()  # type: ignore[no-any-return]


def sparse_gpt2(method: str, model: nn.Module | None = None, **settings: Any) -> Run:
    return Run(gpt2() if model is None else model, method, **({"sparsity": 0.8} | settings))


def train(run: Run, first: int = 0, last: int = STEPS) -> Run:
    auditor = Auditor(run.sparsifier)
    for step in range(first, last):
        run.optimizer.zero_grad()
        tiny.loss_of_llama(run.model, step).backward()
        run.optimizer.step()
        run.sparsifier.step()
        auditor.check()
    assert auditor.findings == []
    return run


def test_the_layers_of_gpt2() -> None:
    plan = chts.plan(gpt2(), "chts", **SETTINGS)
    block = {
        **{f"attn.c_attn.weight:{role}": (16, 16) for role in "qkv"},
        "attn.c_proj.weight": (16, 16),
        "mlp.c_fc.weight": (64, 16),
        "mlp.c_proj.weight": (16, 64),
    }
    blocks = [f"transformer.h.{number}" for number in range(2)]
    assert plan.budget.shapes == {f"{path}.{name}": shape for path in blocks for name, shape in block.items()}
    assert plan.graph.attentions == tuple(
        chts.Attention(*(f"{path}.attn.c_attn.weight:{role}" for role in "qkv"), f"{path}.attn.c_proj.weight", 4, 4)
        for path in blocks
    )
    assert plan.graph.chains == tuple((f"{path}.mlp.c_fc.weight", f"{path}.mlp.c_proj.weight") for path in blocks)
    assert "transformer.h.1.attn.c_attn.weight:v" in str(chts.plan(gpt2(n_layer=2), "set", **SETTINGS, include="*.1.*"))


def test_a_head_tied_to_the_embedding_stays_dense() -> None:
    model = gpt2()
    assert model.lm_head.weight is model.transformer.wte.weight
    with pytest.raises(ValueError, match=r"transformer\.wte\.weight and lm_head\.weight share one weight"):
        chts.plan(model, "set", **SETTINGS, exclude=())
    untied = gpt2(tie_word_embeddings=False)
    assert "lm_head.weight" not in chts.plan(untied, "set", **SETTINGS).budget.shapes
    assert "lm_head.weight" in chts.plan(untied, "set", **SETTINGS, exclude=()).budget.shapes


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("method", ["set", "rigl", "chts", "chtss", "gmp"])
def test_gpt2_trains_with_exactly_its_links(method: str, per_head: bool) -> None:
    run = train(sparse_gpt2(method, per_head=per_head))
    run.sparsifier.rescale_weights()
    total = sum(out * in_ for out, in_ in run.sparsifier.progress.budget.shapes.values())
    links = sum(run.sparsifier.progress.budget.links(STEPS).values())
    assert run.sparsifier.density() == links / total == pytest.approx(0.2, abs=0.002)
    for name, mask in run.sparsifier.masks.items():
        weight = run.model.get_parameter(name)
        assert mask.shape == weight.shape
        assert torch.equal(weight * mask, weight)
    inputs = tiny.tokens(0)
    smaller = run.sparsifier.compact(input_ids=inputs, use_cache=False)
    with torch.no_grad():
        expected = run.model(input_ids=inputs, use_cache=False).logits
        torch.testing.assert_close(smaller(input_ids=inputs, use_cache=False).logits, expected)


@pytest.mark.parametrize("method", ["set", "chts", "gmp"])
def test_gpt2_resumes_to_the_same_bits(method: str) -> None:
    whole = train(sparse_gpt2(method))
    half = train(sparse_gpt2(method), 0, 18)
    saved = copy.deepcopy([part.state_dict() for part in (half.model, half.optimizer, half.sparsifier)])
    resumed = sparse_gpt2(method)
    for part, state in zip((resumed.model, resumed.optimizer, resumed.sparsifier), saved, strict=True):
        part.load_state_dict(state)
    train(resumed, 18, STEPS)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    for name, mask in whole.sparsifier.masks.items():
        assert torch.equal(resumed.sparsifier.masks[name], mask)


@pytest.mark.promise("have `Conv1D` layers under `csr`", "refused; with `auto` they stay masked")
def test_csr_refuses_transposed_layers_by_name_and_auto_leaves_them_masked() -> None:
    names = r"h\.0\.attn\.c_attn\.weight, .*transformer\.h\.1\.mlp\.c_proj\.weight cannot store only their links"
    with pytest.raises(ValueError, match=names):
        sparse_gpt2("set", execution="csr")
    alone, masked = sparse_gpt2("set", execution="auto"), sparse_gpt2("set")
    train(alone, 0, 8)
    train(masked, 0, 8)
    assert all(torch.equal(mask, masked.sparsifier.masks[name]) for name, mask in alone.sparsifier.masks.items())


def head_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: model(input_ids=x, use_cache=False).logits


@pytest.mark.parametrize("head", range(4))
def test_a_head_of_gpt2_is_that_of_its_layers(head: int) -> None:
    """Without the outputs of a head's values, the output projection's inputs of that head do not matter."""
    model = gpt2(n_layer=1)
    sparsifier = sparse_gpt2("set", model, per_head=True).sparsifier
    inputs = tiny.tokens(1)
    attention = model.transformer.h[0].attn
    with torch.no_grad():
        attention.c_attn.bias.zero_()
        values = sparsifier.network.parts[f"transformer.h.0.attn.c_attn.weight:v:{head}"]
        values.matrix(attention.c_attn.weight).zero_()
        expected = head_of(model)(inputs)
        attention.c_proj.weight[4 * head : 4 * head + 4] = 7.0
        torch.testing.assert_close(head_of(model)(inputs), expected)
        attention.c_proj.weight[(4 * head + 4) % 16] = 7.0
        assert not torch.allclose(head_of(model)(inputs), expected)


def test_a_scale_free_start_of_transposed_layers_is_that_of_a_twin() -> None:
    method = methods.get_method("set with topology=ScaleFree(equal_partition=True, resort='rigid')")
    linear, transposed = (Run(model, method, graph=None) for model in twins())
    assert_alike(linear, transposed)
