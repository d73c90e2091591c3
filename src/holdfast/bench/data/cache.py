"""Decoded data on disk: one safetensors file per data set, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["default_directory", "fingerprint", "load_or_build"]


def default_directory() -> Path:
    """`HOLDFAST_CACHE`, else `holdfast` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`)."""
    if named := os.environ.get("HOLDFAST_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "holdfast"


def fingerprint(files: Iterable[Path]) -> str:
    """Paths, sizes and modification times of some files, as text: it changes when the files do."""
    facts = ((str(file.resolve()), file.stat()) for file in sorted(files))
    return "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in facts)


def load_or_build(
    path: Path, dtypes: dict[str, torch.dtype], build: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors in a cache file; built and written first where the file is missing or damaged.

    A folder that cannot be written costs time and not the run: it is said in a warning.

    Args:
        path: the cache file.
        dtypes: name -> dtype of every tensor that the file must hold.
        build: makes the tensors from the source.

    Returns:
        name -> tensor.
    """
    cached = _read(path, dtypes)
    if cached is not None:
        return cached
    tensors = build()
    assert {name: tensor.dtype for name, tensor in tensors.items()} == dtypes
    try:
        _write(path, tensors)
    except OSError as error:
        warnings.warn(
            f"the decoded data could not be kept in {path.parent} ({error}): "
            "it will be decoded again next time; set HOLDFAST_CACHE to a writable folder",
            stacklevel=3,
        )
    return tensors


def _checksum(tensors: dict[str, Tensor]) -> str:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].contiguous().numpy().data, total)
    return f"{total:08x}"


def _read(path: Path, dtypes: dict[str, torch.dtype]) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            expected = (file.metadata() or {}).get("crc32")
    except (OSError, SafetensorError):
        return None
    if {name: tensor.dtype for name, tensor in tensors.items()} != dtypes or _checksum(tensors) != expected:
        return None
    return tensors


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for each writer, renamed at the end: two processes may build the same file at once.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".partial")
    os.close(handle)
    try:
        save_file(tensors, name, metadata={"crc32": _checksum(tensors)})
        os.replace(name, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        Path(name).unlink(missing_ok=True)
