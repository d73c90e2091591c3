"""A job, done: in this process, or in another one on this or another machine, told everything as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holdfast.bench.data import saved
from holdfast.bench.data.tasks import Stream
from holdfast.bench.jobs import trackers
from holdfast.bench.jobs.folder import Folder
from holdfast.bench.jobs.handing_out import Stop, Work
from holdfast.bench.jobs.job import Job, Monitor, Store
from holdfast.bench.records.record import Record
from holdfast.bench.training import building, runner
from holdfast.bench.training.checkpoint import EVERY
from holdfast.bench.training.observer import Observer
from holdfast.bench.training.snapshot import Keeper

__all__ = ["Elsewhere", "here", "run_job"]


def run_job(
    job: Job,
    *,
    stream: Stream | None = None,
    data_dir: Path | str | None = None,
    observer: Observer | None = None,
    keeper: Keeper | None = None,
) -> Record:
    """Do one job, from its last checkpoint where there is one.

    Args:
        job: the job.
        stream: one of one's own; ``None``: the job's configuration names it.
        data_dir: where the named data sets are.
        observer: who wants to know how it is getting on.
        keeper: who keeps checkpoints.
    """
    return runner.run(
        job.config,
        stream=None if stream is None else building.prepared(stream, job.config),
        data_dir=data_dir,
        read_test=job.read_test,
        observer=observer,
        keeper=keeper,
        command=job.command,
    )


def here(
    store: Store,
    monitor: Monitor,
    *,
    stream: Stream | None = None,
    data_dir: Path | str | None = None,
    track: trackers.Track | None = None,
) -> Work:
    """What does a job in this process: its steps are shown, and its checkpoints kept where its record will be."""

    def work(job: Job, stop: Stop) -> Record:
        with trackers.observer(track, job, monitor) as watching:
            return run_job(job, stream=stream, data_dir=data_dir, observer=watching, keeper=store.keeper(job))

    return work


@dataclass(frozen=True)
class Elsewhere:
    """Does jobs in a worker.

    A job whose worker died goes on from its last checkpoint where the next worker sees the same folder.

    Args:
        folder: of the results.
        data_dir: where the data sets are.
        threads: CPU threads of a job.
        every: seconds between checkpoints.
        track: where measurements are sent.
        own: file of a stream of one's own, as :mod:`holdfast.bench.data.saved` writes it.
        keep_weights: see :class:`Folder`.
    """

    folder: Path
    data_dir: Path | None = None
    threads: int = 1
    every: float = EVERY
    track: trackers.Track | None = None
    own: Path | None = None
    keep_weights: bool = False

    def __call__(self, job: Job, stop: Stop) -> Record:
        """Do one job.

        Raises:
            KeyboardInterrupt: if it was asked to stop; the checkpoint is written then.
        """
        import torch

        torch.set_num_threads(self.threads)
        keeper = Folder(self.folder, every=self.every, stop=stop, keep_weights=self.keep_weights).keeper(job)
        stream = None if self.own is None else saved.read(self.own)
        with trackers.observer(self.track, job) as watching:
            return run_job(job, stream=stream, data_dir=self.data_dir, observer=watching, keeper=keeper)
