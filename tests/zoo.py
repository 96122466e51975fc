"""Small random models of many kinds, to try methods on. Nothing is downloaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Animal:
    """A model, with an input, and what is known of it.

    build: gives the model and its inputs by name.
    include: what the user must name; None for nothing.
    why: why less than 85 % of its matrices other than the output layers are sparse; empty if they are.
    finds_all: whether percolation finds every link without an effect in the layers that it knows. It cannot if ReLU
        silences a neuron that has links, or if layers meet where no trace shows it.
    """

    build: Callable[[], tuple[nn.Module, dict[str, Any]]]
    include: list[str] | None = None
    why: str = ""
    finds_all: bool = True


def tokens(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape) * 7 % 60 + 3


def numbers(*shape: int) -> Tensor:
    return torch.linspace(-9, 9, torch.Size(shape).numel()).sin().view(shape) * 2


def of(
    family: str, task: str, inputs: tuple[str, ...], **settings: Any
) -> Callable[[], tuple[nn.Module, dict[str, Any]]]:
    """A model of Hugging Face with these settings, besides the usual ones."""

    def build() -> tuple[nn.Module, dict[str, Any]]:
        import transformers

        config = getattr(transformers, f"{family}Config")(
            **settings, attn_implementation="eager", experts_implementation="eager"
        )
        model_class = family.removesuffix("Text") if family.startswith(("Gemma", "Llama4")) else family
        model: nn.Module = getattr(transformers, f"{model_class}{task}")(config)
        return model, {name: INPUTS[name] for name in inputs}

    return build


INPUTS: dict[str, Tensor] = {
    "input_ids": tokens(2, 9),
    "decoder_input_ids": tokens(2, 9),
    "pixel_values": numbers(2, 3, 16, 16),
    "input_features": numbers(2, 8, 20),
    "input_values": numbers(2, 400),
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
BERT = SIZES | SPECIAL | {"vocab_size": 64}
LLAMA = BERT | {"num_key_value_heads": 2, "max_position_embeddings": 32}
T5 = {"vocab_size": 64, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 4}
T5 |= {"decoder_start_token_id": 0, "relative_attention_num_buckets": 6, "pad_token_id": 0}
BART = {"vocab_size": 64, "d_model": 16, "decoder_start_token_id": 2, "forced_eos_token_id": None} | SPECIAL
BART |= {f"{part}_{key}": n for part in ("encoder", "decoder") for key, n in (("layers", 1), ("attention_heads", 4))}
BART |= {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32}
WHISPER = BART | {"max_source_positions": 10, "max_target_positions": 32, "num_mel_bins": 8}
GPT2 = SPECIAL | {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
IMAGES = SIZES | {"image_size": 16, "patch_size": 4, "num_labels": 5}
CLIP = {
    "text_config": BERT | {"max_position_embeddings": 16, "projection_dim": 8},
    "vision_config": SIZES | {"image_size": 16, "patch_size": 4, "projection_dim": 8},
    "projection_dim": 8,
}
WAV2VEC2 = SIZES | {"vocab_size": 20, "conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3)}
WAV2VEC2 |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
WAV2VEC2 |= {"mask_time_prob": 0.0, "layerdrop": 0.0} | SPECIAL
MAMBA2 = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 8, "state_size": 4}
MAMBA2 |= {"n_groups": 2, "chunk_size": 4, "expand": 2} | SPECIAL
FALCON = {f"mamba_{key}": n for key, n in (("d_ssm", 32), ("n_heads", 4), ("d_head", 8), ("n_groups", 2))}
FALCON |= {"mamba_d_state": 4, "mamba_chunk_size": 4, "mamba_expand": 2, "head_dim": 4}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "head_dim": 4}
GPT_OSS = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 4, "layer_types": ["full_attention"] * 2}
SCOUT = {"intermediate_size_mlp": 24, "head_dim": 4, "num_local_experts": 2, "interleave_moe_layer_step": 2}


# --- models in plain PyTorch ---


class Basic(nn.Module):
    """A block of ResNet-18: two convolutions and a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if before != width or stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(Basic(8, 8, 1), Basic(8, 16, 2), Basic(16, 32, 2))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


def lenet() -> nn.Module:
    features = [nn.Conv2d(3, 6, 5), nn.GELU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3), nn.GELU(), nn.AvgPool2d(2)]
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 5))


