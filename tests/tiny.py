"""Models of a few thousand weights, each with batches that are the same every time."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 11


def seeded(build: Callable[[], nn.Module], seed: int) -> Any:
    """A model of initial weights that depend on the seed alone; the global random state stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def mlp(widths: tuple[int, ...] = (16, 16, 16, 3), seed: int = 0) -> nn.Sequential:
    """A perceptron of these widths; its weights are named "0.weight", "2.weight" and so on."""

    def build() -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    return seeded(build, seed)


class Translator(nn.Module):
    """An encoder and a decoder of one layer each, with two heads; queries, keys and values share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.transformer = nn.Transformer(16, 2, 1, 1, 24, dropout=0.0, batch_first=True)
        self.generator = nn.Linear(16, VOCABULARY)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.generator(self.transformer(self.embedding(source), self.embedding(target)))


def translator(seed: int = 0) -> Translator:
    return seeded(Translator, seed)


def llama(seed: int = 0) -> nn.Module:
    """Hugging Face's LLaMA with grouped-query attention: four heads of queries read two of keys and values."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        use_cache=False,
    )
    return seeded(lambda: LlamaForCausalLM(config), seed)


def rows_and_classes(step: int, inputs: int = 16, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, inputs, generator=generator), torch.randint(classes, (8,), generator=generator)


def tokens(step: int) -> Tensor:
    return torch.randint(VOCABULARY, (4, 8), generator=torch.Generator().manual_seed(step))


def loss_of_mlp(model: nn.Module, step: int) -> Tensor:
    x, y = rows_and_classes(step)
    return nn.functional.cross_entropy(model(x), y)


def loss_of_translator(model: nn.Module, step: int) -> Tensor:
    batch = tokens(step)
    return nn.functional.cross_entropy(model(batch, batch).flatten(0, 1), batch.flip(1).flatten())


def loss_of_llama(model: nn.Module, step: int) -> Tensor:
    batch = tokens(step)
    loss: Tensor = model(input_ids=batch, labels=batch).loss
    return loss


@dataclass(frozen=True)
class Task:
    """A model by its seed, and its loss on the batch of a step."""

    build: Callable[[int], nn.Module]
    loss: Callable[[nn.Module, int], Tensor]


TASKS = {
    "mlp": Task(lambda seed: mlp((16, 48, 24, 3), seed), loss_of_mlp),
    "transformer": Task(translator, loss_of_translator),
    "llama": Task(llama, loss_of_llama),
}
