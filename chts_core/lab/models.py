"""Models that a Sparsifier can make sparse."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chts_core.engine.dropout import Dropout
from chts_core.engine.sharding import local_rows, local_shard
from chts_core.lab.data import PAD

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def mlp(in_features: int, hidden: int, classes: int, *, layers: int = 3, generator: torch.Generator) -> nn.Sequential:
    """An MLP with `layers` hidden layers of `hidden` ReLU units and an output layer, as in the paper's image tasks.

    The weights follow a uniform distribution with the variance of He et al. (2015). All random numbers come from
    `generator`. The biases are zero.
    """
    sizes = [in_features, *[hidden] * layers, classes]
    modules: list[nn.Module] = []
    for features_in, features_out in pairwise(sizes):
        # Skip the default initialisation, which would draw from the global generator.
        linear = nn.utils.skip_init(nn.Linear, features_in, features_out, device=torch.get_default_device())
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(linear.bias)
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


@dataclass(frozen=True)
class TransformerSize:
    """The sizes of a Transformer.

    They are the width of the model, the width of its feed-forward blocks, the number of layers in the encoder (the
    decoder has the same number), and the number of heads.
    """

    width: int
    feed_forward: int
    layers: int
    heads: int


TRANSFORMER_SIZES: dict[str, TransformerSize] = {
    "tiny": TransformerSize(128, 256, 1, 4),
    "small": TransformerSize(256, 512, 2, 4),
    # The sizes of the paper.
    "multi30k": TransformerSize(512, 1024, 6, 8),
    "iwslt": TransformerSize(512, 2048, 6, 8),
    "wmt": TransformerSize(512, 2048, 6, 8),
}


class Transformer(nn.Module):
    """An encoder and a decoder (Vaswani et al., 2017) that translate token by token.

    Each block normalises its input ("pre-norm"), which makes training stable. Both languages share one embedding
    matrix, and the output layer uses the transpose of this matrix. All other linear layers are `nn.Linear` modules,
    which a Sparsifier makes sparse: the four projections of each attention block, and the two layers of each
    feed-forward block.

    Args:
        vocabulary_size: number of tokens.
        size: the sizes of the layers.
        dropout: the dropout rate in training.

    Raises:
        ValueError: if the width is odd, or if the width is not divisible by the number of heads.
    """

    def __init__(self, vocabulary_size: int, size: TransformerSize, *, dropout: float = 0.1) -> None:
        super().__init__()
        if size.width % size.heads or size.width % 2:
            raise ValueError(
                f"width is {size.width} and heads {size.heads}; expected an even width that is divisible by heads."
            )
        self.embedding = nn.Embedding(vocabulary_size, size.width, padding_idx=PAD)
        self.dropout = Dropout(dropout)
        self.encoder = nn.ModuleList(_EncoderLayer(size, dropout) for _ in range(size.layers))
        self.encoder_norm = nn.LayerNorm(size.width)
        self.decoder = nn.ModuleList(_DecoderLayer(size, dropout) for _ in range(size.layers))
        self.decoder_norm = nn.LayerNorm(size.width)
        self.generator = nn.Linear(size.width, vocabulary_size, bias=False)
        self.generator.weight = self.embedding.weight
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear) and module is not self.generator:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=self.embedding.embedding_dim**-0.5)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits (n, T, vocabulary) of the token that follows each token of `target`.

        Args:
            source: (n, S) tokens, padded at the end with PAD; each row has at least one other token.
            target: (n, T) tokens, padded at the end with PAD; each row starts with BEGIN.
        """
        memory, there = self.encode(source), _attended(source)
        hidden = self._embed(target, 0)
        for layer in self.decoder:
            hidden = layer(hidden, memory, there)
        return self._logits(hidden)

    def encode(self, source: Tensor) -> Tensor:
        """The encoder's output (n, S, width) for a source (n, S)."""
        hidden, there = self._embed(source, 0), _attended(source)
        for layer in self.encoder:
            hidden = layer(hidden, there)
        return self.encoder_norm(hidden)  # type: ignore[no-any-return]

    def start(self, source: Tensor) -> "DecoderState":
        """The initial state for decoding a source (n, S), with one row per sentence."""
        memory = self.encode(source)
        return DecoderState(
            _attended(source),
            [layer.cross_attention.keys_and_values(memory) for layer in self._decoder_layers],
            [None] * len(self.decoder),
        )

    def step(self, tokens: Tensor, state: "DecoderState") -> Tensor:
        """Append tokens (n,) to the state, and return the logits (n, vocabulary) for the next token."""
        hidden = self._embed(tokens.unsqueeze(1), state.length)
        for number, layer in enumerate(self._decoder_layers):
            hidden = layer.step(hidden, number, state)
        return self._logits(hidden).squeeze(1)

    @torch.no_grad()
    def attention(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        """How much each query attends to each key, by the name of the attention block (like
        "decoder.0.cross_attention").

        Returns:
            Tensors (n, heads, queries, keys), whose rows sum to 1. They are computed in evaluation mode, without
            dropout.
        """
        weights: dict[str, Tensor] = {}
        hooks = []
        for name, module in self.named_modules():
            if isinstance(module, _Attention):

                def keep(attention: _Attention, given: tuple[Tensor, ...], name: str = name) -> None:
                    weights[name] = attention.weights(*given)

                hooks.append(module.register_forward_pre_hook(keep))
        training = self.training
        try:
            self.eval()(source, target)
        finally:
            self.train(training)
            for hook in hooks:
                hook.remove()
        return weights

    @property
    def _decoder_layers(self) -> "list[_DecoderLayer]":
        return [layer for layer in self.decoder if isinstance(layer, _DecoderLayer)]

    def _embed(self, tokens: Tensor, first: int) -> Tensor:
        width = self.embedding.embedding_dim
        places = _places(first, first + tokens.shape[1], width, tokens.device)
        return self.dropout(self.embedding(tokens) * math.sqrt(width) + places)  # type: ignore[no-any-return]

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.generator(self.decoder_norm(hidden))  # type: ignore[no-any-return]


@dataclass
class DecoderState:
    """The decoder's memory of the source and of the target's tokens so far, with one row per unfinished translation.

    there: Boolean (n, 1, 1, S), True for tokens of the source other than PAD.
    memory: for each layer, keys and values of the source, each (n, heads, S, width of a head).
    past: for each layer, keys and values of the tokens so far; None before the first token.
    """

    there: Tensor
    memory: list[tuple[Tensor, Tensor]]
    past: list[tuple[Tensor, Tensor] | None]

    @property
    def length(self) -> int:
        """The number of tokens that have been appended so far."""
        return 0 if self.past[0] is None else self.past[0][0].shape[2]

    def select(self, rows: Tensor) -> "DecoderState":
        """A state with the given rows, in the given order; a row may appear several times."""
        return DecoderState(
            self.there[rows],
            [(keys[rows], values[rows]) for keys, values in self.memory],
            [None if past is None else (past[0][rows], past[1][rows]) for past in self.past],
        )


class _Attention(nn.Module):
    """Multi-head attention. Its projections have the names that the layer graph expects."""

    def __init__(self, size: TransformerSize, dropout: float) -> None:
        super().__init__()
        self.head_dim = size.width // size.heads
        self.dropout = dropout
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size.width, size.width) for _ in range(4))

    def forward(self, queries: Tensor, memory: Tensor, there: Tensor | None) -> Tensor:
        """Return outputs (n, Q, width) for queries (n, Q, width) that attend to `memory` (n, K, width).

        Args:
            there: Boolean (n, 1, 1, K), True for the keys that queries may attend to; with None, each query may attend
                to the keys up to its own position.
        """
        return self.attend(queries, self.keys_and_values(memory), there, causal=there is None)

    def attend(
        self, queries: Tensor, memory: tuple[Tensor, Tensor], there: Tensor | None, *, causal: bool = False
    ) -> Tensor:
        """Like `forward`, but `memory` contains keys and values that are already computed."""
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            self._split(self.q_proj(queries)), *memory, attn_mask=there, dropout_p=dropout, is_causal=causal
        )
        return self.o_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (n, heads, K, head_dim)."""
        return self._split(self.k_proj(memory)), self._split(self.v_proj(memory))

    def weights(self, queries: Tensor, memory: Tensor, there: Tensor | None) -> Tensor:
        """The weights (n, heads, Q, K) with which `forward` mixes the values."""
        scores = self._split(self.q_proj(queries)) @ self._split(self.k_proj(memory)).transpose(2, 3)
        if there is None:
            there = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
        return (scores / math.sqrt(self.head_dim)).masked_fill(~there, -math.inf).softmax(dim=3)

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(2, (-1, self.head_dim)).transpose(1, 2)  # type: ignore[no-any-return]


class _EncoderLayer(nn.Module):
    """Attention among the tokens of the source, then a feed-forward block. Each block adds its output to its input."""

    def __init__(self, size: TransformerSize, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size.width)
        self.attention = _Attention(size, dropout)
        self.feed_forward_norm = nn.LayerNorm(size.width)
        self.feed_forward = _feed_forward(size, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, there: Tensor) -> Tensor:
        """Return the output (n, S, width) for an input of the same shape; `there` marks the positions without PAD."""
        normed = self.attention_norm(hidden)
        hidden = hidden + self.dropout(self.attention(normed, normed, there))
        return hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))  # type: ignore[no-any-return]


class _DecoderLayer(nn.Module):
    """Attention among the target's tokens so far, then attention to the source, then a feed-forward block."""

    def __init__(self, size: TransformerSize, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size.width)
        self.attention = _Attention(size, dropout)
        self.cross_attention_norm = nn.LayerNorm(size.width)
        self.cross_attention = _Attention(size, dropout)
        self.feed_forward_norm = nn.LayerNorm(size.width)
        self.feed_forward = _feed_forward(size, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, memory: Tensor, there: Tensor) -> Tensor:
        """Return the output of the layer, (n, T, width).

        Args:
            hidden: the input, of the same shape.
            memory: the output of the encoder.
            there: Boolean (n, 1, 1, S), True for the positions of `memory` that are not PAD.
        """
        normed = self.attention_norm(hidden)
        hidden = hidden + self.dropout(self.attention(normed, normed, None))
        hidden = hidden + self.dropout(self.cross_attention(self.cross_attention_norm(hidden), memory, there))
        return hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))  # type: ignore[no-any-return]

    def step(self, hidden: Tensor, layer: int, state: DecoderState) -> Tensor:
        """Like `forward` in evaluation mode, but for one new token per row, (n, 1, width), which is added to the
        state.
        """
        normed = self.attention_norm(hidden)
        keys, values = self.attention.keys_and_values(normed)
        past = state.past[layer]
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        state.past[layer] = keys, values
        hidden = hidden + self.attention.attend(normed, (keys, values), None)
        normed = self.cross_attention_norm(hidden)
        hidden = hidden + self.cross_attention.attend(normed, state.memory[layer], state.there)
        return hidden + self.feed_forward(self.feed_forward_norm(hidden))  # type: ignore[no-any-return]


