"""Outputs that are independent of each other given the input: real values, yes/no labels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.errors import DataError
from holdfast.objectives.base import Batch, Plain, normal_like, targets_of, uniform_like

__all__ = ["MultiLabel", "Regression"]


class Regression(Plain):
    r"""Real targets with Gaussian noise of variance 1: half the squared error, summed over outputs.

    .. math:: \ell = \tfrac12 \lVert f(x) - y \rVert^2

    Its exact Fisher information is :math:`\sum_k (\partial f_k)^2`; with the mean instead of the sum, or
    without the half, a loss differs by a constant that belongs into the strength.
    """

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Half the squared error per sample, ``[B]``."""
        targets = targets_of(batch)
        if targets.shape != outputs.shape:
            raise DataError(f"targets have shape {tuple(targets.shape)}; Regression expects {tuple(outputs.shape)}")
        return 0.5 * (outputs - targets).square().reshape(len(outputs), -1).sum(1)

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Batch:
        """Targets drawn from the Gaussian around the outputs."""
        return (None, outputs.detach() + normal_like(outputs, generator))

    def factors(self, outputs: Tensor) -> Iterator[Tensor]:
        """Each output itself, ``[B]``."""
        yield from outputs.reshape(len(outputs), -1).unbind(1)


class MultiLabel(Plain):
    r"""Independent yes/no labels: a sigmoid and a binary cross-entropy per output, summed.

    .. math:: \ell = -\sum_k y_k \log \sigma(f_k) + (1 - y_k) \log (1 - \sigma(f_k))
    """

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy per sample, ``[B]``, in nats."""
        targets = targets_of(batch)
        if targets.shape != outputs.shape:
            raise DataError(f"targets have shape {tuple(targets.shape)}; MultiLabel expects {tuple(outputs.shape)}")
        each = F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none")
        return each.reshape(len(outputs), -1).sum(1)

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Batch:
        """Each label drawn from its own sigmoid."""
        p = outputs.detach().sigmoid()
        return (None, (uniform_like(p, generator) < p).to(p.dtype))

    def factors(self, outputs: Tensor) -> Iterator[Tensor]:
        r"""Each logit times :math:`\sqrt{p(1-p)}`, the root held constant, ``[B]``."""
        p = outputs.detach().sigmoid()
        yield from ((p * (1 - p)).sqrt() * outputs).reshape(len(outputs), -1).unbind(1)
