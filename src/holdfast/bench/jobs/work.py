"""Jobs in another process or on another machine: everything that a worker must be told, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holdfast.bench.comparing.compare import run_job
from holdfast.bench.jobs.folder import Folder
from holdfast.bench.jobs.handing_out import Stop
from holdfast.bench.jobs.job import Job
from holdfast.bench.jobs.trackers import Track, observer
from holdfast.bench.records.record import Record
from holdfast.bench.training.checkpoint import EVERY

__all__ = ["Elsewhere"]


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
    """

    folder: Path
    data_dir: Path | None = None
    threads: int = 1
    every: float = EVERY
    track: Track | None = None

    def __call__(self, job: Job, stop: Stop) -> Record:
        """Do one job.

        Raises:
            KeyboardInterrupt: if it was asked to stop; the checkpoint is written then.
        """
        import torch

        torch.set_num_threads(self.threads)
        keeper = Folder(self.folder, every=self.every, stop=stop).keeper(job)
        with observer(self.track, job) as watching:
            return run_job(job, data_dir=self.data_dir, observer=watching, keeper=keeper)
