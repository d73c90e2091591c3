"""Where jobs are done: in this process, in several, or on a Ray cluster. Jobs are independent, so any will do."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from holdfast.bench.jobs.handing_out import (
    LOOK,
    RETRIES,
    Closing,
    Executor,
    Local,
    Stop,
    Work,
    begin_child,
    call,
    gave_up,
    never,
)
from holdfast.bench.jobs.job import Job
from holdfast.bench.jobs.ray import Ray
from holdfast.bench.records.record import Record
from holdfast.checks import check_count
from holdfast.errors import ConfigurationError, DependencyError, Option

__all__ = ["NAMES", "Processes", "build", "check"]

NAMES = ("local", "processes", "ray")


class Processes(Closing):
    """Jobs in several processes of this machine; one whose process dies is begun again.

    Args:
        work: does a job; like the job and its record it must be something that can be sent to another process.
        workers: how many processes.
        stop: asked now and then; once it says yes, every job stops where it is.
    """

    def __init__(self, work: Work, workers: int, stop: Stop = never) -> None:
        self.slots = workers
        self._work, self._stop = work, stop
        self._context = multiprocessing.get_context("spawn")  # not fork: PyTorch's threads do not survive it
        self._stopping = self._context.Event()
        self._jobs: dict[int, Job] = {}
        self._tries: dict[int, int] = {}
        self._futures: dict[Future[Record], int] = {}
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self.slots, mp_context=self._context, initializer=begin_child, initargs=(self._stopping,)
        )

    def submit(self, key: int, job: Job) -> None:
        """Take on a job."""
        self._jobs[key], self._tries[key] = job, 0
        try:
            self._begin(key)
        except BrokenProcessPool:  # a process died meanwhile
            self._begin_again()
            self._begin(key)

    def _begin(self, key: int) -> None:
        self._futures[self._pool.submit(call, self._work, self._jobs[key])] = key

    def _begin_again(self) -> None:
        """Whatever the dead processes had begun; a pool that lost one process gives up all of them."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._new_pool()
        for future in [future for future in self._futures if _is_lost(future)]:
            key = self._futures.pop(future)
            self._tries[key] += 1
            if self._tries[key] > RETRIES:
                raise gave_up(self._jobs[key])
            self._begin(key)

    def next(self) -> tuple[int, Record]:
        """Wait for any job."""
        while True:
            done, _ = wait(self._futures, timeout=LOOK, return_when=FIRST_COMPLETED)
            if self._stop():
                raise KeyboardInterrupt
            for future in done:
                if not _is_lost(future):
                    key = self._futures.pop(future)
                    return key, future.result()
            if done:
                self._begin_again()

    def _close(self) -> None:
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _is_lost(future: Future[Record]) -> bool:
    return future.cancelled() or (future.done() and isinstance(future.exception(), BrokenProcessPool))


def build(
    name: str,
    work: Work,
    *,
    workers: int | None = None,
    stop: Stop = never,
    ray_address: str | None = None,
    gpus: float = 0,
) -> Executor:
    """An executor by name.

    Args:
        name: one of :data:`NAMES`.
        work: does a job; the second thing it is given tells whether it should stop.
        workers: jobs at once; ``None`` for one per CPU core.
        stop: asked now and then; once it says yes, every job stops and `KeyboardInterrupt` is raised.
        ray_address: of a Ray cluster that runs already.
        gpus: how many of them a job on Ray needs.

    Raises:
        ConfigurationError: for an unknown name, or a cluster that does not answer.
        DependencyError: naming the extra that is missing.
    """
    check(name, workers=workers, ray_address=ray_address)
    if name == "local":
        return Local(work, stop)
    count = workers or os.cpu_count() or 1
    if name == "processes":
        return Processes(work, count, stop)
    return Ray(work, count, stop, address=ray_address, gpus=gpus)


def check(name: str, *, workers: int | None = None, ray_address: str | None = None) -> None:
    """Refuse, before anything is begun, what :func:`build` would refuse.

    Raises:
        ConfigurationError: for an unknown name, a number of workers that is none, or an option that does not apply.
        DependencyError: naming the extra that is missing.
    """
    if name not in NAMES:
        raise ConfigurationError(Option("executor"), f" is {name!r}; expected one of {', '.join(NAMES)}")
    if ray_address is not None and name != "ray":
        raise ConfigurationError(Option("ray_address"), " needs ", Option("executor", ("ray",)), f", got {name!r}")
    check_count("workers", workers)
    if name == "local" and workers not in (None, 1):
        raise ConfigurationError(
            Option("workers", (workers,)), " needs ", Option("executor", ("processes", "ray")), f", got {name!r}"
        )
    if name == "ray" and importlib.util.find_spec("ray") is None:
        raise DependencyError(Option("executor", ("ray",)), " needs Ray: pip install 'holdfast[ray]'")
