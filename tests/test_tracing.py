import copy
import functools
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional

import chts_core as chts
from chts_core.engine.layers import all_layers, sparse_layers
from chts_core.engine.tracing import layer_graph
from chts_core.percolation import Attention, LayerGraph


def graph_of(model: nn.Module, *dense: str) -> tuple[LayerGraph, set[str]]:
    """What is read off a model of which all linear layers but some are sparse."""
    return layer_graph(model, sparse_layers(model, exclude=dense))


def chains_of(model: nn.Module, *dense: str) -> tuple[tuple[str, ...], ...]:
    """The chains of a model of which everything is found out, and which has nothing else."""
    graph, unknown = graph_of(model, *dense)
    assert not unknown
    assert not graph.pairs
    assert not graph.attentions
    return graph.chains


# --- sequences ---


def test_a_sequential_is_a_chain() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Dropout(), nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    assert chains_of(model) == (("0.weight", "3.weight", "5.weight"),)


def test_nested_sequentials_are_one_chain() -> None:
    inner = nn.Sequential(OrderedDict(up=nn.Linear(2, 3), act=nn.GELU(), down=nn.Linear(3, 2)))
    model = nn.Sequential(OrderedDict(stem=nn.Linear(4, 2), block=inner, head=nn.Linear(2, 2)))
    assert chains_of(model) == (("stem.weight", "block.up.weight", "block.down.weight", "head.weight"),)


@pytest.mark.parametrize(
    "module",
    [
        nn.Identity(),
        nn.ReLU(inplace=True),
        nn.ReLU6(),
        nn.LeakyReLU(),
        nn.GELU(),
        nn.SiLU(),
        nn.Mish(),
        nn.ELU(),
        nn.SELU(),
        nn.CELU(),
        nn.Tanh(),
        nn.Hardtanh(),
        nn.Hardswish(),
        nn.Sigmoid(),
        nn.Softplus(),
        nn.Dropout(),
        nn.BatchNorm1d(3),
    ],
    ids=lambda module: type(module).__name__,
)
def test_modules_that_keep_neurons_apart_join_layers(module: nn.Module) -> None:
    assert chains_of(nn.Sequential(nn.Linear(2, 3), module, nn.Linear(3, 3))) == (("0.weight", "2.weight"),)


@pytest.mark.parametrize(
    "module",
    [
        nn.Flatten(),
        nn.Unflatten(1, (3, 1)),
        nn.Softmax(dim=1),
        nn.LogSoftmax(dim=1),
        nn.LayerNorm(3),
        nn.RMSNorm(3),
        nn.GroupNorm(1, 3),
        nn.BatchNorm1d(7),  # of seven positions, not of the three neurons
        nn.MaxPool1d(1),
        nn.PReLU(3),
    ],
    ids=lambda module: type(module).__name__,
)
def test_modules_that_mix_neurons_part_layers(module: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(2, 3), module, nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    assert chains_of(model) == (("0.weight",), ("2.weight", "4.weight"))


def test_a_dense_layer_parts_its_neighbours() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    assert chains_of(model, "2") == (("0.weight",), ("4.weight",))
    assert chains_of(model, "4") == (("0.weight", "2.weight"),)
    assert chains_of(model, "0") == (("2.weight", "4.weight"),)


def test_sequentials_side_by_side_are_chains_of_their_own() -> None:
    branch = [nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)) for _ in range(2)]
    assert chains_of(nn.ModuleList(branch)) == (("0.0.weight", "0.2.weight"), ("1.0.weight", "1.2.weight"))


def test_of_layers_whose_use_is_not_known_nothing_is_known() -> None:
    model = nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 2)])
    assert graph_of(model) == (LayerGraph(), {"0.weight", "1.weight"})


def test_one_layer_alone_feeds_nothing() -> None:
    assert chains_of(nn.Linear(2, 3)) == (("weight",),)


# --- a forward of one's own ---


class Functional(nn.Module):
    """Three layers, and a forward that is given."""

    def __init__(self, forward: Callable[..., Tensor], **settings: Any) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.rule = forward
        for name, value in settings.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self, x)


ALL = ("fc1.weight", "fc2.weight", "fc3.weight")
APART = tuple((name,) for name in ALL)
FORWARDS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[str, ...], ...]]] = {
    "relu": (lambda m, x: m.fc3(functional.relu(m.fc2(torch.relu(m.fc1(x))))), (ALL,)),
    "methods": (lambda m, x: m.fc3(m.fc2(m.fc1(x).relu()).tanh().sigmoid().contiguous()), (ALL,)),
    "other calls": (
        lambda m, x: m.fc3(functional.gelu(m.fc2(functional.dropout(functional.silu(-m.fc1(x)), 0.5)))),
        (ALL,),
    ),
    "in the order of the calls": (
        lambda m, x: m.fc2(torch.tanh(m.fc3(torch.sigmoid(m.fc1(x))))),
        (("fc1.weight", "fc3.weight", "fc2.weight"),),
    ),
    "softmax between": (lambda m, x: m.fc3(torch.relu(m.fc2(m.fc1(x).softmax(-1)))), (ALL[:1], ALL[1:])),
    "reshape between": (lambda m, x: m.fc3(m.fc2(m.fc1(x).view(4, -1))), (ALL[:1], ALL[1:])),
    "residual": (lambda m, x: m.fc3(x + m.fc2(torch.relu(m.fc1(x)))), (ALL[:2], ALL[2:])),
    "residual of a hidden layer": (lambda m, x: m.fc3((h := m.fc1(x)) + m.fc2(h)), APART),
    "fan-out to two layers": (lambda m, x: m.fc2(h := torch.relu(m.fc1(x))) + m.fc3(h), APART),
    "fan-out to the output": (lambda m, x: torch.cat([h := m.fc1(x), m.fc3(m.fc2(h))]), (ALL[:1], ALL[1:])),
    "product of a neuron with itself": (lambda m, x: m.fc3(m.fc2((h := m.fc1(x)) * h)), (ALL,)),
    "activations of several steps": (
        lambda m, x: m.fc3((h := m.fc2((g := m.fc1(x)) * torch.sigmoid(1.7 * g))) * 0.5 * (1 + torch.erf(h / 2**0.5))),
        (ALL,),
    ),
    "powers and squares": (
        lambda m, x: m.fc3(torch.square(torch.clip(m.fc2(torch.pow(m.fc1(x), 3.0) - 1), -1, 1))),
        (ALL,),
    ),
    "to its own type and device": (lambda m, x: m.fc3(m.fc2((h := m.fc1(x)).to(h.device, h.dtype)).float()), (ALL,)),
    "a step that mixes": (lambda m, x: m.fc3(m.fc2((h := m.fc1(x)) - h.mean(-1, keepdim=True))), (ALL[:1], ALL[1:])),
    "a step with the input": (lambda m, x: m.fc3(m.fc2(torch.relu(m.fc1(x)) * x)), (ALL[:1], ALL[1:])),
    "a step with a parameter": (lambda m, x: m.fc3(m.fc2(m.fc1(x) * m.fc3.bias)), (ALL[:1], ALL[1:])),
    "a reader that reads another thing too": (
        lambda m, x: m.fc3(m.fc2(m.fc1(x)).relu() + torch.tanh(m.fc1.bias)),
        (ALL[:2], ALL[2:]),
    ),
    "product of two layers": (lambda m, x: m.fc3(m.fc1(x) * m.fc2(x)), APART),
    "first called twice": (lambda m, x: m.fc3(m.fc2(m.fc1(m.fc1(x)))), (ALL[:1], ALL[1:])),
    "second called twice": (lambda m, x: m.fc3(m.fc2(m.fc1(x)) + m.fc2(x)), APART),
    "weight used besides": (
        lambda m, x: functional.linear(m.fc3(m.fc2(m.fc1(x))), m.fc2.weight),
        APART,
    ),
    "in place besides": (lambda m, x: m.fc3(m.fc2(h := m.fc1(x)) + h.relu_()), APART),
    "a layer not used": (lambda m, x: m.fc2(torch.relu(m.fc1(x))), (ALL[:2],)),
}


