"""Which positions of a batch count, and which of them belong to one sample: said once, used by every importance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Units", "compressed"]


@dataclass(frozen=True)
class Units:
    """The samples of a batch, as positions of its rows.

    Attributes:
        valid: whether a position counts (padding does not), bool ``[B, P]``.
        ids: to which of the samples in its row a position belongs, int64 ``[B, P]`` in ``0 .. number - 1``; ``None``
            where a row is one sample.
        number: S, how many samples a row holds at most.
        each: every position is a sample of its own.
        averaged: a sample's value is the mean over its positions, not their sum.
    """

    valid: Tensor
    ids: Tensor | None = None
    number: int = 1
    each: bool = False
    averaged: bool = False

    def totals(self, values: Tensor) -> Tensor:
        """Values per position, added up (or averaged) over each sample.

        Args:
            values: ``[B, P]``; whatever stands at a position that does not count is left out, be it NaN.

        Returns:
            ``[B]``, or ``[B, S]`` where a row holds several samples.
        """
        values = torch.where(self.valid, values, 0)
        if self.each:
            return values
        if self.ids is None:
            total = values.sum(1)
            return total / self.valid.sum(1).clamp(min=1) if self.averaged else total
        total = values.new_zeros(len(values), self.number).scatter_add(1, self.ids, values)
        return total / self._sizes().clamp(min=1) if self.averaged else total

    def scaled(self, values: Tensor) -> Tensor:
        """The part of each position in its sample's value, kept apart: ``[B, P]`` (``[B]`` for one position)."""
        values = torch.where(self.valid, values.reshape(self.valid.shape), 0)
        if self.averaged and not self.each:
            sizes = self.valid.sum(1, keepdim=True) if self.ids is None else self._sizes().gather(1, self.ids)
            values = values / sizes.clamp(min=1)
        return values[:, 0] if values.shape[1] == 1 else values

    def count(self) -> int:
        """How many samples there are: those with a position that counts."""
        if self.each:
            return int(self.valid.sum())
        return int((self.valid.any(1) if self.ids is None else self._sizes() > 0).sum())

    def _sizes(self) -> Tensor:
        """How many positions each sample has, ``[B, S]``."""
        assert self.ids is not None
        return self.ids.new_zeros(len(self.ids), self.number).scatter_add(1, self.ids, self.valid.to(self.ids.dtype))


def compressed(ids: Tensor, valid: Tensor) -> tuple[Tensor | None, int]:
    """Number anew, row by row and without gaps, the samples that have a position that counts.

    Args:
        ids: sample numbers, int64 ``[B, P]``, >= 0.
        valid: bool ``[B, P]``.

    Returns:
        ids ``[B, P]`` (``None`` if no row holds more than one sample), and how many a row holds at most.
    """
    if not ids.numel():
        return None, 1
    seen = ids.new_zeros(len(ids), int(ids.max()) + 1).scatter_add(1, ids, valid.to(ids.dtype)) > 0
    number = int(seen.sum(1).max())
    if number <= 1:
        return None, 1
    return (seen.cumsum(1) - 1).clamp(min=0).gather(1, ids), number
