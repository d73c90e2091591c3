r"""ANPyC's consolidation: a weight matters as much as the output's entropy would change without it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.checks import check_not_negative
from holdfast.errors import ConfigurationError, NumericsError
from holdfast.importance import taylor
from holdfast.objectives import Batch, Objective
from holdfast.penalties.quadratic import Options, QuadraticPenalty
from holdfast.sharding import anywhere, largest, local
from holdfast.strength import Strength

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ANPyC", "Output", "Reduction", "Sign", "TaylorPenalty", "sharpened"]

Output: TypeAlias = Literal["entropy", "l2"]
Reduction: TypeAlias = Literal["sample", "batch"]
Sign: TypeAlias = Literal["released", "removal"]


def sharpened(importance: Tensor, sharpening: float) -> Tensor:
    r"""Importances spread apart; also a weight without importance is then held by 1.

    .. math:: \Omega \leftarrow e^{\beta \Omega}

    Source: Peng et al. 2021, arXiv:1912.09091. Differs: no; both released runs leave it off.

    Args:
        importance: Ω, ``[*p]``, >= 0.
        sharpening: β, >= 0; 0 returns the importance as it is.

    Returns:
        ``[*p]``.
    """
    return (sharpening * importance).exp() if sharpening else importance


class TaylorPenalty(QuadraticPenalty):
    """What ANPyC does with and without pruning: an importance that is a Taylor estimate.

    Args:
        model: the model to protect.
        strength: λ, >= 0.
        output: ``"entropy"`` of the softmax, or ``"l2"``: its sum of squares.
        reduction: ``"sample"``, or ``"batch"`` as the release; a strength does not carry over from one to the other.
        sign: ``"released"``, or ``"removal"``: that of a weight's removal.
        sharpening: β, >= 0; 0 is off.
        coupling: ``"gradient"``, ``"loss"`` or ``"proximal"``.
        select: which trainable parameters to protect.
        objective: which outputs a batch has; all of them by default.
        **options: also ``importance_dtype``, ``state_device`` and ``fused``: see ``holdfast.penalties.resources``.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    halved: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength,
        output: Output = "entropy",
        reduction: Reduction = "sample",
        sign: Sign = "released",
        sharpening: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, strength=strength, **options)
        for name, value, allowed in (
            ("output", output, ("entropy", "l2")),
            ("reduction", reduction, ("sample", "batch")),
            ("sign", sign, ("released", "removal")),
        ):
            if value not in allowed:
                raise ConfigurationError(f"{name} is {value!r}; expected {allowed[0]!r} or {allowed[1]!r}")
        self.output: Output = output
        self.reduction: Reduction = reduction
        self.sign: Sign = sign
        self.sharpening: float = check_not_negative("sharpening", sharpening)

    def _estimate(self, batches: Iterable[Batch], objective: Objective, names: Iterable[str]) -> dict[str, Tensor]:
        found = taylor(
            self.model,
            batches,
            objective=objective,
            output=self.output,
            reduction=self.reduction,
            sign=self.sign,
            names=list(names),
        )
        return self._scoped(found)

    def _neutral(self, kind: str) -> float | None:
        return 1.0 if kind == "importance" and self.sharpening else super()._neutral(kind)  # exp(β · 0)

    def _sharpened(self, importances: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {name: sharpened(importance, self.sharpening) for name, importance in importances.items()}
        for name, importance in found.items():
            if self.sharpening and anywhere([~local(importance).isfinite().all()], [importance])[0]:
                raise NumericsError(
                    f"the sharpened importance of parameter {name!r} is not finite: sharpening={self.sharpening} is "
                    f"too large for importances up to {largest([local(importances[name])], [importance]):.3g}"
                )
        return found

    def _summed(self, importances: dict[str, Tensor]) -> dict[str, Tensor]:
        """With what the tasks before left, so that sharpening acts on the sum."""
        for name in importances.keys() & self.state.keys():
            held = self.state[name].get("importance")
            if held is not None:
                importances[name] = importances[name] * held if self.sharpening else importances[name] + held
        return importances


class ANPyC(TaylorPenalty):
    r"""Adversarial neural pruning and consolidation, without the pruning; no labels are used.

    .. math::
        \lambda \sum_i \Omega_i (\theta_i - \theta_i^*)^2, \qquad
        \Omega \leftarrow \max\bigl(\Omega,\ \mathbb E_x \max(0, g\theta + \tfrac12 g^2 \theta^2)\bigr), \qquad
        g = \partial_\theta I

    with I the entropy of the softmax output and θ* the latest anchor.

    Source: Peng et al. 2021, arXiv:1912.09091. Differs: Ω is per sample by default; ``reduction="batch"`` is the
    release's, and its strength. The release's sign is, to first order, that of doubling a weight: ``sign="removal"``.

    Args:
        model: the model to protect.
        strength: λ, >= 0; ``"auto"`` (or an :class:`~holdfast.AutoStrength`) finds it on the first steps of each new
            task.
        output: ``"entropy"`` of the softmax, or ``"l2"``: its sum of squares.
        reduction: ``"sample"`` or ``"batch"``; a strength does not carry over from one to the other.
        sign: ``"released"`` or ``"removal"``.
        accumulate: how a new task's Ω meets the old: ``"max"``, or ``"sum"`` (as with pruning).
        sharpening: β: every Ω becomes exp(βΩ); 0 is off.
        coupling: ``"gradient"``, ``"loss"`` or ``"proximal"``.
        select: which trainable parameters to protect; the paper protects the hidden layers only.
        objective: which outputs a batch has; all of them by default.
        **options: also ``importance_dtype``, ``state_device`` and ``fused``: see ``holdfast.penalties.resources``.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength = "auto",
        output: Output = "entropy",
        reduction: Reduction = "sample",
        sign: Sign = "released",
        accumulate: Literal["max", "sum"] = "max",
        sharpening: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            model,
            strength=strength,
            output=output,
            reduction=reduction,
            sign=sign,
            sharpening=sharpening,
            **options,
        )
        if accumulate not in ("max", "sum"):
            raise ConfigurationError(f"accumulate is {accumulate!r}; expected 'max' or 'sum'")
        self.accumulate: Literal["max", "sum"] = accumulate

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        omega = self._sharpened(self._estimate(batches, objective, self.params))
        if self.accumulate == "sum":
            omega = self._summed(omega)
        else:
            for name in omega.keys() & self.state.keys():
                omega[name] = torch.maximum(omega[name], self.state[name]["importance"])
        self._anchor_here(omega)
