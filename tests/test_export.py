"""Exported models: what a file contains, that it loads elsewhere with the same outputs, and how large it is."""

import copy
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conv1d import Conv1D
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import chts_core as chts
from chts_core.engine.linear import SparseLinear, to_dense
from chts_core.tools import export
from chts_core.tools.export import dense_copy, load_links, save_links

GUIDE = (Path(__file__).parents[1] / "docs" / "guides" / "ship_it.md").read_text("utf-8")


def sparse(model: nn.Module, execution: str = "masked", **settings: Any) -> chts.Sparsifier:
    optimizer = torch.optim.Adam(model.parameters())
    settings = {"sparsity": 0.9, "total_steps": 100, "update_every": 10, "execution": execution} | settings
    return chts.Sparsifier(model, optimizer, "set", **settings)


def size_of_data(path: Path) -> int:
    """Bytes of a safetensors file after its header."""
    file = path.read_bytes()
    return len(file) - 8 - int.from_bytes(file[:8], "little")


def header(path: Path) -> dict[str, Any]:
    file = path.read_bytes()
    found: dict[str, Any] = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    return found


class Held(nn.Module):
    """A module with only these parameters."""

    def __init__(self, **parameters: Tensor) -> None:
        super().__init__()
        for name, tensor in parameters.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))


# --- dense copies ---


@pytest.mark.parametrize("execution", ["masked", "csr"])
def test_a_dense_copy_has_no_sparsifier(execution: str) -> None:
    model = tiny.mlp()
    sparsifier = sparse(model, execution)
    copied = dense_copy(nn.DataParallel(model))
    assert [type(layer) for layer in copied] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert copied.state_dict().keys() == tiny.mlp().state_dict().keys()
    assert torch.equal(copied[0].weight != 0, sparsifier.masks["0.weight"])
    x, _ = tiny.rows_and_classes(0)
    torch.testing.assert_close(copied(x), model(x))
    tiny.loss_of_mlp(copied, 0).backward()
    assert copied[0].weight.grad[~sparsifier.masks["0.weight"]].any()  # no hook zeroes the gradient of absent links
    assert isinstance(model[0], SparseLinear) == (execution == "csr")


# --- the file ---


def test_the_parts_of_a_file_by_hand(tmp_path: Path) -> None:
    few, many, dense = torch.zeros(1, 70), torch.zeros(2, 5), torch.arange(1.0, 7).view(2, 3)
    few[0, 3], few[0, 69] = 1.5, -2.0
    many[0, 0], many[0, 4], many[1, 4] = 1.0, 2.0, 3.0
    model = Held(few=few, many=many, dense=dense, scalar=torch.tensor(7.0))
    model.same = model.dense
    save_links(model, path := tmp_path / "model.safetensors")
    with safe_open(path, "pt") as file:  # an independent reader
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    assert found["few"].tolist() == [1.5, -2.0]
    assert (found["few.links"].dtype, found["few.links"].tolist()) == (torch.int32, [3, 69])
    assert found["many"].tolist() == [1.0, 2.0, 3.0]
    assert (found["many.links"].dtype, found["many.links"].tolist()) == (torch.uint8, [0b10001000, 0b01000000])
    assert torch.equal(found["dense"], dense)
    assert found["scalar"].item() == 7.0
    assert json.loads(metadata["shapes"]) == {"few": [1, 70], "many": [2, 5]}
    assert json.loads(metadata["shared"]) == {"same": "dense"}
    assert size_of_data(path) == 8 + 8 + 12 + 2 + 24 + 4
    loaded = load_links(path)
    assert loaded.keys() == model.state_dict().keys()
    assert loaded["same"] is loaded["dense"]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_int8_by_hand(tmp_path: Path) -> None:
    weight = torch.tensor([[127.0, 0.0, -63.5, 0.4], [0.0, 2.54, 0.0, 0.009]])
    model = nn.Linear(4, 2)
    model.weight = nn.Parameter(weight)
    save_links(model, path := tmp_path / "model.safetensors", int8=True)
    with safe_open(path, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert found["weight.scale"].flatten().tolist() == pytest.approx([1.0, 0.02])
    assert (found["weight"].dtype, found["weight"].tolist()) == (torch.int8, [127, -64, 127])
    assert found["weight.links"].tolist() == [0b10100100]
    assert size_of_data(path) == 3 + 1 + 8 + 8  # values, links, scales, biases
    loaded = load_links(path)
    torch.testing.assert_close(loaded["weight"], torch.tensor([[127.0, 0.0, -64.0, 0.0], [0.0, 2.54, 0.0, 0.0]]))
    assert torch.equal(loaded["bias"], model.bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 1e-5, 2e-6])
