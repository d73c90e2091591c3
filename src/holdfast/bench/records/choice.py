"""What a value was chosen among: candidates and scores as data. The sentence that tells of them is made when shown.

Nothing reads that sentence back, except :mod:`holdfast.bench.records.legacy`, which knows the words of old records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

__all__ = ["By", "Candidate", "Choice", "label", "sentence"]

By = Literal["validation accuracy", "validation likelihood"]
_HALF_A_HUNDREDTH = 0.5e-4 + 1e-12  # an old record has hundredths of a percent


class _Frozen(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Candidate(_Frozen):
    """Values that were tried together.

    ``score`` is the average validation accuracy, a fraction, or the likelihood of a validation word, the inverse of the
    perplexity; ``None`` where the run failed. ``trial`` is the number of
    a search's trial.
    """

    values: dict[str, float | int | bool | str | None]
    score: Annotated[float, Field(ge=0.0, le=1.0)] | None
    trial: int | None = None

    @property
    def label(self) -> str:
        """The values in a few words, which are also part of a file's name."""
        return label(self.values)

    def agrees(self, other: Candidate) -> bool:
        """Whether the other is the same candidate with the same score, as exactly as records have it."""
        if self.values != other.values or self.score is None or other.score is None:
            return (self.values, self.score) == (other.values, other.score)
        return abs(self.score - other.score) <= _HALF_A_HUNDREDTH


class Choice(_Frozen):
    """How a grid or a search chose: the best of its candidates, the first of equals.

    ``candidates`` stand in the order in which they were tried; ``unlisted`` is how many more there were, of which an
    old record does not say what they were. ``seed`` is that of their runs. The score is over the first ``tasks`` of the
    stream; ``None``: over all.
    """

    kind: Literal["grid", "search"]
    by: By = "validation accuracy"
    seed: int
    tasks: int | None = Field(default=None, ge=1)
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    unlisted: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _same_keys(self) -> Self:
        keys = self.candidates[0].values.keys()
        if any(each.values.keys() != keys for each in self.candidates):
            raise ValueError("the candidates of a choice must have the same hyperparameters")
        return self

    @property
    def count(self) -> int:
        """How many candidates there were."""
        return len(self.candidates) + self.unlisted

    @property
    def best(self) -> Candidate:
        """The candidate with the highest score, the first of equals; a failed one only where all failed."""
        return max(self.candidates, key=lambda each: -1.0 if each.score is None else each.score)

    def agrees(self, other: Choice | None) -> bool:
        """Whether the other is the same choice, as exactly as records have it."""
        if other is None or len(self.candidates) != len(other.candidates):
            return False
        mine, others = (each.model_copy(update={"candidates": ()}) for each in (self, other))
        pairs = zip(self.candidates, other.candidates, strict=True)
        return mine == others and all(one.agrees(another) for one, another in pairs)


def label(values: Mapping[str, object]) -> str:
    """Values in a few words.

    Example:
        >>> label({"strength": 10.0, "temperature": 2.0})
        'strength=10.0, temperature=2.0'
    """
    return ", ".join(f"{key}={value}" for key, value in values.items())


def sentence(choice: Choice) -> str:
    """A choice in words, for people: no program reads them."""
    seed = f"seed {choice.seed}"
    if choice.kind == "search":
        best = choice.best
        where = "" if best.trial is None else f" in trial {best.trial}"
        over = _first(choice.tasks)
        return f"best of {choice.count} trials by {choice.by} over {over}, {seed}: {_percent(best)}{where}"
    shown = ", ".join(f"{each.label} {_percent(each)}" for each in choice.candidates)
    return f"best of {choice.count} by {choice.by}, {seed}: {shown}"


def _percent(candidate: Candidate) -> str:
    return "failed" if candidate.score is None else f"{candidate.score:.2%}"


def _first(tasks: int | None) -> str:
    return "all tasks" if tasks is None else f"the first {tasks} tasks" if tasks > 1 else "the first task"
