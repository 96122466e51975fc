from collections.abc import Callable
from itertools import pairwise, permutations

import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import chts_core as chts
from chts_core.engine.layers import sparse_layers
from chts_core.engine.tracing import layer_graph
from chts_core.percolation import active_neurons, check_graph, percolate

CHAIN = chts.LayerGraph(chains=(("first", "second", "third"),))
GATED = chts.LayerGraph(chains=(("gate", "down"), ("up", "down")), pairs=(("gate", "up"),))


def as_mask(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def as_rows(masks: dict[str, Tensor]) -> dict[str, list[list[int]]]:
    return {name: mask.int().tolist() for name, mask in masks.items()}


# --- by hand ---


def test_links_into_a_dead_end_go() -> None:
    # Neuron 1 has no outgoing link, so its two incoming links are incomplete.
    masks = {"first": as_mask([[1, 0], [1, 1]]), "second": as_mask([[1, 0], [1, 0]])}
    result = percolate(masks, chts.LayerGraph((("first", "second"),)))
    assert as_rows(result) == {"first": [[1, 0], [0, 0]], "second": [[1, 0], [1, 0]]}


def test_links_from_a_neuron_without_input_go() -> None:
    masks = {"first": as_mask([[1, 1], [0, 0]]), "second": as_mask([[1, 1], [0, 1]])}
    result = percolate(masks, chts.LayerGraph((("first", "second"),)))
    assert as_rows(result) == {"first": [[1, 1], [0, 0]], "second": [[1, 0], [0, 0]]}


def test_one_dead_end_can_take_a_whole_path_with_it() -> None:
    # Neuron 1 of each hidden layer leads only to neuron 1 of the next, whose last link is missing: backward.
    # Neuron 0 of the first layer has no input, which cuts off neuron 2 of the second: forward.
    masks = {
        "first": as_mask([[0, 0], [1, 1], [0, 1]]),
        "second": as_mask([[0, 0, 1], [0, 1, 0], [1, 0, 0]]),
        "third": as_mask([[1, 0, 1]]),
    }
    assert as_rows(percolate(masks, CHAIN)) == {
        "first": [[0, 0], [0, 0], [0, 1]],
        "second": [[0, 0, 1], [0, 0, 0], [0, 0, 0]],
        "third": [[1, 0, 0]],
    }


def test_the_ends_of_a_chain_are_left_alone() -> None:
    # Input 1 and output 1 have no link, which is nobody's dead end.
    masks = {"first": as_mask([[1, 0]]), "second": as_mask([[1], [0]])}
    result = percolate(masks, chts.LayerGraph((("first", "second"),)))
    assert all(torch.equal(result[name], mask) for name, mask in masks.items())


def test_layers_outside_the_graph_are_left_alone() -> None:
    masks = {"first": as_mask([[1, 0], [0, 0]]), "alone": as_mask([[0, 1], [0, 0]])}
    result = percolate(masks, chts.LayerGraph((("first",),)))
    assert all(torch.equal(result[name], mask) for name, mask in masks.items())


def test_of_a_pair_both_must_be_active() -> None:
    # Neuron 1 lacks the first, neuron 2 the second.
    masks = {
        "first": as_mask([[1, 0], [0, 0], [1, 1], [0, 1]]),
        "second": as_mask([[0, 1], [1, 1], [0, 0], [1, 0]]),
    }
    assert as_rows(percolate(masks, chts.LayerGraph(pairs=(("first", "second"),)))) == {
        "first": [[1, 0], [0, 0], [0, 0], [0, 1]],
        "second": [[0, 1], [0, 0], [0, 0], [1, 0]],
    }


def test_a_gated_neuron_needs_gate_up_and_down() -> None:
    # Neuron 0 is whole; 1 lacks the gate, 2 the way up, 3 the way down.
    masks = {
        "gate": as_mask([[1, 0], [0, 0], [1, 1], [0, 1]]),
        "up": as_mask([[0, 1], [1, 1], [0, 0], [1, 0]]),
        "down": as_mask([[1, 1, 1, 0], [0, 1, 0, 0]]),
    }
    assert as_rows(percolate(masks, GATED)) == {
        "gate": [[1, 0], [0, 0], [0, 0], [0, 0]],
        "up": [[0, 1], [0, 0], [0, 0], [0, 0]],
        "down": [[1, 0, 0, 0], [0, 0, 0, 0]],
    }
    # Naming the pair besides the two chains changes nothing.
    assert as_rows(percolate(masks, chts.LayerGraph(chains=GATED.chains))) == as_rows(percolate(masks, GATED))


def test_an_attention_cuts_values_and_outputs_head_by_head() -> None:
    # Two heads of two neurons. Value 1 (head 0) is not read; output column 2 (head 1) has no value.
    masks = {"v": as_mask([[1], [1], [0], [1]]), "o": as_mask([[1, 0, 1, 0], [0, 0, 1, 1]])}
    attention = chts.Attention(None, None, "v", "o", heads=2, key_heads=2)
    result = percolate(masks, chts.LayerGraph(attentions=(attention,)))
    assert as_rows(result) == {"v": [[1], [0], [0], [1]], "o": [[1, 0, 0, 0], [0, 0, 0, 1]]}


def test_a_shared_value_stays_while_any_head_reads_it() -> None:
    # Heads 0 and 1 read the same two values: column j of the output and column j + 2 are of value j.
    masks = {"v": as_mask([[1], [1]]), "o": as_mask([[0, 0, 1, 0]])}
    attention = chts.Attention(None, None, "v", "o", heads=2, key_heads=1)
    assert as_rows(percolate(masks, chts.LayerGraph(attentions=(attention,)))) == {
        "v": [[1], [0]],
        "o": [[0, 0, 1, 0]],
    }
    without_value = masks | {"v": as_mask([[0], [1]])}
    assert as_rows(percolate(without_value, chts.LayerGraph(attentions=(attention,)))) == {
        "v": [[0], [0]],
        "o": [[0, 0, 0, 0]],
    }


def test_a_key_is_shared_by_the_queries_of_its_group() -> None:
    # Four heads of one neuron; heads 0 and 1 read key 0, heads 2 and 3 key 1. Nobody reads key 1.
    masks = {"q": as_mask([[1], [0], [0], [0]]), "k": as_mask([[1], [1]])}
    attention = chts.Attention("q", "k", None, None, heads=4, key_heads=2)
    assert as_rows(percolate(masks, chts.LayerGraph(attentions=(attention,)))) == {
        "q": [[1], [0], [0], [0]],
        "k": [[1], [0]],
    }
    without_key = {"q": as_mask([[1], [1], [1], [0]]), "k": as_mask([[0], [1]])}
    assert as_rows(percolate(without_key, chts.LayerGraph(attentions=(attention,)))) == {
        "q": [[0], [0], [1], [0]],
        "k": [[0], [1]],
    }


def test_a_rotary_plane_dies_only_as_a_whole() -> None:
    # One head of four: the planes are (0, 2) and (1, 3). Key 0 meets query 2, but of plane 1 no key is left.
    masks = {"q": as_mask([[0], [1], [1], [1]]), "k": as_mask([[1], [0], [0], [0]])}
    rotary = chts.Attention("q", "k", None, None, heads=1, key_heads=1, rotary=True)
    assert as_rows(percolate(masks, chts.LayerGraph(attentions=(rotary,)))) == {
        "q": [[0], [0], [1], [0]],
        "k": [[1], [0], [0], [0]],
    }
    plain = chts.Attention("q", "k", None, None, heads=1, key_heads=1)
    assert not any(mask.any() for mask in percolate(masks, chts.LayerGraph(attentions=(plain,))).values())


def test_rotation_leaves_values_and_outputs_apart() -> None:
    masks = {"v": as_mask([[1], [0], [1], [1]]), "o": as_mask([[1, 1, 0, 1]])}
    attention = chts.Attention(None, None, "v", "o", heads=1, key_heads=1, rotary=True)
    assert as_rows(percolate(masks, chts.LayerGraph(attentions=(attention,)))) == {
        "v": [[1], [0], [0], [1]],
        "o": [[1, 0, 0, 1]],
    }


def test_a_layer_that_lost_all_links_takes_its_chain_along() -> None:
    masks = {"first": torch.ones(3, 2, dtype=torch.bool), "second": torch.zeros(2, 3, dtype=torch.bool)}
    result = percolate(masks, chts.LayerGraph((("first", "second"),)))
    assert not result["first"].any()


# --- by brute force ---


def random_mask(draw: st.DrawFn, shape: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    return torch.rand(shape, generator=generator) < draw(st.floats(0.05, 0.6))


@st.composite
def chains(draw: st.DrawFn) -> tuple[dict[str, Tensor], chts.LayerGraph]:
    widths = draw(st.lists(st.integers(1, 7), min_size=2, max_size=5))
    masks = {f"layer{depth}": random_mask(draw, (b, a)) for depth, (a, b) in enumerate(pairwise(widths))}
    return masks, chts.LayerGraph((tuple(masks),))


@st.composite
def two_chains(draw: st.DrawFn) -> tuple[dict[str, Tensor], chts.LayerGraph]:
    left, right = draw(chains())[0], draw(chains())[0]
    masks = {f"left.{name}": mask for name, mask in left.items()} | right
    return masks, chts.LayerGraph((tuple(f"left.{name}" for name in left), tuple(right)))


@st.composite
def chains_in_pieces(draw: st.DrawFn) -> tuple[dict[str, Tensor], chts.LayerGraph]:
    """Which percolation may have to sweep more than once."""
    masks, graph = draw(chains())
    pieces = draw(st.permutations(list(pairwise(graph.chains[0]))))
    return masks, chts.LayerGraph(tuple(pieces))


@st.composite
def paired(draw: st.DrawFn) -> tuple[dict[str, Tensor], chts.LayerGraph]:
    width = draw(st.integers(1, 6))
    masks = {name: random_mask(draw, (width, draw(st.integers(1, 3)))) for name in "abc"}
    return masks, chts.LayerGraph(pairs=(("a", "b"), ("b", "c")))


@st.composite
def gated(draw: st.DrawFn) -> tuple[dict[str, Tensor], chts.LayerGraph]:
    model, hidden = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    masks = {
        "first": random_mask(draw, (model, 3)),
        "gate": random_mask(draw, (hidden, model)),
        "up": random_mask(draw, (hidden, 3)),
        "down": random_mask(draw, (model, hidden)),
        "last": random_mask(draw, (2, model)),
    }
    chains = (("first", "gate", "down", "last"), ("up", "down"))
    return masks, chts.LayerGraph(chains, (("gate", "up"),))


@st.composite
def attended(draw: st.DrawFn) -> tuple[dict[str, Tensor], chts.LayerGraph]:
    rotary = draw(st.booleans())
    key_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    width = draw(st.integers(1, 3)) * (2 if rotary else 1)
    model = draw(st.integers(1, 3))
    heads = key_heads * group
    masks = {
        "q": random_mask(draw, (heads * width, model)),
        "k": random_mask(draw, (key_heads * width, model)),
        "v": random_mask(draw, (key_heads * width, model)),
        "o": random_mask(draw, (model, heads * width)),
        "next": random_mask(draw, (2, model)),
    }
    names = [name if draw(st.booleans()) or name == "o" else None for name in ("q", "k", "v")]
    attention = chts.Attention(*names, "o", heads, key_heads, rotary)
    return masks, chts.LayerGraph((("o", "next"),), attentions=(attention,))


@given(case=st.one_of(chains(), two_chains(), chains_in_pieces(), paired(), gated(), attended()))
def test_percolation_is_the_fixpoint_over_single_neurons(case: tuple[dict[str, Tensor], chts.LayerGraph]) -> None:
    masks, graph = case
    before = {name: mask.clone() for name, mask in masks.items()}
    expected = oracles.percolate(masks, graph.chains, graph.pairs, graph.attentions)
    result = percolate(masks, graph)
    again = percolate(result, graph)
    active = active_neurons(masks, graph)
    assert list(result) == list(masks)
    for name in masks:
        assert torch.equal(result[name], expected[name])
        assert torch.equal(again[name], expected[name])
        assert not (result[name] & ~masks[name]).any()
        assert torch.equal(masks[name], before[name])
        assert result[name] is not masks[name]
        assert active[name].tolist() == [bool(row.any()) for row in expected[name]]


def test_a_hundred_layers_percolate_from_one_end_to_the_other() -> None:
    # Only the last layer's link is missing for neuron 1, only the first one's for neuron 2.
    masks = {f"layer{depth}": torch.eye(3, dtype=torch.bool) for depth in range(100)}
    masks["layer99"][1, 1] = masks["layer0"][2, 2] = False
    result = percolate(masks, chts.LayerGraph((tuple(masks),)))
    only_first = torch.diag(torch.tensor([True, False, False]))
    assert all(torch.equal(mask, only_first) for mask in result.values())


def test_the_order_in_which_layers_are_named_is_no_matter() -> None:
    # A chain of six in pieces, so that neither a sweep forward nor one backward sees them in order.
    for dead in "af":  # forward only, backward only
        masks = {name: torch.eye(2, dtype=torch.bool) for name in "abcdef"}
        masks[dead][1, 1] = False
        for pieces in permutations(pairwise("abcdef")):
            result = percolate(masks, chts.LayerGraph(pieces))
            assert all(mask.int().tolist() == [[1, 0], [0, 0]] for mask in result.values())


# --- what is refused ---

FULL = {name: torch.ones(4, 4, dtype=torch.bool) for name in "qkvo"} | {"wide": torch.ones(6, 4, dtype=torch.bool)}
REFUSED: dict[str, tuple[chts.LayerGraph, str]] = {
    "unknown in a chain": (chts.LayerGraph((("q", "x"),)), "layer 'x', which has no mask; the masks are q, k, v, o"),
    "unknown in a pair": (chts.LayerGraph(pairs=(("x", "q"),)), "layer 'x', which has no mask"),
    "unknown in an attention block": (
        chts.LayerGraph(attentions=(chts.Attention(None, None, "v", "x", 1, 1),)),
        "layer 'x', which has no mask",
    ),
    "chain that does not fit": (
        chts.LayerGraph((("wide", "q"),)),
        "'wide' has 6 outputs but 'q', next in its chain, has 4 inputs",
    ),
    "pair that does not fit": (chts.LayerGraph(pairs=(("wide", "q"),)), "'wide' and 'q' are a pair but have 6 and 4"),
    "fan-out of chains": (chts.LayerGraph((("q", "k"), ("q", "v"))), "layer 'q' feeds more than one layer"),
    "fan-out of an attention block": (
        chts.LayerGraph((("v", "q"),), attentions=(chts.Attention(None, None, "v", "o", 2, 2),)),
        "layer 'v' feeds more than one layer",
    ),
    "heads that do not divide": (
        chts.LayerGraph(attentions=(chts.Attention("q", "k", None, None, 3, 3),)),
        "'q' of an attention block has 4 neurons; expected a multiple of its 3 heads",
    ),
    "key heads that do not divide": (
        chts.LayerGraph(attentions=(chts.Attention(None, None, "wide", "o", 4, 4),)),
        "'wide' of an attention block has 6 neurons; expected a multiple of its 4 heads",
    ),
    "heads no multiple of key heads": (
        chts.LayerGraph(attentions=(chts.Attention("q", "k", None, None, 2, 4),)),
        "an attention block has 2 heads and 4 key heads; expected heads to be a multiple",
    ),
    "no heads": (
        chts.LayerGraph(attentions=(chts.Attention("q", "k", None, None, 0, 0),)),
        "an attention block has 0 heads and 0 key heads",
    ),
    "heads of different widths": (
        chts.LayerGraph(attentions=(chts.Attention("q", "k", None, None, 4, 2),)),
        "'q' and 'k' of an attention block with 4 heads and 2 key heads have heads of different widths",
    ),
    "odd planes": (
        chts.LayerGraph(attentions=(chts.Attention("q", "k", None, None, 4, 4, rotary=True),)),
        "an attention block with rotary positions has 1 neurons per head; expected an even number",
    ),
}


def check_shapes(masks: dict[str, torch.Tensor], graph: chts.LayerGraph) -> None:
    check_graph({name: (mask.shape[0], mask.shape[1]) for name, mask in masks.items()}, graph)


@pytest.mark.parametrize("function", [percolate, check_shapes, active_neurons])
@pytest.mark.parametrize("bad", REFUSED)
def test_a_graph_that_does_not_fit_is_refused(bad: str, function: Callable[..., object]) -> None:
    graph, message = REFUSED[bad]
    with pytest.raises(ValueError, match=message):
        function(FULL, graph)


def test_a_layer_that_feeds_itself_is_cut_on_both_sides() -> None:
    # The links 0 – 1 – 2 end nowhere; 3 and 4 feed each other.
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[[1, 2, 4, 3], [0, 1, 3, 4]] = True
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[[4, 3], [3, 4]] = True
    assert torch.equal(percolate({"a": mask}, chts.LayerGraph((("a", "a"),)))["a"], expected)


def test_names_of_a_graph() -> None:
    attention = chts.Attention("q", None, "v", None, 1, 1)
    graph = chts.LayerGraph((("a", "b"), ("c",)), (("b", "d"),), (attention,))
    assert graph.layers() == {"a", "b", "c", "d", "q", "v"}
    assert chts.LayerGraph().layers() == set()


# --- what it means: without biases, links that percolation removes have no say in the outputs ---


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 12, bias=False), nn.ReLU(), nn.Linear(12, 12, bias=False), nn.Tanh(), nn.Linear(12, 3, bias=False)
    )