def test_int8_in_half_precision_has_exact_scales(dtype: torch.dtype, size: float, tmp_path: Path) -> None:
    weight = (torch.randn(40, 60, generator=torch.Generator().manual_seed(0)) * size).to(dtype)
    save_links(Held(weight=weight), path := tmp_path / "model.safetensors", int8=True)
    loaded = load_links(path)["weight"]
    assert loaded.dtype == dtype
    scale = weight.double().abs().amax(1, keepdim=True) / 127
    limits = torch.finfo(dtype)
    rounding = loaded.double().abs().clamp(min=limits.tiny) * limits.eps / 2
    assert ((loaded.double() - weight.double()).abs() <= (scale / 2 + rounding) * 1.00001).all()


def test_int8_of_an_earlier_version_loads(tmp_path: Path) -> None:
    integers, scale = torch.tensor([[127, -2]], dtype=torch.int8), torch.tensor([[0.5]], dtype=torch.bfloat16)
    shapes = {"shapes": json.dumps({"weight": [1, 2]}), "shared": "{}"}
    save_file({"weight": integers.flatten(), "weight.scale": scale}, path := tmp_path / "model.safetensors", shapes)
    loaded = load_links(path)["weight"]
    assert (loaded.dtype, loaded.tolist()) == (torch.bfloat16, [[63.5, -1.0]])


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool)


