"""How steep a run's loss was after a task: a norm of its Hessian, whole and per tensor."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

__all__ = ["Diagnose", "Steepness"]

Diagnose: TypeAlias = Literal["hessian", "hessian-frobenius", "hessian-spectral"]
"""What a run measures besides, where it is asked to; plain ``hessian`` is the curvature along the gradient."""


class Steepness(BaseModel):
    """What :func:`holdfast.hessian_norm` found after a task, on a batch of its training data.

    ``step`` is the best learning rate of plain gradient descent; ``None`` where the loss does not curve upwards.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["quadratic", "frobenius", "spectral"]
    samples: int
    whole: float
    tensors: dict[str, float]
    loss: float
    gradient: float
    step: float | None
