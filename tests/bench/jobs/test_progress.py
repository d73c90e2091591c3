"""What a comparison shows while it runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.progress import Progress

from holdfast.bench.comparing import compare
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.data import streams
from holdfast.bench.jobs import progress, work
from holdfast.bench.jobs.folder import Memory
from holdfast.bench.jobs.job import Job
from holdfast.bench.records.record import Record
from tests.bench.comparing.here import run_here

OPTIONS = {"limit_per_class": 6, "test_limit_per_class": 6}


def shown(*, terminal: bool) -> str:
    stream = streams.build("split-digits", seed=0, **OPTIONS)
    changes = {"model": "mlp-4", "epochs": 1, "batch_size": 8}
    comparison = Comparison(stream, ("finetune",), (0, 1), changes=changes, fields={"stream_options": OPTIONS})
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=100, color_system=None, _environ={})
    with progress.monitor(console) as watching:
        run_here(comparison, Memory(), watching)
    return written.getvalue()


LINE = r"\[1/2\] finetune, seed 0: average test accuracy \d+\.\d\d %, \d+\.\d s\n"


def test_elsewhere_there_are_plain_lines() -> None:
    lines = shown(terminal=False)
    assert re.match(LINE, lines)
    assert lines.count("\n") == 2
    assert "\x1b" not in lines


def test_on_a_terminal_there_are_bars_with_the_time_left() -> None:
    output = shown(terminal=True)
    assert re.search(LINE[:-2], output)
    assert "all runs" in output
    assert "left" in output
    assert re.search(r"\d+%", output)


def test_the_bar_of_all_runs_ends_full() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={})
    bars = Progress(console=console)
    watching = progress.Bars(console, bars)
    job, record = one_run()
    watching.planned(3)
    watching.ends(job, record, kept=True)  # of an earlier call: it takes no time now
    for _ in range(2):
        watching.starts(job)
        watching.begin(job.config, 40)
        for _ in range(40):
            watching.advance(1)
        watching.ends(job, record, kept=False)
    assert (bars.tasks[0].completed, bars.tasks[0].total) == (80, 80)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "failed", "failure": "the loss is not finite"}, "finetune, seed 0: failed: the loss is not finite"),
        ({"matrix": [[1.0, 0.5, 0.5, 0.5, 0.5]]}, "finetune, seed 0: average test accuracy 60.00 %, kept from before"),
    ],
)
def test_a_result_is_a_line(changes: dict[str, object], words: str) -> None:
    job, record = one_run()
    assert progress.result_line(job, record.model_copy(update=changes), kept=True) == words


def one_run() -> tuple[Job, Record]:
    stream = streams.build("split-digits", seed=0, **OPTIONS)
    changes = {"model": "mlp-4", "epochs": 0}
    (job,) = compare.jobs(Comparison(stream, ("finetune",), changes=changes, fields={"stream_options": OPTIONS}))
    return job, work.run_job(job)
