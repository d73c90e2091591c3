"""Fewer and fewer batches once there are enough samples for an estimate, each standing for those that are left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from holdfast.objectives import Batch
from holdfast.objectives.batches import leading_size

__all__ = ["ENOUGH", "Thinned"]

ENOUGH = 256
"""Samples after which every second batch is taken; after as many more every fourth, and so on."""


class Thinned:
    r"""Batches, thinned once :attr:`costly` is set.

    The first :data:`ENOUGH` samples are all taken, then one batch of every 2, 4, 8, …, as many samples at each spacing:
    of N samples about :math:`256 \log_2(1 + N / 256)`. A batch that is taken has the weight of its group,
    :math:`w = n_{\text{group}} / n_{\text{batch}}`, so that the weights add up to N, and a sum over what is taken
    estimates the sum over all without bias, however the data are ordered: over classes that arrive one by one, too. The
    same data give the same choice.

    Args:
        batches: the data, each batch once.
        enough: see :data:`ENOUGH`.
    """

    def __init__(self, batches: Iterable[Batch], enough: int = ENOUGH) -> None:
        self._batches = batches
        self._enough = enough
        self._latest: list[tuple[Batch, float]] = []
        self.costly = False

    def __iter__(self) -> Iterator[Batch]:
        """Those that are taken, from the first on."""
        taken, spacing = 0, 1
        group: list[Batch] = []  # the one that is taken; of the others the sizes are enough
        sizes: list[int] = []
        for batch in self._batches:
            size = leading_size(batch)
            if not size:
                continue
            group = group or [batch]
            sizes.append(size)
            if len(sizes) < spacing:
                continue
            yield self._weighted(group[0], sizes)
            taken += sizes[0]
            group, sizes = [], []
            if taken >= self._enough and self.costly:
                taken, spacing = 0, 2 * spacing
        if group:
            yield self._weighted(group[0], sizes)

    def _weighted(self, batch: Batch, sizes: list[int]) -> Batch:
        self._latest = [*self._latest[-2:], (batch, sum(sizes) / sizes[0])]  # a caller may look ahead by one
        return batch

    def weight(self, batch: Batch) -> float:
        """How many batches like it a batch stands for, itself among them."""
        return next((weight for known, weight in reversed(self._latest) if known is batch), 1.0)
