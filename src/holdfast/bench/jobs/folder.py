"""The folder of a comparison: ``records/`` (a file per run), ``choices/`` (a grid's candidates), ``report.html``.

While runs are under way, ``checkpoints/`` holds what they need in order to go on.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from holdfast.bench import report
from holdfast.bench.comparing.compare import Comparison, candidates, jobs
from holdfast.bench.jobs.job import Job
from holdfast.bench.records import record as records
from holdfast.bench.records.record import Record, RunConfig
from holdfast.bench.training.checkpoint import EVERY, SHARE, Checkpoints
from holdfast.errors import ConfigurationError
from holdfast.files import remove_leftovers

__all__ = ["Folder", "Memory", "check_writable"]

# What all records of one folder share, so that its table compares like with like.
_SHARED = ("stream", "scenario", "training_outputs", "tasks", "model", "epochs", "batch_size", "validation_fraction")


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
        path: the folder; made by :meth:`prepare` where it is missing.
        every: seconds between checkpoints.
        share: share of a run's time that its checkpoints may take.
        warn: is told in a sentence which checkpoint is no good.
        stop: asked after each step; once it says yes, a checkpoint is written and `KeyboardInterrupt` raised.
    """

    def __init__(
        self,
        path: Path,
        *,
        every: float = EVERY,
        share: float = SHARE,
        warn: Callable[[str], None] = warnings.warn,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = path
        self._every, self._share, self._warn, self._stop = every, share, warn, stop

    @property
    def report_path(self) -> Path:
        """The report's file."""
        return self.path / "report.html"

    def prepare(self, comparison: Comparison, *, searched: Collection[str] = ()) -> None:
        """Make sure, before anything is trained, that the folder can take this comparison's records.

        Records of an earlier call with the same settings are welcome: they are not run again.

        Args:
            comparison: what is to be run.
            searched: methods whose hyperparameters are not known yet.

        Raises:
            ConfigurationError: if it cannot be written, or holds records of another comparison.
            StateError: if a file in it is not a record, or a checkpoint in it is of another run.
        """
        self.make()
        self._refuse_others(comparison, searched)
        trials = candidates(comparison)
        known = [job for job in jobs(comparison) if job.config.method not in {*trials, *searched}]
        for job in itertools.chain(known, *trials.values()):
            self.keeper(job).check()

    def make(self) -> None:
        """Make the folder.

        Raises:
            ConfigurationError: if it cannot be written.
        """
        check_writable(self.path, "records")
        for inner in ("records", "choices", "checkpoints"):
            remove_leftovers(self.path / inner)

    def _refuse_others(self, comparison: Comparison, searched: Collection[str]) -> None:
        planned = {job.config.method + str(job.config.seed): job.config for job in jobs(comparison)}
        trials = candidates(comparison)
        anyone = next(iter(planned.values()))
        unchosen = [name for name in RunConfig.model_fields if name != "hyperparameters"]
        for old in self.records():
            config = planned.get(old.config.method + str(old.config.seed))
            differing: Sequence[str]
            if config is None:
                differing = _differing(old.config, anyone, _SHARED)
            elif config.method in trials:
                same = _chosen_among(old.config, trials[config.method], comparison.grids[config.method])
                differing = _differing(old.config, config, unchosen) or ([] if same else ["hyperparameters"])
            else:
                fields = unchosen if config.method in searched else list(RunConfig.model_fields)
                differing = _differing(old.config, config, fields)
            if differing:
                raise ConfigurationError(
                    f"the folder {self.path} holds records of another comparison ({records.filename(old.config)} "
                    f"differs in {', '.join(differing)}): name another folder with --out, or delete that one"
                )

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
        )

    def records(self) -> list[Record]:
        """Every record of a run that read the test set."""
        return records.load_all(self.path) if (self.path / "records").is_dir() else []

    def write_report(
        self, commands: Sequence[str] = (), *, published: Sequence[report.PublishedValue] = ()
    ) -> Path | None:
        """Make the report of all records, if there are any.

        Args:
            commands: what to type to repeat the whole comparison.
            published: values that others reported, drawn in beside ours.
        """
        found = self.records()
        return report.write(found, self.report_path, commands=commands, published=published) if found else None


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


def _differing(old: RunConfig, new: RunConfig, fields: Sequence[str]) -> list[str]:
    old, new = old.without_story(), new.without_story()
    return [name.replace("_", " ") for name in fields if getattr(old, name) != getattr(new, name)]


def _chosen_among(old: RunConfig, trials: Sequence[Job], keys: Collection[str]) -> bool:
    """Whether a grid chose the values of an old run among just these candidates."""
    wanted = {job.label for job in trials}
    choices = [old.hyperparameters[key].choice for key in keys]
    return all(
        choice is not None and choice.count == len(wanted) and {each.label for each in choice.candidates} == wanted
        for choice in choices
    )
