"""Where a run ran, what it cost, and how its loss went."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

__all__ = ["Costs", "Curves", "Environment"]


class _Frozen(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Environment(_Frozen):
    """Where it ran: versions, machine, and the UTC date in ISO form."""

    python: str
    torch: str
    holdfast: str
    platform: str
    processor: str
    threads: int
    device_name: str
    date: str


class Costs(_Frozen):
    """What it cost. ``seconds_per_step`` is the median over training steps; ``parameters`` counts scalars."""

    steps: int = Field(ge=0)
    seconds_total: float
    seconds_training: float
    seconds_per_step: float
    seconds_consolidate: float
    seconds_evaluate: float
    peak_memory_bytes: int = Field(ge=0)
    parameters: int = Field(ge=0)
    state_bytes: int = Field(ge=0)

    @property
    def state_bytes_per_parameter(self) -> float:
        """Bytes that the method remembers for each parameter of the model."""
        return self.state_bytes / self.parameters if self.parameters else 0.0


class Curves(_Frozen):
    """The training loss, sampled sparsely: four columns of equal length."""

    task: list[int] = []
    step: list[int] = []
    loss: list[float] = []
    penalty_share: list[float | None] = []

    @model_validator(mode="after")
    def _equal_lengths(self) -> Self:
        lengths = {len(self.task), len(self.step), len(self.loss), len(self.penalty_share)}
        if len(lengths) > 1:
            raise ValueError("the columns of curves must have one length")
        return self