class UNet(nn.Module):
    def __init__(self, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()

        def block(before: int, width: int) -> nn.Sequential:
            layers = [nn.Conv2d(before, width, 3, padding=1), act(), nn.Conv2d(width, width, 3, padding=1), act()]
            return nn.Sequential(*layers)

        self.down, self.middle, self.up = block(3, 8), block(8, 16), block(24, 8)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down(x)
        b = self.middle(F.avg_pool2d(a, 2))
        return self.last(self.up(torch.cat([F.interpolate(b, scale_factor=2), a], 1)))


class TimedUNet(UNet):
    """A U-Net that knows the time of a diffusion. Its forward asks for the length of a batch."""

    def __init__(self) -> None:
        super().__init__(nn.SiLU)
        self.time = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        a = self.down(x) + self.time(torch.ones(len(x), 4).to(x))[..., None, None]
        b = self.middle(F.avg_pool2d(a, 2))
        return self.last(self.up(torch.cat([F.interpolate(b, scale_factor=2), a], 1)))


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.GELU(), nn.Conv2d(8, 16, 4, 2, 1), nn.GELU())
        self.decoder = nn.Sequential(nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.GELU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 8)
        self.rnn = kind(8, 12, batch_first=True, **settings)
        wide = settings.get("proj_size", 12) * (2 if settings.get("bidirectional") else 1)
        self.head = nn.Linear(wide, 5)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(input_ids))[0][:, -1])


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 16)
        layer = nn.TransformerDecoderLayer(16, 4, 24, dropout=0.0, activation="gelu", batch_first=True)
        self.layers = nn.TransformerDecoder(layer, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, input_ids: Tensor, memory: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(input_ids), memory))


class Mixer(nn.Module):
    """MLP-Mixer: one block mixes positions, the other mixes channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norms = nn.ModuleList([nn.LayerNorm(16), nn.LayerNorm(16)])
        self.positions = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.channels = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT
        x = x + self.positions(self.norms[0](x).mT).mT
        x = x + self.channels(self.norms[1](x))
        return self.head(x.mean(1))


class Graph(nn.Module):
    """Two steps of messages along the edges of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.message, self.update = nn.Linear(32, 16), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = F.gelu(self.first(x))
        for _ in range(2):
            sent = F.gelu(self.message(torch.cat([h[edges[0]], h[edges[1]]], -1)))
            h = h + F.gelu(self.update(torch.cat([h, torch.zeros_like(h).index_add(0, edges[1], sent)], -1)))
        return self.head(h)


