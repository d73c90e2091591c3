"""Which reader reads what lies at a place: by what it is, never by what the user has to say."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from holdfast.bench.data import by_class, columns, features, own, pictures, placed, plain, stored, tables
from holdfast.bench.data.columns import Meaning
from holdfast.bench.data.parts import Key, Kind, Samples, listed, part_of
from holdfast.errors import DataError

__all__ = ["is_place", "sources"]

_FILES = (*tables.ENDINGS, *features.ENDINGS, plain.ENDING)


def is_place(name: str) -> bool:
    """Whether a word is the path of one's own data, and not the name of a stream; one that could be both is a name.

    Example:
        >>> is_place("split-mnist"), is_place("./split-mnist"), is_place("reviews.csv")
        (False, True, True)
    """
    if own.is_named(name):
        return False
    if placed.read(name) is not None:
        return True
    return "/" in name or os.sep in name or Path(name).suffix.lower() in _FILES or Path(name).expanduser().exists()


def sources(
    place: str,
    told: Meaning,
    kind: Kind | None,
    *,
    skip_broken: bool,
    data_dir: Path | str | None,
    cache_dir: Path | str | None,
) -> list[tuple[Key, Samples]]:
    """Everything at a place; arguments and errors as for `found.read`.

    Returns:
        Which task and part a source is, as far as its name says, and what it holds.
    """
    path = Path(place).expanduser()
    reader = _Reader(told, kind, skip_broken, cache_dir)
    if path.is_dir():
        return reader.folder(path)
    if path.exists():
        return [(("", "all"), reader.file(path))]
    found = stored.behind(place, told, kind, skip_broken=skip_broken, data_dir=data_dir)
    if not found:
        raise _missing(place, path)
    return found


def _missing(place: str, path: Path) -> DataError:
    """There is nothing of that name; naming what is nearly called so."""
    parent = path.parent
    near: list[str] = []
    if parent.is_dir():
        near = difflib.get_close_matches(path.name, [each.name for each in by_class.entries(parent)], n=3, cutoff=0.5)
        end = (
            f"the nearest there are {listed(near)}"
            if near
            else "expected a folder of images by class, a table or a text"
        )
    else:
        end = f"nor is there a folder {parent}"
    return DataError(f"there is no {place}; {end}")


class _Reader:
    """What was asked for, beside the place."""

    def __init__(self, told: Meaning, kind: Kind | None, skip_broken: bool, cache_dir: Path | str | None) -> None:
        self._told, self._kind, self._skip, self._cache = told, kind, skip_broken, cache_dir

    def file(self, file: Path) -> Samples:
        """What a file holds."""
        ending = file.suffix.lower()
        if self._kind == "images" and ending != ".parquet":
            raise DataError(f"{file} is a file; expected a folder of images by class: FOLDER/class/image.png")
        if ending in tables.ENDINGS:
            table = tables.read(file, skip_broken=self._skip)
            return columns.read(table, self._told, self._kind, skip_broken=self._skip)
        if ending in features.ENDINGS:
            return features.read(file)
        if ending == plain.ENDING:
            if self._kind == "texts":
                raise DataError(f"{file} is a text without labels; expected a table with columns for text and label")
            return plain.read(file)
        raise DataError(
            f"{file} is a {ending or 'file without an ending'}; expected csv, jsonl, parquet or txt, "
            "or features in safetensors or npz"
        )

    def folder(self, folder: Path) -> list[tuple[Key, Samples]]:
        """What a folder holds."""
        if stored.is_saved(folder):
            return stored.saved(folder, self._told, self._kind, skip_broken=self._skip)
        files = [file for file in by_class.entries(folder) if file.is_file() and file.suffix.lower() in _FILES]
        if by_class.first_below(folder, pictures.ENDINGS) is not None:
            found = pictures.read(folder, skip_broken=self._skip, cache_dir=self._cache)
            return [(("", "all"), _beside(found, files))]
        if files:
            return self._files(folder, files)
        inner = by_class.folders_in(folder)
        if by_class.first_below(folder, (plain.ENDING,)) is not None and self._kind in (None, "texts"):
            return [(("", "all"), plain.read_by_class(folder, skip_broken=self._skip))]
        if inner and by_class.first_below(folder, _FILES) is not None:
            if len(inner) == 1:  # as the Hub keeps them: NAME/train-00000-of-00001.parquet
                return self.folder(inner[0])
            return [((each.name, part), samples) for each in inner for (_, part), samples in self.folder(each)]
        pictured = any(file.suffix.lower() in pictures.ENDINGS for file in by_class.entries(folder))
        if inner or pictured or self._kind == "images":
            return [(("", "all"), pictures.read(folder, skip_broken=self._skip, cache_dir=self._cache))]
        raise DataError(
            f"{folder} holds neither tables (csv, jsonl, parquet), texts, images by class, features nor what datasets "
            "saved; expected one"
        )

    def _files(self, folder: Path, files: list[Path]) -> list[tuple[Key, Samples]]:
        """Files in one folder: of parts, of tasks, or one; several texts are one text."""
        if len(files) == 1:
            return [(("", part_of(files[0].stem) or "all"), self.file(files[0]))]
        if all(re.match(r"task[-_ ]?\d", file.stem.lower()) for file in files):
            return [((file.stem, "all"), self.file(file)) for file in files]
        parts = {file: part_of(file.stem) for file in files}
        known = {file: part for file, part in parts.items() if part is not None}
        if not known and all(file.suffix.lower() == plain.ENDING for file in files):
            return [(("", "all"), self.file(file)) for file in files]
        if not known:
            raise DataError(
                f"{folder} holds {listed([file.name for file in files], 4)}; expected one file, or files called train, "
                "validation and test"
            )
        found = [(("", part), self.file(file)) for file, part in known.items()]
        first = found[0][1]
        return [(found[0][0], _beside(first, [file for file in files if file not in known])), *found[1:]]


def _beside(samples: Samples, files: list[Path]) -> Samples:
    """The same, with files that are not read among what was left out."""
    if not files:
        return samples
    line = f"{listed([file.name for file in files])}: beside what was read"
    return Samples(
        samples.kind, samples.parts, samples.classes, samples.ordered, samples.columns, [*samples.left_out, line]
    )
