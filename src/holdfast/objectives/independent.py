"""Outputs that are independent of each other given the input: real values, yes/no labels."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast.errors import DataError
from holdfast.objectives.base import Batch
from holdfast.objectives.batches import leading_size
from holdfast.objectives.distributions import Bernoulli, Distribution, Gaussian, spread
from holdfast.objectives.positions import Positions
from holdfast.objectives.shapes import fits, shown
from holdfast.objectives.units import Units

__all__ = ["MultiLabel", "Regression"]


class _Independent(Positions):
    """All outputs of a row, whatever their shape, are one position."""

    def check_outputs(self, outputs: Tensor) -> None:
        """Any shape will do, but a single number: it has no samples."""
        if outputs.dim() == 0:
            raise DataError(
                f"the outputs are one number; {type(self).__name__} expects [B, ...], a row per sample: use ModelLoss "
                "for a loss of the model's own"
            )

    def check_targets(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse targets of another shape than the outputs, but for one output per sample."""
        one = outputs.shape == (len(outputs), 1) and targets.shape == outputs.shape[:1]
        if targets.shape != outputs.shape and not one:
            raise DataError(
                f"targets have shape {shown(targets)}; {type(self).__name__} expects {tuple(outputs.shape)}: "
                f"{fits(outputs, targets)}"
            )

    def positions(self, outputs: Tensor) -> Tensor:
        """One position with all outputs of a row, ``[B, 1, K]``."""
        return outputs.reshape(len(outputs), 1, -1)

    def at_positions(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Likewise, ``[B, 1, K]``."""
        return targets.reshape(len(outputs), 1, -1)

    def as_targets(self, outputs: Tensor, drawn: Tensor) -> Tensor:
        """Shaped like the outputs."""
        return drawn.view(outputs.shape)

    def masked(self, outputs: Tensor, drawn: Tensor, valid: Tensor) -> Tensor:
        """All of them: every row counts."""
        return drawn

    def units(self, batch: Batch, outputs: Tensor | None = None) -> Units:
        """Every row."""
        size = leading_size(batch) if outputs is None else len(outputs)
        device = None if outputs is None else outputs.device
        return Units(torch.ones(size, 1, dtype=torch.bool, device=device))

    def spreads(self, outputs: Tensor, batch: Batch, measure: str) -> Tensor:
        """As if the last dimension were classes, added up over the others."""
        return spread(outputs, measure).reshape(len(outputs), -1).sum(1)


class Regression(_Independent):
    r"""Real targets with Gaussian noise of variance 1: half the squared error, summed over outputs.

    .. math:: \ell = \tfrac12 \lVert f(x) - y \rVert^2

    Its exact Fisher information is :math:`\sum_k (\partial f_k)^2`; with the mean instead of the sum, or
    without the half, a loss differs by a constant that belongs into the strength.
    """

    distribution: ClassVar[Distribution] = Gaussian()
    saved_as: ClassVar[str] = "Regression"


class MultiLabel(_Independent):
    r"""Independent yes/no labels: a sigmoid and a binary cross-entropy per output, summed.

    .. math:: \ell = -\sum_k y_k \log \sigma(f_k) + (1 - y_k) \log (1 - \sigma(f_k))
    """

    distribution: ClassVar[Distribution] = Bernoulli()
    saved_as: ClassVar[str] = "MultiLabel"
