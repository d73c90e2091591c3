"""A comparison whose process is killed at random moments ends with the records of one that was left alone."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from holdfast.bench.records import record as records
from tests.bench.jobs import killing
from tests.disks import files_in

KILLS = int(os.environ.get("HOLDFAST_KILLS", "3"))


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Every record in a folder, times aside."""
    found = [*folder.glob("records/*.json"), *folder.glob("choices/*.json")]
    return {path.relative_to(folder).as_posix(): records.without_times(records.load(path)) for path in found}


def test_a_comparison_killed_at_random_moments_ends_the_same(tmp_path: Path) -> None:
    killing.warm_up()
    begun = time.perf_counter()
    alone = killing.start(tmp_path / "alone")
    assert killing.wait(alone)
    assert alone.exitcode == 0
    duration = time.perf_counter() - begun
    expected = results(tmp_path / "alone")
    assert len(expected) == len(killing.METHODS) + 2

    draw = random.Random(0)
    kills = went_on = comparisons = 0
    while kills < KILLS or not went_on:
        comparisons += 1
        assert comparisons <= 10 * KILLS, "no process was killed in the middle of a run"
        folder = tmp_path / f"killed {comparisons}"
        finished = False
        while not finished:
            process = killing.start(folder)
            moment = draw.uniform(0.0, duration) if kills < KILLS or not went_on else math.inf
            if not killing.wait(process, moment):
                process.kill()
                killing.wait(process)
            finished = process.exitcode == 0  # perhaps between the moment and the kill
            if not finished:
                assert process.exitcode == -signal.SIGKILL
                kills += 1
                went_on += any(folder.glob("checkpoints/*/checkpoint-*"))
                results(folder)  # what stands there is whole
        assert results(folder) == expected
        left = [name for name in files_in(folder) if not name.startswith(("records/", "choices/"))]
        assert left == []
    assert kills >= KILLS
