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
        in_place: ``(total [*p], gradient [*p]) -> None``: adds one gradient's to the total in as few passes over memory
            as can be, and may overwrite the gradient; ``None`` where ``apply`` is all there is.
        linear: whether :math:`\varphi(a + b) = \varphi(a) + \varphi(b)`, so that samples need not be told apart.
    """

    apply: Callable[[Tensor, Tensor], Tensor]
    multiplicative: bool = False
    outer: Callable[[Tensor, Tensor, Tensor], Tensor | None] = lambda left, right, weight: None
    in_place: Callable[[Tensor, Tensor], object] | None = None
    linear: bool = False

    def of(self, factor: Tensor) -> Tensor:
        """The function of one factor of an outer product."""
        assert self.multiplicative
        return self.apply(factor, factor)

    def add(self, total: Tensor, gradient: Tensor, weight: Tensor) -> None:
        """Add the sum over samples to ``total`` ``[*p]``; the gradients are ``[n, *p]``."""
        total.add_(self.apply(gradient, weight).sum(0))

    def absorb(self, total: Tensor, gradient: Tensor, weight: Tensor) -> None:
        """Add what one gradient ``[*p]`` gives, which may be overwritten."""
        if self.in_place is None:
            total.add_(self.apply(gradient, weight))
        else:
            self.in_place(total, gradient)


SQUARE = Statistic(
    lambda gradient, weight: gradient.square(),
    multiplicative=True,
    in_place=lambda total, gradient: total.addcmul_(gradient, gradient),
)
ABSOLUTE = Statistic(
    lambda gradient, weight: gradient.abs(),
    multiplicative=True,
    in_place=lambda total, gradient: total.add_(gradient.abs_()),
)
PLAIN = Statistic(lambda gradient, weight: gradient, multiplicative=True, linear=True)


def accumulation_dtype(parameter: Tensor) -> torch.dtype:
    """The precision in which a parameter's importance is summed: its own, but at least float32."""
    return torch.promote_types(parameter.dtype, torch.float32)
