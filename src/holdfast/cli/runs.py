"""``holdfast runs``: list, filter, sort and compare the records below a folder."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.errors import ConfigurationError

if TYPE_CHECKING:
    from holdfast.bench.records.query import Cell, Group, Row

__all__ = ["register"]

_FORMATS = ("text", "csv", "json")


def _runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Records, a comparison, or many below.")],
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION", help="Such as 'method = ewc and accuracy > 0.9'; signs = != < <= > >= ~; repeatable."
        ),
    ] = None,
    sort: Annotated[str, typer.Option(metavar="COLUMNS", help="Comma-separated; -COLUMN for descending.")] = "",
    compare: Annotated[
        bool, typer.Option("--compare", help="One line for all seeds of a setting, best first.")
    ] = False,
    trials: Annotated[bool, typer.Option("--trials", help="Also the runs of searches, on validation data.")] = False,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Show the first N only.")] = None,
    table: Annotated[str, typer.Option(help="text, csv or json.")] = "text",
) -> None:
    """List the runs whose records lie below a folder."""
    from holdfast.bench.records import query as store
    from holdfast.cli import show

    if table not in _FORMATS:
        raise ConfigurationError(f"--table is {table!r}; expected one of {', '.join(_FORMATS)}")
    keys = [key.strip() for key in sort.split(",") if key.strip()]
    if compare and keys:
        raise ConfigurationError("--compare has an order of its own, the best first: leave out --sort")
    conditions = store.parse_where(where or [])
    skipped: list[str] = []
    rows = store.select(store.read(folder, trials=trials, skipped=skipped), conditions)
    for sentence in skipped[:3]:
        show.aside(sentence)
    if len(skipped) > 3:
        show.aside(f"{len(skipped) - 3} more files are not records")
    if compare:
        headers, cells = _groups(store.grouped(rows))
    else:
        headers, cells = _listed(store.sort(rows, keys or ["stream", "scenario", "method", "seed"]), folder)
    _print(headers, cells[:limit], table)
    if table == "text":
        more = "" if limit is None or len(cells) <= limit else f", {limit} shown"
        show.note(f"{len(cells)} {'settings' if compare else 'runs'}{more}")


def _listed(rows: list[Row], folder: Path) -> tuple[list[str], list[list[Cell]]]:
    from holdfast.bench.records.query import COLUMNS

    return [*COLUMNS, "file"], [[*(row[name] for name in COLUMNS), str(row.path.relative_to(folder))] for row in rows]


def _groups(groups: list[Group]) -> tuple[list[str], list[list[Cell]]]:
    headers = ["stream", "scenario", "method", "hyperparameters", "seeds", "failed"]
    headers += ["accuracy", "accuracy ±", "forgetting", "forgetting ±"]
    cells: list[list[Cell]] = []
    for one in groups:
        line: list[Cell] = [one.stream, one.scenario, one.method, one.hyperparameters, one.seeds, one.failed]
        for interval in (one.accuracy, one.forgetting):
            line += [None, None] if interval is None else list(interval)
        cells.append(line)
    return headers, cells


def _print(headers: list[str], cells: list[list[Cell]], table: str) -> None:
    if table == "json":
        typer.echo(json.dumps([dict(zip(headers, line, strict=True)) for line in cells], indent=1))
    elif table == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(headers)
        writer.writerows(["" if cell is None else cell for cell in line] for line in cells)
    else:
        from holdfast.cli import show

        show.plain(
            headers, [[_text(header, cell) for header, cell in zip(headers, line, strict=True)] for line in cells]
        )


def _text(header: str, cell: Cell) -> str:
    percent = header.split()[0] in ("accuracy", "forgetting")
    if cell is None:
        return ""
    return f"{100 * cell:.2f}" if percent and isinstance(cell, int | float) else str(cell)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("runs", epilog="Example: holdfast runs holdfast-results --where 'method = ewc' --sort=-accuracy")(_runs)
