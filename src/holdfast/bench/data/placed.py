"""Streams whose name lists data sets by path: ``lm-sequence-A-B-…`` of texts, ``instruct-A-B-…`` of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.bench.data import named
from holdfast.bench.data.parts import Kind, listed
from holdfast.errors import ConfigurationError

__all__ = ["Placed", "read"]

_KINDS: dict[str, Kind] = {"lm-sequence": "language", "instruct": "answers"}


@dataclass(frozen=True)
class Placed:
    """What such a name says: the kind of stream, what its data sets hold, and where they are."""

    family: str
    kind: Kind
    places: tuple[str, ...]


def read(name: str) -> Placed | None:
    """A stream's name with paths in it, read; ``None``: it is none, or names known data sets alone.

    Paths have hyphens of their own: the name is cut so that each part is a file, a folder, or a known data set.

    Raises:
        ConfigurationError: if it can be cut in several ways, or a part of it is nothing of the kind.
    """
    for family, kind in _KINDS.items():
        if name.startswith(f"{family}-"):
            known = [*named.names(text=True)] if kind == "language" else []
            pieces = name.removeprefix(f"{family}-").split("-")
            *before, ways = _ways(pieces, known)
            if len(ways) > 1:
                shown = " or ".join(listed(way, 9) for way in ways)
                raise ConfigurationError(f"{name!r} can be read as {shown}; expected a name that says which: ./PATH")
            if ways:
                return None if set(ways[0]) <= set(known) else Placed(family, kind, ways[0])
            if not Path(name).exists():
                rest = "-".join(pieces[max(place for place, found in enumerate(before) if found) :])
                there = f", and none of the data sets {', '.join(known)}" if known else ""
                raise ConfigurationError(f"the stream {name!r} has {rest!r}, which is no file or folder{there}")
    return None


def _ways(pieces: Sequence[str], known: Sequence[str]) -> list[list[tuple[str, ...]]]:
    """Every way to join the first so many pieces to names of data sets, at most two for each number."""
    found: list[list[tuple[str, ...]]] = [[()]]
    there = {}
    for end in range(1, len(pieces) + 1):
        ways = []
        for start in range(end):
            if not found[start]:
                continue
            part = "-".join(pieces[start:end])
            if part not in there:
                there[part] = part in known or (bool(part) and Path(part).exists())
            if there[part]:
                ways += [(*way, part) for way in found[start]]
        found.append(ways[:2])
    return found
