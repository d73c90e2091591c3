"""Optimizers whose own state is the memory of earlier tasks: keep them, not a fresh one, from task to task."""

from __future__ import annotations

from holdfast.optim.classp import CLASSP, effective_step_size

__all__ = ["CLASSP", "effective_step_size"]
