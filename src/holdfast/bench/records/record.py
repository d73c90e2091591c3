"""One run, as a frozen and typed record that lives on disk as JSON.

A record holds everything that a report needs and everything that is needed to repeat the run. Accuracies are
fractions in ``[0, 1]``, times are seconds, memory is bytes. A number that is not finite is written as the string
``"NaN"``, ``"Infinity"`` or ``"-Infinity"``, so that the file stays standard JSON.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from holdfast.bench.records import choice as choices
from holdfast.bench.records import legacy
from holdfast.bench.records.by_class import ByClass
from holdfast.bench.records.choice import Choice
from holdfast.bench.records.first_answers import FirstAnswers
from holdfast.bench.records.likelihood import Likelihood
from holdfast.bench.records.measured import Costs, Curves, Environment
from holdfast.bench.records.steepness import Diagnose
from holdfast.bench.records.writing import write_whole
from holdfast.errors import StateError

__all__ = [
    "BetweenTasks",
    "SCHEMA_VERSION",
    "Hyperparameter",
    "Memory",
    "Outputs",
    "Record",
    "RunConfig",
    "Scenario",
    "TrainingOutputs",
    "filename",
    "load",
    "load_all",
    "row_name",
    "save",
    "stem",
    "without_times",
]

SCHEMA_VERSION = 1

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Scenario = Literal["task", "domain", "class"]
TrainingOutputs = Literal["all", "seen", "current"]
BetweenTasks = Literal["fresh", "kept"]
Outputs = Literal["fixed", "growing"]
Memory = Literal["data", "generations"]


class _Frozen(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Hyperparameter(_Frozen):
    """A value that a method was given, and how that value was chosen.

    ``choice`` is what a grid or a search tried; ``detail`` a note for the reader, such as where a recipe has it from.
    """

    value: float | int | bool | str | None
    source: Literal["default", "given", "grid", "tuned", "auto", "recipe"]
    detail: str = ""
    choice: Choice | None = None

    @property
    def story(self) -> str:
        """How it was chosen, in words; empty where the source says it all."""
        return self.detail if self.choice is None else choices.sentence(self.choice)

    def without_story(self) -> Hyperparameter:
        """The value and its source."""
        return self.model_copy(update={"detail": "", "choice": None})

    @model_serializer(mode="wrap")
    def _in_short(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A value that was not chosen among others says nothing about it."""
        fields: dict[str, Any] = handler(self)
        if self.choice is None:
            fields.pop("choice", None)
        return fields


class Pretraining(_Frozen):
    """How the first task was learned beforehand, without any method: not by the optimizer that goes on from there."""

    epochs: int = Field(ge=1)
    optimizer: str
    lr: float


class RunConfig(_Frozen):
    """What was asked for: enough to run it again.

    ``epochs`` are per task, unless ``epochs_per_task`` lists them; ``retrain_epochs`` are those of a pruning round.
    With ``pretraining`` the first task was learned beforehand, by plain training that all methods of a seed share.
    The learning rate is multiplied by ``lr_decay`` every ``lr_decay_every`` epochs of a task (0: never).
    ``importance_samples`` bounds how much of a task ``consolidate`` sees; ``optimizer_phases`` are the group values
    that an optimizer which is itself the memory is given after each task. ``stop_losses`` end a task after an epoch
    whose last batch had a loss, penalty included, of at most that; ``epochs`` are then the most it gets. Some releases
    report accuracy on the training data (``evaluate_on``) with dropout on (``evaluate_mode``). ``backbone`` is the
    representation that a closed-form head stands on, ``None`` for all else. ``prequential`` is a window. ``memory`` is
    what a method remembers texts by: the task's, or texts that the model writes itself; ``None`` for all else.
    ``low_perplexity`` is the highest perplexity, to the model before a task, of the words that are learned of it.
    """

    stream: str
    scenario: Scenario
    training_outputs: TrainingOutputs
    tasks: int = Field(ge=1)
    method: str
    model: str
    optimizer: str
    lr: float
    optimizer_options: dict[str, Any] = {}
    optimizer_between_tasks: BetweenTasks
    epochs: int = Field(ge=0)
    epochs_per_task: list[int] = []
    retrain_epochs: int | None = None
    batch_size: int = Field(ge=1)
    shuffle: bool = True
    lr_decay: float = 1.0
    lr_decay_every: int = Field(default=0, ge=0)
    validation_fraction: float = Field(ge=0.0, lt=1.0)
    seed: int
    hyperparameters: dict[str, Hyperparameter] = {}
    device: str = "cpu"
    precision: str = "float32"
    stream_options: dict[str, Any] = {}
    model_options: dict[str, Any] = {}
    backbone: str | None = None
    outputs: Outputs = "fixed"
    prequential: int | None = Field(default=None, ge=1)
    diagnose: Diagnose | None = None
    memory: Memory | None = None
    low_perplexity: float | None = Field(default=None, gt=1)
    pretraining: Pretraining | None = None
    optimizer_phases: list[dict[str, Any]] = []
    importance_samples: int | None = Field(default=None, ge=1)
    importance_batch_size: int = Field(default=256, ge=1)
    stop_losses: list[float] = []
    evaluate_on: Literal["test", "train"] = "test"
    evaluate_mode: Literal["eval", "train"] = "eval"
    extra: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _as_written_today(cls, fields: Any) -> Any:
        """What an old record says in its own way."""
        return legacy.config(fields) if isinstance(fields, dict) else fields

    @property
    def chosen(self) -> set[str]:
        """The hyperparameters that a grid or a search chose."""
        return {key for key, value in self.hyperparameters.items() if value.source in ("grid", "tuned")}

    @property
    def pretrain_epochs(self) -> int | None:
        """Epochs of the first task before any method; ``None`` where it is learned like the others."""
        return None if self.pretraining is None else self.pretraining.epochs

    @property
    def asked_of_model(self) -> dict[str, Any]:
        """What the model was asked to be besides its name, without what follows from the rest."""
        return {name: value for name, value in self.model_options.items() if name not in ("digest", "text")}

    @property
    def automatic(self) -> bool:
        """Whether the strength is one that the run finds itself."""
        return "strength" in self.hyperparameters and self.hyperparameters["strength"].value == "auto"

    def without_story(self) -> RunConfig:
        """What a run's numbers depend on: itself without the story of how its values were chosen."""
        told = {key: value.without_story() for key, value in self.hyperparameters.items()}
        return self.model_copy(update={"hyperparameters": told})


