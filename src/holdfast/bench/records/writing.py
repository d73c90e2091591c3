"""Text files that are at every moment either the old one or the whole new one."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.files import write_file

__all__ = ["write_whole"]


def write_whole(path: str | os.PathLike[str], text: str, kind: str) -> Path:
    """Write a text file so that it is at every moment either the old one or the whole new one.

    Args:
        path: the file; its folder is created where it is missing.
        text: all of its contents.
        kind: what the file is, in a word, for the error.

    Returns:
        The path that was written.

    Raises:
        StateError: if the folder or the file cannot be written.
    """
    return write_file(path, lambda file: file.write(text.encode()), what=kind)
