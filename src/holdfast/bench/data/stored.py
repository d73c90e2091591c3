"""Data that the `datasets` library keeps: a folder that it saved, a named data set of the bench, an id of the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from holdfast.bench.data import columns, hub, named, tables
from holdfast.bench.data.columns import Meaning
from holdfast.bench.data.parts import PARTS, Key, Kind, Part, Samples
from holdfast.errors import DataError

__all__ = ["behind", "is_saved", "saved"]


def is_saved(folder: Path) -> bool:
    """Whether the library saved this folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def saved(folder: Path, told: Meaning, kind: Kind | None, *, skip_broken: bool) -> list[tuple[Key, Samples]]:
    """What the library saved in a folder.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        loaded = tables.datasets_library().load_from_disk(str(folder))
    except Exception as error:  # whatever keeps the library from reading it
        raise DataError(f"{folder} could not be read as datasets saved it: {_line(error)}") from error
    return _of(loaded, str(folder), told, kind, skip_broken)


def behind(
    name: str, told: Meaning, kind: Kind | None, *, skip_broken: bool, data_dir: Path | str | None
) -> list[tuple[Key, Samples]]:
    """What is behind a name: a named data set of the bench, or an id of the Hub; nothing if it is neither.

    Raises:
        DataError: if it cannot be read.
    """
    if name in named.names():
        images = named.load(name, data_dir=data_dir)
        halves = {"train": (images.train_x, images.train_y), "test": (images.test_x, images.test_y)}
        return [
            (("", part), _named("images", _Tensors(x), [images.class_names[k] for k in y.tolist()], images.class_names))
            for part, (x, y) in halves.items()
        ]
    if name in named.names(text=True):
        texts = named.load_text(name, data_dir=data_dir)
        written = {"train": (texts.train_texts, texts.train_y), "test": (texts.test_texts, texts.test_y)}
        found: list[tuple[Key, Samples]] = []
        for part, (lines, y) in written.items():
            if lines:
                kept = "train" if texts.test_texts else "all"
                labels = [] if kind == "language" else [texts.class_names[k] for k in y.tolist()]
                classes = () if kind == "language" else texts.class_names
                held = _named("language" if kind == "language" else "texts", lines, labels, classes)
                found.append((("", part if part == "test" else kept), held))
        return found
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or Path(name).parent.exists():
        return []
    library = tables.datasets_library()
    with hub.asked() as reached:
        try:
            loaded = library.load_dataset(name)
        except Exception as error:  # no such data set, a form that it cannot read
            why = _line(error) if reached else "the Hub cannot be reached"
            raise DataError(
                f"there is no folder or file {name}, and the Hub's data set of that id could not be read: {why}"
            ) from error
    return _of(loaded, name, told, kind, skip_broken)


def _named(kind: Kind, samples: Sequence[Any], labels: Sequence[str], classes: Sequence[str]) -> Samples:
    names = [f"row {k + 1}" for k in range(len(samples))]
    return Samples(kind, {("", "all"): Part(samples, labels, names)}, classes, True)


class _Tensors(Sequence[Any]):
    """Pixels as images.

    Args:
        pixels: uint8 ``[N, C, H, W]``.
    """

    def __init__(self, pixels: Tensor) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, place: Any) -> Any:
        from PIL import Image

        pixels = self._pixels[place].permute(1, 2, 0)
        return Image.fromarray((pixels[..., 0] if pixels.shape[2] == 1 else pixels).contiguous().numpy())


def _of(loaded: Any, what: str, told: Meaning, kind: Kind | None, skip_broken: bool) -> list[tuple[Key, Samples]]:
    if not isinstance(loaded, Mapping):
        return [(("", "all"), columns.read(tables.of_dataset(loaded, what), told, kind, skip_broken=skip_broken))]
    known = {name: PARTS.get(str(name).lower()) for name in loaded}
    chosen = {name: part for name, part in known.items() if part is not None}
    if not chosen and len(known) == 1:
        chosen = {name: "all" for name in known}
    if not chosen:
        raise DataError(f"{what} has the splits {', '.join(known)}; expected train, and validation or test")
    found = []
    for name, part in chosen.items():
        table = tables.of_dataset(loaded[name], f"{what} ({name})")
        found.append((("", part), columns.read(table, told, kind, skip_broken=skip_broken)))
    return found


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
