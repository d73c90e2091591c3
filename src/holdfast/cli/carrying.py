"""What the commands that train have in common: prepare, run, and leave a report whatever happens."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from holdfast.errors import ConfigurationError, HoldfastError

if TYPE_CHECKING:
    from holdfast.bench.comparing.compare import Comparison
    from holdfast.bench.comparing.tuning import Search
    from holdfast.bench.data.tasks import Stream
    from holdfast.bench.jobs.folder import Folder
    from holdfast.bench.jobs.handing_out import Executor, Stop
    from holdfast.bench.jobs.job import Monitor
    from holdfast.bench.jobs.trackers import Track
    from holdfast.bench.records.record import Record

__all__ = ["How", "carry_out", "changes", "say_untuned", "say_where", "search_for", "stream", "use_threads"]


@dataclass(frozen=True)
class How:
    """Everything about a command that is not what it runs.

    Args:
        out: folder for the results; ``None`` for nothing on disk.
        data_dir: where the data sets are.
        checkpoint_every: seconds.
        search: how hyperparameters are chosen; ``None``: as given.
        executor: a name of :data:`holdfast.bench.jobs.processes.NAMES`.
        workers: runs at once.
        ray_address: of a Ray cluster that runs already.
        track: a name of :data:`holdfast.bench.jobs.trackers.NAMES`.
        threads: of each run in another process.
    """

    out: Path | None
    data_dir: Path | None
    checkpoint_every: float = 60.0
    search: Search | None = None
    executor: str = "local"
    workers: int | None = None
    ray_address: str | None = None
    track: str | None = None
    threads: int = 1

    def tracking(self, comparison: Comparison) -> Track | None:
        """Where measurements are sent."""
        from holdfast.bench.jobs import trackers

        if self.track is None:
            return None
        folder = (self.out or Path()) / "tracking"
        track = trackers.Track(self.track, folder, f"{comparison.stream.name}-{comparison.stream.scenario}")
        trackers.check(track)
        return track


def changes(*values: Any) -> dict[str, Any]:
    """The options that replace fields of a stream's protocol, by name."""
    names = ("model", "optimizer", "lr", "optimizer_between_tasks", "epochs", "batch_size", "validation_fraction")
    return dict(zip(names, values, strict=True))


def use_threads(threads: int | None, stream: str) -> int:
    """Set the number of CPU threads, and return it."""
    import torch

    from holdfast.bench.comparing import plan

    wanted = plan.threads(stream) if threads is None else threads
    if wanted is not None:
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


def stream(
    name: str, seed: int, scenario: Any, training_outputs: Any, validation: float | None, data_dir: Path | None
) -> Stream:
    """The stream as the options have it."""
    from holdfast.bench.comparing import plan
    from holdfast.bench.data import streams

    fraction = plan.protocol(name).validation_fraction if validation is None else validation
    return streams.build(
        name,
        seed=seed,
        scenario=scenario,
        training_outputs=training_outputs,
        validation_fraction=fraction,
        data_dir=data_dir,
    )


def search_for(trials: int, tasks: str, storage: str | None, out: Path) -> Search:
    """A search as the options have it; its studies lie in the results' folder unless told otherwise.

    Raises:
        ConfigurationError: for a number of tasks that is none.
    """
    from holdfast.bench.comparing import studies, tuning

    words = tasks.strip().lower().removeprefix("k=")
    if words != "all" and not words.isdecimal():
        raise ConfigurationError(f"--tasks is {tasks!r}; expected a number of tasks, or all")
    url = storage or studies.file_url(out / "search.db")
    return tuning.Search(trials, None if words == "all" else int(words), url)


def say_untuned(comparison: Comparison) -> None:
    """Name the methods for which a search has nothing to choose: they run as they are, and are shown as untuned."""
    from holdfast.bench.comparing import tuning
    from holdfast.cli import show

    names = [name for name in comparison.methods if not tuning.space(comparison, name) and name not in comparison.grids]
    if names:
        show.note(f"Nothing to search: {', '.join(names)} run{'s' * (len(names) == 1)} untuned.")


def carry_out(comparison: Comparison, how: How, context: typer.Context) -> list[Record]:
    """Check everything, run everything, and leave a report of what is finished whatever happens."""
    from holdfast.bench.comparing import compare, tuning
    from holdfast.bench.jobs import handing_out as executing
    from holdfast.bench.jobs import manifest
    from holdfast.bench.jobs import processes as executors
    from holdfast.bench.jobs.folder import Folder, Memory
    from holdfast.bench.jobs.interrupt import asked_to_stop
    from holdfast.bench.jobs.progress import monitor
    from holdfast.cli import show

    compare.check(comparison)
    searched = [] if how.search is None else [config.method for config in tuning.check(comparison, how.search)]
    executors.check(how.executor, workers=how.workers, ray_address=how.ray_address)
    track = how.tracking(comparison)
    if how.out is None:
        with monitor(show.progress_console()) as watching:
            memory = Memory()
            local = executing.Local(compare.here(memory, watching, data_dir=how.data_dir, track=track))
            return compare.run(comparison, memory, watching, executor=local)
    words = context.find_root().obj
    command = shlex.join(["holdfast", *words])
    with monitor(show.progress_console()) as watching, asked_to_stop(show.aside) as stop:
        folder = Folder(how.out, every=how.checkpoint_every, warn=show.aside, stop=stop)
        folder.prepare(comparison, searched=searched)
        manifest.write(how.out, words)
        try:
            with _executor(how, comparison, folder, watching, stop, track) as executor:
                chosen = None
                if how.search is not None:
                    chosen = tuning.search_all(
                        comparison, how.search, executor=executor, store=folder, monitor=watching
                    )
                records = compare.run(comparison, folder, watching, executor=executor, chosen=chosen)
        except (KeyboardInterrupt, HoldfastError):
            _keep_what_is_finished(folder, command)
            raise
    folder.write_report([command])
    return records


def _executor(
    how: How, comparison: Comparison, folder: Folder, watching: Monitor, stop: Stop, track: Track | None
) -> Executor:
    from holdfast.bench.comparing import compare
    from holdfast.bench.jobs import processes as executors
    from holdfast.bench.jobs.work import Elsewhere

    work = compare.here(folder, watching, data_dir=how.data_dir, track=track)
    if how.executor != "local":
        data_dir = None if how.data_dir is None else how.data_dir.absolute()
        work = Elsewhere(folder.path.absolute(), data_dir, how.threads, how.checkpoint_every, track)
    gpus = 1.0 if str(comparison.fields.get("device", "cpu")).startswith("cuda") else 0.0
    return executors.build(how.executor, work, workers=how.workers, stop=stop, ray_address=how.ray_address, gpus=gpus)


def _keep_what_is_finished(folder: Folder, command: str) -> None:
    count = len(folder.records())
    folder.write_report([command])
    kept = f"{count} finished run{'s' * (count != 1)} and their report are" if count else "no finished run is yet"
    typer.echo(f"Stopped; {kept} in {folder.path}. To go on: holdfast resume {folder.path}", err=True)


def say_where(folder: Path | None) -> None:
    """Name the report."""
    if folder is not None:
        typer.echo(f"Report: {folder / 'report.html'}")
