"""One token at a time: a layer, and greedy decoding by a LLaMA, against dense code and torch's own sparse product."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from chts_core.engine.linear import SparseLinear
from chts_core.lab.models import LlamaSize, initialise_llama, llama
from chts_core.topology import erdos_renyi

from .common import compare

SIZE = 2048
LLAMA = LlamaSize(width=768, feed_forward=2048, layers=6, heads=12, key_heads=12)
VOCABULARY, NEW_TOKENS = 8000, 16


def rows() -> Iterator[dict[str, Any]]:
    """The layer at three densities; decoding at 95 % sparsity, with a dense output layer. Needs transformers."""
    with torch.inference_mode():
        for density, aim in ((0.1, 2), (0.05, 4), (0.01, 12)):
            yield from _layer(density, aim)
        ours, rival = _decoder(sparse=True), _decoder(sparse=False)
        name = f"{NEW_TOKENS} tokens by a LLaMA of {LLAMA.width}×{LLAMA.layers} at 95 %"
        yield compare(name, ours, ("dense", rival), aim=3.5)


def _layer(density: float, aim: float) -> Iterator[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(SIZE, SIZE, bias=False)
    mask = erdos_renyi(SIZE, SIZE, density, generator=generator)
    layer = SparseLinear.from_linear(linear, mask)
    x = torch.randn(1, SIZE, generator=generator)
    with warnings.catch_warnings():  # torch warns that sparse CSR tensors are in beta state
        warnings.simplefilter("ignore", UserWarning)
        weight = (linear.weight * mask).to_sparse_csr()
    column = x.T.contiguous()
    stored = torch.empty(2 * len(layer.values))  # one value and one index for each link
    copied = torch.empty_like(stored)
    floor = ("copying its values and indices", lambda: copied.copy_(stored))
    name = f"{SIZE}×{SIZE}, 1 sample, {density:.0%}"
    yield compare(name, lambda: layer(x), ("nn.Linear", lambda: linear(x)), aim=aim, floor=floor)
    yield compare(name, lambda: layer(x), ("torch's CSR", lambda: weight @ column), aim=1.2)


def _decoder(sparse: bool) -> Callable[[], Tensor]:
    model = llama(VOCABULARY, LLAMA, 64)
    initialise_llama(model, torch.device("cpu"), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    for path, module in list(model.named_modules()):
        if sparse and isinstance(module, nn.Linear) and path != "lm_head":
            mask = erdos_renyi(module.out_features, module.in_features, 0.05, generator=generator)
            model.set_submodule(path, SparseLinear.from_linear(module, mask))
    model.eval()

    def decode() -> Tensor:
        tokens, past = torch.tensor([[1]]), None
        for _ in range(NEW_TOKENS):
            out = model(input_ids=tokens, past_key_values=past, use_cache=True)
            tokens, past = out.logits[:, -1:].argmax(2), out.past_key_values
        return tokens

    return decode
