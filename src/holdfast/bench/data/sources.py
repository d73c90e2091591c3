"""Where the named data sets come from, and how the `datasets` library's rows become tensors."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import DataError, DependencyError, Option

__all__ = ["SOURCES", "Source", "decode_images", "decode_texts", "splits", "ways_to_get"]


@dataclass(frozen=True)
class Source:
    """Where one data set comes from, and what its tensors must look like."""

    hub_id: str
    column: str  # of the image or the text
    classes: tuple[str, ...]
    about: str
    shape: tuple[int, int, int] | None = None  # None: text
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    has_test: bool = True
    options: tuple[tuple[str, str], ...] = ()  # further arguments of load_dataset, for the Hub only


_DIGITS = tuple("0123456789")
_CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SOURCES = {
    "mnist": Source(
        "ylecun/mnist",
        "image",
        _DIGITS,
        "60,000/10,000 handwritten digits, 28x28 grey",
        (1, 28, 28),
        (0.1307,),
        (0.3081,),
    ),
    "fashion_mnist": Source(
        "zalando-datasets/fashion_mnist",
        "image",
        _CLOTHES,
        "60,000/10,000 pictures of clothes, 28x28 grey",
        (1, 28, 28),
        (0.2860,),
        (0.3530,),
    ),
    "cifar10": Source(
        "uoft-cs/cifar10",
        "img",
        _THINGS,
        "50,000/10,000 photographs, 32x32 colour",
        (3, 32, 32),
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
    "imdb": Source("stanfordnlp/imdb", "text", ("negative", "positive"), "25,000/25,000 film reviews"),
    # The Hub's own copy is a loading script, which `datasets` no longer runs; this branch is its Parquet twin.
    "financial_phrasebank": Source(
        "takala/financial_phrasebank",
        "sentence",
        ("negative", "neutral", "positive"),
        "4,846 sentences from financial news, no test part",
        has_test=False,
        options=(("data_dir", "sentences_50agree"), ("revision", "refs/convert/parquet")),
    ),
}


def ways_to_get(name: str, source: Source, folder: Path | None) -> tuple[str | Option, ...]:
    """How to get a data set that is not in the folder, or not on the Hub, for the end of an error's sentence."""
    revision = dict(source.options).get("revision")
    command = f"hf download {source.hub_id} --repo-type dataset" + (f" --revision {revision}" if revision else "")
    return (
        "either set HOLDFAST_DATA (or ",
        Option("data_dir"),
        f") to a folder that holds {name}/ as Parquet files ({command} --local-dir FOLDER/{name}), or "
        f"{'' if folder is None else 'unset it and '}run once with a connection to huggingface.co",
    )


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DependencyError('reading this data set needs the bench: pip install "holdfast[bench]"') from error
    return datasets


@contextlib.contextmanager
def splits(name: str, source: Source, folder: Path | None) -> Iterator[dict[str, Any]]:
    """The parts of a data set as the `datasets` library sees them, without its progress bars."""
    datasets = _datasets()
    silenced = not datasets.are_progress_bars_disabled()
    # From a folder, the library's own copy in Arrow is scratch: ours is the one that is kept.
    with tempfile.TemporaryDirectory() as scratch:
        if silenced:
            datasets.disable_progress_bars()
        # Its word on every attempt would bury the one sentence that says what to do.
        hub = logging.getLogger("huggingface_hub")
        level = hub.level
        hub.setLevel(logging.ERROR)
        try:
            if folder is not None:
                yield datasets.load_dataset(str(folder), cache_dir=scratch)
            else:
                yield datasets.load_dataset(source.hub_id, **dict(source.options))
        except DataError:
            raise
        except Exception as error:  # whatever kept the library from reading it, the way out is the same
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"the data set {name!r} could not be read from {folder or 'the Hugging Face Hub'} "
                f"({type(error).__name__}: {reason}): ",
                *ways_to_get(name, source, folder),
            ) from error
        finally:
            hub.setLevel(level)
            if silenced:
                datasets.enable_progress_bars()


def _part(name: str, source: Source, parts: dict[str, Any], part: str) -> tuple[Any, Tensor]:
    if part not in parts:
        raise DataError(f"the data set {name!r} has no part {part!r}; found {', '.join(parts)}")
    rows = parts[part]
    missing = {source.column, "label"} - set(rows.column_names)
    if missing:
        raise DataError(
            f"the data set {name!r} has no column {' or '.join(sorted(missing))}; found {', '.join(rows.column_names)}"
        )
    labels = torch.tensor(rows["label"][:], dtype=torch.int64)
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(source.classes):
        raise DataError(f"the data set {name!r} must have labels 0 to {len(source.classes) - 1} in part {part!r}")
    return rows[source.column], labels


def decode_images(name: str, source: Source, shape: tuple[int, int, int], parts: dict[str, Any]) -> dict[str, Tensor]:
    """Both parts as uint8 images of one shape, ``[N, C, H, W]``, and int64 labels ``[N]``."""
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    tensors: dict[str, Tensor] = {}
    for part in ("train", "test"):
        images, labels = _part(name, source, parts, part)
        pixels = bytearray()
        for image in images:
            if image.size != (width, height):
                raise DataError(
                    f"the data set {name!r} must have images of {width}x{height} pixels, "
                    f"found one of {image.size[0]}x{image.size[1]}"
                )
            pixels += image.convert(mode).tobytes()
        rows = torch.frombuffer(pixels, dtype=torch.uint8).view(-1, height, width, channels)
        tensors |= {f"{part}_x": rows.permute(0, 3, 1, 2).contiguous(), f"{part}_y": labels}
    return tensors


def decode_texts(name: str, source: Source, parts: dict[str, Any]) -> dict[str, Tensor]:
    """Both parts as one run of UTF-8 bytes, where each text ends in it, and int64 labels ``[N]``."""
    tensors: dict[str, Tensor] = {}
    for part in ("train", "test"):
        texts: Iterable[str]
        if part == "test" and not source.has_test:
            texts, labels = (), torch.empty(0, dtype=torch.int64)
        else:
            texts, labels = _part(name, source, parts, part)
        encoded = [text.encode() for text in texts]
        ends = torch.tensor([len(text) for text in encoded], dtype=torch.int64).cumsum(0)
        blob = bytearray(b"".join(encoded))
        # torch.frombuffer refuses an empty buffer
        utf8 = torch.frombuffer(blob, dtype=torch.uint8) if blob else torch.empty(0, dtype=torch.uint8)
        tensors |= {f"{part}_utf8": utf8, f"{part}_ends": ends, f"{part}_y": labels}
    return tensors