@pytest.mark.parametrize("rule", FORWARDS)
def test_layers_of_a_forward_are_chained_where_neurons_meet_one_to_one(rule: str) -> None:
    forward, expected = FORWARDS[rule]
    graph, unknown = graph_of(Functional(forward))
    assert set(graph.chains) == set(expected)
    assert unknown == set(ALL) - graph.layers()
    assert not graph.pairs


def by_its_data(model: nn.Module, x: Tensor) -> Tensor:
    return model.fc3(model.fc2(model.fc1(x))) if x.sum() > 0 else model.fc1(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_is_done_for_one_type_of_numbers_alone_counts(dtype: torch.dtype) -> None:
    def clamps(model: nn.Module, x: Tensor) -> Tensor:
        x = model.fc1(x)
        limit = torch.finfo(x.dtype).max
        return model.fc3(model.fc2(torch.clamp(x, -limit, limit) if x.dtype == dtype else x))

    def mixes(model: nn.Module, x: Tensor) -> Tensor:
        x = model.fc1(x)
        return model.fc3(model.fc2(mixed(x) if x.dtype == dtype else x))

    assert chains_of(Functional(clamps)) == (ALL,)
    assert set(chains_of(Functional(mixes))) == {ALL[:1], ALL[1:]}


class Open(Functional):
    """Takes whatever keywords there are, and hands them on."""

    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0, **kwargs: Any) -> Tensor:
        return self.rule(self, x, mask=mask, scale=scale, **kwargs)


class Wrapped(Open):
    """In a wrapper that hands on what it is given."""

    @functools.wraps(Open.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return Open.forward(self, *args, **kwargs)


@pytest.mark.parametrize("kind", [Open, Wrapped])
def test_keywords_that_are_handed_on_are_traced_where_none_knows_them_by_name(kind: type[Functional]) -> None:
    def indifferent(model: nn.Module, x: Tensor, *, mask: Any, scale: Any, **_: Any) -> Tensor:
        return model.fc3(model.fc2(model.fc1(x + mask) * 2) * scale)

    def curious(model: nn.Module, x: Tensor, *, mask: Any, scale: Any, mixes: bool = False) -> Tensor:
        return indifferent(model, mixed(x) if mixes else x, mask=mask, scale=scale)

    assert set(chains_of(kind(indifferent))) == {ALL[:2], ALL[2:]}
    assert graph_of(kind(curious)) == (LayerGraph(), set(ALL))


def test_a_wrapper_that_takes_any_positions_is_not_known() -> None:
    class Spread(Functional):
        def forward(self, *inputs: Tensor) -> Tensor:
            return self.rule(self, *inputs)

    class WrappedSpread(Spread):
        @functools.wraps(Spread.forward)
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            return Spread.forward(self, *args, **kwargs)

    assert graph_of(WrappedSpread(FORWARDS["relu"][0])) == (LayerGraph(), set(ALL))


def test_a_forward_that_depends_on_its_data_is_not_known() -> None:
    assert graph_of(Functional(by_its_data)) == (LayerGraph(), set(ALL))


def test_the_parts_of_what_cannot_be_traced_are_traced() -> None:
    block = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        return model.block(by_its_data(model, x))

    graph, unknown = graph_of(Functional(forward, block=block))
    assert graph.chains == (("block.0.weight", "block.2.weight"),)
    assert unknown == set(ALL)


def test_a_part_that_is_not_always_used_is_traced_by_itself() -> None:
    extra = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        x = model.fc3(model.fc2(model.fc1(x)))
        return model.extra(x) if model.training else x

    model = Functional(forward, extra=extra).eval()
    assert set(chains_of(model)) == {ALL, ("extra.0.weight", "extra.2.weight")}


def test_layers_inside_a_module_of_torch_are_traced() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10], div_value=2.0))
    graph, unknown = graph_of(model)
    assert ("2.tail.0.0.weight", "2.tail.0.1.weight") in graph.chains
    assert unknown == {"2.head.weight"}


def test_a_compiled_part_is_read_all_the_same() -> None:
    block = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))
    model = nn.Sequential(nn.Linear(4, 6), torch.compile(block, backend="eager"))
    graph, unknown = graph_of(model)
    assert graph.chains == (("1._orig_mod.0.weight", "1._orig_mod.2.weight"),)
    assert unknown == {"0.weight"}


