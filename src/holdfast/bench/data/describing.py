"""What was found of one's own data, in words and counts, before anything is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.bench.data.found import SHOWN, Found
from holdfast.bench.data.parts import counted

__all__ = ["Counts", "by_class", "by_task", "headline"]

_PARTS = ("all", "train", "validation", "test")


@dataclass(frozen=True)
class Counts:
    """A table of counts.

    Attributes:
        headers: of its columns.
        rows: a name, then a count for each part.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def headline(there: Found) -> str:
    """What it is, in a sentence."""
    count = sum(len(part) for task in there.tasks for part in task.parts.values())
    what = [counted(count, "sample")]
    if there.classes:
        what.append(counted(len(there.classes), "class"))
    if there.has_tasks:
        what.append(counted(len(there.tasks), "task"))
    used = ", ".join(f"{use} from {name!r}" for use, name in there.columns.items())
    return f"{there.place}: {SHOWN[there.kind]}; {', '.join(what)}{f' ({used})' if used else ''}."


def by_class(there: Found, most: int = 40) -> Counts:
    """How many samples each class has in each part; of very many classes, the first."""
    parts = there.parts()
    names = [name for name in _PARTS if name in parts]
    found = {name: Counter(parts[name].labels) for name in names}
    rows = [(each, *(f"{found[name][each]:,}" for name in names)) for each in there.classes[:most]]
    if len(there.classes) > most:
        rows.append((f"and {len(there.classes) - most:,} more", *("" for _ in names)))
    return _shown("Class", names, rows)


def by_task(there: Found, most: int = 40) -> Counts:
    """Likewise each task, with its classes."""
    names = [name for name in _PARTS if any(name in task.parts for task in there.tasks)]
    rows = []
    for task in there.tasks[:most]:
        classes = [str(len({label for part in task.parts.values() for label in part.labels}))] if there.classes else []
        counts = (f"{len(task.parts[name]):,}" if name in task.parts else "0" for name in names)
        rows.append((task.name or "all", *classes, *counts))
    return _shown("Task", [*(["classes"] if there.classes else []), *names], rows)


def _shown(first: str, names: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Counts:
    called = {"all": "samples"}
    return Counts((first, *(called.get(name, name) for name in names)), tuple(rows))
