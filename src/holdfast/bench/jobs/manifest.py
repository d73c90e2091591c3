"""What was asked for, in ``checkpoints/manifest.json`` before anything is done, so that it can be gone on with.

It holds the words of the command. A command that is repeated goes on from where it stopped: records that are finished
are read, runs that were interrupted continue from their checkpoints. So ``holdfast resume`` repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast.bench.records.writing import write_whole
from holdfast.errors import StateError

__all__ = ["Manifest", "read", "write"]


class Manifest(BaseModel):
    """A command, and where it was given.

    ``words`` are what followed ``holdfast``; ``here`` is the folder in which it was typed, on which relative paths
    depend; ``folder`` is the folder of its results as the command had it.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    words: list[str]
    here: str
    folder: str

    def words_for(self, folder: Path) -> list[str]:
        """The command, for results that lie in a folder now.

        Args:
            folder: an absolute path; results may have been moved since.
        """
        if (Path(self.here) / self.folder).resolve() == folder.resolve():
            return list(self.words)
        return [*self.words, "--out", str(folder)]  # of an option given twice the last counts


def _path(folder: Path) -> Path:
    # Not beside the results: every JSON file there is a record.
    return folder / "checkpoints" / "manifest.json"


def write(folder: Path, words: Sequence[str]) -> None:
    """Write down that this command was given here, for results in a folder.

    Raises:
        StateError: if it cannot be written.
    """
    text = Manifest(words=list(words), here=str(Path.cwd()), folder=str(folder)).model_dump_json(indent=1)
    write_whole(_path(folder), text + "\n", "manifest")


def read(folder: Path) -> Manifest:
    """The command whose results lie in a folder.

    Raises:
        StateError: if there is none, or the file cannot be read.
    """
    path = _path(folder)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise StateError(f"{folder} holds nothing to resume: there is no {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise StateError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        found = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # ascii(): the file may be anything, and its bytes must not reach a terminal as control characters
        where = ascii(".".join(map(str, first["loc"])))[1:-1]
        raise StateError(f"{path} is not a manifest of holdfast (schema version 1): {where}: {first['msg']}") from error
    if found.words[:1] == ["resume"]:  # it would go round in circles
        raise StateError(f"{path} is not a manifest of holdfast: it asks to resume, not for a run or a comparison")
    return found