class Scaled(nn.Linear):
    """A linear layer that does more than torch's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(-1)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "compiled", [torch.jit.script, lambda part: torch.jit.trace(part, torch.zeros(2, 4), check_trace=False)]
)
def test_a_part_compiled_by_jit_ends_a_chain_and_keeps_its_mode(compiled: Callable[[nn.Module], nn.Module]) -> None:
    part = compiled(nn.Sequential(nn.Linear(4, 4), nn.Dropout()))
    model = nn.Sequential(
        nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), part, nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    chains = (("0.weight", "2.weight"), ("4.weight", "6.weight"))
    for training in (True, False):
        model.train(training)
        assert chains_of(model) == chains
        assert all(module.training == training for module in model.modules())


def test_of_a_layer_with_a_forward_of_its_own_nothing_is_known() -> None:
    model = nn.Sequential(Scaled(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    graph, unknown = graph_of(model)
    assert graph.chains == (("1.weight", "3.weight"),)
    assert unknown == {"0.weight"}


# --- attention and feed-forward blocks ---


def test_attentions_of_torch() -> None:
    model = nn.Sequential(nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 4, kdim=6, vdim=6))
    graph, unknown = graph_of(model)
    packed = [f"0.in_proj_weight:{role}" for role in "qkv"]
    assert graph.attentions == (
        Attention(*packed, "0.out_proj.weight", 2, 2),
        Attention("1.q_proj_weight", "1.k_proj_weight", "1.v_proj_weight", "1.out_proj.weight", 4, 4),
    )
    assert not unknown
    assert not graph.chains


def test_dense_parts_of_an_attention_are_left_out() -> None:
    model = nn.MultiheadAttention(8, 2)
    (attention,) = graph_of(model, "*:k", "out_proj")[0].attentions
    assert attention == Attention("in_proj_weight:q", None, "in_proj_weight:v", None, 2, 2)
    model = nn.Sequential(nn.MultiheadAttention(8, 2), nn.Linear(8, 8))
    assert graph_of(model, "0.*", "0")[0].attentions == ()


def test_a_transformer_of_torch_is_known() -> None:
    model = nn.Transformer(8, 2, num_encoder_layers=2, num_decoder_layers=1, dim_feedforward=12, batch_first=True)
    graph, unknown = graph_of(model)
    assert not unknown
    assert graph.layers() == all_layers(model).keys()
    assert len(graph.attentions) == 4
    assert graph.chains == tuple(
        (f"{block}.linear1.weight", f"{block}.linear2.weight")
        for block in ("encoder.layers.0", "encoder.layers.1", "decoder.layers.0")
    )
    assert graph_of(model, "decoder.layers.0.linear2")[0].chains[-1] == ("decoder.layers.0.linear1.weight",)


def llama(**settings: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**TINY | settings))


TINY = {
    "vocab_size": 11,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 16,
}


def test_a_llama_is_known() -> None:
    graph, unknown = layer_graph(model := llama(), sparse_layers(model))
    assert not unknown
    blocks = [f"model.layers.{block}" for block in range(2)]
    assert graph.attentions == tuple(
        Attention(*(f"{block}.self_attn.{role}_proj.weight" for role in "qkvo"), 4, 2, rotary=True) for block in blocks
    )
    names = [tuple(f"{block}.mlp.{role}_proj.weight" for role in ("gate", "up", "down")) for block in blocks]
    assert graph.pairs == tuple((gate, up) for gate, up, _ in names)
    assert graph.chains == tuple((part, down) for gate, up, down in names for part in (gate, up))


def test_dense_parts_of_a_gated_feed_forward_are_left_out() -> None:
    model = llama(num_hidden_layers=1)
    only = {"include": "*.mlp.*"}
    block = "model.layers.0.mlp"

    def read(*dense: str) -> LayerGraph:
        graph, unknown = layer_graph(model, sparse_layers(model, **only, exclude=dense))
        assert not unknown
        return graph

    assert read("*up_proj") == LayerGraph(((f"{block}.gate_proj.weight", f"{block}.down_proj.weight"),))
    without_down = read("*down_proj")
    assert without_down.pairs == ((f"{block}.gate_proj.weight", f"{block}.up_proj.weight"),)
    assert without_down.chains == ((f"{block}.gate_proj.weight",), (f"{block}.up_proj.weight",))


# Relatives of LLaMA: normalised queries and keys, other rotations, another name of the output, more norms.
RELATIVES: dict[str, tuple[bool, bool | None]] = {  # whether queries meet keys, whether values meet outputs
    "Mistral": (True, True),
    "Qwen2": (True, True),
    "Gemma2": (True, True),
    "Qwen3": (False, True),
    "Olmo2": (False, True),
    "Cohere": (False, True),
    "Glm": (False, True),
    "Phi": (False, True),
    "GPTJ": (False, True),
    "DiffLlama": (False, False),
    "BitNet": (False, False),
}


def relative(family: str) -> nn.Module:
    own = {"n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4, "n_positions": 16} if family == "GPTJ" else {}
    return of_hugging_face(family, "ForCausalLM", TINY | own, "eager")


def of_hugging_face(family: str, task: str, settings: dict[str, Any], attention: str) -> nn.Module:
    """A model without biases, so that a neuron that has lost its links gives 0."""
    import transformers

    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, f"{family}Config")(**(settings | special), attn_implementation=attention)
    model = getattr(transformers, family + task)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return model


def lost_for_nothing(model: nn.Module, graph: LayerGraph, outputs: Callable[[], Tensor]) -> int:
    """How many of some random links percolation cuts; the outputs must not depend on them."""
    layers = sparse_layers(model)
    generator = torch.Generator().manual_seed(0)
    parameters = dict(model.named_parameters())
    masks = {name: torch.rand(layer.full_shape, generator=generator) < 0.1 for name, layer in layers.items()}
    percolated = chts.percolation.percolate(masks, graph)
    found = []
    for given in (masks, percolated):
        with torch.no_grad():
            for name, layer in layers.items():
                weight = layer.matrix(parameters[layer.parameter])
                values = torch.randn(layer.shape, generator=torch.Generator().manual_seed(1)) * 3
                weight.copy_(values * given[name].flatten(1))
            found.append(outputs())
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=0)
    assert float(found[0].std()) > 0
    return sum(int((masks[name] & ~percolated[name]).sum()) for name in masks)


@pytest.mark.parametrize("family", RELATIVES)
def test_relatives_of_llama_are_cut_only_where_nothing_depends_on_it(family: str) -> None:
    queries, values = RELATIVES[family]
    model = relative(family)
    graph, unknown = layer_graph(model, sparse_layers(model))
    assert not unknown
    assert any(attention.query for attention in graph.attentions) == queries
    assert any(attention.value for attention in graph.attentions) == values
    inputs = torch.arange(14).view(2, 7) % 11
    cut = lost_for_nothing(model, graph, lambda: model(input_ids=inputs, use_cache=False).logits)
    assert cut == 0 if family == "BitNet" else cut > 5  # which has norms everywhere


@dataclass(frozen=True)
class Family:
    """A model of Hugging Face, and what is to be found of it.

    attentions, chains, pairs: how many.
    unknown: names of the layers that cannot be traced.
    """

    name: str
    task: str
    settings: dict[str, Any]
    inputs: tuple[str, ...]
    attentions: int
    chains: int
    pairs: int = 0
    unknown: tuple[str, ...] = ()


BERT = {"vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
T5 = {"vocab_size": 11, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 4}
T5 |= {"decoder_start_token_id": 0, "relative_attention_num_buckets": 6}
TEXT = BERT | {"max_position_embeddings": 16, "projection_dim": 8, "bos_token_id": 0, "eos_token_id": 2}
IMAGES = {key: BERT[key] for key in BERT if key != "vocab_size"} | {"image_size": 8, "patch_size": 4}
GPT2 = {"vocab_size": 11, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16, "n_inner": 24}
WHISPER = {"vocab_size": 11, "d_model": 16, "max_source_positions": 5, "max_target_positions": 16, "num_mel_bins": 4}
WHISPER |= {f"{part}_{key}": n for part in ("encoder", "decoder") for key, n in (("layers", 2), ("attention_heads", 4))}
WHISPER |= {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "decoder_start_token_id": 1}

FAMILIES = {
    "BERT": Family("Bert", "ForMaskedLM", BERT, ("input_ids",), 2, 2),
    "BERT that decodes": Family(
        "Bert", "LMHeadModel", BERT | {"is_decoder": True, "add_cross_attention": True}, ("input_ids", "memory"), 4, 2
    ),
    "RoBERTa": Family(
        "Roberta",
        "ForMaskedLM",
        BERT | {"max_position_embeddings": 16},
        ("input_ids",),
        2,
        2,
        0,
        ("lm_head.dense.weight",),
    ),
    "ELECTRA": Family(
        "Electra",
        "ForMaskedLM",
        BERT | {"embedding_size": 8},
        ("input_ids",),
        2,
        2,
        0,
        ("electra.embeddings_project.weight",),
    ),
    "DistilBERT": Family(
        "DistilBert",
        "ForSequenceClassification",
        {"vocab_size": 11, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24},
        ("input_ids",),
        2,
        2,
        unknown=("pre_classifier.weight",),
    ),
    "T5": Family("T5", "ForConditionalGeneration", T5, ("input_ids", "decoder_input_ids"), 6, 4),
    "gated T5": Family(
        "T5",
        "ForConditionalGeneration",
        T5 | {"feed_forward_proj": "gated-gelu"},
        ("input_ids", "decoder_input_ids"),
        6,
        8,
        4,
    ),
    "Whisper": Family(
        "Whisper",
        "ForConditionalGeneration",
        WHISPER,
        ("input_features", "decoder_input_ids"),
        6,
        4,
        unknown=("model.encoder.conv1.weight", "model.encoder.conv2.weight"),
    ),
    "CLIP": Family(
        "CLIP",
        "Model",
        {"text_config": TEXT, "vision_config": IMAGES, "projection_dim": 8},
        ("input_ids", "pixel_values"),
        4,
        4,
        unknown=("vision_model.embeddings.patch_embedding.weight", "visual_projection.weight"),
    ),
    "ViT": Family(
        "ViT",
        "ForImageClassification",
        IMAGES,
        ("pixel_values",),
        2,
        2,
        unknown=("vit.embeddings.patch_embeddings.projection.weight",),
    ),
    "GPT-2": Family("GPT2", "LMHeadModel", GPT2, ("input_ids",), 2, 2),
    "GPT-2 in float32": Family("GPT2", "LMHeadModel", GPT2 | {"reorder_and_upcast_attn": True}, ("input_ids",), 2, 2),
    "GPT-2 that decodes": Family(
        "GPT2", "LMHeadModel", GPT2 | {"add_cross_attention": True}, ("input_ids", "memory"), 4, 2
    ),
}
INPUTS = {
    "input_ids": torch.arange(14).view(2, 7) % 11,
    "decoder_input_ids": torch.arange(14).view(2, 7) % 11,
    "memory": torch.linspace(-2, 2, 160).view(2, 5, 16).sin(),
    "input_features": torch.linspace(-2, 2, 80).view(2, 4, 10).sin(),
    "pixel_values": torch.linspace(-9, 9, 384).view(2, 3, 8, 8).sin(),
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", FAMILIES)
def test_models_of_hugging_face_are_known_and_cut_only_where_nothing_depends_on_it(name: str, attention: str) -> None:
    family = FAMILIES[name]
    model = of_hugging_face(family.name, family.task, family.settings, attention)
    graph, unknown = layer_graph(model, sparse_layers(model))
    assert unknown == set(family.unknown)
    assert len(graph.attentions) == family.attentions
    assert all(a.query and a.key and a.value and a.output for a in graph.attentions)
    assert sum(len(chain) == 2 for chain in graph.chains) == family.chains
    assert len(graph.pairs) == family.pairs
    inputs = {key if key != "memory" else "encoder_hidden_states": INPUTS[key] for key in family.inputs}

    def outputs() -> Tensor:
        found = model(**inputs)
        return torch.cat([found.text_embeds, found.image_embeds]) if name == "CLIP" else found.logits

    parts = {
        "attentions": LayerGraph(attentions=graph.attentions),
        "feed-forward blocks": LayerGraph(graph.chains, graph.pairs),
    }
    for part in parts.values():
        assert lost_for_nothing(model, part, outputs) > 5


ALL_ATTENTION_FUNCTIONS: dict[str, Callable[..., Tensor]] = {}  # as in the source of a model of Hugging Face


class Interfaced(nn.Module):
    """An attention block that leaves the products to Hugging Face's interface."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.n_heads, self.head_dim = 4, 4
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        for name, value in settings.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(ALL_ATTENTION_FUNCTIONS["eager"](self, self.q(x), self.k(x), self.v(x)))


