"""What is summed over samples: a function of each per-sample gradient, entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ABSOLUTE", "PLAIN", "SQUARE", "Statistic"]


@dataclass(frozen=True)
class Statistic:
    r"""An elementwise :math:`\varphi(g, \theta)` with :math:`\varphi(0, \theta) = 0`.

    Attributes:
        apply: ``(gradient [n, *p], weight [*p]) -> [n, *p]``.
        multiplicative: whether :math:`\varphi(ab) = \varphi(a)\varphi(b)` and the weight plays no part. Then a
            gradient that is an outer product need never be formed.
        outer: ``(left [n, O], right [n, I], weight [O, I]) -> [O, I]``: the sum over samples for gradients that are
            outer products, where it can be had without forming them; else ``None``.
    """

    apply: Callable[[Tensor, Tensor], Tensor]
    multiplicative: bool = False
    outer: Callable[[Tensor, Tensor, Tensor], Tensor | None] = lambda left, right, weight: None

    def of(self, factor: Tensor) -> Tensor:
        """The function of one factor of an outer product."""
        assert self.multiplicative
        return self.apply(factor, factor)

    def add(self, total: Tensor, gradient: Tensor, weight: Tensor) -> None:
        """Add the sum over samples to ``total`` ``[*p]``; the gradients are ``[n, *p]``."""
        total.add_(self.apply(gradient, weight).sum(0))


SQUARE = Statistic(lambda gradient, weight: gradient.square(), multiplicative=True)
ABSOLUTE = Statistic(lambda gradient, weight: gradient.abs(), multiplicative=True)
PLAIN = Statistic(lambda gradient, weight: gradient, multiplicative=True)


def accumulation_dtype(parameter: Tensor) -> torch.dtype:
    """The precision in which a parameter's importance is summed: its own, but at least float32."""
    return torch.promote_types(parameter.dtype, torch.float32)
