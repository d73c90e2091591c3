"""One measured figure, and how figures are shown."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from speed.timing import Timings

__all__ = ["Row", "cost", "faster", "text_table"]


@dataclass(frozen=True)
class Row:
    """One figure beside what it is compared with.

    Args:
        bench: the benchmark it belongs to, as ``--only`` knows it.
        work: what was done.
        device: where.
        beside: what it is compared with.
        value: the figure.
        unit: of the figure: times faster, times as long, milliseconds, bytes per parameter, ratio.
        target: what the figure should reach; ``None`` where there is no target.
        better: whether more or less is better.
        seconds: median time of the work; the figure is the median of the rounds' own ratios.
        beside_seconds: median time of what it is compared with.
        floor_seconds: bytes that must move, divided by the copy bandwidth measured in the same rounds.
        rounds: how often each was measured.
        note: anything else to know.
    """

    bench: str
    work: str
    device: str
    beside: str
    value: float
    unit: str
    target: float | None = None
    better: Literal["more", "less"] = "less"
    seconds: float | None = None
    beside_seconds: float | None = None
    floor_seconds: float | None = None
    rounds: int = 1
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; ``None`` where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "more" else self.value <= self.target

    def plain(self) -> dict[str, Any]:
        """As it stands in the JSON file."""
        return {**dataclasses.asdict(self), "met": self.met}


def faster(timings: Timings, name: str, beside: str, **what: Any) -> Row:
    """How many times faster one piece of work is than another; the rest as :func:`_compared` takes it."""
    value = timings.ratio(beside, name)
    return _compared(timings, name, beside, value, "times faster", "more", **what)


def cost(timings: Timings, name: str, beside: str, **what: Any) -> Row:
    """How many times as long one piece of work takes as another; the rest as :func:`_compared` takes it."""
    value = timings.ratio(name, beside)
    return _compared(timings, name, beside, value, "times as long", "less", **what)


def _compared(
    timings: Timings, name: str, beside: str, value: float, unit: str, better: Literal["more", "less"], *,
    bench: str, work: str, device: str, than: str, target: float | None, floor: float | None = None, note: str = "",
) -> Row:  # fmt: skip
    mine, other = timings.median(name), timings.median(beside)
    return Row(bench, work, device, than, value, unit, target, better, mine, other, floor, timings.rounds, note)


HEADERS = ("work", "device", "beside", "its time", "Holdfast", "floor", "figure", "target", "met", "at the floor")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    sign = "≥" if row.better == "more" else "≤"
    return (
        row.work,
        row.device,
        row.beside,
        _time(row.beside_seconds),
        _time(row.seconds),
        _time(row.floor_seconds),
        f"{row.value:.3g} {row.unit}",
        "" if row.target is None else f"{sign} {row.target:g}",
        {None: "", True: "yes", False: "no"}[row.met],
        _at_the_floor(row),
    )


def _at_the_floor(row: Row) -> str:
    """The figure of work that took no longer than its floor: no target beyond it can be met on that machine."""
    if row.floor_seconds is None or row.beside_seconds is None:
        return ""
    ratio = row.floor_seconds / row.beside_seconds
    return f"{1 / ratio if row.better == 'more' else ratio:.3g}"


def text_table(rows: list[Row]) -> str:
    """The rows in aligned columns, with their notes below."""
    lines = [HEADERS, *map(cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADERS))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    notes = dict.fromkeys(f"{row.work}: {row.note}" for row in rows if row.note)
    return "\n".join([shown[0], "  ".join("-" * width for width in widths), *shown[1:], "", *notes])