class Rolled(Interfaced):
    def forward(self, x: Tensor) -> Tensor:
        return self.o(ALL_ATTENTION_FUNCTIONS["eager"](self, self.q(x).roll(1, -1), self.k(x), self.v(x)))


class Elsewhere(Interfaced):
    def forward(self, x: Tensor) -> Tensor:
        return self.o(products(self.q(x), self.k(x), self.v(x)))


def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    raise NotImplementedError(q, k, v)


def bent(attention: Interfaced) -> Interfaced:
    attention.v.register_forward_hook(lambda _, __, result: mixed(result))
    return attention


INTERFACED: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "plain": (Interfaced, True),
    "biased by positions": (lambda: Interfaced(relative_attention_bias=nn.Embedding(7, 4)), True),
    "biased by positions in heads": (lambda: Interfaced(relative_attention_bias=nn.Embedding(7, 5)), False),
    "with a norm": (lambda: Interfaced(q_norm=nn.LayerNorm(4)), False),
    "with distances": (lambda: Interfaced(distance_embedding=nn.Embedding(7, 4)), False),
    "with a parameter": (lambda: Interfaced(scale=nn.Parameter(torch.ones(16))), False),
    "with a rotation": (lambda: Interfaced(rotary=Rotary(2)), False),
    "of other heads": (lambda: Interfaced(n_heads=2), False),
    "of no known heads": (lambda: Interfaced(n_heads=None), False),
    "of fewer keys": (lambda: Interfaced(k=nn.Linear(16, 8)), False),
    "of a wider output": (lambda: Interfaced(o=nn.Linear(32, 16)), False),
    "that mixes": (Rolled, False),
    "with products of its own": (Elsewhere, False),
    "with a hook": (lambda: bent(Interfaced()), False),
}


