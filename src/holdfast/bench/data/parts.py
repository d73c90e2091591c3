"""Samples of one's own data, with their labels and what each is called: to train on, to choose by, to test."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch

from holdfast.bench.data.splitting import holdout
from holdfast.bench.records import seeding
from holdfast.errors import DataError

__all__ = [
    "PARTS",
    "Key",
    "Kind",
    "Part",
    "Samples",
    "called",
    "counted",
    "cut",
    "fingerprint",
    "in_order",
    "joined",
    "listed",
    "natural",
    "part_of",
    "some",
]

Kind: TypeAlias = Literal["images", "texts", "language", "answers", "features"]
"""What samples are: images or texts with a class, texts to go on with, prompts with an answer, rows of features."""

Key: TypeAlias = tuple[str, str]
"""A task, empty where there are none, and a part: ``train``, ``validation``, ``test``, or ``all`` for want of parts."""

PARTS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
         "dev": "validation", "test": "test", "testing": "test"}  # fmt: skip
"""What folders, files and splits are called -> which part that is."""


@dataclass(frozen=True, eq=False)
class Part:
    """Samples, their labels, and what they are called.

    Attributes:
        samples: images, texts, pairs of prompt and answer, or rows of features; images are read when they are asked
            for.
        labels: a class name for each; empty where there are none.
        names: a file, or a row and how it begins.
    """

    samples: Sequence[Any]
    labels: Sequence[str]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, eq=False)
class Samples:
    """What one source holds.

    Attributes:
        kind: what its samples are.
        parts: task and part -> samples.
        classes: in order; empty where there are no labels.
        ordered: whether the source says that order; else whole numbers go by value, names by letter.
        columns: of a table: what a column is used for -> its name.
        left_out: a sentence for each kind of thing that is not among the samples.
    """

    kind: Kind
    parts: Mapping[Key, Part]
    classes: Sequence[str] = ()
    ordered: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    left_out: Sequence[str] = ()


class _Chosen(Sequence[Any]):
    """Samples of one part or several, read when they are asked for."""

    def __init__(self, places: Sequence[tuple[Sequence[Any], int]]) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: Any) -> Any:
        samples, number = self._places[place]
        return samples[number]


def joined(*parts: Part) -> Part:
    """One part after the other."""
    if len(parts) == 1:
        return parts[0]
    places = [(part.samples, k) for part in parts for k in range(len(part))]
    labels = [label for part in parts for label in part.labels]
    return Part(_Chosen(places), labels, [name for part in parts for name in part.names])


def some(part: Part, places: Sequence[int]) -> Part:
    """The samples at some places of a part."""
    labels = [part.labels[k] for k in places] if part.labels else []
    return Part(_Chosen([(part.samples, k) for k in places]), labels, [part.names[k] for k in places])


def cut(part: Part, fraction: float, *, seed: int, what: str, least: int = 2) -> tuple[Part, Part]:
    """A part in two, the same share of every class in each and at least one sample, by the seed alone.

    Args:
        part: the samples.
        fraction: the share of the second.
        seed: draws which.
        what: what the data are called, for errors.
        least: how many samples a class needs.

    Raises:
        DataError: naming a class that has too few samples.
    """
    known = in_order(part.labels) if part.labels else [""]
    place = {label: number for number, label in enumerate(known)}
    numbers = torch.tensor([place[label] for label in part.labels] if part.labels else [0] * len(part))
    for label, number in place.items():
        count = int((numbers == number).sum())
        if count < least:
            named = f"the class {label!r} of {what}" if part.labels else what
            raise DataError(
                f"{named} has {count} sample{'s' * (count != 1)}; expected at least {least}, so that some can be set "
                "aside"
            )
    kept, held = holdout(numbers, fraction, seeding.generator(seed, "held out"))
    return some(part, kept.tolist()), some(part, held.tolist())


def fingerprint(part: Part) -> str:
    """What tells these samples from any others: all their names and labels, and what a few of them are.

    Args:
        part: of images or texts.
    """
    found = hashlib.sha256(json.dumps([[str(name) for name in part.names], list(part.labels)]).encode())
    for place in range(0, len(part), max(1, len(part) // 8)):
        sample = part.samples[place]
        found.update(sample.encode() if isinstance(sample, str) else sample.tobytes())
    return found.hexdigest()[:16]


def part_of(name: str) -> str | None:
    """Which part a file is, by how its name begins; ``None``: its name does not say.

    Example:
        >>> part_of("train-00000-of-00002"), part_of("test"), part_of("reviews")
        ('train', 'test', None)
    """
    return PARTS.get(re.split(r"[-_. ]", name.lower(), maxsplit=1)[0])


def natural(name: str) -> list[Any]:
    """What names are sorted by so that ``task-2`` comes before ``task-10``."""
    return [int(piece) if piece.isdecimal() else piece.lower() for piece in re.split(r"(\d+)", name)]


def in_order(labels: Iterable[str]) -> list[str]:
    """Labels, each once, in their order: whole numbers by value, names by letter.

    Example:
        >>> in_order(["10", "9", "9"]), in_order(["dog", "cat"])
        (['9', '10'], ['cat', 'dog'])
    """
    found = set(labels)
    if all(re.fullmatch(r"-?\d+", label) for label in found):
        return sorted(found, key=lambda label: (int(label), label))
    return sorted(found)


def called(row: int, text: str = "", most: int = 120) -> str:
    """What a row is called: its number, and how it begins.

    Example:
        >>> called(3, "a fine  film")
        '3: a fine film'
    """
    line = " ".join(text.split())
    return f"{row}: {line if len(line) <= most else line[: most - 1] + '…'}" if line else f"row {row}"


def counted(count: int, what: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{count:,} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"


def listed(names: Sequence[object], most: int = 5) -> str:
    """The first few of some names."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
