"""Files in folders by class, with parts above the classes, or tasks: which file is what, by where it lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.bench.data.parts import PARTS, Key, counted, natural
from holdfast.errors import DataError

__all__ = ["Leaves", "entries", "first_below", "folders_in", "walk"]


@dataclass(frozen=True)
class Leaves:
    """What was found on the way down.

    Attributes:
        parts: task and part -> files with their class.
        beside: what lies where nothing was looked for, a sentence each.
    """

    parts: dict[Key, list[tuple[Path, str]]] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)


def walk(root: Path, endings: Sequence[str], what: str) -> Leaves:
    """Every file below a folder, by task, part and class.

    Args:
        root: the folder.
        endings: of the files.
        what: one of them is called, such as ``image``.

    Raises:
        DataError: for a folder that cannot be read, a class without files, or levels that are mixed.
    """
    found = Leaves()
    _Walk(root, tuple(endings), what, found).down(root, "", "all")
    return found


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, but what is hidden, in natural order.

    Raises:
        DataError: if it may not be read.
    """
    try:
        found = [each for each in folder.iterdir() if not each.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror or error}") from error
    return sorted(found, key=lambda each: natural(each.name))


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder."""
    return [each for each in entries(folder) if each.is_dir()]


def first_below(folder: Path, endings: Sequence[str]) -> Path | None:
    """A file of one of these endings, at any depth below the folder itself."""
    return next((file for inner in folders_in(folder) for file in _below(inner, tuple(endings))), None)


def _below(folder: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    yield from _files(folder, endings)
    for inner in folders_in(folder):
        yield from _below(inner, endings)


def _files(folder: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    return (file for file in entries(folder) if file.suffix.lower() in endings and file.is_file())


@dataclass(frozen=True)
class _Walk:
    root: Path
    endings: tuple[str, ...]
    what: str
    found: Leaves

    def down(self, folder: Path, task: str, part: str) -> None:
        """Go down to the classes: a level is one of parts, of tasks or of classes."""
        inner = folders_in(folder)
        ending = self.endings[0]
        if not inner:
            raise DataError(
                f"{folder} has no folders; expected one for each class, with its {self.what}s: "
                f"{folder.name}/class/1{ending}"
            )
        stray = list(_files(folder, self.endings))
        if stray:
            first = stray[0].relative_to(self.root).as_posix()
            self.found.beside.append(f"{counted(len(stray), self.what)} in no class's folder: {first}")
        parts = [PARTS.get(each.name.lower()) for each in inner]
        full = any(self._holds(each) for each in inner)
        if part == "all" and any(parts) and not full:
            odd = next((each for each, known in zip(inner, parts, strict=True) if known is None), None)
            if odd is not None:
                raise DataError(f"{odd} lies beside train and test; expected parts alone: train, validation, test")
            for each, known in zip(inner, parts, strict=True):
                self.down(each, task, str(known))
        elif not full and not task and any(folders_in(each) for each in inner):
            for each in inner:
                self.down(each, each.name, part)
        else:
            self._classes(inner, task, part)

    def _holds(self, folder: Path) -> bool:
        return next(_files(folder, self.endings), None) is not None

    def _classes(self, inner: Sequence[Path], task: str, part: str) -> None:
        mine = self.found.parts.setdefault((task, part), [])
        for folder in inner:
            files = list(_files(folder, self.endings))
            if not files:
                raise DataError(
                    f"{folder} holds no {self.what}; expected files such as {folder.name}/1{self.endings[0]}, or no "
                    "such folder"
                )
            deeper = next((each for each in folders_in(folder) if self._holds(each)), None)
            if deeper is not None:
                raise DataError(
                    f"{folder} holds {self.what}s, and so does {deeper.name} in it; expected all {self.what}s of a "
                    "class in its folder"
                )
            mine.extend((file, folder.name) for file in files)
