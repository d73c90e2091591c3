"""What was answered before it was learned: a run's prequential evaluation, beside "the same label as the last"."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from holdfast import metrics

__all__ = ["FirstAnswers"]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class FirstAnswers(BaseModel):
    """How a run went on its own training data, each sample answered when it was first met.

    ``accuracy`` and ``baseline`` (of repeating the last label) are over the whole stream, ``worst`` is the lowest
    accuracy of a whole window. The curves are sampled sparsely: after ``at`` samples, over the window that ends there.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(ge=1)
    accuracy: Fraction
    baseline: Fraction
    worst: Fraction
    at: list[int] = []
    sliding: list[Fraction] = []
    sliding_baseline: list[Fraction] = []

    @model_validator(mode="after")
    def _equal_lengths(self) -> Self:
        if len({len(self.at), len(self.sliding), len(self.sliding_baseline)}) > 1:
            raise ValueError("the columns of the first answers must have one length")
        return self

    @property
    def kappa(self) -> float | None:
        """:func:`holdfast.metrics.temporal_kappa`."""
        return metrics.temporal_kappa(self.accuracy, self.baseline)
