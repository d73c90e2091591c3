"""States on disk: equal in every bit, written whole or not at all, and refused in a sentence if they are not whole."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import holdfast
from holdfast.errors import StateError
from holdfast.files import NewerFileError, load_state, remove_leftovers, save_state, write_file
from tests.disks import files_in, fill, make_read_only, small_disk

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
]
DTYPES += [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.float8_e5m2]


def same(a: Any, b: Any) -> bool:
    """Equality in type and in every bit; NaN equals itself and -0.0 is not 0.0."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return [*map(repr, a)] == [*map(repr, b)] and all(
            same(x, y) for x, y in zip(a.values(), b.values(), strict=True)
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    content = draw(st.binary(min_size=size, max_size=size))
    if dtype is torch.bool:
        content = bytes(byte & 1 for byte in content)
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    tensor = torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)
    return tensor.transpose(0, -1) if draw(st.booleans()) and shape else tensor


words = st.text(st.characters(blacklist_categories=()), max_size=4) | st.sampled_from(["$tensor", "$dict", "", "a/b"])
plain = st.none() | st.booleans() | st.integers() | st.floats() | words
keys = words | st.integers(-3, 3)
states = st.recursive(
    plain | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@given(st.dictionaries(keys, states, max_size=4))
def test_whatever_is_saved_comes_back_in_every_bit(folder: Path, state: dict[Any, Any]) -> None:
    path = save_state(state, folder / "state.safetensors")
    assert same(load_state(path), state)
    assert files_in(folder) == ["state.safetensors"]


def a_state() -> dict[str, Any]:
    return {"weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3).bfloat16(), "steps": 3, "loss": math.inf}


def test_any_reader_of_safetensors_opens_the_file(tmp_path: Path) -> None:
    path = save_state(a_state(), tmp_path / "a.safetensors")
    read = safetensors.torch.load_file(path)
    assert same(
        dict(sorted(read.items())), {"half": torch.ones(3).bfloat16(), "weight": torch.arange(6.0).reshape(2, 3)}
    )


def test_the_checksum_is_that_of_the_file_with_zeros_in_its_place(tmp_path: Path) -> None:
    content = save_state(a_state(), tmp_path / "a").read_bytes()
    length = int.from_bytes(content[:8], "little")
    digest = json.loads(content[8 : 8 + length])["__metadata__"]["sha256"].encode()
    assert content.count(digest) == 1
    assert hashlib.sha256(content.replace(digest, b"0" * 64)).hexdigest().encode() == digest


def test_a_training_state_goes_on_in_another_instance(tmp_path: Path) -> None:
    def trained() -> tuple[nn.Module, torch.optim.Optimizer, holdfast.Method]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        return model, optimizer, holdfast.L2SP(model, strength=0.3).attach(optimizer)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        for _ in range(3):
            x = torch.randn(8, 4, generator=draw)
            loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()

    model, optimizer, keep = trained()
    train(model, optimizer, 1)
    keep.consolidate()
    train(model, optimizer, 2)
    whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "keep": keep.state_dict()}
    path = save_state(whole, tmp_path / "s")
    train(model, optimizer, 3)

    again, other, kept = trained()
    state = load_state(path)
    assert set(state["optimizer"]["state"]) == set(range(6))
    again.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    kept.load_state_dict(state["keep"])
    train(again, other, 3)
    assert all(same(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_what_is_loaded_no_longer_depends_on_the_file(tmp_path: Path) -> None:
    path = save_state({"weight": torch.zeros(5000)}, tmp_path / "s")
    state = load_state(path)
    with open(path, "r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    assert float(state["weight"].sum()) == 0.0


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = save_state(a_state(), tmp_path / "s")
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        with pytest.raises(StateError, match=r"/s (is damaged|is truncated|is not a state|has schema version)"):
            load_state(path)


def test_every_truncated_file_is_noticed(tmp_path: Path) -> None:
    path = save_state(a_state(), tmp_path / "s")
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(StateError, match=r"/s is (truncated|not a state)"):
            load_state(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(StateError, match="is damaged"):
        load_state(path)


def test_a_file_of_others_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, path)
    with pytest.raises(StateError, match=r"theirs.safetensors is not a state that holdfast saved.*'holdfast'"):
        load_state(path)
    torch.save({"a": 1}, path)
    with pytest.raises(StateError, match="does not begin like a safetensors file"):
        load_state(path)
    with pytest.raises(StateError, match=r"Cannot read the state .*nothing: No such file or directory\."):
        load_state(tmp_path / "nothing")


def test_a_newer_layout_asks_for_an_upgrade(tmp_path: Path) -> None:
    path = save_state(a_state(), tmp_path / "s")
    path.write_bytes(path.read_bytes().replace(b'"schema":"1"', b'"schema":"9"'))
    with pytest.raises(NewerFileError, match=r"schema version 9, but this holdfast reads up to 1: upgrade"):
        load_state(path)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({1, 2}, r"the state's /a/1 is a set; expected tensors and plain values"),
        (torch.device("cpu"), r"/a/1 is a device"),
        (torch.zeros(2, device="meta"), r"/a/1 is a Tensor of layout torch.strided on meta"),
        (torch.zeros(2).to_sparse(), r"/a/1 is a Tensor of layout torch.sparse_coo"),
        (torch.zeros(2, dtype=torch.complex128), r"/a/1 is of torch.complex128, which safetensors does not hold"),
        ({frozenset(): 1}, r"/a/1 has the key frozenset\(\)"),
    ],
)
def test_what_cannot_be_saved_is_named_and_writes_nothing(tmp_path: Path, value: Any, sentence: str) -> None:
    with pytest.raises(StateError, match=sentence):
        save_state({"a": [0, value]}, tmp_path / "s")
    assert files_in(tmp_path) == []


def test_a_state_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    save_state({"a": 1}, tmp_path / "s.st")
    with pytest.raises(StateError, match="the state is a list; expected a dict"):
        save_state([torch.ones(2)], tmp_path / "s.st")  # type: ignore[arg-type]  # what is wrong
    with pytest.raises(StateError, match="a number that cannot be written"):
        save_state({"a": 10**5000}, tmp_path / "s.st")
    assert load_state(tmp_path / "s.st") == {"a": 1}


@pytest.mark.parametrize("name", ["\ud800", "__metadata__"])
def test_no_name_of_a_tensor_spoils_the_file(tmp_path: Path, name: str) -> None:
    state = {name: torch.ones(2)}
    assert same(load_state(save_state(state, tmp_path / "s.st")), state)


def test_a_view_is_saved_as_what_it_shows(tmp_path: Path) -> None:
    z = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    state = {"conjugate": z.conj(), "negative": z.conj().imag}
    back = load_state(save_state(state, tmp_path / "s.st"))
    assert back["conjugate"].tolist() == [1 - 2j, 3 + 4j] and back["negative"].tolist() == [-2.0, 4.0]


def test_a_state_that_holds_itself_is_refused(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    state["again"] = state
    with pytest.raises(StateError, match="nested too deeply"):
        save_state(state, tmp_path / "s")


def test_mappings_of_any_kind_come_back_as_dicts(tmp_path: Path) -> None:
    state = load_state(save_state(OrderedDict(b=OrderedDict(a=1)), tmp_path / "s"))
    assert same(state, {"b": {"a": 1}})


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        events.append("sync folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "sync file")
        fsync(handle)

    def renamed(source: Path, target: Path) -> None:
        events.append(f"rename to {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_file(tmp_path / "note", lambda file: file.write(b"x"))
    assert events == ["sync file", "rename to note", "sync folder"]


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_file(tmp_path / "note", lambda file: file.write(b"old"))

    def interrupted(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(path, interrupted)
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == ["note"]


def test_what_a_dead_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    writer = "import os; from holdfast.files import write_file\n"
    writer += f"write_file({str(tmp_path / 'note')!r}, lambda file: os.kill(os.getpid(), 9))"
    done = subprocess.run([sys.executable, "-c", writer])
    assert done.returncode == -signal.SIGKILL
    (left,) = files_in(tmp_path)
    assert left.startswith(".note.") and left.endswith(".tmp")
    others = [f".note.{os.getpid()}-1.tmp", ".mine.tmp", "note.1-1.tmp"]
    for name in others:
        (tmp_path / name).write_text("still being written, or of others")
    remove_leftovers(tmp_path)
    assert files_in(tmp_path) == sorted(others)


def test_a_file_in_place_of_the_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(StateError, match=r"^Cannot write the state .*folder/s: .*\.$"):
        save_state(a_state(), tmp_path / "folder" / "s")
    with pytest.raises(StateError, match=r"^Cannot write the state .*null byte"):
        save_state(a_state(), tmp_path / "a\0b")
    assert files_in(tmp_path) == ["folder"]


def test_a_full_disk_is_one_sentence_and_the_old_state_stays(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = save_state({"weight": torch.ones(1000)}, disk / "s")
        fill(disk)
        with pytest.raises(StateError, match=r"^Cannot write the state .*/s: No space left on device\.$"):
            save_state({"weight": torch.zeros(50_000)}, path)
        assert same(load_state(path), {"weight": torch.ones(1000)})
        assert files_in(disk) == ["filler", "s"]


def test_a_read_only_disk_is_one_sentence_and_the_old_state_stays(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = save_state({"weight": torch.ones(10)}, disk / "s")
        make_read_only(disk)
        with pytest.raises(StateError, match=r"^Cannot write the state .*/s: Read-only file system\.$"):
            save_state({"weight": torch.zeros(10)}, path)
        assert same(load_state(path), {"weight": torch.ones(10)})
        assert files_in(disk) == ["s"]


def test_files_need_no_extra(tmp_path: Path) -> None:
    code = "import sys; sys.modules['numpy'] = None; import torch; from holdfast.files import load_state, save_state\n"
    code += f"p = save_state({{'a': torch.ones(3)}}, {str(tmp_path / 's')!r}); print(load_state(p)['a'].tolist())"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[1.0, 1.0, 1.0]", done.stderr
