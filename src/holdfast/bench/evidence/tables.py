"""Tables of a protocol's page, as Markdown: its rows, and published numbers beside ours."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.bench.evidence.experiments import Cell, Experiment, distinct, verdict
from holdfast.bench.evidence.findings import gap, number_of, ours, percent
from holdfast.bench.records.by_class import FREQUENCIES
from holdfast.bench.records.record import Record
from holdfast.bench.records.tried import tried
from holdfast.bench.report import Estimate

__all__ = ["failures", "line", "of_rows", "published", "seeds_of", "settings"]


def of_rows(cells: Sequence[Cell]) -> list[str]:
    """The rows of a part: what each reached, what it cost, and under which settings."""
    rows = [cell for cell in cells if cell.is_average]
    some = [cell for cell in rows if cell.records or cell.failed]
    lines = [line("row", "seeds", "accuracy (%)", "s per run", "state", "settings", "by task (%)"), "|---" * 7 + "|"]
    lines += [_row(cell) for cell in some]
    lines.append("")
    lines += _classes([cell for cell in some if cell.records and cell.records[0].by_class is not None])
    absent = distinct([cell.label for cell in rows if cell not in some])
    if absent:
        lines += [f"Not run yet: {', '.join(absent)}.", ""]
    for cell in some:
        if cell.failed:
            lines += [f"{cell.label} did not finish: {failures(cell.failed)}.", ""]
    return lines


def published(experiment: Experiment, cells: Sequence[Cell]) -> list[str]:
    """Published numbers beside ours, and ours of rows that are paired with those; nothing where none has finished.

    Args:
        experiment: says which rows are paired.
        cells: all of a part.
    """
    numbers = {cell.place for cell in cells if cell.theirs is not None and cell.records}
    pairs = [each.rows for each in experiment.recipe.paired]
    wanted = numbers | {
        (other, task, measure)
        for rows in pairs
        for one, other in (rows, rows[::-1])
        for label, task, measure in numbers
        if label == one and task is not None
    }
    if not numbers:
        return []
    head = [line("row", "number", "ours (%)", "published (%)", "difference", "verdict"), "|---" * 6 + "|"]
    return [*head, *(_beside(cell) for cell in cells if cell.records and cell.place in wanted), ""]


def _beside(cell: Cell) -> str:
    theirs = "" if cell.theirs is None else f"{cell.theirs:.2f}"
    difference = f"{gap(cell):+.2f}" if theirs else ""
    return line(cell.label, number_of(cell), ours(cell), theirs, difference, verdict(cell))


def line(*values: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(value.replace('|', chr(92) + '|') for value in values)} |"


def _classes(cells: Sequence[Cell]) -> list[str]:
    """How classes fare by their frequency, and all of them so far session by session; nothing where all are alike."""
    if not cells:
        return []
    several = max(len(record.by_class.samples) for cell in cells for record in cell.records if record.by_class) > 1
    further = ("sessions (%)", "drop (points)") if several else ()
    head = ("row", *(f"{which} (%)" for which in FREQUENCIES), *further)
    lines = [line(*head), "|---" * len(head) + "|"]
    for cell in cells:
        found = [record.by_class for record in cell.records if record.by_class is not None]
        groups = [Estimate.of(_points(each.frequencies.get(which)) for each in found) for which in FREQUENCIES]
        shown = ["" if each is None else percent(each) for each in groups]
        if several:
            sessions = zip(*(each.sessions for each in found), strict=True)
            drop = Estimate.of(_points(each.performance_drop) for each in found)
            shown.append(" / ".join(f"{100 * sum(column) / len(column):.1f}" for column in sessions))
            shown.append("" if drop is None else percent(drop))
        lines.append(line(cell.label, *shown))
    grouping = distinct([record.by_class.grouping for cell in cells for record in cell.records if record.by_class])
    return [*lines, "", f"Classes by their frequency: {'; '.join(grouping)}.", ""]


def _points(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _row(cell: Cell) -> str:
    seeds = seeds_of(cell)
    if not cell.records:
        return line(cell.label, seeds, "no run finished", "", "", "", "")
    costs = [record.costs for record in cell.records]
    seconds = sum(cost.seconds_total for cost in costs) / len(costs)
    state = f"{costs[0].state_bytes_per_parameter:.1f}"
    return line(cell.label, seeds, ours(cell), f"{seconds:.0f}", state, settings(cell.records[0]), _by_task(cell))


def seeds_of(cell: Cell) -> str:
    """How many seeds of a row have finished, and if that is not all, of how many."""
    finished = len(cell.records)
    return str(finished) if finished >= cell.planned else f"{finished} of {cell.planned}"


def _by_task(cell: Cell) -> str:
    rows = [record.matrix[-1] for record in cell.records]
    return " / ".join(f"{100 * sum(column) / len(column):.1f}" for column in zip(*rows, strict=True))


def failures(failed: Sequence[Record]) -> str:
    """The seeds by reason."""
    seeds: dict[str, list[str]] = {}
    for record in failed:
        reason = " ".join(record.failure.split()).rstrip(".") or record.status
        seeds.setdefault(reason, []).append(str(record.config.seed))
    return "; ".join(f"seed{'s' * (len(of) > 1)} {', '.join(of)}: {reason}" for reason, of in seeds.items())


def settings(record: Record) -> str:
    """What makes the row, and where its values are from; defaults are left out."""
    config = record.config
    shown = []
    for key, value in config.hyperparameters.items():
        if value.source == "grid":
            grid = tried(record)
            edge = f", the {grid.edge} tried" if grid is not None and grid.edge else ""
            shown.append(f"{key} {_number(value.value)} (by validation{edge})")
        elif value.source != "default":
            shown.append(f"{key} {_number(value.value)}")
    if config.backbone is not None:
        shown.append(f"on {config.backbone}")
    trained = config.backbone is None or config.backbone.startswith("first-task")
    if trained and config.method != config.optimizer:
        shown.append(f"{config.optimizer} {config.lr:g}")
    return ", ".join(shown)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
