"""What the columns of a table mean: texts, labels, tasks, parts; by their names, or as they were told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.bench.data.parts import PARTS, Key, Kind, Part, Samples, called, counted, in_order, listed
from holdfast.bench.data.tables import Table
from holdfast.errors import DataError, Option

__all__ = ["Meaning", "read"]

_TEXTS = ("text", "sentence", "content", "review", "document", "body", "message")
_LABELS = ("label", "labels", "class", "category", "target", "y", "sentiment")
_TASKS = ("task", "task_id", "task-id", "domain")
_SPLITS = ("split", "part", "partition", "subset")
_PAIRS = (("prompt", "answer"), ("prompt", "response"), ("prompt", "completion"), ("question", "answer"),
          ("instruction", "response"), ("instruction", "output"))  # fmt: skip


@dataclass(frozen=True)
class Meaning:
    """Which column is what, as the user said, or as the names say.

    Attributes:
        text: the column of texts, or of images.
        label: the column of labels.
        task: the column of tasks; ``None``: there is none.
    """

    text: str | None = None
    label: str | None = None
    task: str | None = None


def read(table: Table, told: Meaning, kind: Kind | None, *, skip_broken: bool) -> Samples:
    """The samples of a table.

    Args:
        table: its rows.
        told: the columns that the user named.
        kind: what the samples have to be; ``None``: what the columns say.
        skip_broken: leave out rows without a text or a label.

    Raises:
        DataError: for a missing column, naming those there are, or a row without a text or label.
    """
    found, samples, used = _samples(table, told, kind)
    labels = _names(table, used["label"]) if "label" in used else None
    empty = [] if found == "images" else [k for k, value in enumerate(samples) if not _is_text(value)]
    without = [] if labels is None else [k for k, value in enumerate(labels) if value is None]
    text = " or ".join(repr(name) for use, name in used.items() if use in ("text", "prompt", "answer"))
    for places, lacks in ((empty, f"text in {text}"), (without, f"label in {used.get('label')!r}")):
        if places and not skip_broken:
            raise DataError(
                f"row {table.numbers[places[0]]} of {table.what} has no {lacks}; ", Option("skip_broken"),
                " leaves such out",
            )  # fmt: skip
    tasks, splits = _tasks(table, told.task, used), _splits(table, used)
    bad = {*empty, *without}
    what = "a text" if labels is None else "a text or a label"
    rows: dict[Key, list[int]] = {}
    for k in range(len(table)):
        if k not in bad:
            rows.setdefault((tasks[k] if tasks else "", splits[k] if splits else "all"), []).append(k)
    if not rows:
        raise DataError(f"{table.what} has no row that is not without {what}; expected one for each sample")
    left = [*table.left_out]
    if bad:
        numbers = [table.numbers[k] for k in sorted(bad)]
        left.append(f"{counted(len(bad), 'row')} without {what}: {listed(numbers)}")
    known = table.classes.get(used.get("label", ""))
    there = [] if labels is None else [str(labels[k]) for mine in rows.values() for k in mine]
    classes = in_order(there) if known is None else [name for name in known if name in set(there)]
    parts = {key: _part(table, samples, labels, mine) for key, mine in rows.items()}
    return Samples(found, parts, classes, known is not None, used, left)


def _samples(table: Table, told: Meaning, kind: Kind | None) -> tuple[Kind, Sequence[Any], dict[str, str]]:
    """What the samples are, themselves, and the columns that they and their labels come from."""
    columns = list(table.columns)
    pair = _pair(columns) if told == Meaning(task=told.task) and kind in (None, "language", "answers") else None
    if pair is not None:
        both = list(zip(*(table.columns[name][:] for name in pair), strict=True))
        used = dict(zip(("prompt", "answer"), pair, strict=True))
        if kind == "language":  # all of it is to be gone on with, the answer after its prompt
            return kind, ["\n".join(each) if _is_text(each) else None for each in both], used
        return "answers", both, used
    if kind == "answers":
        raise DataError(f"{table.what} has columns {', '.join(columns)}; expected prompt and answer")
    if table.images and told.text in (None, *table.images) and kind in (None, "images"):
        image = told.text or table.images[0]
        return "images", table.columns[image], {"image": image, "label": _column(table, told.label, _LABELS, "label")}
    if kind == "images":
        raise DataError(f"{table.what} has columns {', '.join(columns)}, none of which holds images; expected one")
    used = {"text": _column(table, told.text, _TEXTS, "text")}
    samples = table.columns[used["text"]][:]
    _check_texts(table, used["text"], samples)
    if kind == "language" or (kind is None and told.label is None and _usual(columns, _LABELS) is None):
        return "language", samples, used
    return "texts", samples, {**used, "label": _column(table, told.label, _LABELS, "label")}


class _Rows(Sequence[Any]):
    """Some rows of a column, read when they are asked for."""

    def __init__(self, column: Sequence[Any], rows: Sequence[int]) -> None:
        self._column, self._rows = column, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._column[self._rows[place]]


def _part(table: Table, samples: Sequence[Any], labels: Sequence[str | None] | None, rows: Sequence[int]) -> Part:
    chosen: Sequence[Any] = [samples[k] for k in rows] if isinstance(samples, list) else _Rows(samples, rows)
    beginnings = [""] * len(rows)
    if isinstance(chosen, list):
        beginnings = [value[0] if isinstance(value, tuple) else value for value in chosen]
    names = [called(table.numbers[k], text) for k, text in zip(rows, beginnings, strict=True)]
    return Part(chosen, [] if labels is None else [str(labels[k]) for k in rows], names)


def _is_text(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_text, value))
    return isinstance(value, str) and bool(value.strip())


def _check_texts(table: Table, column: str, values: Sequence[Any]) -> None:
    """Refuse a column in which no value is a text."""
    some = next((value for value in values if value is not None), None)
    if some is not None and not any(isinstance(value, str) for value in values):
        raise DataError(f"the column {column!r} of {table.what} holds {_short(some)}; expected texts")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _usual(columns: Sequence[str], usual: Sequence[str]) -> str | None:
    lower = {column.lower(): column for column in reversed(columns)}
    return next((lower[name] for name in usual if name in lower), None)


def _pair(columns: Sequence[str]) -> tuple[str, str] | None:
    if _usual(columns, _LABELS) is not None:
        return None
    for one, two in _PAIRS:
        first, second = _usual(columns, [one]), _usual(columns, [two])
        if first is not None and second is not None:
            return first, second
    return None


def _column(table: Table, asked: str | None, usual: Sequence[str], option: str) -> str:
    """The column that was asked for, or the one whose name says what it is.

    Raises:
        DataError: if there is none; naming those there are.
    """
    columns = ", ".join(table.columns)
    if asked is not None:
        if asked not in table.columns:
            raise DataError(f"{table.what} has no column {asked!r}; it has {columns}")
        return asked
    found = _usual(list(table.columns), usual)
    if found is None:
        raise DataError(
            f"{table.what} has columns {columns}, none of which is called {', '.join(usual[:3])} or the like: say "
            "which with ", Option(option),
        )  # fmt: skip
    return found


def _names(table: Table, column: str) -> list[str | None]:
    """Each row's class as a name; ``None`` where there is none.

    Raises:
        DataError: for numbers with a fraction, or what is no name at all.
    """
    values = table.columns[column][:]
    known = table.classes.get(column)
    if known is not None:
        return [known[value] if value is not None and 0 <= value < len(known) else None for value in values]
    odd: Any = next((value for value in values if isinstance(value, list | dict | bytes)), None)
    if odd is None:
        there = [value for value in values if value is not None]
        floats: list[Any] = [value for value in there if isinstance(value, float)]
        if all(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", str(value).strip()) for value in there):
            floats += [value for value in there if not re.fullmatch(r"[-+]?\d+", str(value).strip())]
        odd = floats[0] if floats else None
    if odd is not None:
        raise DataError(
            f"the column {column!r} of {table.what} holds {_short(odd)}; expected names or whole numbers of classes"
        )
    return [None if value is None or not str(value).strip() else str(value).strip() for value in values]


def _tasks(table: Table, asked: str | None, used: dict[str, str]) -> list[str]:
    """Each row's task; empty where there is no such column.

    Raises:
        DataError: for a row without one.
    """
    column = _column(table, asked, (), "task") if asked is not None else _usual(list(table.columns), _TASKS)
    if column is None or (asked is None and column in used.values()):
        return []
    values = table.columns[column][:]
    known = table.classes.get(column)
    missing = next((k for k, value in enumerate(values) if value is None or not str(value).strip()), None)
    if missing is not None:
        raise DataError(f"row {table.numbers[missing]} of {table.what} has no task in {column!r}")
    used["task"] = column
    return [known[value] if known is not None else str(value).strip() for value in values]


def _splits(table: Table, used: dict[str, str]) -> list[str]:
    """Each row's part, where a column of that name says nothing else; empty otherwise."""
    column = _usual(list(table.columns), _SPLITS)
    if column is None or column in used.values():
        return []
    values = [PARTS.get(str(value).strip().lower()) for value in table.columns[column][:]]
    if any(value is None for value in values):
        return []
    used["part"] = column
    return [str(value) for value in values]
