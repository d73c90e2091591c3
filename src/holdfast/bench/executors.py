"""Where jobs are done: in this process, in several, or on a Ray cluster. Jobs are independent, so any will do.

An executor only does jobs. Which job comes next, and where its result is kept, is decided in the one process that
calls :func:`carry_out`: what has come back is kept at once, so a worker that dies takes no finished job with it.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from holdfast.errors import ConfigurationError, DependencyError, HoldfastError

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from typing_extensions import Self

    from holdfast.bench.compare import Job, Monitor, Store
    from holdfast.bench.record import Record

Stop: TypeAlias = Callable[[], bool]
Work: TypeAlias = "Callable[[Job, Stop], Record]"

__all__ = [
    "LOOK",
    "NAMES",
    "RETRIES",
    "Closing",
    "Executor",
    "Local",
    "Processes",
    "Stop",
    "Work",
    "build",
    "call",
    "carry_out",
    "check",
    "gave_up",
    "never",
]

NAMES = ("local", "processes", "ray")
RETRIES = 3
"""How often a job is begun again whose worker died."""

LOOK = 0.5
"""Seconds between looks at whether to stop."""


class Executor(Protocol):
    """Does jobs, as many at once as it has slots."""

    slots: int

    def submit(self, key: int, job: Job) -> None:
        """Take on a job; called only while a slot is free."""
        ...

    def next(self) -> tuple[int, Record]:
        """Wait for any job that was taken on, and return its key and its record."""
        ...

    def __enter__(self) -> Self:
        """Ready."""
        ...

    def __exit__(self, *problem: Any) -> None:
        """Let go of the workers."""
        ...


def carry_out(
    todo: Iterable[Job], executor: Executor, store: Store, monitor: Monitor
) -> Iterator[tuple[int, Job, Record]]:
    """Do jobs, leaving out those whose record is kept already.

    Args:
        todo: the jobs; the next one is asked for only when there is a slot for it, so it may depend on what has come
            back.
        executor: does them.
        store: keeps every record as soon as it is there, and knows those of an earlier call.
        monitor: is told how it is getting on.

    Yields:
        Position, job and record, in the order in which they come back.
    """
    waiting = enumerate(todo)
    under_way: dict[int, Job] = {}
    while True:
        while len(under_way) < executor.slots and (found := next(waiting, None)) is not None:
            key, job = found
            kept = store.find(job)
            if kept is not None:
                monitor.ends(job, kept, kept=True)
                yield key, job, kept
                continue
            monitor.starts(job)
            if executor.slots > 1:  # nobody hears of the steps of a run elsewhere: the run itself is the unit
                monitor.begin(job.config, 1)
            executor.submit(key, job)
            under_way[key] = job
        if not under_way:
            return
        key, record = executor.next()
        job = under_way.pop(key)
        store.keep(job, record)
        monitor.ends(job, record, kept=False)
        yield key, job, record


class Closing:
    """An executor is a context: its workers are let go of at its end."""

    def __enter__(self) -> Self:
        """Ready."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        """Let go of the workers."""


def never() -> bool:
    """What tells a job whether to stop where nobody can ask it to."""
    return False


class Local(Closing):
    """One job after the other in this process.

    Args:
        work: does a job.
        stop: asked now and then; once it says yes, the job stops where it is.
    """

    slots = 1

    def __init__(self, work: Work, stop: Stop = never) -> None:
        self._work, self._stop = work, stop
        self._taken: tuple[int, Job] | None = None

    def submit(self, key: int, job: Job) -> None:
        """Take on a job."""
        self._taken = (key, job)

    def next(self) -> tuple[int, Record]:
        """Do it."""
        assert self._taken is not None
        key, job = self._taken
        self._taken = None
        return key, self._work(job, self._stop)


class _Child:
    """What a process of the pool was told when it began."""

    stopping: Event | None = None


def _begin_child(stopping: Event) -> None:
    # Ctrl-C reaches every process of the terminal; the one that the user started tells the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Child.stopping = stopping


def call(work: Work, job: Job) -> Record:
    """Do a job in a worker, be it a process of the pool or one of Ray's."""
    stopping = _Child.stopping
    return work(job, never if stopping is None else stopping.is_set)


def gave_up(job: Job) -> HoldfastError:
    """The error for a job that takes its worker with it every time."""
    return HoldfastError(
        f"{job.name}: its worker process died {RETRIES + 1} times, perhaps for want of memory; give fewer workers"
    )


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
            self.slots, mp_context=self._context, initializer=_begin_child, initargs=(self._stopping,)
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
    from holdfast.bench.cluster import Ray

    return Ray(work, count, stop, address=ray_address, gpus=gpus)


def check(name: str, *, workers: int | None = None, ray_address: str | None = None) -> None:
    """Refuse, before anything is begun, what :func:`build` would refuse.

    Raises:
        ConfigurationError: for an unknown name, or an option that does not apply.
        DependencyError: naming the extra that is missing.
    """
    if name not in NAMES:
        raise ConfigurationError(f"--executor is {name!r}; expected one of {', '.join(NAMES)}")
    if ray_address is not None and name != "ray":
        raise ConfigurationError(f"--ray-address needs --executor ray, got {name!r}")
    if name == "local" and workers not in (None, 1):
        raise ConfigurationError(f"--workers {workers} needs --executor processes or ray")
    if name == "ray" and importlib.util.find_spec("ray") is None:
        raise DependencyError("--executor ray needs Ray: pip install 'holdfast[ray]'")