class Raw(nn.Module):
    """Matrices that belong to no module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.into, self.out = nn.Parameter(torch.randn(24, 16) / 4), nn.Parameter(torch.randn(16, 24) / 5)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.first(x))
        return self.head(h + F.gelu(torch.einsum("bi,oi->bo", h, self.into)) @ self.out.T)


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 6), nn.Linear(8, 6)
        self.both = nn.Bilinear(6, 6, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.both(F.gelu(self.left(x)), F.gelu(self.right(x)))))


def plain(model: Callable[[], nn.Module], **inputs: Tensor) -> Callable[[], tuple[nn.Module, dict[str, Any]]]:
    return lambda: (model(), inputs)


def mlp() -> nn.Module:
    sizes = (8, 24, 24, 24, 5)
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.GELU())]
    return nn.Sequential(*layers[:-1])


PIXELS = numbers(2, 3, 16, 16)
EDGES = torch.stack([torch.arange(40) * 7 % 12, torch.arange(40) * 5 % 12])

ZOO: dict[str, Animal] = {
    "MLP": Animal(plain(mlp, input=numbers(6, 8))),
    "MLP-Mixer": Animal(plain(Mixer, x=PIXELS)),
    "ResNet": Animal(plain(ResNet, x=PIXELS), finds_all=False),
    "LeNet": Animal(plain(lenet, input=PIXELS)),
    "U-Net": Animal(plain(lambda: UNet(nn.GELU), x=PIXELS), finds_all=False),
    "U-Net with time": Animal(plain(TimedUNet, x=PIXELS), finds_all=False),
    "convolutional autoencoder": Animal(plain(Autoencoder, x=PIXELS), finds_all=False),
    "RNN": Animal(plain(lambda: Recurrent(nn.RNN), input_ids=tokens(2, 9))),
    "LSTM": Animal(plain(lambda: Recurrent(nn.LSTM, num_layers=2), input_ids=tokens(2, 9))),
    "bidirectional LSTM with a projection": Animal(
        plain(lambda: Recurrent(nn.LSTM, bidirectional=True, proj_size=6), input_ids=tokens(2, 9))
    ),
    "GRU": Animal(plain(lambda: Recurrent(nn.GRU), input_ids=tokens(2, 9))),
    "Transformer decoder": Animal(plain(Decoder, input_ids=tokens(2, 9), memory=numbers(2, 5, 16))),
    "graph network": Animal(plain(Graph, x=numbers(12, 6), edges=EDGES), finds_all=False),
    "bilinear": Animal(plain(Pairs, x=numbers(6, 8))),
    "raw parameters": Animal(plain(Raw, x=numbers(6, 8)), include=["first", "into", "out"]),
    "BERT": Animal(of("Bert", "ForMaskedLM", ("input_ids",), **BERT)),
    "RoBERTa": Animal(of("Roberta", "ForMaskedLM", ("input_ids",), **BERT, max_position_embeddings=32)),
    "DistilBERT": Animal(
        of(
            "DistilBert",
            "ForSequenceClassification",
            ("input_ids",),
            **{"vocab_size": 64, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "num_labels": 3},
        )
    ),
    "T5": Animal(of("T5", "ForConditionalGeneration", ("input_ids", "decoder_input_ids"), **T5)),
    "gated T5": Animal(
        of("T5", "ForConditionalGeneration", ("input_ids", "decoder_input_ids"), **T5, feed_forward_proj="gated-gelu")
    ),
    "BART": Animal(of("Bart", "ForConditionalGeneration", ("input_ids", "decoder_input_ids"), **BART), finds_all=False),
    "Whisper": Animal(of("Whisper", "ForConditionalGeneration", ("input_features", "decoder_input_ids"), **WHISPER)),
    "wav2vec 2.0": Animal(
        of("Wav2Vec2", "ForCTC", ("input_values",), **WAV2VEC2),
        why="the weight of its convolution over positions is computed from other parameters (weight norm)",
        finds_all=False,
    ),
    "CLIP": Animal(of("CLIP", "Model", ("input_ids", "pixel_values"), **CLIP)),
    "ViT": Animal(of("ViT", "ForImageClassification", ("pixel_values",), **IMAGES)),
    "Swin": Animal(
        of(
            "Swin",
            "ForImageClassification",
            ("pixel_values",),
            **{"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 4]},
            **{"window_size": 4, "num_labels": 5},
        )
    ),
    "ConvNeXt": Animal(
        of(
            "ConvNext",
            "ForImageClassification",
            ("pixel_values",),
            **{"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 5},
        ),
        why="its depthwise convolutions stay dense",
    ),
    "GPT-2": Animal(of("GPT2", "LMHeadModel", ("input_ids",), **GPT2)),
    "GPT-NeoX": Animal(of("GPTNeoX", "ForCausalLM", ("input_ids",), **BERT, max_position_embeddings=32)),
    "LLaMA": Animal(of("Llama", "ForCausalLM", ("input_ids",), **LLAMA)),
    "Gemma 3": Animal(of("Gemma3Text", "ForCausalLM", ("input_ids",), **LLAMA, head_dim=4)),
    "Mixtral": Animal(of("Mixtral", "ForCausalLM", ("input_ids",), **LLAMA, num_local_experts=4)),
    "Qwen3-MoE": Animal(of("Qwen3Moe", "ForCausalLM", ("input_ids",), **LLAMA, **MOE)),
    "Llama 4": Animal(of("Llama4Text", "ForCausalLM", ("input_ids",), **LLAMA, **SCOUT)),
    "gpt-oss": Animal(of("GptOss", "ForCausalLM", ("input_ids",), **LLAMA, **GPT_OSS)),
    "Mamba 2": Animal(of("Mamba2", "ForCausalLM", ("input_ids",), **MAMBA2)),
    "Falcon-H1": Animal(of("FalconH1", "ForCausalLM", ("input_ids",), **LLAMA, **FALCON)),
}


def built(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A model of the zoo, always with the same weights, and its inputs."""
    torch.manual_seed(0)
    return ZOO[name].build()


def output(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """The outputs of a model as one tensor."""
    found = model(**inputs)
    if isinstance(found, Tensor):
        return found
    return (
        found.logits
        if getattr(found, "logits", None) is not None
        else torch.cat([found.text_embeds, found.image_embeds])
    )
