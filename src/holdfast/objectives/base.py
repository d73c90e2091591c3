"""What an objective must be able to say, for those who write one of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["Batch", "Forward", "Objective", "Padded", "SharedForward", "Teaching"]

Batch: TypeAlias = Any
Forward: TypeAlias = Callable[[nn.Module, Batch], Any]


@runtime_checkable
class Objective(Protocol):
    """What a batch means. ``B`` samples, ``K`` outputs."""

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass: the outputs that this task uses, ``[B, ...]``."""
        ...

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """One loss per sample, ``[B]`` (``[B, S]`` where a row holds several samples; what is none exactly 0)."""
        ...

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Batch:
        """A batch for :meth:`losses` whose targets are drawn from the model's own distribution."""
        ...

    def factors(self, outputs: Tensor) -> Iterator[Tensor]:
        """Terms ``[B]`` whose squared per-sample gradients add up to the exact Fisher information."""
        ...


@runtime_checkable
class SharedForward(Protocol):
    """An objective whose forward pass other objectives may share: ``outputs = select(forward(...))``."""

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """Whatever the model returns."""
        ...

    def select(self, raw: Any) -> Tensor:
        """This task's outputs, out of what the model returned."""
        ...


@runtime_checkable
class Padded(Protocol):
    """An objective of one's own some of whose positions carry no sample."""

    def count(self, batch: Batch) -> int:
        """How many samples a batch holds."""
        ...

    def mask(self, sampled: Batch, batch: Batch) -> Batch:
        """The sampled targets, without those at positions that carry no sample in ``batch``."""
        ...


@runtime_checkable
class Teaching(Protocol):
    """An objective of one's own that says how a student learns its outputs from a teacher."""

    def distill(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """One loss per sample ``[B]``, 0 where the two agree; the teacher's outputs carry no gradient."""
        ...
