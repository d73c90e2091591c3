"""Fewer and fewer samples of each batch once there are enough for an estimate, each standing for those left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from holdfast.objectives import Batch
from holdfast.objectives.batches import joined, leading_size, some

__all__ = ["ENOUGH", "Thinned"]

ENOUGH = 256
"""Samples after which one of every two is taken; after as many more one of every four, and so on."""


class Thinned:
    r"""Batches, thinned once :attr:`costly` is set.

    The first :data:`ENOUGH` samples are all taken, to the end of their batch; then one of every 2, 4, 8, …, as many at
    each spacing: of N samples about :math:`256 \log_2(1 + N / 256)`. Which one of its group is taken is drawn, and it
    has the weight of the group. So a sum over what is taken estimates the sum over all without bias, in whatever order
    the data come: class by class, or by turns. The same batches give the same choice.

    Args:
        batches: the data, each batch once.
        enough: see :data:`ENOUGH`.
    """

    def __init__(self, batches: Iterable[Batch], enough: int = ENOUGH) -> None:
        self._batches = batches
        self._enough = enough
        self._draw = torch.Generator().manual_seed(0)
        self._spacing = 1
        self._group = self._next = 0  # where the next group begins, and its sample, from the batch's first on
        self._latest: list[tuple[Batch, int]] = []
        self._parts: list[Batch] = []  # of several batches, not yet as many as one has
        self._sizes: list[int] = []
        self.costly = False

    def __iter__(self) -> Iterator[Batch]:
        """What is taken, in batches that are no larger than the largest given."""
        taken = largest = 0
        for batch in self._batches:
            size = leading_size(batch)
            largest = max(largest, size)
            rows = self._rows(size)
            if len(rows) == size:
                yield self._weighted(batch)
            elif rows:
                yield from self._collected(some(batch, torch.tensor(rows), size), len(rows), largest)
            taken += len(rows)
            if taken >= self._enough and self.costly:
                yield from self._rest()
                taken, self._spacing = 0, 2 * self._spacing
        yield from self._rest()

    def _collected(self, part: Batch, size: int, largest: int) -> Iterator[Batch]:
        if sum(self._sizes) + size > largest:
            yield from self._rest()
        self._parts.append(part)
        self._sizes.append(size)

    def _rest(self) -> Iterator[Batch]:
        """What was collected, as one batch where it fits together."""
        if self._parts:
            whole = joined(self._parts, self._sizes)
            for part in self._parts if whole is None else [whole]:
                yield self._weighted(part)
            self._parts, self._sizes = [], []

    def _rows(self, size: int) -> list[int]:
        """The samples that are taken of a batch."""
        rows = []
        while self._next < size:
            rows.append(self._next)
            self._group += self._spacing
            self._next = self._group + int(torch.randint(self._spacing, (), generator=self._draw))
        self._group -= size
        self._next -= size
        return rows

    def _weighted(self, batch: Batch) -> Batch:
        self._latest = [*self._latest[-2:], (batch, self._spacing)]  # a caller may look ahead by one
        return batch

    def weight(self, batch: Batch) -> int:
        """How many samples each of a batch stands for, itself among them."""
        return next((weight for known, weight in reversed(self._latest) if known is batch), 1)
