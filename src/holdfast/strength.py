r"""``strength="auto"``: the strength at which a penalty pulls with a stated fraction of the task's own gradient.

At the anchor every quadratic penalty has gradient 0, whatever its strength, so there is nothing to compare there. The
first few steps of a new task are therefore taken without the penalty; they carry the weights as far from the anchor as
the task wants to go, and there the two gradients are measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from holdfast.checks import check_positive
from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError, NumericsError, ProtectionError

__all__ = ["AutoStrength", "Strength", "StrengthFinder", "matching_strength"]


@dataclass(frozen=True)
class AutoStrength:
    r"""How a strength is found while training: see :func:`matching_strength`.

    Args:
        fraction: what the penalty's gradient is to be in units of the task's, > 0; ``None`` for the method's own, which
            was measured: 3 where weights differ in importance, 0.1 where every weight counts alike.
        steps: how many steps at the start of each task are taken without the penalty and measured, >= 2.

    Raises:
        ConfigurationError: for a value out of its range.
    """

    fraction: float | None = None
    steps: int = 10

    def __post_init__(self) -> None:
        if self.fraction is not None:
            check_positive("fraction", self.fraction)
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 2:
            raise ConfigurationError(
                f"steps is {self.steps!r}; expected a whole number >= 2 (before the first step there is no pull)"
            )

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


class StrengthFinder:
    """Measures the first steps of each task, and keeps what it found in a method's own state.

    What it has measured so far lies in ``meta`` and ``buffers``, so a run that is stopped in mid-measurement goes on.

    Args:
        rule: what is asked for.
        default: the method's own fraction.
    """

    def __init__(self, rule: AutoStrength, default: float) -> None:
        self.rule = rule
        self.fraction = default if rule.fraction is None else rule.fraction

    def found(self, meta: Mapping[str, Any]) -> list[float]:
        """The strengths found so far, in the order of the tasks that they were found for."""
        strengths: list[float] = meta.get("auto", {}).get("strengths", [])
        return strengths

    def ready(self, meta: Mapping[str, Any]) -> bool:
        """Whether the strength of the task under way is known."""
        return bool(meta.get("auto", {}).get("num_tasks") == meta["num_tasks"])

    def current(self, meta: Mapping[str, Any]) -> float:
        """The strength now: 0 while it is being measured."""
        return self.found(meta)[-1] if self.ready(meta) else 0.0

    @torch.no_grad()
    def measure(
        self,
        meta: dict[str, Any],
        buffers: dict[str, Tensor],
        step: Step,
        gradients: Sequence[Tensor],
        pulls: Sequence[Tensor],
        optimizers: int,
    ) -> None:
        """Take one step into account, before it is taken; settle the strength with the last one.

        Args:
            meta: the method's; changed.
            buffers: the method's; changed.
            step: the step under way.
            gradients: of the task's loss, scaled as the step says.
            pulls: the penalty's gradients at strength 1.
            optimizers: how many are attached, of which each steps once per batch.
        """
        if gradients:
            self._add(buffers, "auto_gradients", step, [step.unscaled(g) for g in gradients])
            self._add(buffers, "auto_pulls", step, pulls)
        if meta["steps"] + 1 >= self.rule.steps * optimizers:
            # The one look at the numbers: until here nothing has waited for the device.
            sums = [float(buffers.pop(name, torch.zeros(()))) for name in ("auto_gradients", "auto_pulls")]
            strength = matching_strength(sums[0], sums[1], self.fraction)
            # Replaced, not changed: a state_dict taken earlier shares it.
            meta["auto"] = {"num_tasks": meta["num_tasks"], "strengths": [*self.found(meta), strength]}

    def _add(self, buffers: dict[str, Tensor], name: str, step: Step, tensors: Sequence[Tensor]) -> None:
        norms = [t.norm(dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]
        squared = torch.stack([norm.to(norms[0].device) for norm in norms]).square().sum()  # a model may be spread out
        squared = step.unless_skipped(squared, torch.zeros_like(squared))
        buffers[name] = buffers[name] + squared if name in buffers else squared

    def check_complete(self, method: str, meta: Mapping[str, Any]) -> None:
        """Refuse to end a task that went unprotected because it was shorter than the measurement.

        Raises:
            ProtectionError: naming both lengths.
        """
        if meta["num_tasks"] > 0 and meta["steps"] > 0 and not self.ready(meta):
            raise ProtectionError(
                f"{method} was measuring its strength when the task ended, unprotected, after {meta['steps']} steps; "
                f"expected at least {self.rule.steps}: give strength=AutoStrength(steps=...), or a number"
            )