class Attend(nn.Module):
    """Cross-attention, so that queries and keys do not share their inputs."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, bias=False, batch_first=True, **sizes)
        self.other = sizes.get("kdim", 8)

    def forward(self, x: Tensor) -> Tensor:
        memory = torch.linspace(-1, 1, 5 * self.other).sin().view(1, 5, self.other).expand(len(x), -1, -1)
        return self.attention(x, memory, memory)[0]


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        use_cache=False,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def feed_forward() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", bias=False, batch_first=True)


BLOCKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "mlp": (mlp, torch.linspace(-1, 1, 24).view(4, 6)),
    "attention": (Attend, torch.linspace(-1, 1, 64).view(2, 4, 8)),
    "unpacked attention": (lambda: Attend(kdim=6, vdim=6), torch.linspace(-1, 1, 64).view(2, 4, 8)),
    "encoder layer": (feed_forward, torch.linspace(-1, 1, 64).cos().view(2, 4, 8)),
    "llama": (llama, torch.arange(16).view(2, 8) % 11),
}


def outputs_of(model: nn.Module, x: Tensor) -> Tensor:
    result = model(x)
    return result if isinstance(result, Tensor) else result.logits


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("seed", range(3))
def test_percolated_links_have_no_say_in_the_outputs(block: str, seed: int) -> None:
    build, x = BLOCKS[block]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().eval()
        layers = sparse_layers(model, exclude=())
        graph, _ = layer_graph(model, layers)
        # So few links that much is cut; large weights, so that what is left is seen.
        masks = {name: torch.rand(layer.shape) < 0.12 for name, layer in layers.items()}
        parameters = dict(model.named_parameters())
        percolated = percolate(masks, graph)
        cut = {name: int((masks[name] & ~percolated[name]).sum()) for name in masks}
        assert sum(cut.values()) > 5
        weights = {name: torch.randn(layer.shape) * 2 for name, layer in layers.items()}

    def run(masks: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            for name, layer in layers.items():
                layer.matrix(parameters[layer.parameter]).copy_(weights[name] * masks[name])
            return outputs_of(model, x)

    torch.testing.assert_close(run(percolated), run(masks), atol=1e-6, rtol=0)
    # A link that stays has a say somewhere: the comparison is not one of zeros.
    none = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    assert not torch.allclose(run(none), run(masks))


def test_what_stays_in_a_perceptron_has_a_gradient() -> None:
    # Positive weights and inputs: no path cancels another, and ReLU lets all through.
    generator = torch.Generator().manual_seed(0)
    masks = {
        f"{2 * i}.weight": torch.rand(shape, generator=generator) < 0.15
        for i, shape in enumerate([(9, 6)] + [(9, 9)] * 2)
    }
    graph = chts.LayerGraph((tuple(masks),))
    model = nn.Sequential(
        nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 9, bias=False), nn.ReLU(), nn.Linear(9, 9, bias=False)
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(masks[name].float())
    model(torch.ones(1, 6)).sum().backward()
    percolated = percolate(masks, graph)
    assert sum(int((masks[name] & ~percolated[name]).sum()) for name in masks) > 5
    for name, weight in model.named_parameters():
        # A link carries something if its input is reached and an output depends on it.
        reached = (weight.grad != 0) & masks[name]
        assert torch.equal(reached, percolated[name])
