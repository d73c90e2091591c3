"""Named data sets as tensors: decoded once to uint8, kept on disk, read in well under a second after that.

`digits` comes with scikit-learn. Every other name is read by the `datasets` library, from a folder in the
layout of `load_dataset("FOLDER/<name>")` where `HOLDFAST_DATA` or `data_dir` names one (the network is then
never touched), else from the Hugging Face Hub.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from holdfast.bench.data import cache, digits, sources
from holdfast.bench.data.sets import ImageDataset, TextDataset
from holdfast.bench.data.sources import SOURCES, Source
from holdfast.checks import unknown_name
from holdfast.errors import ConfigurationError, DataError

__all__ = ["load", "load_text", "names"]


_IMAGE_DTYPES = {"train_x": torch.uint8, "train_y": torch.int64, "test_x": torch.uint8, "test_y": torch.int64}
_TEXT_DTYPES = {
    f"{part}_{kind}": dtype
    for part in ("train", "test")
    for kind, dtype in (("utf8", torch.uint8), ("ends", torch.int64), ("y", torch.int64))
}


def names(*, text: bool = False) -> dict[str, str]:
    """Data set name -> what it is, in a line: of images, or of texts."""
    embedded = {} if text else {"digits": "1,438/359 handwritten digits, 8x8 grey, embedded"}
    return embedded | {name: source.about for name, source in SOURCES.items() if (source.shape is None) == text}


def load(name: str, *, data_dir: Path | str | None = None, cache_dir: Path | str | None = None) -> ImageDataset:
    """Images and labels of a named data set.

    Args:
        name: one of `names()`.
        data_dir: folder that holds ``<name>/``; default: the environment's `HOLDFAST_DATA`, else the Hub.
        cache_dir: where the decoded tensors are kept; default: `cache.default_directory()`. A copy from the Hub
            is kept until its file there is deleted; one from a folder follows the files' size and time.

    Returns:
        The data set, in its source's order.

    Raises:
        ConfigurationError: if there is no image data set of that name.
        DataError: if it cannot be read; the message says how to get it.
        DependencyError: if the bench's packages are not installed.
    """
    if name == "digits":
        return digits.load()
    source = _find(name, text=False)
    tensors = _tensors(name, source, data_dir, cache_dir)
    return ImageDataset(
        name,
        tensors["train_x"],
        tensors["train_y"],
        tensors["test_x"],
        tensors["test_y"],
        source.classes,
        source.mean,
        source.std,
    )


def load_text(name: str, *, data_dir: Path | str | None = None, cache_dir: Path | str | None = None) -> TextDataset:
    """Texts and labels of a named data set; arguments and errors as for `load`."""
    source = _find(name, text=True)
    tensors = _tensors(name, source, data_dir, cache_dir)
    train, test = (_unpack_texts(tensors[f"{part}_utf8"], tensors[f"{part}_ends"]) for part in ("train", "test"))
    return TextDataset(name, train, tensors["train_y"], test, tensors["test_y"], source.classes)


def _find(name: str, *, text: bool) -> Source:
    known = [*names(), *names(text=True)]
    if name not in known:
        raise unknown_name("data set", name, known)
    if name not in names(text=text):
        held = ("images", "texts") if text else ("texts", "images")
        raise ConfigurationError(
            f"the data set {name!r} holds {held[0]}; expected one of {held[1]}: {', '.join(names(text=text))}"
        )
    return SOURCES[name]


def _tensors(name: str, source: Source, data_dir: Path | str | None, cache_dir: Path | str | None) -> dict[str, Tensor]:
    root = data_dir or os.environ.get("HOLDFAST_DATA")
    folder = Path(root).expanduser() / name if root else None
    if folder is not None and not folder.is_dir():
        raise DataError(f"no data set {name!r} in {folder.parent}: ", *sources.ways_to_get(name, source, folder))
    if folder is None:
        key = f"{source.hub_id} {source.options}"
    else:
        key = cache.fingerprint(file for file in folder.rglob("*") if file.is_file())
    directory = Path(cache_dir).expanduser() if cache_dir else cache.default_directory()
    path = directory / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"

    def build() -> dict[str, Tensor]:
        with sources.splits(name, source, folder) as parts:
            if source.shape is None:
                return sources.decode_texts(name, source, parts)
            return sources.decode_images(name, source, source.shape, parts)

    return cache.load_or_build(path, _TEXT_DTYPES if source.shape is None else _IMAGE_DTYPES, build)


def _unpack_texts(utf8: Tensor, ends: Tensor) -> tuple[str, ...]:
    blob = utf8.numpy().tobytes()
    stops = ends.tolist()
    return tuple(blob[start:stop].decode() for start, stop in zip([0, *stops], stops, strict=False))