def _feed_forward(size: TransformerSize, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(size.width, size.feed_forward),
        nn.ReLU(),
        Dropout(dropout),
        nn.Linear(size.feed_forward, size.width),
    )


def _attended(source: Tensor) -> Tensor:
    """Boolean (n, 1, 1, S), True where a source (n, S) has a token other than PAD."""
    return (source != PAD)[:, None, None, :]


def _places(first: int, last: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines (last - first, width) for positions first to last - 1 (Vaswani et al., 2017, section 3.5)."""
    places = torch.arange(first, last, device=device, dtype=torch.float32).unsqueeze(1)
    frequencies = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000) / width))
    return torch.stack([torch.sin(places * frequencies), torch.cos(places * frequencies)], dim=2).flatten(1)


@dataclass(frozen=True)
class LlamaSize:
    """The sizes of a LLaMA.

    They are the width of the model, the width of its gated feed-forward blocks, the number of layers, the number of
    query heads, and the number of key-value heads.

    Raises:
        ValueError: if a size is below 1, if the width is not divisible by twice the number of query heads, or if the
            number of query heads is not a multiple of the number of key-value heads.
    """

    width: int
    feed_forward: int
    layers: int
    heads: int
    key_heads: int

    def __post_init__(self) -> None:
        if min(self.width, self.feed_forward, self.layers, self.heads, self.key_heads) < 1:
            raise ValueError(f"{self}; expected every size to be at least 1.")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width is {self.width} and heads {self.heads}; expected a width divisible by {2 * self.heads}. The "
                "heads share the width evenly, and each head needs an even number of neurons, because the rotary "
                "positions rotate neurons in pairs."
            )
        if self.heads % self.key_heads:
            raise ValueError(
                f"heads is {self.heads} and key_heads {self.key_heads}; expected heads to be a multiple of key_heads, "
                "because each head of keys and values serves the same number of query heads."
            )


LLAMA_SIZES: dict[str, LlamaSize] = {
    "tiny": LlamaSize(128, 344, 4, 4, 4),
    "small": LlamaSize(320, 864, 6, 8, 8),
    # The sizes of the paper and two more sizes; all of them are from Zhao et al. (2024).
    "60m": LlamaSize(512, 1376, 8, 8, 8),
    "130m": LlamaSize(768, 2048, 12, 12, 12),
    "350m": LlamaSize(1024, 2736, 24, 16, 16),
    "1b": LlamaSize(2048, 5461, 24, 32, 32),
    "7b": LlamaSize(4096, 11008, 32, 32, 32),
}


def llama(vocabulary_size: int, size: LlamaSize, context: int) -> "LlamaForCausalLM":
    """A LLaMA (Touvron et al., 2023) from Hugging Face, without biases; its output layer has its own weights.

    Its tensors are "meta" tensors, which need no memory. So you can plan a large model, or divide it among GPUs, before
    it has any weights. :func:`initialise_llama` then draws the weights.

    Args:
        vocabulary_size: number of tokens.
        size: the sizes of the layers.
        context: the largest number of tokens that the model sees at once.
    """
    from transformers import LlamaConfig, LlamaForCausalLM  # the import takes a second

    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=size.width,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads,
        max_position_embeddings=context,
        use_cache=False,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        return LlamaForCausalLM(config)


@torch.no_grad()
def initialise_llama(
    model: "LlamaForCausalLM", device: torch.device, generator: torch.Generator, deviation: float | None = None
) -> None:
    """Draw the initial weights of a :func:`llama` model from normal distributions, in place.

    The weights of the norms are 1. All other weights depend only on the generator, not on the device or the division
    among GPUs.

    Args:
        model: a whole model, or one that `fully_shard` has divided among GPUs.
        device: the device to move the model to.
        generator: a generator on the CPU.
        deviation: standard deviation of all weights except those of the norms; LLaMA uses 0.02 at any width. With None,
            the deviation depends on the layer, so that signals have about the same size at any width and depth. The
            deviation is then 1 for embeddings, inputs^-½ for linear layers, and (2 · layers)^-½ · inputs^-½ for layers
            that add to the residual stream.
    """
    model.to_empty(device=device)
    # The values of buffers are computed, not learned, and "meta" tensors have no values yet.
    with device:
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
            continue
        by_shape = 1.0 if "embed_tokens" in name else parameter.shape[1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            by_shape *= (2 * model.config.num_hidden_layers) ** -0.5
        drawn = torch.empty(parameter.shape, dtype=parameter.dtype)
        drawn.normal_(0.0, by_shape if deviation is None else deviation, generator=generator)
        local_shard(parameter).copy_(drawn[local_rows(parameter)])
