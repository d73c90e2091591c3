"""Plain texts: one to go on with, in pieces, or a folder of them by class."""

from __future__ import annotations

from pathlib import Path

from holdfast.bench.data import by_class
from holdfast.bench.data.parts import Part, Samples, called, counted, in_order, listed
from holdfast.errors import DataError, Option

__all__ = ["ENDING", "read", "read_by_class"]

ENDING = ".txt"


def read(file: Path) -> Samples:
    """A text in pieces: paragraphs, with empty lines between them, or else lines.

    Raises:
        DataError: if it cannot be read, or is empty.
    """
    whole = _text(file)
    pieces = [part.strip() for part in whole.split("\n\n" if "\n\n" in whole else "\n") if part.strip()]
    if not pieces:
        raise DataError(f"{file} holds no text")
    names = [called(k, piece) for k, piece in enumerate(pieces, 1)]
    return Samples("language", {("", "all"): Part(pieces, [], names)})


def read_by_class(root: Path, *, skip_broken: bool) -> Samples:
    """Texts in files by class.

    Args:
        root: see `by_class.walk`.
        skip_broken: leave out what is no text, or empty.

    Raises:
        DataError: for a class without texts, or a file that is none.
    """
    leaves = by_class.walk(root, [ENDING], "text")
    found, broken = {}, list[str]()
    for key, pairs in leaves.parts.items():
        texts, labels, names = list[str](), list[str](), list[str]()
        for file, label in pairs:
            name = file.relative_to(root).as_posix()
            try:
                text = _text(file).strip()
                if not text:
                    raise DataError(f"{file} holds no text")
            except DataError as error:
                if not skip_broken:
                    raise DataError(*error.args, "; ", Option("skip_broken"), " leaves such out") from error
                broken.append(name)
                continue
            texts.append(text)
            labels.append(label)
            names.append(name)
        gone = next((label for _, label in pairs if label not in set(labels)), None)
        if gone is not None:
            raise DataError(f"the class {gone!r} of {root} has no text that can be read; expected one")
        found[key] = Part(texts, labels, names)
    left = list(leaves.beside)
    if broken:
        left.append(f"{counted(len(broken), 'text')} that cannot be read: {listed(broken)}")
    return Samples("texts", found, in_order(label for part in found.values() for label in part.labels), left_out=left)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text in UTF-8: byte {error.start} is {error.object[error.start]:#x}") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
