"""The Hessian's norm after each task, for a run that is asked for it."""

from __future__ import annotations

import math
from typing import Any

from holdfast.bench.records.steepness import Diagnose, Steepness
from holdfast.bench.training.learner import Learner
from holdfast.bench.training.session import Session
from holdfast.curvature import Kind, hessian_norm

__all__ = ["Slope"]

_KINDS: dict[Diagnose, Kind] = {
    "hessian": "quadratic",
    "hessian-frobenius": "frobenius",
    "hessian-spectral": "spectral",
}


class Slope:
    """Measures how steep the loss of the task just learned is; it changes nothing about the run.

    Args:
        learner: of the run.
        asked: which norm; ``None``: nothing is measured.
    """

    def __init__(self, learner: Learner, asked: Diagnose | None) -> None:
        # A head is computed: no step is taken down a loss.
        self._kind = None if asked is None or learner.closed is not None else _KINDS[asked]
        self._learner = learner

    def learned(self, session: Session, diagnostics: dict[str, Any]) -> None:
        """Note the norm on the first batch that importances of the session's latest task are estimated from."""
        if self._kind is None:
            return
        task = session.last
        batch = next(iter(self._learner.importance_batches(task)))
        found = hessian_norm(self._learner.model, batch, task.training_objective, self._kind)
        noted = Steepness(
            kind=found.kind,
            samples=len(batch[1]),
            whole=found.whole,
            tensors=found.tensors,
            loss=found.loss,
            gradient=found.gradient,
            step=found.step if math.isfinite(found.step) else None,
        )
        diagnostics.setdefault("hessian", {})[str(task.index)] = noted.model_dump()
