"""Many records at once: list, filter, sort and compare them without reading more of each than its row needs.

A record is written with one line per field, so the few lines that a row needs are parsed and the curves and
diagnoses, most of the file, are not. A file in any other layout is parsed whole.
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from holdfast import metrics
from holdfast.checks import unknown_name
from holdfast.errors import ConfigurationError, HoldfastError, Option, StateError

__all__ = ["COLUMNS", "Condition", "Group", "Row", "grouped", "parse_where", "read", "select", "sort"]

Cell: TypeAlias = "str | float | int | bool | None"

COLUMNS = ("stream", "scenario", "method", "seed", "hyperparameters", "accuracy", "forgetting", "status", "date")
"""What is shown of a record, in this order; ``accuracy`` and ``forgetting`` are fractions."""

# What a row is made of, as its lines begin; they stand at the beginning of a record, the long fields after them.
_LINES = {f'"{name}"'.encode(): name for name in ("status", "config", "environment", "matrix")}
_ENOUGH = 8192
_JSON: TypeAdapter[Any] = TypeAdapter(Any)


@dataclass(frozen=True)
class Row:
    """One record.

    Attributes:
        cells: column -> value; also every scalar field of the configuration and every hyperparameter by its own name.
        path: its file.
    """

    cells: Mapping[str, Cell]
    path: Path

    def __getitem__(self, column: str) -> Cell:
        """The value in a column; ``None`` where this record has none."""
        return self.cells.get(column)


def read(folder: Path, *, trials: bool = False, skipped: list[str] | None = None) -> list[Row]:
    """Every record below a folder, in the order of the paths.

    Args:
        folder: of records, of one comparison, or of many.
        trials: also the runs of searches, which saw validation data only.
        skipped: is given a sentence for each file that is not a record; ``None``: the first such file is an error.

    Raises:
        StateError: if the folder is missing, or a file in it is not a record.
    """
    if not folder.is_dir():
        raise StateError(f"{folder} is not a folder of records")
    found = []
    for path in _files(str(folder), trials):
        try:
            found.append(_row(path))
        except StateError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
    return found


def _files(folder: str, trials: bool) -> Iterator[str]:
    """JSON files of the folder itself, and of every folder of records below it, sorted."""
    for where, folders, names in os.walk(folder):
        folders.sort()
        kind = os.path.basename(where)
        if where == folder or kind == "records" or (trials and kind == "choices"):
            yield from (os.path.join(where, name) for name in sorted(names) if name.endswith(".json"))


def _row(path: str) -> Row:
    try:
        with open(path, "rb", buffering=0) as file:
            text = file.read(_ENOUGH)
            fields = _first_fields(text)
            rest = file.readall() if fields is None else b""
    except OSError as error:
        raise StateError(f"cannot read the record {path}: {error.strerror or error}") from error
    try:
        return Row(_cells(fields or _JSON.validate_json(text + rest)), Path(path))
    except (ValidationError, KeyError, TypeError, AttributeError, ValueError, HoldfastError) as error:
        raise StateError(f"{path} is not a holdfast record") from error


def _first_fields(text: bytes) -> Mapping[str, Any] | None:
    """The fields of a row, if they all stand in whole lines of the beginning of a file."""
    found = {}
    for line in text.split(b"\n")[:-1]:
        key, _, value = line.partition(b": ")
        if key in _LINES:
            try:
                found[_LINES[key]] = _JSON.validate_json(value.rstrip(b","))
            except ValidationError:
                return None
    return found if len(found) == len(_LINES) else None


def _cells(fields: Mapping[str, Any]) -> dict[str, Cell]:
    config, matrix = fields["config"], fields["matrix"]
    chosen = config["hyperparameters"]
    cells: dict[str, Cell] = {key: chosen[key]["value"] for key in chosen}
    cells.update((key, value) for key, value in config.items() if not isinstance(value, dict | list))
    cells["hyperparameters"] = " ".join(
        f"{key}={_short(one['value'])}" for key, one in chosen.items() if one["source"] != "default"
    )
    cells["accuracy"] = metrics.average_accuracy(matrix) if matrix else None
    cells["forgetting"] = metrics.forgetting(matrix) if matrix else None
    cells["status"] = fields["status"]
    cells["date"] = fields["environment"]["date"]
    if any(name not in cells for name in ("stream", "scenario", "method", "seed")):
        raise KeyError("stream")
    return cells


def _short(value: Cell) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if value is True else str(value)


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "~": lambda cell, text: str(text).lower() in str(cell).lower(),
}
_CONDITION = re.compile(r"\s*([\w.-]+)\s*(<=|>=|!=|==?|<|>|~)\s*([^\s=<>~!].*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """A column, a comparison and a value: what ``--where`` is made of. Nothing of it is ever evaluated as code."""

    column: str
    sign: str
    value: str

    def holds(self, row: Row) -> bool:
        """Whether a record satisfies it: by number where both sides are numbers, else by text.

        A record without that column satisfies ``!=`` only.
        """
        cell = row[self.column]
        if cell is None:
            return self.sign == "!="
        compare = _OPERATORS[self.sign]
        number = _number(self.value)
        if self.sign != "~" and number is not None and isinstance(cell, int | float) and not isinstance(cell, bool):
            return compare(float(cell), number)
        return compare(_text(cell), self.value.lower())


def _text(cell: Cell) -> str:
    return str(cell).lower()


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def parse_where(texts: Iterable[str]) -> list[Condition]:
    """``COLUMN SIGN VALUE`` texts, which must all hold; several may be joined by ``and``.

    Args:
        texts: as typed, such as ``method = ewc and accuracy > 0.9``; signs are ``= != < <= > >= ~`` (contains).

    Raises:
        ConfigurationError: for a text of another form.
    """
    found = []
    for text in texts:
        for part in re.split(r"\s+and\s+", text.strip(), flags=re.IGNORECASE):
            match = _CONDITION.fullmatch(part)
            if match is None:
                raise ConfigurationError(
                    Option("where"),
                    f" has {part!r}; expected COLUMN SIGN VALUE with a sign of {' '.join(_OPERATORS)}, such as "
                    "'method = ewc'",
                )
            value = match[3]
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            found.append(Condition(match[1], "=" if match[2] == "==" else match[2], value))
    return found


def _known(rows: Sequence[Row], column: str) -> None:
    if column not in COLUMNS and not any(column in row.cells for row in rows):
        names = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row.cells)])
        raise unknown_name("column", column, names)


def select(rows: Sequence[Row], conditions: Iterable[Condition]) -> list[Row]:
    """The records that satisfy every condition.

    Raises:
        ConfigurationError: for a column that no record has.
    """
    kept = list(rows)
    for condition in conditions:
        if rows:
            _known(rows, condition.column)
        kept = [row for row in kept if condition.holds(row)]
    return kept


def sort(rows: Sequence[Row], keys: Iterable[str]) -> list[Row]:
    """Sorted by columns, the first counting most; ``-COLUMN`` for descending; empty cells last either way.

    Raises:
        ConfigurationError: for a column that no record has.
    """
    found = list(rows)
    for key in reversed(list(keys)):
        column, descending = key.removeprefix("-"), key.startswith("-")
        if rows:
            _known(rows, column)
        full = [row for row in found if row[column] is not None]
        full.sort(key=lambda row, c=column: _order(row[c]), reverse=descending)  # type: ignore[misc]  # a bound default
        found = full + [row for row in found if row[column] is None]
    return found


def _order(cell: Cell) -> tuple[int, float, str]:
    return (0, float(cell), "") if isinstance(cell, int | float) else (1, 0.0, str(cell))


@dataclass(frozen=True)
class Group:
    """Records that differ in their seeds only.

    Attributes:
        stream: of all.
        scenario: of all.
        method: of all.
        hyperparameters: of all, those that are not defaults.
        seeds: how many finished records.
        failed: how many others.
        accuracy: mean, and half-width of the 95 % interval (``None`` for one seed); ``None`` where all failed.
        forgetting: likewise; ``None`` also where the method learns all tasks at once.
    """

    stream: str
    scenario: str
    method: str
    hyperparameters: str
    seeds: int
    failed: int
    accuracy: tuple[float, float | None] | None
    forgetting: tuple[float, float | None] | None


def grouped(rows: Iterable[Row]) -> list[Group]:
    """Records compared over their seeds, best average accuracy first within each stream and scenario."""
    members: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        key = tuple(str(row[name]) for name in ("stream", "scenario", "method", "hyperparameters"))
        members.setdefault(key, []).append(row)  # type: ignore[arg-type]  # four names make four texts
    found = []
    for (stream, scenario, method, chosen), mine in members.items():
        done = [row for row in mine if row["status"] == "finished"]
        intervals = []
        for column in ("accuracy", "forgetting"):
            values = [float(value) for row in done if isinstance(value := row[column], int | float)]
            intervals.append(metrics.interval(values) if values else None)
        found.append(Group(stream, scenario, method, chosen, len(done), len(mine) - len(done), *intervals))
    found.sort(key=lambda g: (g.stream, g.scenario, -(g.accuracy[0] if g.accuracy else -1.0), g.method))
    return found
