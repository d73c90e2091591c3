"""Work that tests give to other processes: it must be found there by its name, and be there at once.

So nothing here imports PyTorch unless a real job comes with it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import ConfigurationError


@dataclass(frozen=True)
class Task:
    """As much of a job as an executor needs."""

    number: int
    config: Any = None

    @property
    def name(self) -> str:
        return f"job {self.number}"


def number_of(job: Any) -> int:
    return job.number if isinstance(job, Task) else job.config.extra["trial"]


@dataclass(frozen=True)
class Work:
    """Writes down what is begun and what is finished; takes its process with it in the middle of one job.

    Args:
        folder: for what is written down.
        fatal: the job that kills its worker.
        times: how often it does.
        wrong: the job that is refused.
    """

    folder: str
    fatal: int = -1
    times: int = 1
    wrong: int = -1

    def __call__(self, job: Any, stop: Callable[[], bool]) -> Any:
        number = number_of(job)
        self._write("begun", number)
        if number == self.fatal and self.lines("begun").count(number) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.wrong:
            raise ConfigurationError(f"job {number} is wrong")
        if stop():
            raise KeyboardInterrupt
        self._write("finished", number)
        return number if isinstance(job, Task) else fabricated(job)

    def _write(self, what: str, number: int) -> None:
        with open(Path(self.folder) / what, "a", encoding="utf-8") as file:  # a short line is appended whole
            file.write(f"{number}\n")

    def lines(self, what: str) -> list[int]:
        """What was written down, in order."""
        path = Path(self.folder) / what
        return [int(line) for line in path.read_text(encoding="utf-8").split()] if path.exists() else []


def fabricated(job: Any) -> Any:
    """A record of a real job: the better, the nearer its strength is to 1000; an automatic one counts as 10,000."""
    import math

    from tests.bench.records.make import make_record

    strength = 1e4 if job.config.automatic else job.config.hyperparameters["strength"].value
    accuracy = 1.0 / (1.0 + abs(math.log10(strength) - 3.0))
    row = [accuracy] * job.config.tasks
    made = make_record("ewc", 0, tasks=job.config.tasks)
    return made.model_copy(update={"config": job.config, "validation": [row], "matrix": [row]})


class Shelf:
    """A store in memory."""

    def __init__(self) -> None:
        self.records: list[tuple[Any, Any]] = []

    def find(self, job: Any) -> Any:
        return next((record for old, record in self.records if old == job), None)

    def keep(self, job: Any, record: Any) -> None:
        self.records.append((job, record))

    def keeper(self, job: Any) -> None:
        return None
