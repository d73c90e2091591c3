"""Optimizers: those whose own state is the memory of earlier tasks (keep them from task to task), and a preset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from holdfast.optim.classp import CLASSP, effective_step_size
from holdfast.optim.golden import GoldenSGD, KLAndEntropy, kl_and_entropy

__all__ = ["CLASSP", "Consolidating", "GoldenSGD", "KLAndEntropy", "effective_step_size", "kl_and_entropy"]


@runtime_checkable
class Consolidating(Protocol):
    """An optimizer that is itself the memory, and may be told that a task has ended."""

    def consolidate(self, batches: Iterable[Any] = (), **values: Any) -> None:
        """Go on to the next task, with other values in every group where some are given."""
        ...
