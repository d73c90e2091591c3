"""The folder of a comparison: ``records/`` (a file per run), ``choices/`` (a grid's candidates).

While runs are under way, ``checkpoints/`` holds what they need in order to go on; ``starts/`` the weights of a first
task that was learned beforehand.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from holdfast.bench.jobs.job import Job
from holdfast.bench.records import record as records
from holdfast.bench.records.record import Record
from holdfast.bench.training.checkpoint import EVERY, SHARE, Checkpoints
from holdfast.errors import ConfigurationError
from holdfast.files import remove_leftovers

__all__ = ["Folder", "Memory", "check_writable", "weights_of"]


class Memory:
    """Keeps records for as long as the process lives: where the user wants no files."""

    def find(self, job: Job) -> Record | None:
        """Nothing is known from before."""
        return None

    def keep(self, job: Job, record: Record) -> None:
        """The caller has the record already."""

    def keeper(self, job: Job) -> None:
        """Nobody keeps checkpoints."""


class Folder:
    """A folder of records.

    Args:
        path: the folder; made by :meth:`make` where it is missing.
        every: seconds between checkpoints.
        share: share of a run's time that its checkpoints may take.
        warn: is told in a sentence which checkpoint is no good.
        stop: asked after each step; once it says yes, a checkpoint is written and `KeyboardInterrupt` raised.
        keep_weights: whether the weights of every run that reads the test set are kept, in ``weights/``.
    """

    def __init__(
        self,
        path: Path,
        *,
        every: float = EVERY,
        share: float = SHARE,
        warn: Callable[[str], None] = warnings.warn,
        stop: Callable[[], bool] = lambda: False,
        keep_weights: bool = False,
    ) -> None:
        self.path = path
        self._keep_weights = keep_weights
        self._every, self._share, self._warn, self._stop = every, share, warn, stop

    def make(self) -> None:
        """Make the folder.

        Raises:
            ConfigurationError: if it cannot be written.
        """
        check_writable(self.path, "records")
        for inner in ("records", "choices", "checkpoints"):
            remove_leftovers(self.path / inner)

    def _path(self, job: Job) -> Path:
        if job.read_test:
            return self.path / "records" / records.filename(job.config)
        return self.path / "choices" / records.filename(job.config, job.label)

    def _place(self, job: Job) -> Path:
        """The folder of a job's checkpoints."""
        return self.path / "checkpoints" / self._path(job).stem

    def find(self, job: Job) -> Record | None:
        """The finished record of exactly this job, if there is one.

        A run whose values were chosen anew, and are the same, is the same run; its record then says how they were
        chosen at last.
        """
        path = self._path(job)
        if not path.is_file():
            return None
        old = records.load(path)
        if old.status != "finished" or old.config.without_story() != job.config.without_story():
            return None
        if self._place(job).is_dir():  # a process died after it had written the record
            self.keeper(job).clear()
        if old.config != job.config:
            old = old.model_copy(update={"config": job.config})
            records.save(old, path)
        return old

    def keep(self, job: Job, record: Record) -> None:
        """Write a record down; its checkpoints have served."""
        records.save(record, self._path(job))
        self.keeper(job).clear()

    def keeper(self, job: Job) -> Checkpoints:
        """The checkpoints of a job."""
        return Checkpoints(
            self._place(job),
            job.config,
            every=self._every,
            share=self._share,
            warn=self._warn,
            stop=self._stop,
            weights=weights_of(self._path(job)) if self._keep_weights and job.read_test else None,
            starts=self.path / "starts",
        )

    def records(self) -> list[Record]:
        """Every record of a run that read the test set."""
        return records.load_all(self.path) if (self.path / "records").is_dir() else []


def weights_of(record: Path) -> Path:
    """The file of a run's weights, where they were kept, beside the folder of its record.

    Args:
        record: the record's file.
    """
    return record.parent.parent / "weights" / f"{record.stem}.safetensors"


def check_writable(path: Path, inner: str = "") -> None:
    """Make a folder, and try whether it can be written.

    Args:
        path: the folder.
        inner: a folder in it, which is made and tried instead.

    Raises:
        ConfigurationError: if it cannot.
    """
    probe = path / inner / f".{os.getpid()}.tmp"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(f"the folder {path} cannot be written: {error.strerror or error}") from error