@pytest.mark.parametrize("kind", INTERFACED)
def test_an_attention_is_known_by_its_parts_where_nothing_else_can_mix_neurons(kind: str) -> None:
    build, known = INTERFACED[kind]
    graph, unknown = graph_of(nn.ModuleList([build()]))
    names = [f"0.{role}.weight" for role in "qkvo"]
    assert graph.attentions == ((Attention(*names, 4, 4),) if known else ())
    assert unknown == (set() if known else set(names))


class Apart(nn.Module):
    """An attention block in one module, its output projection behind it, and a forward that is given."""

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        super().__init__()
        self.attention = Queried()
        self.dense, self.other = nn.Linear(16, 16), nn.Linear(16, 16)
        self.rule = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self, x)


class Queried(nn.Module):
    """An attention block with BERT's names, which gives its scores besides."""

    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size = 4, 4
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return ALL_ATTENTION_FUNCTIONS["eager"](self, self.query(x), self.key(x), self.value(x))


APARTS: dict[str, tuple[Callable[..., Tensor], bool]] = {
    "the first result": (lambda m, x: m.dense(m.attention(x)[0]), True),
    "both results": (lambda m, x: m.dense((both := m.attention(x))[0]) + both[1].sum(), True),
    "after dropout": (lambda m, x: m.dense(functional.dropout(m.attention(x)[0], 0.1)), True),
    "the second result": (lambda m, x: m.dense(m.attention(x)[1]), False),
    "the last result": (lambda m, x: m.dense(m.attention(x)[-1]), False),
    "two readers": (lambda m, x: m.dense(h := m.attention(x)[0]) + m.other(h), False),
    "a residual": (lambda m, x: m.dense(x + m.attention(x)[0]), False),
    "a norm": (lambda m, x: m.dense(m.attention(x)[0].softmax(-1)), False),
    "called twice": (lambda m, x: m.dense(m.attention(m.attention(x)[0])[0]), False),
    "read twice": (lambda m, x: m.dense(m.attention(x)[0]) + m.dense(x), False),
}


@pytest.mark.parametrize("rule", APARTS)
def test_the_output_of_an_attention_is_traced_to_where_it_is_read(rule: str) -> None:
    forward, known = APARTS[rule]
    graph, _ = graph_of(Apart(forward), "other")
    names = [f"attention.{role}.weight" for role in ("query", "key", "value")]
    output = "dense.weight" if known else None
    assert graph.attentions == (Attention(*names, output, 4, 4),)


