"""What the commands print."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # a list of records must not wait for PyTorch
    from holdfast.bench.recipes import Recipe
    from holdfast.bench.records.record import Record
    from holdfast.bench.records.spreads import ImportanceRecord
    from holdfast.registry import Entry

__all__ = [
    "aside",
    "matrix",
    "methods",
    "note",
    "plain",
    "progress_console",
    "recipe",
    "recipes",
    "results",
    "settings",
    "spreads",
    "streams",
    "untuned",
    "warnings",
]

_ALL_COLUMNS = 104  # of a terminal on which every column of the result table can be read
_WIDE = 240  # columns, where the output is no terminal: a table in a file should not be folded
_GAP = "   "


_SPREAD_HEADERS = ("method", "layer", "pruning", "weights", "zeros", "skewness", "kurtosis")


def _console() -> Console:
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDE
    return console


def progress_console() -> Console:
    """Where progress goes: the standard error, so that the standard output is the result alone."""
    return Console(stderr=True, highlight=False, emoji=False)


def aside(sentence: str) -> None:
    """Something to know while it goes on; beside the result, on the standard error."""
    progress_console().print(Text(f"holdfast: {sentence}"), soft_wrap=True)


def note(sentence: str) -> None:
    """Something that the user should know before it starts."""
    _console().print(Text(sentence), soft_wrap=True)


def _table(title: str | None, headers: Sequence[str], numbers: bool) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, header in enumerate(headers):
        if numbers and number > 0:
            table.add_column(Text(header.replace(" (", "\n(")), justify="right", no_wrap=True)
        else:
            table.add_column(Text(header), overflow="fold")
    return table


def methods(entries: Iterable[Entry]) -> None:
    """The table of methods."""
    headers = ("Method", "Family", "Needs old data?", "Needs a task id?", "Tensors per parameter", "Source")
    table = _table(None, headers, numbers=False)
    for entry in entries:
        data = "the last task's, once" if entry.needs_data else "all of it" if entry.all_at_once else "no"
        task = "at test" if entry.needs_task_id else "no"
        name = Text(entry.name + (" (control)" if entry.control else ""))
        table.add_row(name, entry.family, data, task, Text(entry.state), Text(entry.source))
    _console().print(table)


def settings(entry: Entry) -> None:
    """The settings of one method."""
    from holdfast.registry import Choice, Range

    console = _console()
    console.print(Text(f"{entry.name}: {entry.family}, {entry.source}"), soft_wrap=True)
    if entry.needs_few_shot:
        console.print("It is for streams of a base task and few samples of new classes: fewshot-DATA-BASE-WAYxSHOT.")
    if entry.needs_unlabelled:
        console.print("It needs unlabelled samples of the tasks to come, before the first one is learned.")
    if not entry.settings:
        console.print("It has no settings.")
        return
    table = _table(None, ("Setting", "Default", "Searched"), numbers=False)
    for key, value in entry.settings.items():
        where = entry.search.get(key)
        searched = ""
        if isinstance(where, Range):
            searched = f"{where.low:g} to {where.high:g}" + (", logarithmic" if where.log else "")
        elif isinstance(where, Choice):
            searched = ", ".join(map(str, where.values))
        table.add_row(Text(key), Text(str(value)), Text(searched))
    console.print(table)


def streams(names: Mapping[str, str]) -> None:
    """The table of streams."""
    table = _table(None, ("Stream", "Tasks"), numbers=False)
    for name, about in names.items():
        table.add_row(Text(name), Text(about))
    _console().print(table)


def results(records: Sequence[Record]) -> None:
    """The result table: mean ± 95 % interval, best in bold, controls marked."""
    from holdfast.bench.report import text_table
    from holdfast.bench.report.tables import SHORT

    console = _console()
    fits = console.width >= _ALL_COLUMNS
    for shown in text_table(records, keys=SHORT if fits else SHORT[:4]):
        table = _table(shown.title, shown.headers, numbers=True)
        for row in shown.rows:
            table.add_row(*(Text(cell.text, "bold" if cell.best else "") for cell in row))
        console.print()
        console.print(table)
        for text in shown.notes:
            console.print(Text(text), soft_wrap=True)


def plain(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Any table, be it of ten thousand rows; it says at the top where accuracies are percentages.

    On a terminal that is too narrow, the widest columns are folded; in a file nothing is.
    """
    console = _console()
    names = [f"{name} (%)" if name in ("accuracy", "forgetting") else name for name in headers]
    # Rich's own tables measure and wrap each cell anew, which takes a millisecond a row.
    lines = [[text if text.isprintable() else ascii(text)[1:-1] for text in line] for line in (names, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    if console.is_terminal or "COLUMNS" in os.environ:
        widths = _narrowed(widths, console.width - len(_GAP) * (len(widths) - 1))
    shown = [line for cells in lines for line in _folded(cells, widths)]
    heads = len(list(_folded(names, widths)))
    rule = "─" if console.encoding.lower().startswith("utf") else "-"
    shown.insert(heads, rule * (sum(widths) + len(_GAP) * (len(widths) - 1)))
    typer.echo("\n".join(shown))


def _narrowed(widths: Sequence[int], room: int) -> list[int]:
    """The widths, the largest cut to the same so that all fit; at least 1 each.

    Example:
        >>> _narrowed([3, 10, 20], 18)
        [3, 7, 7]
    """
    limit = max(widths)
    while limit > 1 and sum(min(width, limit) for width in widths) > room:
        limit -= 1
    return [min(width, limit) for width in widths]


def _folded(cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """The lines of one row."""
    parts = [
        [text] if cell_len(text) <= width else chop_cells(text, width)
        for text, width in zip(cells, widths, strict=True)
    ]
    for line in zip_longest(*parts, fillvalue=""):
        padded = [text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True)]
        yield _GAP.join(padded).rstrip()


def matrix(record: Record) -> None:
    """The accuracy on every task after every task."""
    console = _console()
    names = record.task_names
    heads: Sequence[str] = names
    if sum(len(name) + 2 for name in names) + 16 > console.width:
        heads = [str(number) for number in range(1, len(names) + 1)]
        names = [f"{number} {name}" for number, name in zip(heads, names, strict=True)]
    table = _table("Test accuracy (%)", ("After learning", *heads), numbers=True)
    single = len(record.matrix) == 1
    for name, row in zip(names, record.matrix, strict=False):
        table.add_row(Text("all tasks" if single else name), *(f"{100 * value:.2f}" for value in row))
    console.print()
    console.print(table)


def untuned(records: Sequence[Record]) -> None:
    """Which methods stand at their defaults."""
    from holdfast.bench.report.summary import is_untuned

    names = dict.fromkeys(record.config.method for record in records if is_untuned(record.config))
    if names:
        example = next(iter(names))
        key = next(iter(next(r for r in records if r.config.method == example).config.hyperparameters))
        note(f"Default, untuned: {', '.join(names)} (to choose: --grid {example}.{key}=V1,V2).")


def warnings(records: Sequence[Record]) -> None:
    """What the runs noticed about their methods, each once."""
    for sentence in dict.fromkeys(warning for record in records for warning in record.warnings):
        _console().print(Text(f"Warning: {sentence}", "yellow"), soft_wrap=True)


def spreads(study: ImportanceRecord) -> None:
    """How importances are spread over all hidden layers, before and after pruning."""
    table = _table(f"Importance of the hidden weights: {study.config.stream}", _SPREAD_HEADERS, True)
    for spread in study.spreads:
        numbers = ["none" if value is None else f"{value:.2f}" for value in (spread.skewness, spread.kurtosis)]
        when = "after" if spread.pruned else "before"
        table.add_row(spread.method, spread.layer, when, f"{spread.count:,}", f"{spread.zeros:.1%}", *numbers)
    _console().print(table)


def recipes(found: Sequence[Recipe]) -> None:
    """The table of recipes."""
    table = _table(None, ("Recipe", "Variants", "Rows", "Seeds", "What"), numbers=False)
    for one in found:
        variants = ", ".join(one.variants) or "one"
        table.add_row(Text(one.name), Text(variants), str(len(one.methods)), str(one.seeds), Text(one.title))
    _console().print(table)


def recipe(one: Recipe) -> None:
    """All that a recipe says."""
    console = _console()
    for text in (f"{one.name}: {one.title}", f"Source: {one.source}", "", " ".join(one.about.split())):
        console.print(Text(text), soft_wrap=True)
    for name, variant in one.variants.items():
        console.print(Text(f"Variant {name}: {' '.join(variant.about.split())}"), soft_wrap=True)
    for sentence in one.notes:
        console.print(Text(f"Note: {' '.join(sentence.split())}"), soft_wrap=True)
    table = _table("Streams", ("Part", "Stream", "Scenario", "Outputs in training", "Options"), numbers=False)
    for name, part in one.parts.items():
        table.add_row(*(Text(text) for text in (name, part.stream, part.scenario, part.training_outputs,
                                                _pairs(part.stream_options))))  # fmt: skip
    console.print()
    console.print(table)
    console.print(Text(f"Training: {_pairs(one.train.model_dump(exclude_unset=True))}"), soft_wrap=True)
    table = _table("Rows", ("Row", "Method", "Settings", "From", "Chosen among", "Training"), numbers=False)
    for row in one.methods:
        grid = "; ".join(f"{key}: {', '.join(map(str, values))}" for key, values in row.grid.items())
        training = _pairs(row.train.model_dump(exclude_unset=True))
        cells = (row.label, row.method, _pairs(row.set), row.source, grid, training)
        table.add_row(*(Text(text) for text in cells))
    console.print()
    console.print(table)
    table = _table("Published (%)", ("Row", "Where", "Value", "Source"), numbers=False)
    for published in one.published:
        of = "average" if published.task is None else f"task {published.task}"
        where = ", ".join(filter(None, [published.part or "", of, *published.variants]))
        for label, value in published.values.items():
            table.add_row(Text(label), Text(where), f"{value:g}", Text(published.source))
    console.print()
    console.print(table)


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
