"""Answers to "it does nothing": how much of the training signal is the penalty's, and how far the weights went."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from holdfast.bench.training.learner import Learner
from holdfast.strength import UnprotectedWarning

__all__ = ["Diagnosis", "noting"]

_EVERY = 50
_FIRST = 5  # of a task: at its first step the weights stand at the anchor, where every penalty is 0
_LEAST, _MOST = 0.001, 0.99


class Diagnosis:
    """What a run notices about its own method.

    Args:
        learner: the model, optimizer and method of the run.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._watching = ExitStack()
        self.latest_share: float | None = None
        self._least, self._most, self._seen = math.inf, 0.0, 0
        self._begun: int | None = None  # the step at which the task under way began

    def before_step(self, step: int) -> bool:
        """Whether the coming step is watched; called before each, with the number of those done."""
        method = self._learner.method
        if self._begun is None:
            self._begun = step
        if method is None or method.num_tasks == 0:
            return False
        since = step - self._begun - method.measured_steps
        watched = since >= 0 and since % _EVERY == _FIRST
        if watched:
            self._watching.enter_context(method.watch())
        return watched

    def after_step(self) -> None:
        """Take the measurements of a step that was watched; called after each."""
        method = self._learner.method
        if method is None or not method.watching:
            return
        self._watching.close()
        share = method.watched().share
        if share is not None:
            self.latest_share = share
            self._least, self._most, self._seen = min(self._least, share), max(self._most, share), self._seen + 1

    def end_of_task(self, task: int, diagnostics: dict[str, Any]) -> None:
        """Note how far every layer went from its anchor while this task was learned, and an automatic strength."""
        self._begun = None
        method = self._learner.method
        if method is None or method.num_tasks == 0:
            return
        seen = method.watched()
        if seen.strengths:
            diagnostics.setdefault("strength", {})[str(task)] = seen.strength
        if seen.distance:
            diagnostics.setdefault("distance", {})[str(task)] = dict(seen.distance)

    def consolidated(self, task: int, diagnostics: dict[str, Any]) -> None:
        """Note how full every layer is once a task is remembered, of a method that takes its room to learn away."""
        method = self._learner.method
        full = {} if method is None else method.fullness
        if full:
            diagnostics.setdefault("fullness", {})[str(task)] = full

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
        strength = None if method is None or method.num_tasks == 0 else method.watched().strength
        if strength is None:
            return f"lower the learning rate ({config.lr:g})"
        cause = f"strength x learning rate ({strength:g} x {config.lr:g}) is probably too large"
        coupling = config.hyperparameters.get("coupling")
        if coupling is not None and coupling.value != "proximal":
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
        what = "penalty" if entry.dial == "strength" else "protection"
        more, less = "protect more of the model", "protect less of the model"
        if entry.dial is not None:
            more, less = f"raise the {entry.dial}", f"lower the {entry.dial}"
        if self._seen and self._most < _LEAST:
            found.append(
                f"{config.method}: the {what} was never more than {self._most:.2%} of the training signal, so it does "
                f"almost nothing; {more}"
            )
        if self._seen and self._least > _MOST:
            found.append(
                f"{config.method}: the {what} was never less than {self._least:.2%} of the training signal, so it "
                f"learns nothing new; {less}"
            )
        if self._full():
            found.append(
                f"{config.method}: every layer that has room is full by now, so it learns nothing more; {less}"
            )
        if config.scenario == "class" and "quadratic" in entry.promises:
            found.append(
                f"{config.method}: a weight penalty alone seldom solves class-incremental learning; compare with "
                "finetune and joint before you trust it"
            )
        return found

    def _full(self) -> bool:
        """Whether no matrix has any room left; what is held whole anyway, as biases are, says nothing."""
        method = self._learner.method
        found = {} if method is None else method.fullness
        matrices = [share for name, share in found.items() if method is not None and method.params[name].dim() > 1]
        return bool(matrices) and min(matrices) > _MOST


@contextmanager
def noting(notes: list[str], method: str) -> Iterator[None]:
    """A task that was over too soon to be protected is noted for the record, in place of a warning."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    for one in said:
        if issubclass(one.category, UnprotectedWarning):
            notes.append(f"{method}: {one.message}")
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
