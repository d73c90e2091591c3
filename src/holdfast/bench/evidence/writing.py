"""Pages and pictures, from and to their files: none that is old stays, none that is somebody else's is touched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from holdfast.bench.evidence.page import MADE
from holdfast.bench.records.writing import write_whole
from holdfast.errors import StateError

__all__ = ["check", "write"]


def check(pages: Mapping[str, str], out: Path, folder: Path) -> None:
    """Refuse files that are not what the records give.

    Args:
        pages: what they give: path from the folder of the page that opens -> text.
        out: the page that opens.
        folder: of the records, for the error.

    Raises:
        StateError: naming the first file that is another, or is not made any more.
    """
    for name, text in pages.items():
        path = out.parent / name
        if not path.is_file() or path.read_bytes() != text.encode():
            raise StateError(f"{path} is not what the records in {folder} give: run 'holdfast results'")
    for path in _leftovers(pages, out):
        raise StateError(f"{path} is of records that {folder} no longer holds: run 'holdfast results'")


def write(pages: Mapping[str, str], out: Path) -> None:
    """Write every page and picture, each whole, and delete those of an earlier call that are not made any more.

    Args:
        pages: path from the folder of the page that opens -> text.
        out: the page that opens.

    Raises:
        StateError: if one cannot be written.
    """
    for name, text in pages.items():
        write_whole(out.parent / name, text, "page")
    for path in _leftovers(pages, out):
        path.unlink()


def _leftovers(pages: Mapping[str, str], out: Path) -> list[Path]:
    """Files that were made here, and are not any more."""
    there = sorted(path for end in ("md", "svg") for path in out.with_suffix("").glob(f"*.{end}"))
    others = [path for path in there if path.relative_to(out.parent).as_posix() not in pages]
    return [path for path in others if path.read_bytes().startswith(MADE.encode())]
