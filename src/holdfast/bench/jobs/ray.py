"""Jobs on a Ray cluster. Ray is imported when one is begun, and not before."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from holdfast.bench.jobs.handing_out import LOOK, RETRIES, Closing, Stop, Work, call, gave_up, never
from holdfast.errors import ConfigurationError, DependencyError, Option

if TYPE_CHECKING:
    from holdfast.bench.jobs.job import Job
    from holdfast.bench.records.record import Record

__all__ = ["Ray"]


class Ray(Closing):
    """Jobs on a Ray cluster; one whose worker or machine dies is begun again, there or elsewhere.

    Args:
        work: does a job; sent to the workers, which need the same packages and find the data at the same place.
        workers: how many jobs at once; also the size of the local cluster.
        stop: asked now and then; once it says yes, every job is ended.
        address: of a cluster that runs already; ``None``: a local one is started, and stopped at the end.
        gpus: how many of them a job needs.

    Raises:
        DependencyError: if Ray is not installed.
    """

    def __init__(
        self, work: Work, workers: int, stop: Stop = never, *, address: str | None = None, gpus: float = 0
    ) -> None:
        self.slots = workers
        self._stop = stop
        self._ray = _ray()
        self._own = not self._ray.is_initialized()
        if self._own:
            self._start(workers, address)
        self._work = self._ray.put(work)
        self._begin = self._ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(call)
        self._under_way: dict[Any, tuple[int, Job]] = {}

    def _start(self, workers: int, address: str | None) -> None:
        quiet = {"log_to_driver": False, "logging_level": "warning"}
        try:
            if address is None:
                # A cluster of our own says nothing to the world and serves no pages.
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                self._ray.init(address="local", num_cpus=workers, include_dashboard=False, **quiet)
            else:
                self._ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ConfigurationError(
                f"the Ray cluster {address or 'of this machine'} does not answer: {reason}"
            ) from error

    def submit(self, key: int, job: Job) -> None:
        """Take on a job."""
        self._under_way[self._begin.remote(self._work, job)] = (key, job)

    def next(self) -> tuple[int, Record]:
        """Wait for any job."""
        ready: list[Any] = []
        while not ready:
            ready, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=LOOK)
            if self._stop():
                raise KeyboardInterrupt
        done = ready[0]
        key, job = self._under_way.pop(done)
        exceptions = self._ray.exceptions
        try:
            record: Record = self._ray.get(done)
        except exceptions.RayTaskError as error:  # its text is a trace of the worker; the cause is a sentence
            raise error.cause from error
        except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError, exceptions.NodeDiedError) as error:
            raise gave_up(job) from error
        return key, record

    def _close(self) -> None:
        for reference in self._under_way:
            self._ray.cancel(reference, force=True)
        self._under_way.clear()
        if self._own:
            self._ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise DependencyError(Option("executor", ("ray",)), " needs Ray: pip install 'holdfast[ray]'") from error
    return ray