class Record(_Frozen):
    """One run of one method with one seed.

    ``matrix[i][j]`` is the test accuracy on task ``j`` after learning task ``i``. A method that learns all tasks at
    once (joint) has exactly one row, the state after all of them. ``initial`` is the untrained model's row.
    ``validation`` has the shape of ``matrix`` and is empty where no validation part was split off. ``by_class`` is
    there where classes have unequal numbers of samples, ``likelihood`` where texts are continued: an accuracy is then
    that of words.
    """

    schema_version: Literal[1] = 1
    status: Literal["finished", "failed", "interrupted"]
    failure: str = ""
    config: RunConfig
    environment: Environment
    task_names: list[str]
    initial: list[Fraction] = []
    matrix: list[list[Fraction]]
    validation: list[list[Fraction]] = []
    by_class: ByClass | None = None
    likelihood: Likelihood | None = None
    curves: Curves = Curves()
    first_answers: FirstAnswers | None = None
    costs: Costs
    diagnostics: dict[str, Any] = {}
    warnings: list[str] = []
    command: str = ""

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        tasks = len(self.task_names)
        if tasks != self.config.tasks:
            raise ValueError(f"task_names has {tasks} names for {self.config.tasks} tasks")
        if self.initial and len(self.initial) != tasks:
            raise ValueError(f"initial has {len(self.initial)} values for {tasks} tasks")
        for name, matrix in (("matrix", self.matrix), ("validation", self.validation)):
            if len(matrix) > tasks or any(len(row) != tasks for row in matrix):
                raise ValueError(f"{name} must have at most {tasks} rows of {tasks} values each")
        if self.status == "finished" and not self.matrix:
            raise ValueError("a finished run must have at least one row in its matrix")
        return self


def row_name(config: RunConfig) -> str:
    """What the run's row is called: its method, or the part and the label that a recipe gave it."""
    given = [str(config.extra[key]) for key in ("part", "label") if key in config.extra]
    return "-".join(given) or config.method


def stem(config: RunConfig, label: str = "") -> str:
    """What a run is called wherever a name must be plain: ``<method>-seed<k>``.

    Args:
        config: of the run.
        label: which candidate it is; empty for a run that reads the test set.

    Returns:
        A name that every file system takes.
    """
    name = f"{row_name(config)}-seed{config.seed}" + (f"-{label}" if label else "")
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def filename(config: RunConfig, label: str = "") -> str:
    """Name of a run's record in the folder of its comparison; the arguments are those of `stem`."""
    return stem(config, label) + ".json"


def save(record: Record, path: str | os.PathLike[str]) -> Path:
    """Write a record so that the file is at every moment either the old one or the whole new one.

    Args:
        record: what to write.
        path: the file; its folder is created where it is missing.

    Returns:
        The path that was written.

    Raises:
        StateError: if the folder or the file cannot be written.
    """
    # One line per field: small enough to commit, and a diff shows which field changed.
    fields = json.loads(record.model_dump_json())
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return write_whole(path, "{\n" + ",\n".join(lines) + "\n}\n", "record")


def load(path: str | os.PathLike[str]) -> Record:
    """Read one record.

    Raises:
        StateError: if the file cannot be read or is not a record of this schema version.
    """
    path = Path(path)
    try:
        text = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise StateError(f"Cannot read the record {path}: {getattr(error, 'strerror', None) or error}.") from error
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        # ascii(): the file may be anything, and its bytes must not reach a terminal as control characters
        problem = ascii(f"{where}: {first['msg']}" if where else first["msg"])[1:-1]
        raise StateError(f"{path} is not a holdfast record (schema version {SCHEMA_VERSION}): {problem}.") from error


def load_all(folder: str | os.PathLike[str]) -> list[Record]:
    """Read every record of a comparison, in the order of the file names.

    Args:
        folder: the comparison's folder, with the records in ``records/``, or a folder of records itself.

    Returns:
        The records; empty where the folder holds none.

    Raises:
        StateError: if the folder is missing, or a ``.json`` file in it is not a record.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StateError(f"{folder} is not a folder of records.")
    inner = folder / "records"
    return [load(path) for path in sorted((inner if inner.is_dir() else folder).glob("*.json"))]


def without_times(record: Record) -> dict[str, Any]:
    """What one machine and one seed must reproduce bit for bit: all but the date, the seconds and the peak memory."""
    fields: dict[str, Any] = json.loads(record.model_dump_json())
    del fields["environment"]["date"]
    for name in [name for name in fields["costs"] if name.startswith("seconds_") or name == "peak_memory_bytes"]:
        del fields["costs"][name]
    return fields
