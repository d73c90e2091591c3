"""How a comparison is getting on: bars with the time left on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from holdfast.bench.jobs.job import Job, Monitor
from holdfast.bench.records.likelihood import measures
from holdfast.bench.records.record import Record, RunConfig

__all__ = ["Bars", "Lines", "monitor", "result_line"]

_REFRESH = 0.1  # seconds: a step may take less than a thousandth of that


def result_line(job: Job, record: Record, *, kept: bool) -> str:
    """A run's result in a line."""
    if record.status != "finished":
        return f"{job.name}: {record.status}: {record.failure}"
    part = "test" if job.read_test else "validation"
    worth = measures(record.likelihood)["perplexity"]
    row = record.matrix[-1]
    accuracy = f"average {part} accuracy {100 * sum(row) / len(row):.2f} %"
    if worth is not None:
        accuracy = f"{part} perplexity {worth:.2f}"
    return f"{job.name}: {accuracy}, " + ("kept from before" if kept else f"{record.costs.seconds_total:.1f} s")


class Lines:
    """One plain line per finished run.

    Args:
        console: where they go.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._planned = 0
        self._done = 0

    def planned(self, runs: int) -> None:
        """So many more runs are to come."""
        self._planned += runs

    def starts(self, job: Job) -> None:
        """Nothing to say yet."""

    def begin(self, config: RunConfig, steps: int) -> None:
        """Nothing to say yet."""

    def advance(self, steps: int) -> None:
        """Nothing to say yet."""

    def measured(self, task: int, step: int, loss: float, penalty_share: float | None) -> None:
        """Nothing to say yet."""

    def tested(self, task: int, accuracies: list[float]) -> None:
        """Nothing to say yet."""

    def ends(self, job: Job, record: Record, *, kept: bool) -> None:
        """Say what came out."""
        self._done += 1
        width = len(str(self._planned))
        style = "" if record.status == "finished" else "red"
        line = f"[{self._done:{width}}/{self._planned}] {result_line(job, record, kept=kept)}"
        self._console.print(Text(line, style), soft_wrap=True)


class Bars(Lines):
    """The lines, and below them a bar for all runs and one for the run under way.

    Args:
        console: a terminal.
        progress: the bars, shown already.
    """

    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console)
        self._progress = progress
        self._all: TaskID = progress.add_task("all runs", total=None)
        self._one: TaskID = progress.add_task("", total=None, visible=False)
        self._steps = 0  # of the run under way, and of those before it
        self._before = 0
        self._unshown = 0
        self._shown_at = 0.0

    def starts(self, job: Job) -> None:
        """Show which run is under way."""
        self._progress.reset(self._one, description=job.name, visible=True, total=None)

    def begin(self, config: RunConfig, steps: int) -> None:
        """Size the bars: all runs of a comparison have about as many steps."""
        self._steps, self._unshown = steps, 0
        self._progress.update(self._one, total=steps)
        self._progress.update(self._all, total=self._before + steps * (self._planned - self._done))

    def advance(self, steps: int) -> None:
        """Count steps; show them now and then."""
        self._unshown += steps
        now = time.monotonic()
        if now - self._shown_at >= _REFRESH:
            self._shown_at = now
            self._progress.advance(self._one, self._unshown)
            self._progress.advance(self._all, self._unshown)
            self._unshown = 0

    def ends(self, job: Job, record: Record, *, kept: bool) -> None:
        """Say what came out, and fill the run's share of the bar."""
        super().ends(job, record, kept=kept)
        self._before += 0 if kept else self._steps
        self._progress.update(self._all, completed=self._before)
        self._progress.update(self._one, visible=False)


@contextmanager
def monitor(console: Console) -> Iterator[Monitor]:
    """What suits the console, for as long as the context lasts."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("left", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bars(console, progress)
