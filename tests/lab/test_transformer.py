import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chts_core import Sparsifier
from chts_core.engine.graph import find_graph
from chts_core.engine.layers import sparse_layers
from chts_core.engine.linear import Execution, SparseLinear
from chts_core.engine.tracing import layer_graph
from chts_core.lab.data import BEGIN, END, PAD
from chts_core.lab.models import TRANSFORMER_SIZES, Transformer, TransformerSize
from chts_core.methods import get_method
from chts_core.percolation import Attention

VOCABULARY = 13
SIZE = TransformerSize(16, 24, 2, 4)
SOURCES = [[4, 9, 6, 12, END], [7, END], [11, 5, END]]
TARGETS = [[BEGIN, 4, 8, END], [BEGIN, 10, 6, 6, 12, END], [BEGIN, END]]


def transformer(size: TransformerSize = SIZE, *, seed: int = 0, dropout: float = 0.0) -> Transformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Transformer(VOCABULARY, size, dropout=dropout)


def padded(rows: list[list[int]], extra: int = 0) -> Tensor:
    width = max(map(len, rows)) + extra
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])


def attentions(model: Transformer) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if name.endswith("attention")}


# --- what it computes ---


@pytest.mark.parametrize(
    "size", [SIZE, TransformerSize(6, 10, 1, 3), TransformerSize(8, 8, 3, 1), TRANSFORMER_SIZES["tiny"]]
)
def test_shapes(size: TransformerSize) -> None:
    model = transformer(size)
    source, target = padded(SOURCES), padded(TARGETS)
    assert model(source, target).shape == (3, 6, VOCABULARY)
    assert model.encode(source).shape == (3, 5, size.width)
    assert (len(model.encoder), len(model.decoder)) == (size.layers, size.layers)
    state = model.start(source)
    assert model.step(target[:, 0], state).shape == (3, VOCABULARY)
    assert {keys.shape for keys, _ in state.memory} == {(3, size.heads, 5, size.width // size.heads)}


@torch.no_grad()
def test_logits_know_nothing_of_later_tokens() -> None:
    model = transformer()
    target = torch.tensor([[BEGIN, 4, 8, 6, 12]])
    before = model(padded(SOURCES[:1]), target)
    for place in range(target.shape[1]):
        changed = target.clone()
        changed[0, place] = 10
        after = model(padded(SOURCES[:1]), changed)
        assert torch.equal(after[:, :place], before[:, :place])
        # All from there on know of it.
        assert (after[:, place:] != before[:, place:]).any(dim=2).all()


@torch.no_grad()
def test_every_logit_depends_on_every_token_of_the_source() -> None:
    model, target = transformer(), padded(TARGETS[:1])
    before = model(padded(SOURCES[:1]), target)
    for place in range(5):
        changed = padded(SOURCES[:1])
        changed[0, place] = 10
        assert (model(changed, target) != before).any(dim=2).all()


@torch.no_grad()
@pytest.mark.parametrize("extra", [0, 4])
def test_padding_does_not_matter(extra: int) -> None:
    model = transformer()
    together = model(padded(SOURCES, extra), padded(TARGETS, extra))
    encoded = model.encode(padded(SOURCES, extra))
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        alone = model(torch.tensor([source]), torch.tensor([target]))[0]
        torch.testing.assert_close(together[row, : len(target)], alone, atol=1e-5, rtol=0)
        memory = model.encode(torch.tensor([source]))[0]
        torch.testing.assert_close(encoded[row, : len(source)], memory, atol=1e-5, rtol=0)


@torch.no_grad()
def test_order_matters_by_sines_and_cosines_of_the_place() -> None:
    model, seen = transformer(), []
    model.encoder[0].register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    model.encode(torch.tensor([[5, 5, 5]]))
    for place, row in enumerate((seen[0][0] - model.embedding.weight[5] * 4).tolist()):
        angles = [place / 10_000 ** (2 * pair / 16) for pair in range(8)]
        assert row == pytest.approx([wave(angle) for angle in angles for wave in (math.sin, math.cos)], abs=1e-5)


@torch.no_grad()
def test_steps_see_the_places_that_the_full_forward_sees() -> None:
    model, target = transformer().eval(), torch.tensor([[BEGIN, 5, 5, 5, 5]])
    full, state = model(padded(SOURCES[:1]), target), model.start(padded(SOURCES[:1]))
    for place in range(5):
        torch.testing.assert_close(model.step(target[:, place], state), full[:, place], atol=1e-5, rtol=0)


# --- attention ---


def by_hand(module: nn.Module, queries: Tensor, memory: Tensor, seen: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Attention of one row, head by head and query by query: weights (heads, Q, K) and the output (Q, width).

    seen: (Q, K), which key a query sees.
    """
    q, k, v = module.q_proj(queries), module.k_proj(memory), module.v_proj(memory)
    size = q.shape[1] // heads
    weights, mixed = torch.zeros(heads, len(q), len(k)), torch.zeros(len(q), heads * size)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for query in range(len(q)):
            exponentials = [
                math.exp(float(q[query, part] @ k[key, part]) / math.sqrt(size)) if seen[query, key] else 0.0
                for key in range(len(k))
            ]
            for key, exponential in enumerate(exponentials):
                weights[head, query, key] = exponential / sum(exponentials)
                mixed[query, part] += weights[head, query, key] * v[key, part]
    return weights, module.o_proj(mixed)


@torch.no_grad()
def test_attentions_are_what_a_loop_computes() -> None:
    model = transformer().eval()
    calls: dict[str, tuple[Tensor, Tensor, Tensor]] = {}  # queries, memory and output
    for name, module in attentions(model).items():

        def keep(_module: nn.Module, given: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            calls[name] = (given[0], given[1], output)

        module.register_forward_hook(keep)
    source, target = padded(SOURCES), padded(TARGETS)
    weights = model.attention(source, target)
    assert list(weights) == [
        "encoder.0.attention",
        "encoder.1.attention",
        "decoder.0.attention",
        "decoder.0.cross_attention",
        "decoder.1.attention",
        "decoder.1.cross_attention",
    ]
    for name, module in attentions(model).items():
        queries, memory, gave = calls[name]
        for row in range(len(SOURCES)):
            seen = (source[row] != PAD).expand(queries.shape[1], -1)
            if name.startswith("decoder") and not name.endswith("cross_attention"):
                seen = torch.ones(target.shape[1], target.shape[1]).tril().bool()
            ours, output = by_hand(module, queries[row], memory[row], seen, SIZE.heads)
            torch.testing.assert_close(weights[name][row], ours, atol=1e-5, rtol=0)
            torch.testing.assert_close(gave[row], output, atol=1e-5, rtol=0)
            # Nothing at all of padding, or of what comes later.
            assert not weights[name][row][:, ~seen].any()
        torch.testing.assert_close(weights[name].sum(dim=3), torch.ones(3, 4, queries.shape[1]))


def test_looking_at_attention_changes_nothing() -> None:
    model = transformer(dropout=0.5).train()
    source, target = padded(SOURCES), padded(TARGETS)
    first, again = model.attention(source, target), model.attention(source, target)
    assert model.training
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(weights.requires_grad for weights in first.values())
    assert not any(module._forward_pre_hooks for module in model.modules())


# --- its parameters ---


def parameters_by_formula(size: TransformerSize) -> int:
    width, feed_forward = size.width, size.feed_forward
    norm = 2 * width
    attention = 4 * (width * width + width)
    block = (width * feed_forward + feed_forward) + (feed_forward * width + width)
    encoder = size.layers * (attention + block + 2 * norm) + norm
    decoder = size.layers * (2 * attention + block + 3 * norm) + norm
    return VOCABULARY * width + encoder + decoder


@pytest.mark.parametrize("name", TRANSFORMER_SIZES)
def test_number_of_parameters(name: str) -> None:
    size = TRANSFORMER_SIZES[name]
    with torch.device("meta"):
        model = Transformer(VOCABULARY, size)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters_by_formula(size)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_sizes_of_the_paper() -> None:
    assert TRANSFORMER_SIZES["multi30k"] == TransformerSize(512, 1024, 6, 8)
    assert TRANSFORMER_SIZES["iwslt"] == TRANSFORMER_SIZES["wmt"] == TransformerSize(512, 2048, 6, 8)


def test_embedding_and_generator_are_one() -> None:
    model = transformer()
    assert model.generator.weight is model.embedding.weight
    assert "generator.weight" not in dict(model.named_parameters())
    copy = transformer(seed=1)
    copy.load_state_dict(model.state_dict())
    assert copy.generator.weight is copy.embedding.weight


def test_initial_weights() -> None:
    model = transformer(TRANSFORMER_SIZES["small"])
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "generator":
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            weight = module.weight.detach()
            assert float(weight.abs().max()) <= bound
            assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
            assert not module.bias.any()
    words = model.embedding.weight.detach()[PAD + 1 :]
    assert float(words.std()) == pytest.approx(256**-0.5, rel=0.05)
    assert not model.embedding.weight[PAD].any()


def test_the_seed_decides_the_weights() -> None:
    first, again, other = transformer(seed=3), transformer(seed=3), transformer(seed=4)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        if a.dim() == 2:
            assert not torch.equal(a, c), name
    assert torch.equal(first(padded(SOURCES), padded(TARGETS)), again(padded(SOURCES), padded(TARGETS)))


def test_a_state_dict_holds_everything() -> None:
    model, other = transformer(seed=0), transformer(seed=1)
    source, target = padded(SOURCES), padded(TARGETS)
    assert not torch.equal(model(source, target), other(source, target))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(source, target), other(source, target))


def test_every_parameter_gets_a_gradient() -> None:
    model = transformer()
    model(padded(SOURCES), padded(TARGETS)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # A bias of the keys adds as much to all scores of a query, which the softmax takes away.
        assert parameter.grad.any() or name.endswith("k_proj.bias"), name


def test_dropout_is_for_training_only() -> None:
    model, plain = transformer(dropout=0.5), transformer(dropout=0.0)
    source, target = padded(SOURCES), padded(TARGETS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(model.train()(source, target), model(source, target))
    assert torch.equal(model.eval()(source, target), plain.train()(source, target))


@pytest.mark.parametrize(("width", "heads"), [(16, 3), (15, 5), (16, 5)])
def test_heads_that_cannot_share_the_width_are_refused(width: int, heads: int) -> None:
    with pytest.raises(ValueError, match=f"width is {width} and heads {heads}; expected an even width"):
        transformer(TransformerSize(width, 24, 1, heads))


# --- made sparse ---


@pytest.mark.parametrize("layers", [1, 2])
def test_all_linear_layers_but_the_output_are_sparse(layers: int) -> None:
    model = transformer(TransformerSize(16, 24, layers, 4))
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = sparse_layers(model)
    assert found.keys() == linear - {"generator.weight"}
    assert len(found) == layers * (4 + 2) + layers * (8 + 2)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_layer_graph_is_read_off(layers: int, dropout: float) -> None:
    model = transformer(TransformerSize(16, 24, layers, 4), dropout=dropout)
    found = sparse_layers(model)
    graph, unknown = layer_graph(model, found)
    assert unknown == set()
    assert find_graph(model, get_method("chts"), found) == (graph, [])
    names = [
        *(f"encoder.{layer}.attention" for layer in range(layers)),
        *(f"decoder.{layer}.{kind}" for layer in range(layers) for kind in ("attention", "cross_attention")),
    ]
    assert graph.attentions == tuple(
        Attention(*(f"{name}.{part}_proj.weight" for part in "qkvo"), heads=4, key_heads=4) for name in names
    )
    assert set(graph.chains) == {
        (f"{part}.{layer}.feed_forward.0.weight", f"{part}.{layer}.feed_forward.3.weight")
        for part in ("encoder", "decoder")
        for layer in range(layers)
    }
    assert graph.pairs == ()


def copy_task(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    words = torch.randint(4, VOCABULARY, (16, 4), generator=generator)
    ends = torch.full((16, 1), END)
    return torch.cat([words, ends], dim=1), torch.cat([torch.full((16, 1), BEGIN), words, ends], dim=1)


def trained(execution: Execution, *, layers: int, steps: int) -> tuple[Transformer, Sparsifier, list[float]]:
    """A model that was to learn to copy with a tenth of its links, and its loss at each step."""
    model = transformer(TransformerSize(32, 48, layers, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    sparsifier = Sparsifier(
        model, optimizer, "chts", 0.9, total_steps=steps, update_every=steps // 3, execution=execution
    )
    sparsifier.rescale_weights()
    losses = []
    for step in range(steps):
        source, target = copy_task(step)
        loss = F.cross_entropy(model(source, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sparsifier.step()
        losses.append(loss.item())
    return model, sparsifier, losses


def test_a_tenth_of_the_links_learns_to_copy() -> None:
    model, sparsifier, losses = trained("masked", layers=2, steps=30)
    assert len(sparsifier.masks) == 2 * (4 + 2) + 2 * (8 + 2)
    for name, mask in sparsifier.masks.items():
        assert int(mask.sum()) == round(mask.numel() * 0.1), name
        assert not model.get_parameter(name)[~mask].any()
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    # The embedding, and with it the output, is dense.
    assert model.generator.weight is model.embedding.weight
    assert model.embedding.weight[1:].all()


def test_layers_that_store_their_links_alone_train_and_translate_alike() -> None:
    model, _, losses = trained("csr", layers=1, steps=6)
    assert sum(isinstance(module, SparseLinear) for module in model.modules()) == (4 + 2) + (8 + 2)
    assert losses == pytest.approx(trained("masked", layers=1, steps=6)[2], abs=1e-4)
    source, target = copy_task(0)
    with torch.no_grad():
        full, state = model(source, target), model.start(source)
        for place in range(target.shape[1]):
            torch.testing.assert_close(model.step(target[:, place], state), full[:, place], atol=1e-5, rtol=0)