GATED = ("gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize("names", [GATED, ("wi_0", "wi_1", "wo")])
@pytest.mark.parametrize(
    ("act", "known"),
    [
        (nn.SiLU(), True),
        (nn.ReLU(), True),
        (nn.Tanh(), True),
        (nn.Sigmoid(), False),  # a neuron without a gate is halved
        (nn.Softplus(), False),
        (nn.PairwiseDistance(), False),  # cannot be tried
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_gates_are_pairs_where_none_is_none(names: tuple[str, str, str], act: nn.Module, known: bool) -> None:
    block = GatedBlock(lambda gate, up: block.dropout(block.act(gate) * up), names)
    block.act, block.dropout = act, nn.Dropout()
    assert_gated(block, names, known)


class GatedBlock(nn.Module):
    """A gated feed-forward block with a product that a test chooses."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor], names: tuple[str, ...] = GATED) -> None:
        super().__init__()
        self.product, self.names = product, names
        for name, sizes in zip(names, ((16, 24), (16, 24), (24, 16)), strict=True):
            setattr(self, name, nn.Linear(*sizes))

    def forward(self, x: Tensor) -> Tensor:
        gate, up, down = (getattr(self, name) for name in self.names)
        return down(self.product(gate(x), up(x)))


def assert_gated(block: nn.Module, names: tuple[str, ...], known: bool) -> None:
    graph, unknown = graph_of(nn.ModuleList([block]))
    gate, up, down = (f"0.{name}.weight" for name in names)
    assert not unknown
    assert graph.pairs == (((gate, up),) if known else ())
    assert set(graph.chains) == ({(gate, down), (up, down)} if known else {(gate,), (up,), (down,)})


PRODUCTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "SiLU": (lambda gate, up: functional.silu(gate) * up, True),
    "tanh and dropout": (lambda gate, up: functional.dropout(gate.tanh() * up.float()), True),
    "limits": (lambda gate, up: functional.silu(gate.clamp(max=7)) * up.clamp(-7, 7), True),
    "sigmoid": (lambda gate, up: torch.sigmoid(gate) * up, False),
    "a shifted factor": (lambda gate, up: functional.silu(gate) * (up + 1), False),
    "softmax": (lambda gate, up: gate.softmax(-1) * up, False),
    "a mean": (lambda gate, up: functional.silu(gate - gate.mean(-1, keepdim=True)) * up, False),
    "normalised factors": (lambda gate, up: functional.silu(gate) * functional.normalize(up, dim=-1), False),
    "another order": (lambda gate, up: (functional.silu(gate) * up).roll(2, -1), False),
    "in place": (lambda gate, up: (gate.add_(1), functional.silu(gate) * up)[1], False),
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_product_of_a_gate_is_tried(product: str) -> None:
    function, known = PRODUCTS[product]
    assert_gated(GatedBlock(function), GATED, known)


class OtherUse(GatedBlock):
    """A gated block that also uses the factor without the gate."""

    def forward(self, x: Tensor) -> Tensor:
        up = self.up_proj(x)
        return self.down_proj(torch.relu(self.gate_proj(x)) * up) + up.sum(-1, keepdim=True)


class Shifted(GatedBlock):
    """A gated block with a shift that is zero before training."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(lambda gate, up: product(gate, up) + self.shift)
        self.shift = nn.Parameter(torch.zeros(24))


class Shift(nn.Module):
    """A part that adds a shift, which is zero before training."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(24))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


class ShiftedInPart(GatedBlock):
    """A gated block with a part that shifts the product."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(lambda gate, up: self.part(product(gate, up)))
        self.part = Shift()


class Tied(GatedBlock):
    """A gated block that uses the weight of one layer once more."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) @ self.up_proj.weight.T


class Optional(GatedBlock):
    """A gated block that has no gate by default."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        return self.down_proj(self.up_proj(x)) if gate is None else super().forward(x)


class Depending(GatedBlock):
    """A gated block that cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.parametrize("kind", [OtherUse, Shifted, ShiftedInPart, Tied, Optional, Depending])
def test_gates_are_pairs_only_if_the_forward_shows_it(kind: type[GatedBlock]) -> None:
    graph, unknown = graph_of(nn.ModuleList([kind(lambda gate, up: torch.relu(gate) * up)]))
    assert not graph.pairs
    assert all(len(chain) == 1 for chain in graph.chains)
    assert bool(unknown) == (kind is Depending)


def test_experts_are_pairs_only_where_no_gate_is_none() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    model = MixtralForCausalLM(MixtralConfig(**TINY | {"num_hidden_layers": 1, "num_local_experts": 2}))
    assert len(graph_of(model, "lm_head", "*gate.weight")[0].pairs) == 2
    experts = model.model.layers[0].mlp.experts
    del experts.act_fn
    experts.act_fn = torch.sigmoid  # not a module
    graph, unknown = graph_of(model, "lm_head", "*gate.weight")
    assert not graph.pairs
    assert {name for name in unknown if "expert" in name} == {
        f"model.layers.0.mlp.experts.{part}"
        for expert in range(2)
        for part in (f"gate_up_proj:{expert}:gate", f"gate_up_proj:{expert}:up", f"down_proj:{expert}")
    }


class Heads(nn.Module):
    """An attention block with LLaMA's names for its parts."""

    def __init__(
        self,
        output: str = "o_proj",
        key_heads: int = 2,
        head_dim: Any = 4,
        values: int | None = None,
        outputs: int = 16,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Linear(16, 16)
        self.k_proj = nn.Linear(16, 4 * key_heads)
        self.v_proj = nn.Linear(16, values or 4 * key_heads)
        setattr(self, output, nn.Linear(outputs, 16))


@pytest.mark.parametrize("output", ["o_proj", "out_proj", "dense"])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_attentions_with_the_names_of_llama(output: str, key_heads: int) -> None:
    graph, unknown = graph_of(nn.ModuleList([Heads(output, key_heads)]))
    names = [f"0.{name}.weight" for name in ("q_proj", "k_proj", "v_proj", output)]
    assert graph.attentions == (Attention(*names, 4, key_heads),)
    assert not unknown


class Attended(Heads):
    """An attention block with LLaMA's names that computes its products itself, and steps that a test chooses."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(key_heads=4)
        for name, value in settings.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (4, 4)).mT for part in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(torch.matmul(torch.matmul(q, k.mT).softmax(-1), v).mT.flatten(2))


class TalkingHeads(Attended):
    def __init__(self) -> None:
        super().__init__(talk=nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (4, 4)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj))
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.o_proj(self.talk(y.mT).mT.flatten(2))


class RolledHeads(Attended):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).roll(1, -1)


class MixedHeads(Attended):
    def forward(self, x: Tensor) -> Tensor:
        y = functional.scaled_dot_product_attention(self.q_proj(x), self.k_proj(x), self.v_proj(x))
        return self.o_proj(torch.einsum("btd,de->bte", y, torch.eye(16).flip(0)))


class Cached(Attended):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x, x], 1))


ATTENDED: dict[str, tuple[Callable[[], nn.Module], bool, bool]] = {  # whether queries and values are known
    "products of its own": (Attended, True, True),
    "sinks": (lambda: Attended(sinks=nn.Parameter(torch.zeros(4))), True, True),
    "a number for each neuron": (lambda: Attended(sinks=nn.Parameter(torch.zeros(16))), False, False),
    "norms of queries": (lambda: Attended(q_norm=nn.LayerNorm(4)), False, True),
    "talking heads": (TalkingHeads, False, False),
    "a roll": (RolledHeads, False, False),
    "a sum after torch's products": (MixedHeads, False, False),
    "parts that are joined": (Cached, False, True),
}


@pytest.mark.parametrize("kind", ATTENDED)
def test_an_attention_with_the_names_of_llama_must_not_mix_neurons(kind: str) -> None:
    build, queries, values = ATTENDED[kind]
    graph, _ = graph_of(nn.ModuleList([build()]))
    assert any(attention.query for attention in graph.attentions) == queries
    assert any(attention.value for attention in graph.attentions) == values
    assert all(len(chain) == 1 for chain in graph.chains)


def test_an_attention_of_which_the_output_is_elsewhere() -> None:
    block = Heads("another")
    assert graph_of(nn.ModuleList([block]))[0].attentions == ()  # the other layer may mix neurons
    graph, unknown = graph_of(nn.ModuleDict({"0": block, "output": block._modules.pop("another")}))
    assert graph.attentions == (Attention("0.q_proj.weight", "0.k_proj.weight", "0.v_proj.weight", None, 4, 2),)
    assert unknown == {"output.weight"}


@pytest.mark.parametrize(
    "settings", [{"head_dim": None}, {"head_dim": 3}, {"head_dim": 8}, {"values": 8}, {"outputs": 8}]
)
def test_of_heads_that_do_not_add_up_nothing_is_known(settings: dict[str, Any]) -> None:
    # Qwen3-Next packs a gate into q_proj, others have values of another width.
    graph, unknown = graph_of(nn.ModuleList([Heads(**{"key_heads": 1} | settings)]))
    assert graph == LayerGraph()
    assert len(unknown) == 4


def rotate_half(x: Tensor) -> Tensor:
    return torch.cat([-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]], dim=-1)


def rotate_every_two(x: Tensor) -> Tensor:
    return torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)


class Rotary(nn.Module):
    """Frequencies of some planes."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", torch.ones(planes))


@pytest.mark.parametrize(
    ("rotate", "planes", "expected"),
    [
        (rotate_half, 2, True),
        (rotate_half, 1, None),  # a part of the head only
        (rotate_every_two, 2, None),
        (None, 2, None),
    ],
)
def test_only_a_rotation_of_halves_is_taken_for_one(
    monkeypatch: pytest.MonkeyPatch, rotate: Callable[[Tensor], Tensor] | None, planes: int, expected: bool | None
) -> None:
    source = ModuleType("source_of_heads")
    if rotate is not None:
        source.rotate_half = rotate
    monkeypatch.setitem(sys.modules, "source_of_heads", source)
    monkeypatch.setattr(Heads, "__module__", "source_of_heads")
    graph, unknown = graph_of(nn.ModuleList([Heads(), Rotary(planes)]))
    assert not unknown
    (attention,) = graph.attentions
    if expected is None:
        assert (attention.query, attention.key) == (None, None)
        assert graph.chains == (("0.q_proj.weight",), ("0.k_proj.weight",))
    else:
        assert attention.rotary
        assert attention.query is not None


def test_a_model_of_attention_and_a_traced_head() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(8, 2, 12)
            self.fc1, self.fc2 = nn.Linear(8, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(torch.relu(self.fc1(self.encoder(x).mean(0))))

    graph, unknown = graph_of(Classifier())
    assert not unknown
    assert len(graph.attentions) == 1
    assert graph.chains == (("encoder.linear1.weight", "encoder.linear2.weight"), ("fc1.weight", "fc2.weight"))


def test_a_traced_perceptron_inside_a_language_model() -> None:
    model = llama(num_hidden_layers=1)
    model.model.layers[0].mlp = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
    graph, unknown = layer_graph(model, sparse_layers(model))
    assert not unknown
    assert graph.chains == (("model.layers.0.mlp.0.weight", "model.layers.0.mlp.2.weight"),)


# --- nothing is left behind ---


class Restless(nn.Module):
    """A forward that does all that a forward should not."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(1))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        print("forward!")
        self.calls += 1
        self.seen.add_(1)
        self.hidden = self.fc1(x)
        self.eval()
        return self.fc2(torch.relu(self.norm(self.hidden))) + torch.rand(4)


class Hopeless(Restless):
    """One that cannot be traced besides."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if y.sum() > 0 else -y


@pytest.mark.parametrize(
    ("build", "fully_known"),
    [(Restless, True), (Hopeless, False), (lambda: llama(), True)],
    ids=["traced", "not", "llama"],
)
@pytest.mark.parametrize("training", [True, False])
def test_tracing_leaves_nothing_behind(
    build: Callable[[], nn.Module], fully_known: bool, training: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build().train(training)
    before = copy.deepcopy(model.state_dict())
    attributes = {name: vars(module).copy() for name, module in model.named_modules()}
    random_state = torch.get_rng_state()

    _, unknown = layer_graph(model, sparse_layers(model, exclude=()))

    assert (not unknown - {"lm_head.weight"}) == fully_known
    assert torch.equal(torch.get_rng_state(), random_state)
    assert {name: vars(module) for name, module in model.named_modules()} == attributes
    assert all(module.training == training for module in model.modules())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert capsys.readouterr() == ("", "")
    copy.deepcopy(model)  # a proxy left in an attribute could not be


class Keeping(nn.Module):
    """A forward that keeps its results in containers, and draws with all generators."""

    def __init__(self, kept: dict[str, Any]) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        if "scale" not in self.kept:
            self.kept["scale"] = x.std() * random.random() * np.random.rand()  # noqa: NPY002
        for container in self.kept.get("inner", ()):
            container.clear()
            (container.add if isinstance(container, set) else container.append)(x)
        return self.fc3(self.fc2(self.fc1(x / self.kept["scale"])))


def test_results_in_containers_do_not_stay_after_a_trace() -> None:
    inner = ([1, 2], {3, 4}, deque([5, 6], maxlen=2))
    kept: dict[str, Any] = {"inner": inner}
    model = Keeping(kept)
    of_python, of_numpy = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    sparsifier = chts.Sparsifier(model, torch.optim.SGD(model.parameters()), "set", 0.5, total_steps=9, update_every=3)

    assert list(sparsifier.masks) == ["fc1.weight", "fc2.weight"]
    assert model.kept is kept
    assert kept == {"inner": inner}
    assert inner == ([1, 2], {3, 4}, deque([5, 6]))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == (of_python, of_numpy)  # noqa: NPY002
    model(torch.rand(2, 4)).sum().backward()
    assert model.fc1.weight.grad is not None


def test_a_result_that_stays_elsewhere_is_refused_when_it_is_used() -> None:
    kept: dict[str, Any] = {}

    class Outside(Keeping):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc3(self.fc2(self.fc1(x / kept.setdefault("scale", x.std()))))

    model = Outside({})
    chts.plan(model, "set", 0.5, total_steps=9, update_every=3)
    with pytest.raises(RuntimeError, match=r"a value that it has kept from an earlier trace.* delete the value"):
        model(torch.rand(2, 4))
    kept.clear()
    assert model(torch.rand(2, 4)).requires_grad


def test_what_a_forward_warns_of_is_no_reason_not_to_trace() -> None:
    def forward(model: nn.Module, x: Tensor) -> Tensor:
        import warnings

        warnings.warn("an error under pytest", UserWarning, stacklevel=1)
        return model.fc3(model.fc2(model.fc1(x)))

    assert chains_of(Functional(forward)) == (ALL,)


def test_a_model_of_which_all_is_known_is_not_traced() -> None:
    calls = []

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            calls.append(x)
            return self.attention(x, x, x)[0]

    assert not graph_of(Block())[1]
    assert calls == []


# --- what the trace does not show ---


def mixed(x: Tensor) -> Tensor:
    return x + x.roll(1, -1)


def sequence() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))


def own_forward(module: nn.Module) -> None:
    before = module.forward
    module.forward = lambda x: mixed(before(x))  # type: ignore[method-assign]


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


ALTER: dict[str, Callable[[nn.Sequential], object]] = {
    "a hook on an activation": lambda model: model[1].register_forward_hook(lambda _, __, result: mixed(result)),
    "a hook before an activation": lambda model: model[1].register_forward_pre_hook(lambda _, given: mixed(given[0])),
    "a hook with keywords": lambda model: model[1].register_forward_pre_hook(
        lambda _, given, named: ((mixed(given[0]),), named), with_kwargs=True
    ),
    "a hook on a layer": lambda model: model[0].register_forward_hook(lambda _, __, result: mixed(result)),
    "a hook before the next layer": lambda model: model[2].register_forward_pre_hook(lambda _, given: mixed(given[0])),
    "an activation's own forward": lambda model: own_forward(model[1]),
    "a layer's own forward": lambda model: own_forward(model[0]),
    "a computed bias": lambda model: nn.utils.parametrize.register_parametrization(model[2], "bias", Doubled()),
}


@pytest.mark.parametrize("way", ALTER)
def test_layers_are_no_chain_across_what_the_trace_does_not_show(way: str) -> None:
    model = sequence()
    ALTER[way](model)
    chains = chains_of(model)
    assert not {("0.weight", "2.weight")} & {(a, b) for chain in chains for a, b in pairwise(chain)}
    assert {name for chain in chains for name in chain} == {"0.weight", "2.weight", "4.weight"}
    if way not in ("a computed bias", "a hook before the next layer"):
        assert ("2.weight", "4.weight") in chains


@pytest.mark.parametrize("before", [False, True])
def test_hooks_on_all_modules_leave_no_chain(before: bool) -> None:
    register = nn.modules.module.register_module_forward_pre_hook if before else None
    handle = (register or nn.modules.module.register_module_forward_hook)(lambda *_: None)
    try:
        assert all(len(chain) == 1 for chain in chains_of(sequence()))
    finally:
        handle.remove()
    assert len(chains_of(sequence())) == 1


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("mixes_in", ["training", "evaluation", "gradients"])
def test_what_holds_in_one_mode_alone_is_no_chain(mixes_in: str, mode: bool) -> None:
    def forward(model: nn.Module, x: Tensor) -> Tensor:
        x = model.fc1(x)
        mixes = torch.is_grad_enabled() if mixes_in == "gradients" else model.training == (mixes_in == "training")
        return model.fc3(model.fc2(mixed(x) if mixes else x))

    model = Functional(forward).train(mode)
    assert set(chains_of(model)) == {ALL[:1], ALL[1:]}
    assert all(module.training == mode for module in model.modules())


@pytest.mark.parametrize("mixes_if_given", [False, True])
def test_what_holds_only_with_or_without_an_optional_argument_is_no_chain(mixes_if_given: bool) -> None:
    class Mixing(Functional):
        def forward(self, x: Tensor, mix: Tensor | None = None) -> Tensor:
            x = self.fc1(x)
            return self.fc3(self.fc2(mixed(x) if mixes_if_given == (mix is not None) else x))

    assert set(chains_of(Mixing(mixed))) == {ALL[:1], ALL[1:]}


def test_an_optional_argument_that_mixes_no_neurons_leaves_the_chain() -> None:
    class Labelled(Functional):
        def forward(self, x: Any = None, labels: Tensor | None = None) -> Any:
            y = self.fc3(self.fc2(self.fc1(x.flatten(1))))
            return y if labels is None else (y, functional.cross_entropy(y, labels))

    assert chains_of(Labelled(mixed)) == (ALL,)


def test_a_wrapped_forward_is_traced_and_another_one_is_not() -> None:
    model = sequence()
    model.forward = functools.wraps(model.forward)(torch.autocast("cpu")(model.forward))  # type: ignore[method-assign]
    assert len(chains_of(model)) == 1
    model.forward = lambda x: model[4](mixed(model[2](model[0](x))))  # type: ignore[method-assign]
    assert graph_of(model) == (LayerGraph(), {"0.weight", "2.weight", "4.weight"})


def test_blocks_known_by_name_are_not_what_they_seem_with_a_hook() -> None:
    model = tiny.llama()
    block = model.model.layers[0]
    block.mlp.act_fn.register_forward_hook(lambda _, __, result: mixed(result))
    block.self_attn.v_proj.register_forward_hook(lambda _, __, result: mixed(result))
    graph, _ = graph_of(model, "lm_head")
    first = "model.layers.0."
    assert {(f"{first}mlp.{role}_proj.weight",) for role in ("gate", "up", "down")} <= set(graph.chains)
    assert {(f"{first}self_attn.{role}_proj.weight",) for role in "qkvo"} <= set(graph.chains)
    assert not any(name.startswith(first) for pair in graph.pairs for name in pair)
    assert not any(attention.query and attention.query.startswith(first) for attention in graph.attentions)


@pytest.mark.parametrize("way", ["activation", "hook", "block"])
def test_a_block_of_torch_that_mixes_neurons_is_no_chain(way: str) -> None:
    class Mixing(nn.TransformerEncoderLayer):
        def _ff_block(self, x: Tensor) -> Tensor:
            return super()._ff_block(x).roll(1, -1)

    kind = Mixing if way == "block" else nn.TransformerEncoderLayer
    layer = kind(8, 2, 12, activation=mixed if way == "activation" else torch.relu)
    if way == "hook":
        layer.dropout.register_forward_hook(lambda _, __, result: mixed(result))
    graph, _ = graph_of(nn.ModuleDict({"layer": layer}))
    assert ("layer.linear1.weight", "layer.linear2.weight") not in graph.chains


# --- convolutions ---


class Branches(nn.Module):
    """Two convolutions that feed a third through an operation that a test chooses."""

    def __init__(self, between: Callable[[Tensor], Tensor], after: nn.Module) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 4, 3, padding=1), after
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.between(self.before(x)))


CONV, WIDE, MEANS = (lambda: nn.Conv2d(4, 5, 3)), (lambda: nn.Linear(64, 5)), (lambda: nn.Linear(4, 5))
BETWEEN: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[], nn.Module], bool]] = {
    "nothing": (lambda x: x, CONV, True),
    "an activation": (functional.relu, CONV, True),
    "a pool": (lambda x: functional.max_pool2d(x.relu(), 2), CONV, True),
    "another size": (lambda x: functional.interpolate(x, scale_factor=2), CONV, True),
    "a norm over batches": (nn.BatchNorm2d(4), CONV, True),
    "a norm over channels": (nn.GroupNorm(1, 4), CONV, False),
    "a residual": (lambda x: x + x.flip(1), CONV, False),
    "channels in another order": (lambda x: x.roll(1, 1), CONV, False),
    "flattened": (lambda x: functional.avg_pool2d(x, 2).flatten(1), WIDE, True),
    "flattened by a module": (nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.ReLU()), WIDE, True),
    "flattened from another dimension": (lambda x: x.flatten(2).transpose(1, 2), MEANS, False),
    "the mean of each channel": (lambda x: x.relu().mean((2, 3)), MEANS, True),
    "the mean over channels": (lambda x: x.mean((1, 2)), lambda: nn.Linear(8, 5), False),
    "the last dimension": (functional.relu, lambda: nn.Linear(8, 5), False),
    "a transposed convolution": (functional.relu, lambda: nn.ConvTranspose2d(4, 5, 2), False),
    "groups": (functional.relu, lambda: nn.Conv2d(4, 6, 3, groups=2), False),
}


@pytest.mark.parametrize("kind", BETWEEN)
def test_channels_form_a_chain_if_nothing_mixes_them(kind: str) -> None:
    between, after, joined = BETWEEN[kind]
    model = Branches(between, after())
    model(torch.randn(2, 3, 8, 8))
    graph, _ = graph_of(model)
    assert (("before.weight", "after.weight") in graph.chains) == joined
