"""Runs as they happen, sent to TensorBoard, MLflow or Weights & Biases through Accelerate's trackers."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.bench.records.record import RunConfig, stem
from holdfast.errors import ConfigurationError, DependencyError, Option

if TYPE_CHECKING:
    from holdfast.bench.jobs.job import Job
    from holdfast.bench.training.observer import Observer

__all__ = ["NAMES", "Both", "Track", "Tracker", "check", "observer"]

_MODULES = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic"), "wandb": ("wandb",)}
NAMES = tuple(_MODULES)


@dataclass(frozen=True)
class Track:
    """Where measurements are sent.

    Args:
        kind: one of :data:`NAMES`.
        folder: for what is kept on this machine: event files, MLflow's database ``mlflow.db`` (unless
            ``MLFLOW_TRACKING_URI`` names a server), what Weights & Biases has not sent yet.
        project: what the runs of one comparison are gathered under.

    Raises:
        ConfigurationError: for another kind.
    """

    kind: str
    folder: Path
    project: str

    def __post_init__(self) -> None:
        if self.kind not in NAMES:
            raise ConfigurationError(Option("track"), f" is {self.kind!r}; expected one of {', '.join(NAMES)}")


def check(track: Track) -> None:
    """Refuse a tracker that is not installed, before anything is trained.

    Raises:
        DependencyError: naming the extra.
    """
    for extra, module in [("bench", "accelerate"), *((track.kind, module) for module in _MODULES[track.kind])]:
        if importlib.util.find_spec(module) is None:
            raise DependencyError(Option("track", (track.kind,)), f" needs {module}: pip install 'holdfast[{extra}]'")


def _open(track: Track, name: str) -> Any:
    """Accelerate's tracker of a new run."""
    import accelerate
    from accelerate import tracking

    folder = os.path.abspath(track.folder)
    os.makedirs(folder, exist_ok=True)
    tracker: Any
    if track.kind == "tensorboard":
        tracker = tracking.TensorBoardTracker(name, logging_dir=folder)
    elif track.kind == "mlflow":
        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            from sqlalchemy.engine import URL

            mlflow.set_tracking_uri(URL.create("sqlite", database=os.path.join(folder, "mlflow.db")).render_as_string())
        tracker = tracking.MLflowTracker(
            experiment_name=track.project, logging_dir=os.path.join(folder, "mlflow-files"), run_name=name
        )
    else:
        tracker = tracking.WandBTracker(run_name=track.project, name=name, dir=folder)
    accelerate.PartialState()  # the trackers' own logging asks it which process this is
    try:
        tracker.start()
    except Exception as error:  # whatever a tracker raises that cannot reach its server or its files
        reason = str(error).strip().split("\n")[0]
        raise ConfigurationError(Option("track", (track.kind,)), f" could not begin: {reason}") from error
    return tracker


class Tracker:
    """Tells a tracker what a run measures; a runner's observer.

    Args:
        track: where to.
        name: of the run.
    """

    def __init__(self, track: Track, name: str) -> None:
        self._track, self._name = track, name
        self._tracker: Any = None
        self._steps = 0

    def begin(self, config: RunConfig, steps: int) -> None:
        """A new run, with its whole configuration."""
        self._tracker = _open(self._track, self._name)
        self._tracker.store_init_configuration(_flat(config))

    def advance(self, steps: int) -> None:
        """Count steps."""
        self._steps += steps

    def measured(self, task: int, step: int, loss: float, penalty_share: float | None) -> None:
        """The loss, and the penalty's share of the gradient where there is one."""
        values = {"task": task, "loss": loss, "penalty_share": penalty_share}
        self._log({key: value for key, value in values.items() if value is not None}, step)

    def tested(self, task: int, accuracies: list[float]) -> None:
        """The accuracy on every task, and on average over those learned so far and over all."""
        values = {f"accuracy/task_{index}": value for index, value in enumerate(accuracies)}
        values["accuracy/learned"] = _mean(accuracies[: task + 1])
        values["accuracy/all"] = _mean(accuracies)
        self._log(values, self._steps)

    def _log(self, values: dict[str, float], step: int) -> None:
        finite = {key: value for key, value in values.items() if math.isfinite(value)}
        self._tracker.log(finite, step=step)

    def finish(self) -> None:
        """The run has ended, however it did."""
        if self._tracker is not None:
            self._tracker.finish()
            self._tracker = None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _flat(config: RunConfig) -> dict[str, str | float | int | bool]:
    """Only what every tracker takes: texts and numbers."""
    found: dict[str, str | float | int | bool] = {}
    for key, value in config.model_dump(mode="json", exclude={"hyperparameters"}).items():
        if isinstance(value, str | float | int | bool):
            found[key] = value
        elif value:
            found[key] = str(value)
    for key, chosen in config.hyperparameters.items():
        value = chosen.value
        found[key] = "none" if value is None else value
        found[f"{key}_source"] = chosen.source
    return found


class Both:
    """Two observers of one run.

    Args:
        first: is told first.
        second: is told next.
    """

    def __init__(self, first: Observer, second: Observer) -> None:
        self._observers = (first, second)

    def begin(self, config: RunConfig, steps: int) -> None:
        """A run begins (or goes on)."""
        for one in self._observers:
            one.begin(config, steps)

    def advance(self, steps: int) -> None:
        """So many more steps are done."""
        for one in self._observers:
            one.advance(steps)

    def measured(self, task: int, step: int, loss: float, penalty_share: float | None) -> None:
        """A point of the curves."""
        for one in self._observers:
            one.measured(task, step, loss, penalty_share)

    def tested(self, task: int, accuracies: list[float]) -> None:
        """A task was learned and all were tested."""
        for one in self._observers:
            one.tested(task, accuracies)


@contextmanager
def observer(track: Track | None, job: Job, also: Observer | None = None) -> Iterator[Observer | None]:
    """Who should be told of a job's run, for as long as the context lasts.

    Args:
        track: where measurements are sent; ``None``: nowhere.
        job: the job.
        also: who is told besides.
    """
    if track is None:
        yield also
        return
    tracker = Tracker(track, stem(job.config, job.label))
    try:
        yield tracker if also is None else Both(tracker, also)
    finally:
        tracker.finish()
