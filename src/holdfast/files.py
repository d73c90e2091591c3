"""States on disk: one safetensors file, written whole or not at all, with a checksum; nothing is unpickled.

Any reader of safetensors opens the file. Its metadata holds what is not a tensor:

- ``format``: ``"holdfast"``, and ``schema``: the version of this layout;
- ``structure``: the JSON of :mod:`holdfast.structure`;
- ``sha256``: of the file itself, with these 64 digits as zeros.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from holdfast.errors import StateError
from holdfast.structure import decode, encode

__all__ = [
    "SCHEMA_VERSION",
    "NewerFileError",
    "bytes_of",
    "load_state",
    "remove_leftovers",
    "save_state",
    "write_file",
]

SCHEMA_VERSION = 1

_NO_DIGEST = "0" * 64
_CHUNK = 1 << 20
_MOST_HEADER = 100_000_000  # what safetensors itself reads at most
_TEMPORARY = re.compile(r"\..*\.([1-9]\d{0,8})-\d+\.tmp")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class NewerFileError(StateError):
    """The file was written by a newer holdfast, which is no damage."""


def write_file(path: str | os.PathLike[str], write: Callable[[BinaryIO], object], *, what: str = "file") -> Path:
    """Write a file so that it is at every moment, power cuts included, either the old one or the whole new one.

    Args:
        path: the file; its folder is created where it is missing.
        write: writes the contents into the open file.
        what: what the file is, for the error.

    Returns:
        The path that was written.

    Raises:
        StateError: if the folder or the file cannot be written; nothing has changed then.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = write_file(folder / "note.txt", lambda file: file.write(b"done"))
        >>> (folder / "note.txt").read_bytes()
        b'done'
    """
    path = Path(path)
    # Not tempfile.mkstemp: its files are private to the user, and a record is to be shared.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError, ValueError):
                temporary.unlink()
            raise
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise StateError(f"Cannot write the {what} {path}: {getattr(error, 'strerror', None) or error}.") from error
    return path


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that died while they wrote into a folder have left there.

    Args:
        folder: looked at by itself, without those below it; it need not be there.
    """
    for path in folder.glob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and not _is_alive(int(found[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere asking would stop it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's, or no number of a process
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Make a rename last: the new name is in the folder, and the folder is a file of its own."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_state(state: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a state to one file: a method's, a model's, an optimizer's, or all of them in a dict.

    Args:
        state: dicts, lists and tuples of tensors and plain values, nested as you like.
        path: the file; it is the old one or the whole new one at every moment.

    Returns:
        The path that was written.

    Raises:
        StateError: if something in it is neither a tensor nor a plain value, or the file cannot be written.

    Example:
        >>> import tempfile, torch, holdfast
        >>> def trained():
        ...     model = torch.nn.Linear(2, 2)
        ...     optimizer = torch.optim.AdamW(model.parameters())
        ...     return model, optimizer, holdfast.L2SP(model, strength=0.1)
        >>> model, optimizer, keep = trained()
        >>> keep.consolidate(); keep = keep.attach(optimizer)
        >>> file = Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> parts = {"model": model, "optimizer": optimizer, "keep": keep}
        >>> _ = save_state({name: part.state_dict() for name, part in parts.items()}, file)

        And in another process:

        >>> model, optimizer, keep = trained()
        >>> state = load_state(file)
        >>> _ = model.load_state_dict(state["model"])
        >>> optimizer.load_state_dict(state["optimizer"])
        >>> keep.load_state_dict(state["keep"])
        >>> keep = keep.attach(optimizer)
        >>> keep.num_tasks
        1
    """
    if not isinstance(state, Mapping):
        raise StateError(f"the state is a {type(state).__name__}; expected a dict")
    structure, tensors = encode(state)
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise StateError(f"the state's /{name} is of {tensor.dtype}, which safetensors does not hold")
    # The order that safetensors itself writes: wide dtypes first keeps every tensor aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    metadata = {"format": "holdfast", "schema": str(SCHEMA_VERSION), "sha256": _NO_DIGEST, "structure": structure}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MOST_HEADER:
        raise StateError(f"the state has {len(text)} bytes beside its tensors; expected at most {_MOST_HEADER}")
    start = len(text).to_bytes(8, "little") + text

    def write(file: BinaryIO) -> None:
        file.write(start)
        digest = hashlib.sha256(start)
        for name in order:
            # One tensor at a time: a copy of a large model beside itself might not fit.
            # Resolved: a conjugate or a negative may be a view of memory that holds something else.
            tensor = tensors[name].cpu().resolve_conj().resolve_neg().contiguous()
            content = bytes_of(tensor)
            file.write(content)
            digest.update(content)
        file.seek(_digest_position(start))
        file.write(digest.hexdigest().encode())

    return write_file(path, write, what="state")


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, valid as long as the tensor is."""
    size = tensor.numel() * tensor.element_size()
    if size == 0:
        return memoryview(b"")
    return memoryview((ctypes.c_ubyte * size).from_address(tensor.data_ptr())).cast("B")


def _digest_position(start: bytes) -> int:
    """Where the digest stands; the metadata come first, so no tensor's name can be taken for it."""
    return start.index(b'"sha256":"') + len(b'"sha256":"')


def load_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`save_state` wrote; its tensors are on the CPU.

    Args:
        path: the file.

    Returns:
        The state, equal to what was saved in every bit; a mapping of any kind comes back as a dict.

    Raises:
        StateError: if the file cannot be read, is truncated, damaged, not of holdfast, or of a newer holdfast.
    """
    path = Path(path)
    try:
        structure = _checked_structure(path)
        with safe_open(path, framework="pt") as file:
            # Copied, because the tensors are views of the file, which may be replaced while they live.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except (OSError, ValueError) as error:
        if isinstance(error, StateError):
            raise
        raise StateError(f"Cannot read the state {path}: {getattr(error, 'strerror', None) or error}.") from error
    except SafetensorError as error:
        raise _foreign(path, "a tensor in it is not as its header says") from error
    try:
        state = decode(structure, tensors)
    except StateError as error:
        raise _foreign(path, str(error)) from error
    if not isinstance(state, dict):
        raise _foreign(path, f"it holds a {type(state).__name__} where a dict is expected")
    return state


def _foreign(path: Path, why: str) -> StateError:
    return StateError(f"{path} is not a state that holdfast saved, or it is damaged: {why}.")


def _checked_structure(path: Path) -> str:
    """The structure of a file that is whole, undamaged and ours."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= _MOST_HEADER:
            raise _foreign(path, "it does not begin like a safetensors file")
        if 8 + length > size:
            raise _foreign(path, f"it ends after {size} bytes, within its header of {length}")
        start += file.read(length)
        header = _header(path, start[8:])
        expected = 8 + length + max((end for end in _ends(path, header)), default=0)
        if size < expected:
            raise StateError(f"{path} is truncated: it has {size} of {expected} bytes.")
        metadata = _metadata(path, header)
        position = start.find(f'"sha256":"{metadata["sha256"]}"'.encode()) + len(b'"sha256":"')
        digest = hashlib.sha256(start[:position] + _NO_DIGEST.encode() + start[position + 64 :])
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != metadata["sha256"]:
        raise StateError(f"{path} is damaged: its checksum does not match its contents.")
    return metadata["structure"]


def _header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _foreign(path, "its header is not JSON")
    return header


def _ends(path: Path, header: dict[str, Any]) -> list[int]:
    try:
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (KeyError, TypeError, IndexError):
        ends = [None]
    if not all(isinstance(end, int) for end in ends):
        raise _foreign(path, "its header does not say where its tensors are")
    return ends


def _metadata(path: Path, header: dict[str, Any]) -> dict[str, str]:
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != "holdfast":
        raise _foreign(path, "its metadata name no format 'holdfast'")
    schema = metadata.get("schema")
    if isinstance(schema, str) and schema.isdecimal() and len(schema) < 10 and int(schema) > SCHEMA_VERSION:
        raise NewerFileError(
            f"{path} has schema version {schema}, but this holdfast reads up to {SCHEMA_VERSION}: upgrade holdfast."
        )
    if schema != str(SCHEMA_VERSION):
        raise _foreign(path, f"its schema version is {schema!a}")
    if not all(isinstance(metadata.get(key), str) for key in ("sha256", "structure")):
        raise _foreign(path, "its metadata have no checksum or no structure")
    if len(metadata["sha256"]) != 64:
        raise _foreign(path, "its checksum has not 64 digits")
    return metadata
