"""Optimizers whose own state is the memory of earlier tasks: keep them, not a fresh one, from task to task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from holdfast.optim.classp import CLASSP, effective_step_size

__all__ = ["CLASSP", "Consolidating", "effective_step_size"]


@runtime_checkable
class Consolidating(Protocol):
    """An optimizer that is itself the memory, and may be told that a task has ended."""

    def consolidate(self, batches: Iterable[Any] = (), **values: Any) -> None:
        """Go on to the next task, with other values in every group where some are given."""
        ...
