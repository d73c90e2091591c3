"""Answers to "it does nothing": how much of the training signal is the penalty's, and how far the weights went."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.bench.training.learner import Learner
from holdfast.dispatch import Step
from holdfast.method import Method
from holdfast.objectives import Batch, Objective
from holdfast.penalties.quadratic import QuadraticPenalty

__all__ = ["Diagnosis", "GradientShare"]

_EVERY = 50
_FIRST = 5  # of a task: at its first step the weights stand at the anchor, where every penalty is 0
_LEAST, _MOST = 0.001, 0.99


def _norm(tensors: Iterable[Tensor]) -> float:
    norms = [t.detach().double().norm() for t in tensors]
    return float(torch.stack(norms).norm()) if norms else 0.0


class GradientShare(Method):
    """Measures the penalty's share of the gradient, ``‖penalty‖ / (‖penalty‖ + ‖loss‖)``, when it is told to.

    Args:
        model: the model that trains.
    """

    needs_data: ClassVar[bool] = False
    order: ClassVar[int] = 1000  # after every penalty has added its gradient

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.watching = False
        self.loss_norm = 0.0
        self.penalty_norm = 0.0
        self._own: dict[str, Tensor] = {}

    def observe_gradient(self, step: Step) -> None:
        """Keep the loss's own gradient for a moment."""
        if self.watching:
            self._own = {n: step.unscaled(p.grad).clone() for n, p in self.params.items() if p.grad is not None}
            self.loss_norm, self.penalty_norm = _norm(self._own.values()), 0.0

    def add_gradient(self, step: Step) -> None:
        """Compare with the gradient that the penalties left."""
        if self.watching:
            added = [
                step.unscaled(p.grad) - self._own[n]
                for n, p in self.params.items()
                if p.grad is not None and n in self._own
            ]
            self.penalty_norm = _norm(added)
            self._own = {}

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        """Nothing to remember."""


class Diagnosis:
    """What a run notices about its own method.

    Args:
        learner: the model, optimizer and method of the run.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._share = GradientShare(learner.model)
        self.latest_share: float | None = None
        self._least, self._most, self._seen = math.inf, 0.0, 0
        self._begun: int | None = None  # the step at which the task under way began

    def before_step(self, step: int) -> bool:
        """Whether the coming step is watched; called before each, with the number of those done."""
        method = self._learner.method
        if self._begun is None:
            self._begun = step
        unprotected = method.measured_steps if isinstance(method, QuadraticPenalty) else 0
        since = step - self._begun - unprotected
        watched = method is not None and method.num_tasks > 0 and since >= 0 and since % _EVERY == _FIRST
        if watched:
            self._share.attach(self._learner.optimizer)
            self._share.watching = True
        return watched

    def after_step(self) -> None:
        """Take the measurements of a step that was watched; called after each."""
        if not self._share.watching:
            return
        self._share.watching = False
        self._share.detach()
        penalty, loss = self._share.penalty_norm, self._share.loss_norm
        method = self._learner.method
        if isinstance(method, QuadraticPenalty) and method.coupling == "proximal":
            penalty = self._closed_form(method)
        elif method is not None and method.needs_penalty:
            penalty, loss = self._learner.penalty_norms
        elif method is None or not _adds_gradient(method):
            return
        share = penalty / (penalty + loss) if penalty + loss > 0 else 0.0
        if isinstance(method, QuadraticPenalty) and method.coupling == "proximal":
            share = max(share, _undone(method) / loss**2 if loss > 0 else 0.0)
        self.latest_share = share
        self._least, self._most, self._seen = min(self._least, share), max(self._most, share), self._seen + 1

    def _closed_form(self, method: QuadraticPenalty) -> float:
        gradients = torch.autograd.grad(method.value(), list(method.params.values()), allow_unused=True)
        return _norm(g for g in gradients if g is not None)

    def end_of_task(self, task: int, diagnostics: dict[str, Any]) -> None:
        """Note how far every layer went from its anchor while this task was learned, and an automatic strength."""
        self._begun = None
        method = self._learner.method
        if method is None or method.num_tasks == 0:
            return
        if isinstance(method, QuadraticPenalty) and method.found_strengths:
            diagnostics.setdefault("strength", {})[str(task)] = method.current_strength
        distances = {
            name: _norm([method.params[name].double() - held["anchor"].double()])
            for name, held in method.state.items()
            if "anchor" in held and name in method.params
        }
        if distances:
            diagnostics.setdefault("distance", {})[str(task)] = distances

    def explain(self, what: str, step: int) -> str:
        """What is no longer finite, where it was seen, and why that may be.

        Args:
            what: ``"loss"``, ``"gradient"`` and the like.
            step: the step at which it was seen, from 1.
        """
        return f"the {what} of {self._learner.config.method} is not finite at step {step}: {self.likely_cause()}"

    def likely_cause(self) -> str:
        """Why numbers may have stopped being finite, and what to do."""
        config = self._learner.config
        method = self._learner.method
        strength = getattr(method, "strength", None)
        if method is None or method.num_tasks == 0 or not isinstance(strength, int | float):
            return f"lower the learning rate ({config.lr:g})"
        cause = f"strength x learning rate ({strength:g} x {config.lr:g}) is probably too large"
        if isinstance(method, QuadraticPenalty) and method.coupling != "proximal":
            cause += ": try coupling='proximal'"
        return cause

    def state_dict(self) -> dict[str, Any]:
        """What was measured so far, for a run that goes on later."""
        return {
            "latest": self.latest_share,
            "least": self._least,
            "most": self._most,
            "seen": self._seen,
            "begun": self._begun,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.latest_share = state["latest"]
        self._least, self._most, self._seen = state["least"], state["most"], state["seen"]
        self._begun = state["begun"]

    def warnings(self) -> list[str]:
        """One sentence for each thing that a user should know."""
        config, entry = self._learner.config, self._learner.entry
        found = []
        if self._seen and self._most < _LEAST:
            found.append(
                f"{config.method}: the penalty was never more than {self._most:.2%} of the training signal, so it does "
                "almost nothing; raise the strength"
            )
        if self._seen and self._least > _MOST:
            found.append(
                f"{config.method}: the penalty was never less than {self._least:.2%} of the training signal, so it "
                "learns nothing new; lower the strength"
            )
        if config.scenario == "class" and "quadratic" in entry.promises:
            found.append(
                f"{config.method}: a weight penalty alone seldom solves class-incremental learning; compare with "
                "finetune and joint before you trust it"
            )
        return found


def _undone(method: QuadraticPenalty) -> float:
    """The squared norm of that part of the loss's gradient which a proximal pull has undone to the last bit.

    There the penalty's own gradient is 0 again, which must not pass for a penalty that does nothing.
    """
    found = []
    for name, p in method.params.items():
        if p.grad is not None and method.holds(name) and method.current_strength > 0:
            stuck = p.to(method.state[name]["anchor"]) == method.state[name]["anchor"]
            weights = method.weights_of(name)
            found.append(p.grad * (stuck if weights is None else stuck & (weights > 0)).to(p.device))
    return _norm(found) ** 2


def _adds_gradient(method: Method) -> bool:
    return method.phase("add_gradient") is not None