@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 9), max_size=4),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_any_tensor_comes_back(
    dtype: torch.dtype, shape: list[int], density: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator) * 50 * (torch.rand(shape, generator=generator) < density)
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    model = Held(weight=weight.to(dtype), other=torch.ones(3, dtype=torch.int8))
    save_links(model, path)
    loaded = load_links(path)
    assert loaded["weight"].dtype == dtype
    assert torch.equal(loaded["weight"], model.weight)
    links = int(model.weight.count_nonzero())
    size = model.weight.itemsize
    by_links = size * links + min(-(-model.weight.numel() // 8), 4 * links)
    assert size_of_data(path) == 3 + min(size * model.weight.numel(), by_links)
    save_links(model, path, int8=True)
    rounded = load_links(path)["weight"]
    assert rounded.dtype == dtype
    assert not (rounded[model.weight == 0]).any()
    if not dtype.is_floating_point or len(shape) < 2 or not weight.numel():
        assert torch.equal(rounded, model.weight)
    else:
        largest = model.weight.double().abs().amax(-1, keepdim=True)
        scale = largest / 127
        error = (rounded.double() - model.weight.double()).abs()
        # Half a scale; half precision also rounds the product.
        assert (error <= scale / 2 + torch.finfo(dtype).eps * largest).all()


class Experts(nn.Module):
    """Two experts with weights of three dimensions, as in Mixtral."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(2, 24, 16))
        self.down_proj = nn.Parameter(torch.randn(2, 16, 12))

    def forward(self, x: Tensor) -> Tensor:
        gate, up = torch.einsum("eoi,bi->ebo", self.gate_up_proj, x).chunk(2, -1)
        return torch.einsum("eoi,ebi->bo", self.down_proj, gate.tanh() * up)


class Recurrent(nn.LSTM):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        output: Tensor = super().forward(x)[0]
        return output


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (tiny.mlp, (16,)),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 4, 1)),
        (3, 8, 8),
    ),
    "convolutions in 1-D": (lambda: nn.Sequential(nn.Conv1d(3, 8, 5), nn.ConvTranspose1d(8, 4, 3)), (3, 9)),
    "experts": (lambda: nn.Sequential(nn.Linear(16, 16), Experts(), nn.Linear(16, 3)), (16,)),
    "transposed": (lambda: nn.Sequential(Conv1D(32, 16), nn.Tanh(), Conv1D(3, 32)), (16,)),
    "recurrent": (lambda: nn.Sequential(nn.Linear(16, 16), Recurrent(16, 8), nn.Linear(8, 3)), (16,)),
}


@pytest.mark.parametrize("int8", [False, True], ids=["exact", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_comes_back(kind: str, int8: bool, tmp_path: Path) -> None:
    build, shape = KINDS[kind]
    model = tiny.seeded(build, 0)
    sparsifier = sparse(model)
    save_links(model, path := tmp_path / "model.safetensors", int8=int8)
    other = tiny.seeded(build, 1)
    other.load_state_dict(load_links(path))
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = other(x), model(x)
    if int8:
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.abs().max()))
        for name, mask in sparsifier.masks.items():
            assert not other.get_parameter(name)[~mask].any()
    else:
        assert torch.equal(found, expected)
    torch.save(dense_copy(model).state_dict(), dense := tmp_path / "dense.pt")
    sparse_part = sum(mask.numel() for mask in sparsifier.masks.values())
    saved = 4 * sum(parameter.numel() for parameter in model.parameters()) - size_of_data(path)
    assert saved >= sparse_part * (4 - 4 * 0.11 - 1 / 8)
    assert size_of_data(path) < dense.stat().st_size


def test_layers_that_store_only_their_links_give_the_same_file(tmp_path: Path) -> None:
    for execution in ("masked", "csr"):
        model = tiny.mlp((16, 64, 64, 3))
        sparse(model, execution)
        save_links(model, tmp_path / execution)
    assert (tmp_path / "csr").read_bytes() == (tmp_path / "masked").read_bytes()


def test_a_compacted_model_comes_back_into_its_own_shape(tmp_path: Path) -> None:
    model = tiny.mlp((16, 32, 32, 3))
    sparsifier = sparse(model, sparsity=0.97)
    x, _ = tiny.rows_and_classes(0)
    compacted = sparsifier.compact(x)
    assert compacted[0].out_features < 32
    save_links(compacted, path := tmp_path / "model.safetensors")
    other = copy.deepcopy(compacted)
    other[0].weight.data.zero_()
    other.load_state_dict(load_links(path))
    torch.testing.assert_close(other(x), model(x))


@pytest.mark.parametrize(
    ("make", "int8", "words"),
    [
        (
            lambda: torch.eye(3).to_sparse_csr(),
            False,
            r"weight is a Tensor of torch.float32 in torch.sparse_csr;",
        ),
        (
            lambda: torch.eye(3, dtype=torch.complex64),
            False,
            r"torch.complex64 in torch.strided; .* Save the model before",
        ),
        (lambda: torch.full((2, 2), torch.nan), True, "weight has infinite or NaN weights.*without int8"),
        (lambda: torch.empty(2, 2, device="meta"), False, "weight are on the meta device"),
    ],
    ids=["csr", "complex", "nan", "meta"],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_what_a_file_cannot_hold_is_refused(make: Callable[[], Tensor], int8: bool, words: str, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        save_links(Held(weight=make()), tmp_path / "file", int8=int8)
    assert not (tmp_path / "file").exists()


def test_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> int:
            return 3

    with pytest.raises(TypeError, match=r"_extra_state is a int; expected a dense torch\.Tensor"):
        save_links(Counting(2, 2), tmp_path / "file")


def test_a_file_of_other_programs_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2, 2)}, path := tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors was not written by save_links; load it with safetensors"):
        load_links(path)


# --- the guide ---


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


def printed_loader() -> str:
    (loader,) = (block for block in blocks("python") if "def load_links" in block)
    return loader


def test_the_guide_prints_the_loader() -> None:
    printed = printed_loader()
    assert inspect.getsource(load_links) in printed
    assert [line for line in inspect.getsource(export).splitlines() if line.startswith("DTYPES")] == [
        line for line in printed.splitlines() if line.startswith("DTYPES")
    ]


def test_the_printed_loader_needs_only_torch(tmp_path: Path) -> None:
    model = tiny.mlp((16, 64, 64, 3))
    sparse(model)
    expected = {}
    for int8 in (False, True):
        save_links(model, tmp_path / f"{int8}.safetensors", int8=int8)
        expected[f"{int8}"] = load_links(tmp_path / f"{int8}.safetensors")
    torch.save(expected, tmp_path / "expected.pt")
    absent = ("chts_core", "safetensors", "transformers", "scipy", "numba")
    script = (
        f"import sys\nsys.modules.update(dict.fromkeys({absent!r}))\n{printed_loader()}\n"
        "expected = torch.load('expected.pt')\n"
        "for name, state in expected.items():\n"
        "    found = load_links(f'{name}.safetensors')\n"
        "    assert list(found) == list(state), name\n"
        "    assert all(torch.equal(found[key], state[key]) for key in state), name\n"
        "print('equal', *expected)"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.stdout == "equal False True\n", run.stderr


@pytest.mark.filterwarnings("ignore")  # exporters warn about each other
@pytest.mark.parametrize("needed", ["transformers", "onnxscript onnxruntime", "torchao"])
def test_the_blocks_that_need_a_package(needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in needed.split():
        pytest.importorskip(package, reason=f"{package} is not installed")
    (block,) = (block for block in blocks("py") if needed.split()[-1] in block)
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join([*blocks("python"), block]), "ship_it", "exec"), {"__name__": "guide"})


# --- Hugging Face ---


@pytest.mark.parametrize("execution", ["masked", "csr"])
@pytest.mark.promise("`save_pretrained` of a Hugging Face model", "followed: it writes dense weights with zeros")
def test_save_pretrained_writes_dense_weights(execution: str, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model = tiny.llama()
    sparse(model, execution)
    before = model.state_dict().keys()
    model.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == tiny.llama().state_dict().keys()
    assert model.state_dict().keys() == before
    for name, weight in to_dense(copy.deepcopy(model)).state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_a_compacted_model_does_not_load_by_its_old_config(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model = tiny.llama()
    compacted = sparse(model, sparsity=0.97).compact(input_ids=tiny.tokens(0))
    assert compacted.model.layers[0].mlp.down_proj.in_features < 24
    compacted.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        LlamaForCausalLM.from_pretrained(tmp_path)
