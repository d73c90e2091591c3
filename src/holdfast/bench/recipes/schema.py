"""What a recipe may say, and reading it: a published protocol as one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from holdfast import registry
from holdfast.bench.records.record import BetweenTasks, Memory, Scenario, TrainingOutputs
from holdfast.checks import unknown_name
from holdfast.errors import StateError

__all__ = ["Method", "Paired", "Part", "Published", "Quick", "Recipe", "Training", "Variant", "load", "names", "read"]

_Label = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
_Value = float | int | bool | str
_DEEPEST = 50


class _Strict(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class Training(_Strict):
    """Fields of a run's configuration, under their names there; what is not given is left to whoever comes before."""

    model: str | None = None
    model_options: dict[str, Any] | None = None
    optimizer: str | None = None
    optimizer_options: dict[str, Any] | None = None
    optimizer_between_tasks: BetweenTasks | None = None
    optimizer_phases: list[dict[str, Any]] | None = None
    lr: float | None = None
    lr_decay: float | None = None
    lr_decay_every: int | None = None
    epochs: int | None = None
    epochs_per_task: list[int] | None = None
    pretrain_epochs: int | None = None
    retrain_epochs: int | None = None
    batch_size: int | None = None
    stop_losses: list[float] | None = None
    shuffle: bool | None = None
    validation_fraction: float | None = None
    importance_samples: int | None = None
    importance_batch_size: int | None = None
    backbone: str | None = None
    memory: Memory | None = None
    low_perplexity: float | None = None
    evaluate_on: Literal["test", "train"] | None = None
    evaluate_mode: Literal["eval", "train"] | None = None

    def over(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """The fields so far, with those that are given here in their place."""
        return {**before, **self.model_dump(exclude_unset=True)}


class Part(_Strict):
    """One stream of the protocol; ``differs`` says in a sentence why its numbers are no test of the published ones.

    ``constant`` is each task's accuracy under the best constant answer, in percent: where it is given, rows that
    learned no more than that are said.
    """

    stream: str
    scenario: Scenario
    training_outputs: TrainingOutputs = "all"
    stream_options: dict[str, Any] = {}
    train: Training = Training()
    differs: str = ""
    constant: list[float] = []


class Method(_Strict):
    """One row of the protocol's table: a method of the registry under one setting.

    ``set`` are hyperparameters whose values ``source`` gave; ``grid`` are candidates, chosen among by validation
    accuracy on the first seed. ``each`` is one of the hyperparameters, or a field of training, with the values of a
    front: a row for each, all of them shown, and ``front`` is then the label that they share. ``stream_options`` are
    further ones of its stream, of how it is trained on. ``parts`` and ``variants`` say where the row applies; empty
    means everywhere.
    """

    label: _Label
    method: str
    about: str = ""
    set: dict[str, _Value] = {}
    source: str = ""
    grid: dict[str, list[_Value]] = {}
    each: dict[str, list[_Value]] = Field(default={}, max_length=1)
    front: str = ""
    train: Training = Training()
    stream_options: dict[str, Any] = {}
    seeds: int | None = Field(default=None, ge=1)
    parts: list[str] = []
    variants: list[str] = []

    @property
    def control(self) -> bool:
        """Whether its method is one that every claim should be held against."""
        return registry.lookup(self.method).control

    @model_validator(mode="after")
    def _known(self) -> Self:
        entry = registry.lookup(self.method)
        for key in [*self.set, *self.grid]:
            if key not in entry.settings:
                raise ValueError(f"{self.method} has no setting {key!r}; it has {', '.join(entry.settings) or 'none'}")
        both = self.set.keys() & self.grid.keys()
        if both:
            raise ValueError(f"{self.label} has {sorted(both)[0]!r} in 'set' and in 'grid'; expected one of them")
        for key in self.each:
            if key not in entry.settings and key not in Training.model_fields:
                raise ValueError(f"{self.method} has no setting {key!r}, and training has none")
        if self.set and not (self.source or self.front):
            raise ValueError(f"{self.label} sets hyperparameters; expected a 'source' that says where they are from")
        return self

    def rows(self) -> list[Method]:
        """The rows that it stands for: itself, or one for each value of a front."""
        found = [self]
        for key, values in self.each.items():
            found = []
            for value in values:
                fields = self.model_dump(exclude_unset=True)
                place = fields.setdefault("set" if key in registry.lookup(self.method).settings else "train", {})
                place[key] = value
                fields |= {"label": f"{self.label}-{value}", "front": self.label, "each": {}}
                found.append(Method.model_validate(fields))
        return found


class Published(_Strict):
    """Numbers that others reported, in percent: label -> value.

    ``task`` is the task whose accuracy after the last task it is; without it, the average over all tasks. ``runs`` says
    of how many runs it is the mean, if that is known; ``differs`` why our protocol is not theirs, where it is not.
    ``measure`` is what was measured, where it is not accuracy by task: over all classes after the last session, or the
    mean of that over sessions.
    """

    source: str
    values: dict[str, float]
    task: int | None = Field(default=None, ge=0)
    measure: Literal["average", "last session", "session mean"] = "average"
    runs: int | None = Field(default=None, ge=1)
    part: str | None = None
    variants: list[str] = []
    differs: str = ""


class Paired(_Strict):
    """Two rows, or two fronts, whose difference is measured seed by seed, and in a sentence why that is worth knowing.

    ``measure`` is the accuracy that is compared, where it is not the average over tasks: of the last session over all
    classes, or of classes by their frequency, in streams whose classes are unequal.
    """

    rows: tuple[str, str]
    why: str = ""
    measure: Literal["average", "last session", "many", "medium", "few"] = "average"
    parts: list[str] = []


class Variant(_Strict):
    """One way to run the protocol."""

    about: str
    seeds: int | None = Field(default=None, ge=1)
    train: Training = Training()
    stream_options: dict[str, Any] = {}


class Quick(_Strict):
    """What is made smaller for ``--quick``; of every grid the first ``candidates`` are left."""

    seeds: int = Field(default=1, ge=1)
    candidates: int = Field(default=1, ge=1)
    train: Training = Training()
    stream_options: dict[str, Any] = {}


class Recipe(_Strict):
    """A published protocol: streams, training, methods, and the numbers that were published.

    Later places win over earlier ones: ``train``, a part's, a variant's, a method's, and last ``quick``'s.
    ``choose_with`` is the share of the training data by which grids choose; the runs that are reported then learn
    from all of it, as the published ones did.
    """

    name: _Label
    title: str
    source: str
    about: str
    seeds: int = Field(ge=1)
    notes: list[str] = []
    train: Training
    parts: dict[str, Part] = Field(min_length=1)
    variants: dict[str, Variant] = {}
    choose_with: float = Field(default=0.1, gt=0, lt=1)
    methods: list[Method] = Field(min_length=1)
    published: list[Published] = []
    paired: list[Paired] = []
    quick: Quick

    @field_validator("methods")
    @classmethod
    def _one_by_one(cls, methods: list[Method]) -> list[Method]:
        return [row for each in methods for row in each.rows()]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        labels = [row.label for row in self.methods]
        fronts = dict.fromkeys(row.front for row in self.methods if row.front)
        for what, given, known in (
            ("methods: the label", [label for label in labels if labels.count(label) > 1], ()),
            ("methods: the part", [p for row in self.methods for p in row.parts], self.parts),
            ("methods: the variant", [v for row in self.methods for v in row.variants], self.variants),
            ("published: the part", [p.part for p in self.published if p.part], self.parts),
            ("published: the variant", [v for p in self.published for v in p.variants], self.variants),
            ("published: the label", [label for p in self.published for label in p.values], labels),
            ("paired: the part", [p for pair in self.paired for p in pair.parts], self.parts),
            ("paired: the label", [label for pair in self.paired for label in pair.rows], [*labels, *fronts]),
        ):
            wrong = [each for each in given if each not in known]
            if wrong:
                twice = "is there twice" if not known else f"is not one of {', '.join(known)}"
                raise ValueError(f"{what} {wrong[0]!r} {twice}")
        needed = ("model", "optimizer", "lr", "optimizer_between_tasks", "epochs", "batch_size")
        missing = [name for name in needed if getattr(self.train, name) is None]
        if missing:
            raise ValueError(f"train: {missing[0]} is missing")
        return self

    def seeds_of(self, row: Method, variant: str) -> int:
        """How many seeds a row is to have in a variant (empty: in a recipe without variants)."""
        return row.seeds or (self.variants[variant].seeds if variant else None) or self.seeds

    def training_of(self, row: Method, part: str, variant: str) -> dict[str, Any]:
        """Fields of the configuration of a row's runs; later places win over earlier ones."""
        training = self.train.over({"validation_fraction": 0.0})
        in_variant = self.variants[variant].train if variant else Training()
        for later in (self.parts[part].train, in_variant, row.train):
            training = later.over(training)
        return training

    def stream_options_of(self, part: str, variant: str) -> dict[str, Any]:
        """What a part's stream is built with."""
        in_variant = self.variants[variant].stream_options if variant else {}
        return {**self.parts[part].stream_options, **in_variant}

    def reported(self, part: str, variant: str) -> list[Published]:
        """What was published of a part, and applies to a variant."""
        return [
            each
            for each in self.published
            if each.part in (None, part) and (not each.variants or variant in each.variants)
        ]

    def rows_of(self, part: str, variant: str) -> list[Method]:
        """The rows that a part has in a variant."""
        return [
            row
            for row in self.methods
            if (not row.parts or part in row.parts) and (not row.variants or variant in row.variants)
        ]


_FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The recipes that come with the bench."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load(name: str) -> Recipe:
    """A recipe that comes with the bench.

    Raises:
        ConfigurationError: if there is none of that name.
    """
    if name not in names():
        raise unknown_name("recipe", name, names())
    return read(_FOLDER / f"{name}.yaml")


def read(path: Path) -> Recipe:
    """A recipe from a file.

    Raises:
        StateError: if the file cannot be read, or is not a recipe: it says where it is wrong.
    """
    try:
        recipe = Recipe.model_validate(_parsed(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise StateError(f"cannot read the recipe {path}: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise StateError(f"the recipe {path} is wrong: {where + ': ' if where else ''}{first['msg']}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or number that is none, no UTF-8
        raise StateError(f"the recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if recipe.name != path.stem:
        raise StateError(f"the recipe {path} says name: {recipe.name}; expected {path.stem}")
    return recipe


def _parsed(text: str) -> Any:
    # The parser's time grows with the square of the open brackets, so they are counted first.
    depth = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} brackets are open at once")
    return yaml.safe_load(text)
