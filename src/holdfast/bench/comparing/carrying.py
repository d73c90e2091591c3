"""Anything that trains, carried out: checked, prepared, handed to an executor, and reported whatever happens.

The order stands here once: check, prepare the folder, write down the command, build the executor, run, report. A
comparison goes through it, with a search or without, and so does a recipe's table.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from holdfast.bench import report
from holdfast.bench.data import saved
from holdfast.bench.data.tasks import Stream
from holdfast.bench.jobs import manifest, processes, trackers
from holdfast.bench.jobs.folder import Folder, Memory
from holdfast.bench.jobs.handing_out import Executor, Stop, never
from holdfast.bench.jobs.job import Monitor, Store
from holdfast.bench.jobs.trackers import Track
from holdfast.bench.jobs.work import Elsewhere, here
from holdfast.bench.records.record import Record
from holdfast.bench.training.checkpoint import EVERY
from holdfast.errors import ConfigurationError, HoldfastError, Option

__all__ = ["REPORT", "How", "Undertaking", "carry_out"]

REPORT = "report.html"
"""Name of the report in the folder of results."""


class Undertaking(Protocol):
    """What can be carried out."""

    @property
    def title(self) -> str:
        """Under what name trackers keep it."""
        ...

    @property
    def device(self) -> str:
        """Where its runs compute."""
        ...

    @property
    def own(self) -> Stream | None:
        """The stream of its runs, where it is one of somebody's own tensors."""
        ...

    @property
    def again(self) -> str:
        """What to type to do all of it again; empty: what was typed."""
        ...

    def check(self) -> None:
        """Refuse, before anything is trained, whatever would be refused later."""
        ...

    def prepare(self, folder: Folder) -> None:
        """Make the folder, and refuse one that holds anything else's records."""
        ...

    def run(self, executor: Executor, store: Store, monitor: Monitor) -> list[Record]:
        """Do it; the records of the runs that read the test set."""
        ...

    def published(self, records: Sequence[Record]) -> Sequence[report.PublishedValue]:
        """What others reported of it, to stand beside ours."""
        ...


@dataclass(frozen=True, kw_only=True)
class How:
    """Everything about a call that is not what it runs.

    Args:
        out: folder for the results; ``None`` for nothing on disk.
        data_dir: where the named data sets are.
        checkpoint_every: seconds.
        executor: a name of :data:`holdfast.bench.jobs.processes.NAMES`.
        workers: runs at once.
        ray_address: of a Ray cluster that runs already.
        track: a name of :data:`holdfast.bench.jobs.trackers.NAMES`.
        threads: CPU threads of each run in another process.
        keep_weights: whether the weights of every run that reads the test set are kept in the folder.

    Raises:
        ConfigurationError: for a value that is none, or options that do not go together.
        DependencyError: naming the extra that is missing.
    """

    out: Path | None = None
    data_dir: Path | None = None
    checkpoint_every: float = EVERY
    executor: str = "local"
    workers: int | None = None
    ray_address: str | None = None
    track: str | None = None
    threads: int = 1
    keep_weights: bool = False

    def __post_init__(self) -> None:
        processes.check(self.executor, workers=self.workers, ray_address=self.ray_address)
        every = self.checkpoint_every
        if isinstance(every, bool) or not isinstance(every, int | float) or not every >= 0:  # nan is not
            raise ConfigurationError(Option("checkpoint_every"), f" is {every!r}; expected seconds, 0 or more")
        if self.keep_weights and self.out is None:
            raise ConfigurationError(Option("keep_weights"), " needs a folder to keep them in: give ", Option("out"))


def carry_out(
    asked: Undertaking,
    how: How,
    *,
    monitor: Monitor,
    words: Sequence[str] = (),
    warn: Callable[[str], None],
    stop: Stop = never,
) -> list[Record]:
    """Check everything, run everything, and leave a report of what is finished whatever happens.

    Args:
        asked: what is to be run.
        how: where, and by what.
        monitor: is told how it is getting on.
        words: of the command that was typed, after ``holdfast``, so that it can be gone on with; empty: there was none.
        warn: is told in a sentence which checkpoint is no good.
        stop: asked after each step; once it says yes, checkpoints are written and `KeyboardInterrupt` raised.

    Returns:
        The records of the runs that read the test set.

    Raises:
        ConfigurationError: for whatever is wrong, before anything is trained.
        KeyboardInterrupt: if it was asked to stop.
    """
    asked.check()
    track = _track(asked, how)
    if how.out is None:
        memory = Memory()
        with _executor(asked, how, None, memory, monitor, stop, track) as executor:
            return asked.run(executor, memory, monitor)
    folder = Folder(how.out, every=how.checkpoint_every, warn=warn, stop=stop, keep_weights=how.keep_weights)
    asked.prepare(folder)
    command = [asked.again or shlex.join(["holdfast", *words])] if words else []
    if words:
        manifest.write(how.out, words)
    try:
        with _executor(asked, how, folder.path, folder, monitor, stop, track) as executor:
            return asked.run(executor, folder, monitor)
    except (KeyboardInterrupt, HoldfastError):
        count = len(folder.records())
        kept = f"{count} finished run{'s' * (count != 1)} and their report are" if count else "no finished run is yet"
        again = f"holdfast resume {how.out}" if words else "make the same call again"
        warn(f"stopped; {kept} in {how.out}. To go on: {again}")
        raise
    finally:
        found = folder.records()
        if found:
            report.write(found, how.out / REPORT, commands=command, published=asked.published(found))


def _track(asked: Undertaking, how: How) -> Track | None:
    if how.track is None:
        return None
    track = Track(how.track, (how.out or Path()) / "tracking", asked.title)
    trackers.check(track)
    return track


@contextmanager
def _executor(
    asked: Undertaking,
    how: How,
    folder: Path | None,
    store: Store,
    monitor: Monitor,
    stop: Stop,
    track: Track | None,
) -> Iterator[Executor]:
    gpus = 1.0 if asked.device.startswith("cuda") else 0.0
    if how.executor == "local":
        work = here(store, monitor, stream=asked.own, data_dir=how.data_dir, track=track)
        with processes.build("local", work, workers=how.workers, stop=stop) as executor:
            yield executor
        return
    with tempfile.TemporaryDirectory(prefix="holdfast-", dir=folder) as passing:
        # What workers must see lies in the results' folder, which they see too; without one, in a passing folder.
        own = None if asked.own is None else saved.write(asked.own, Path(passing).absolute() / "stream.safetensors")
        data_dir = None if how.data_dir is None else how.data_dir.absolute()
        place = Path(passing) if folder is None else folder
        elsewhere = Elsewhere(
            place.absolute(), data_dir, how.threads, how.checkpoint_every, track, own, how.keep_weights
        )
        with processes.build(
            how.executor, elsewhere, workers=how.workers, stop=stop, ray_address=how.ray_address, gpus=gpus
        ) as executor:
            yield executor
