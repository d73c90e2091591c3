"""What executors share: how jobs are handed out, done and taken back, whatever does them.

An executor only does jobs. Which job comes next, and where its result is kept, is decided in the one process that
calls :func:`carry_out`: what has come back is kept at once, so a worker that dies takes no finished job with it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from holdfast.bench.jobs.job import Job, Monitor, Store
from holdfast.bench.records.record import Record
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from typing_extensions import Self

__all__ = [
    "LOOK",
    "RETRIES",
    "Closing",
    "Executor",
    "Local",
    "Stop",
    "Work",
    "begin_child",
    "call",
    "carry_out",
    "gave_up",
    "never",
]

Stop: TypeAlias = Callable[[], bool]
Work: TypeAlias = Callable[[Job, Stop], Record]

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


def begin_child(stopping: Event) -> None:
    """What a process of the pool does first."""
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
