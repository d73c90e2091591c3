"""Rows of a table: CSV, JSON lines, Parquet, or what the `datasets` library saved. A broken row is named."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.bench.data.parts import counted, listed
from holdfast.errors import DataError, DependencyError, Option

__all__ = ["ENDINGS", "Table", "datasets_library", "of_dataset", "read"]

ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one length.

    Attributes:
        what: what it is called, for errors.
        columns: name -> values, ``None`` where there is none.
        numbers: of the rows as the source counts them, from 1.
        classes: column -> names of its classes in order, where the source says them: its values are their numbers.
        images: the columns that hold images, which are read when they are asked for.
        left_out: rows that could not be read, a sentence for all.
    """

    what: str
    columns: Mapping[str, Sequence[Any]]
    numbers: Sequence[int]
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)


def read(file: Path, *, skip_broken: bool) -> Table:
    """A table in a file.

    Args:
        file: one of :data:`ENDINGS`.
        skip_broken: leave out rows that cannot be read.

    Raises:
        DataError: if it cannot be read, or has no row.
    """
    ending = file.suffix.lower()
    try:
        if ending == ".parquet":
            found = _parquet(file)
        else:
            rows = _written(file) if ending in (".csv", ".tsv") else _objects(file)
            found = _table(file, rows, skip_broken)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text in UTF-8: byte {error.start} is {error.object[error.start]:#x}") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    if not len(found):
        raise DataError(f"{file} has no row; expected one for each sample, below the names of the columns")
    return found


_Row = tuple[int, "dict[str, Any] | str"]
"""A row's number and its values, or what is wrong with it."""


def _table(file: Path, rows: Iterator[_Row], skip_broken: bool) -> Table:
    numbers, values, broken = list[int](), list[dict[str, Any]](), list[int]()
    for number, row in rows:
        if not isinstance(row, str):
            numbers.append(number)
            values.append(row)
        elif skip_broken:
            broken.append(number)
        else:
            raise DataError(f"row {number} of {file} {row}; ", Option("skip_broken"), " leaves such out")
    names = dict.fromkeys(name for row in values for name in row)
    columns = {name: [row.get(name) for row in values] for name in names}
    return Table(str(file), columns, numbers, left_out=_left_out(broken))


def _left_out(broken: Sequence[int]) -> tuple[str, ...]:
    return (f"{counted(len(broken), 'row')} that cannot be read: {listed(broken)}",) if broken else ()


@contextmanager
def _long_fields() -> Iterator[None]:
    """Within it a field may be as long as a book: 128 KiB is the library's limit."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _written(file: Path) -> Iterator[_Row]:
    """Rows of a CSV file. Every value is a text: no ``NA`` is taken for a gap, and no ``007`` for a number."""
    with file.open(encoding="utf-8-sig", newline="") as lines, _long_fields():
        delimiter = "\t" if file.suffix.lower() == ".tsv" else _delimiter(lines.readline())
        lines.seek(0)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header = next(reader, [])
        names = [name.strip() or f"column {place}" for place, name in enumerate(header, 1)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{file} has the column {twice!r} twice; expected names that differ")
        number = 0
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                number += 1
                yield number, f"(line {reader.line_num}) is no CSV: {error}"
                continue
            if not row:  # an empty line
                continue
            number += 1
            if len(row) == len(names):
                yield number, {name: value or None for name, value in zip(names, row, strict=True)}
            else:
                yield number, f"(line {reader.line_num}) has {len(row)} fields; expected {len(names)}"


def _delimiter(header: str) -> str:
    """A comma, or what stands in a header without one: a semicolon where commas are for decimals, or a tab."""
    return "," if "," in header else next((mark for mark in ";\t" if mark in header), ",")


def _objects(file: Path) -> Iterator[_Row]:
    """Objects, one a line, or all in one list."""
    text = file.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        try:
            whole = json.loads(text)
        except ValueError as error:
            raise DataError(f"{file} is no JSON: {error}") from error
        for number, value in enumerate(whole, 1):
            yield number, value if isinstance(value, dict) else f"is {_short(value)}; expected an object"
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            yield number, f"is no JSON: {error}"
            continue
        yield number, value if isinstance(value, dict) else f"is {_short(value)}; expected an object"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def datasets_library() -> Any:
    """The `datasets` library.

    Raises:
        DependencyError: without it.
    """
    try:
        import datasets
    except ImportError as error:
        raise DependencyError("such data need: pip install 'holdfast[bench]'") from error
    return datasets


def _parquet(file: Path) -> Table:
    datasets = datasets_library()
    silenced = not datasets.are_progress_bars_disabled()
    if silenced:
        datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as scratch:  # read anew each time: no copy outlives a file that changed
            rows = datasets.Dataset.from_parquet(str(file), keep_in_memory=True, cache_dir=scratch)
    except Exception as error:  # the format has errors of its own
        reason = " ".join(f"{type(error).__name__}: {error.__cause__ or error}".split())[:200]
        raise DataError(f"{file} could not be read as Parquet: {reason}") from error
    finally:
        if silenced:
            datasets.enable_progress_bars()
    return of_dataset(rows, str(file))


def of_dataset(rows: Any, what: str) -> Table:
    """A data set of the `datasets` library as a table.

    Args:
        rows: the data set.
        what: what it is called, for errors.
    """
    datasets = datasets_library()
    features = rows.features or {}
    return Table(
        what,
        {name: rows[name] for name in rows.column_names},
        range(1, len(rows) + 1),
        {name: tuple(each.names) for name, each in features.items() if isinstance(each, datasets.ClassLabel)},
        tuple(name for name, each in features.items() if isinstance(each, datasets.Image)),
    )
