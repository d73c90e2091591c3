r"""``strength="auto"``: the strength at which a penalty pulls with a stated fraction of the task's own gradient.

At the anchor every quadratic penalty has gradient 0, whatever its strength, so there is nothing to compare there. The
first few steps of a new task are therefore taken without the penalty; they carry the weights as far from the anchor as
the task wants to go, and there the two gradients are measured.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from holdfast.checks import check_positive
from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError, NumericsError
from holdfast.sharding import total
from holdfast.step_size import proportional_step

__all__ = [
    "AutoStrength",
    "Strength",
    "StrengthFinder",
    "UnprotectedWarning",
    "matching_strength",
    "squared_norm",
    "steady_strength",
]

_LEAST = 2  # before the first step there is no pull
_SUMS = ("auto_gradients", "auto_pulls")


class UnprotectedWarning(UserWarning):
    """A task was over before its strength was found."""


@dataclass(frozen=True)
class AutoStrength:
    r"""How a strength is found while training: see :func:`matching_strength`.

    Args:
        fraction: what the penalty's gradient is to be in units of the task's, > 0; ``None`` for the method's own, which
            was measured: 3 where weights differ in importance, 0.1 where every weight counts alike.
        steps: how many steps at the start of each task are taken without the penalty and measured, >= 2; fewer where
            that would be more than a quarter of the task before.

    Raises:
        ConfigurationError: for a value out of its range.
    """

    fraction: float | None = None
    steps: int = 10

    def __post_init__(self) -> None:
        if self.fraction is not None:
            check_positive("fraction", self.fraction)
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < _LEAST:
            raise ConfigurationError(
                f"steps is {self.steps!r}; expected a whole number >= {_LEAST} (before the first step there is no pull)"
            )

    def steps_after(self, length: int) -> int:
        """How many steps of a task are measured where the task before had so many.

        Args:
            length: steps of the task before; 0 where it is not known.

        Example:
            >>> [AutoStrength().steps_after(length) for length in (0, 1, 8, 20, 1000)]
            [10, 2, 2, 5, 10]
        """
        return self.steps if length == 0 else min(self.steps, max(_LEAST, length // 4))

    def describe(self, default: float) -> str:
        """The rule in words.

        Args:
            default: the method's own fraction.
        """
        fraction = default if self.fraction is None else self.fraction
        return f"{fraction:g} times the task's gradient over its first {self.steps} steps"


Strength: TypeAlias = "float | Literal['auto'] | AutoStrength"


def matching_strength(gradients: float, pulls: float, fraction: float) -> float:
    r"""The strength at which a penalty pulls with a fraction of the task's gradient.

    .. math:: \lambda = f \sqrt{\frac{\sum_{k<n} \lVert g_k \rVert^2}{\sum_{k<n} \lVert r_k \rVert^2}}

    with :math:`g_k` the gradient of the task's loss at step k of the new task, :math:`r_k` the penalty's gradient at
    strength 1 at the same weights, and steps 0 to n - 1 taken without the penalty.

    Source: none; a rule of this package, measured in docs/tuning.md.

    Args:
        gradients: the sum of :math:`\lVert g_k \rVert^2`, in (loss / parameter)².
        pulls: the sum of :math:`\lVert r_k \rVert^2`, in the same unit.
        fraction: f, > 0.

    Returns:
        λ, >= 0, in the unit that makes the penalty a loss.

    Raises:
        NumericsError: if a sum is not finite, or the penalty had no gradient, so that no finite strength would do.

    Example:
        >>> matching_strength(gradients=16.0, pulls=4.0, fraction=0.5)
        1.0
    """
    if not (math.isfinite(gradients) and math.isfinite(pulls)):
        raise NumericsError("strength='auto' measured a gradient that is not finite: lower the learning rate")
    if pulls <= 0:
        raise NumericsError(
            "strength='auto' measured no penalty gradient: the weights did not move, or every importance is 0; "
            "give the strength as a number"
        )
    return fraction * math.sqrt(gradients / pulls)


def steady_strength(stiffest: float, step: float) -> float:
    r"""The largest strength at which a step that is proportional to the gradient does not overshoot the anchor.

    .. math:: \lambda = \frac{1}{D \max_i s_i}

    with D the displacement per unit of gradient and :math:`s_i` the penalty's second derivative at strength 1. At
    :math:`2 / (D s_i)` plain gradient descent would swing ever farther.

    Source: textbook gradient descent on a quadratic. Differs: half of the limit, where weight i is back in one step.

    Args:
        stiffest: the largest :math:`s_i`, in loss / parameter², >= 0.
        step: D, in parameter² / loss, >= 0; 0 for optimizers that divide by the gradient's size and cannot swing.

    Returns:
        λ, > 0; infinite where nothing limits it.

    Example:
        >>> steady_strength(stiffest=4.0, step=0.5)
        0.5
    """
    return 1 / (step * stiffest) if step * stiffest > 0 else math.inf


class StrengthFinder:
    """Measures the first steps of each task, and keeps what it found in a method's own state.

    What it has measured so far lies in ``meta`` and ``buffers``, so a run that is stopped in mid-measurement goes on.

    Args:
        rule: what is asked for.
        default: the method's own fraction.
    """

    def __init__(self, rule: AutoStrength, default: float) -> None:
        self.rule = rule
        self.fraction: float = default if rule.fraction is None else rule.fraction

    def found(self, meta: Mapping[str, Any]) -> list[float]:
        """The strengths found so far, in the order of the tasks that they were found for."""
        strengths: list[float] = meta.get("auto", {}).get("strengths", [])
        return strengths

    def ready(self, meta: Mapping[str, Any]) -> bool:
        """Whether the strength of the task under way is known."""
        return bool(meta.get("auto", {}).get("num_tasks") == meta["num_tasks"])

    def current(self, meta: Mapping[str, Any], optimizers: Sequence[Optimizer] = ()) -> float:
        """The strength now: 0 while it is being measured, and never more than is steady.

        Args:
            meta: the method's.
            optimizers: those through whose gradient the penalty acts; their learning rates may change.
        """
        if not self.ready(meta):
            return 0.0
        step = max((proportional_step(optimizer) for optimizer in optimizers), default=0.0)
        return min(self.found(meta)[-1], steady_strength(meta["auto"].get("stiffest", 0.0), step))

    def steps(self, meta: Mapping[str, Any]) -> int:
        """How many steps of the task under way are measured."""
        return self.rule.steps_after(meta.get("auto", {}).get("length", 0))

    @torch.no_grad()
    def measure(
        self,
        meta: dict[str, Any],
        buffers: dict[str, Tensor],
        step: Step,
        params: Sequence[Tensor],
        gradients: Sequence[Tensor],
        pulls: Sequence[Tensor],
        optimizers: int,
        stiffest: Callable[[], float],
    ) -> None:
        """Take one step into account, before it is taken; settle the strength with the last one.

        Args:
            meta: the method's; changed.
            buffers: the method's; changed.
            step: the step under way.
            params: those that the penalty acts on.
            gradients: of the task's loss, scaled as the step says; what is here of them.
            pulls: the penalty's gradients at strength 1; what is here of them.
            optimizers: how many are attached, of which each steps once per batch.
            stiffest: gives the penalty's largest second derivative at strength 1.
        """
        if gradients:
            for name, tensors in zip(_SUMS, ([step.unscaled(g) for g in gradients], pulls), strict=True):
                self._add(buffers, name, step, params, tensors)
        if meta["steps"] + 1 >= self.steps(meta) * optimizers:
            # The one look at the numbers: until here nothing has waited for the device.
            sums = [float(buffers.pop(name, torch.zeros(()))) for name in _SUMS]
            strength = matching_strength(sums[0], sums[1], self.fraction)
            # Replaced, not changed: a state_dict taken earlier shares it.
            known = {"num_tasks": meta["num_tasks"], "strengths": [*self.found(meta), strength]}
            meta["auto"] = meta.get("auto", {}) | known | {"stiffest": stiffest()}

    def _add(
        self, buffers: dict[str, Tensor], name: str, step: Step, params: Sequence[Tensor], tensors: Sequence[Tensor]
    ) -> None:
        squared = squared_norm(tensors, params)
        squared = step.unless_skipped(squared, torch.zeros_like(squared))
        buffers[name] = buffers[name] + squared if name in buffers else squared

    def end_task(self, method: str, meta: dict[str, Any], buffers: dict[str, Tensor], optimizers: int) -> None:
        """Note how long the task was, and say so if it was too short to be protected.

        Args:
            method: its name, for the warning.
            meta: the method's; changed.
            buffers: the method's; changed.
            optimizers: how many are attached, of which each stepped once per batch.
        """
        steps = meta["steps"] // max(1, optimizers)
        if meta["num_tasks"] > 0 and steps > 0 and not self.ready(meta):
            warnings.warn(
                f"{method} was still measuring its strength when task {meta['num_tasks']} (from 0) ended after {steps} "
                f"step{'s' * (steps > 1)}, so that this task was learned unprotected; the next will be measured over "
                f"{self.rule.steps_after(steps)} (or give the strength as a number)",
                UnprotectedWarning,
                stacklevel=2,
            )
        for name in _SUMS:
            buffers.pop(name, None)
        meta["auto"] = {"strengths": [], **meta.get("auto", {}), "length": steps}


def squared_norm(parts: Sequence[Tensor], like: Sequence[Tensor]) -> Tensor:
    """The sum of the squares of all entries of some tensors, ``[]``, in float32 at least.

    Args:
        parts: what is here of each tensor.
        like: tensors of which each is as much a part.
    """
    return total([t.norm(dtype=torch.promote_types(t.dtype, torch.float32)).square() for t in parts], like)
