import copy
import errno
import json
import math
import os
import resource
import struct
import tempfile
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import chts_core as chts
from chts_core.lab.train import checkpoint

# Everything that a state may hold, small enough to try every byte of its file.
STATE: dict[str, Any] = {
    "model": {"0.weight": torch.arange(6.0).reshape(2, 3), "mask": torch.tensor([True, False, True])},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "betas": (0.9, 0.998), "loss": math.nan},
    "done": [1, None, True, "wörter "],
}
DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.uint16,
    torch.uint64,
    torch.float8_e4m3fn,
    torch.complex64,
    torch.complex128,
]


def assert_identical(one: Any, other: Any) -> None:
    """Same types throughout, same keys in the same order, same bits."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert (one.dtype, one.shape, one.device) == (other.dtype, other.shape, other.device)
        assert bits(one) == bits(other)
    elif isinstance(one, dict):
        assert [(type(key), key) for key in one] == [(type(key), key) for key in other]
        for key in one:
            assert_identical(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_identical(mine, theirs)
    elif isinstance(one, float):
        assert struct.pack("d", one) == struct.pack("d", other)
    else:
        assert one == other


def bits(tensor: Tensor) -> bytes:
    return tensor.resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def round_trip(path: Path, state: Any) -> Any:
    checkpoint.save(path, state)
    return checkpoint.load(path)


# --- what comes back ---


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of any bits, among them NaNs of every kind, and laid out in any way."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    content = torch.tensor(list(draw(st.binary(min_size=size, max_size=size))), dtype=torch.uint8)
    if dtype is torch.bool:
        content %= 2  # the only bytes that a bool may have
    tensor = content.view(dtype).reshape(shape)
    return tensor.mT if draw(st.booleans()) and tensor.ndim > 1 else tensor


STATES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(-3, 3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(STATES)
def test_any_state_comes_back_to_the_bit(state: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_identical(round_trip(Path(folder) / "state.safetensors", state), state)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0, 3)], ids=str)
def test_tensors_of_every_type_and_shape_come_back(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
    assert_identical(round_trip(tmp_path / "state", tensor), tensor)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -math.nan, -0.0, 0.1, 5e-324, 1.7976931348623157e308])
def test_floats_come_back_to_the_bit(tmp_path: Path, value: float) -> None:
    assert_identical(round_trip(tmp_path / "state", value), value)


@pytest.mark.parametrize("text", ["", '"sha256":"', r"\"sha256\":\"", "\0\n", "ß→😀", "\ud800", "__metadata__"])
def test_text_that_looks_like_the_format_comes_back(tmp_path: Path, text: str) -> None:
    state = {text: [text, torch.ones(2)], "tensor": {"tensor": text, "dict": [[1, 2]], "tuple": [1], "float": "0"}}
    assert_identical(round_trip(tmp_path / "state", state), state)


def test_keys_that_print_alike_stay_apart(tmp_path: Path) -> None:
    state = {0: torch.zeros(1), "0": torch.ones(1), "a']['b": torch.full((1,), 2.0), "a": {"b": torch.full((1,), 3.0)}}
    assert_identical(round_trip(tmp_path / "state", state), state)


def test_views_and_shared_tensors_come_back_with_memory_of_their_own(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    state = [base, base, base[2:5], base.view(3, 4).t(), base[::2], torch.zeros(1).expand(3), base[:0]]
    back = round_trip(tmp_path / "state", state)
    assert_identical(back, state)
    back[0].zero_()
    assert_identical(back[1:], state[1:])


def test_pending_conjugation_and_negation_are_stored_as_values(tmp_path: Path) -> None:
    conjugated = torch.tensor([1 + 2j, 3 - 4j]).conj()
    assert conjugated.is_conj()
    assert conjugated.imag.is_neg()
    one = conjugated[:1].imag.reshape(())
    assert one.is_neg()
    assert one.is_contiguous()
    back = round_trip(tmp_path / "state", [conjugated, conjugated.imag, one])
    assert [tensor.tolist() for tensor in back] == [[1 - 2j, 3 + 4j], [-2, 4], -2]


def test_parameters_and_ordered_dicts_come_back_plain(tmp_path: Path) -> None:
    weights = [nn.Parameter(torch.ones(2, dtype=dtype)) for dtype in (torch.float32, torch.complex128)]
    back = round_trip(tmp_path / "state", OrderedDict(weights=weights, counts=Counter("aab")))
    assert back["counts"] == {"a": 2, "b": 1}
    assert type(back["counts"]) is dict
    for weight, parameter in zip(back["weights"], weights, strict=True):
        assert_identical(weight, parameter.detach())
        assert not weight.requires_grad


def test_tensors_go_to_the_device(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "state", STATE)
    back = checkpoint.load(tmp_path / "state", device="meta")
    assert back["model"]["mask"].device.type == "meta"
    assert back["optimizer"]["betas"] == (0.9, 0.998)


# --- the file ---


def test_other_tools_can_read_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, STATE)
    with safe_open(path, framework="pt") as file:
        assert sorted(file.keys()) == [
            "state['model']['0.weight']",
            "state['model']['mask']",
            "state['optimizer']['state'][0]['step']",
        ]
        assert torch.equal(file.get_tensor("state['model']['0.weight']"), STATE["model"]["0.weight"])
        assert json.loads(file.metadata()["chts_checkpoint"])["format"] == 1


@pytest.mark.parametrize("dtype", DTYPES[:10], ids=str)
def test_other_tools_see_the_usual_types(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint.save(tmp_path / "state", torch.ones(2).to(dtype))
    with safe_open(tmp_path / "state", framework="pt") as file:
        assert file.get_tensor("state").dtype == dtype


def test_the_same_state_gives_the_same_file(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "one", STATE)
    checkpoint.save(tmp_path / "other", STATE)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    checkpoint.save(tmp_path / "other", {**STATE, "done": [2]})
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()


def test_the_file_is_the_tensors_and_little_else(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "state", {"a": torch.zeros(1000, 1000), "b": torch.zeros(10, dtype=torch.bool)})
    assert 4_000_010 < (tmp_path / "state").stat().st_size < 4_001_000


def test_missing_folders_are_made_and_an_old_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")  # a file from another disk could not replace it at once
    path = tmp_path / "runs" / "chts" / "state"
    checkpoint.save(path, [1])
    assert list(path.parent.iterdir()) == [path]
    checkpoint.save(path, [2])
    checkpoint.save(path, [3])
    assert checkpoint.load(path) == [3]
    assert sorted(path.parent.iterdir()) == [path, checkpoint.previous_of(path)]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("links", [True, False])
def test_the_state_before_is_kept_and_offered_when_the_last_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_space)
    path, previous = tmp_path / "run.safetensors", tmp_path / "run.previous.safetensors"
    for number in range(4):
        checkpoint.save(path, [number, torch.zeros(3)])
        assert checkpoint.load(path)[0] == number
        if number:
            assert checkpoint.load(previous)[0] == number - 1
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    offer = (
        r"run\.safetensors is damaged.* The previous checkpoint is intact: "
        r"rename run\.previous\.safetensors to run\.safetensors"
    )
    with pytest.raises(ValueError, match=offer):
        checkpoint.load(path)
    path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"run\.safetensors is not a safetensors file.* The previous checkpoint is intact"
    ):
        checkpoint.load(path)
    whole = previous.read_bytes()
    previous.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"start the run again\.$"):
        checkpoint.load(path)
    previous.write_bytes(whole)
    previous.replace(path)
    assert checkpoint.load(path)[0] == 2


def test_what_a_kill_has_left_does_not_stop_the_next_save(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, [1])
    (tmp_path / "run.previous.safetensors.part").write_text("half")
    checkpoint.save(path, [2])
    assert checkpoint.load(tmp_path / "run.previous.safetensors") == [1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.previous.safetensors", "run.safetensors"]


# --- what is refused ---


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"optimizer": {"x": {1, 2}}}, r"state\['optimizer'\]\['x'\] is of type set; expected a dict"),
        ([0, (1, object())], r"state\[1\]\[1\] is of type object"),
        ({3: np.zeros(2)}, r"state\[3\] is of type ndarray"),
        ({"loss": np.float64(1)}, r"state\['loss'\] is of type float64"),
        ({"shape": torch.Size([1])}, r"state\['shape'\] is of type Size"),
        (b"bytes", r"state is of type bytes"),
        ({"a": {1.5: 0}}, r"state\['a'\] has the key 1.5, of type float; expected str or int"),
        ({True: 0}, r"state has the key True, of type bool"),
        (
            {"w": torch.eye(2).to_sparse()},
            r"state\['w'\] is a tensor on cpu \(torch.sparse_coo\); expected",
        ),
        ({"w": torch.empty(2, device="meta")}, r"state\['w'\] is a tensor on meta"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(type(value)),
)
def test_what_cannot_be_stored_is_named_before_anything_is_written(tmp_path: Path, state: Any, message: str) -> None:
    path = tmp_path / "folder" / "state"
    with pytest.raises(TypeError, match=message):
        checkpoint.save(path, state)
    assert not path.parent.exists()


def test_quantized_tensors_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch call them deprecated
        tensor = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)
    with pytest.raises(TypeError, match=r"state\[0\] is a tensor on cpu \(quantized\); expected"):
        checkpoint.save(tmp_path / "state", [tensor])


def test_more_text_than_can_be_read_again_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_LARGEST_STRUCTURE", 1000)
    checkpoint.save(tmp_path / "state", list(range(200)))
    with pytest.raises(ValueError, match=r"without its tensors takes \d+ characters; expected at most 1000.*tensors"):
        checkpoint.save(tmp_path / "state", list(range(400)))
    assert checkpoint.load(tmp_path / "state") == list(range(200))


def test_the_largest_structure_can_be_read_again(tmp_path: Path) -> None:
    state = '"' * 19_000_000  # each takes two characters in the structure, and four bytes in the file
    checkpoint.save(tmp_path / "state", state)
    assert (tmp_path / "state").stat().st_size > 76_000_000
    assert checkpoint.load(tmp_path / "state") == state


def test_no_changed_byte_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    header = whole[8 : 8 + int.from_bytes(whole[:8], "little")]
    assert header.endswith(b" ")  # filled up with a space, which another blank could stand for
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(whole):
            # One bit; a space becomes a tab, other bytes change between upper and lower case; then the old byte again.
            for change in (0x01, 0x29 if byte == ord(" ") else 0x20):
                os.pwrite(file.fileno(), bytes([byte ^ change]), position)
                with pytest.raises(ValueError, match=r"/state (is|has) .*(damaged|that a run saved|update chts)"):
                    checkpoint.load(path)
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert_identical(checkpoint.load(path), STATE)


def test_no_cut_off_or_longer_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "state"
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    for content in [*(whole[:-missing] for missing in (1, *range(2, len(whole), 9))), whole + b"\0", b" " + whole]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"/state is .*damaged.*start the run again"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 a pickle in a zip",
        b"\xff" * 100,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 10**5) + b"[" * 10**5,
    ],
    ids=["empty", "zip", "noise", "list", "nested"],
)
def test_files_of_other_kinds_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(ValueError, match=r"/state is not a safetensors file, or its beginning is damaged; give a file"):
        checkpoint.load(tmp_path / "state")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"chts_checkpoint": "7"},
        {"chts_checkpoint": "{}"},
        {"chts_checkpoint": "not JSON"},
        {"chts_checkpoint": '{"format": "pt", "sha256": "", "state": 0}'},
    ],
    ids=str,
)
def test_safetensors_of_somebody_else_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "model", metadata)
    with pytest.raises(ValueError, match=r"/model is a safetensors file but holds no state of a run; give a file"):
        checkpoint.load(tmp_path / "model")


def test_a_newer_format_asks_for_a_newer_chts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(checkpoint, "FORMAT", 2)
        checkpoint.save(tmp_path / "state", STATE)
    with pytest.raises(ValueError, match=r"/state has format 2, but this chts reads up to 1;.*update chts"):
        checkpoint.load(tmp_path / "state")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"the checkpoint .*/state does not exist; give the path of an existing "
    ):
        checkpoint.load(tmp_path / "state")


# --- what fails midway ---


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def stopped(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("failure", [no_space, stopped])
@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (tempfile, "mkstemp"),
        (checkpoint, "save_file"),
        (os, "fsync"),
        (Path, "chmod"),
        (checkpoint, "_give_second_name"),
        (Path, "replace"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_failure_at_any_step_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, failure: Callable[..., None]
) -> None:
    path = tmp_path / "state"
    checkpoint.save(path, [1])
    with monkeypatch.context() as failing:
        failing.setattr(owner, step, failure)
        with pytest.raises(KeyboardInterrupt if failure is stopped else OSError):
            checkpoint.save(path, [2])
    assert list(tmp_path.iterdir()) == [path]
    assert checkpoint.load(path) == [1]


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "state"
    checkpoint.save(path, [1])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"cannot write .*/state: .*File too large.*; free some disk space, or save to another"
        ):
            checkpoint.save(path, torch.zeros(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path]
    assert checkpoint.load(path) == [1]


def test_a_folder_that_cannot_be_written_to_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        checkpoint.save(tmp_path / "file" / "state", STATE)


# --- a run ---


class Run:
    """An MLP with dropout, which draws from torch's random state, trained by Adam and CHTs on batches of noise."""

    def __init__(self, weight_seed: int) -> None:
        torch.manual_seed(weight_seed)
        self.model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 16), nn.Linear(16, 3))
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-2)
        self.sparsifier = chts.Sparsifier(self.model, self.optimizer, "chts", 0.7, total_steps=40, update_every=3)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            loss = F.cross_entropy(self.model(torch.randn(8, 12)), torch.randint(3, (8,)))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.sparsifier.step()

    def state(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "sparsifier": self.sparsifier}
        return {**{name: part.state_dict() for name, part in parts.items()}, "random": torch.get_rng_state()}

    def go_on(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sparsifier.load_state_dict(state["sparsifier"])
        torch.set_rng_state(state["random"])


def without_seconds(state: dict[str, Any]) -> dict[str, Any]:
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in state["sparsifier"]["history"]]
    return {**state, "model": dict(state["model"]), "sparsifier": {**state["sparsifier"], "history": rows}}


def test_a_run_goes_on_from_its_file_to_the_same_bits(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        run = Run(0)
        run.train(20)
        checkpoint.save(tmp_path / "run", run.state())
        halfway = copy.deepcopy(without_seconds(run.state()))
        run.train(10)
        uncut = without_seconds(run.state())

        resumed = Run(1)
        resumed.go_on(checkpoint.load(tmp_path / "run"))
        assert_identical(without_seconds(resumed.state()), halfway)
        resumed.train(10)
        assert_identical(without_seconds(resumed.state()), uncut)
    assert len(uncut["sparsifier"]["history"]) > len(halfway["sparsifier"]["history"])
