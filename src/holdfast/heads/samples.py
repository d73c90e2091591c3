"""Sums for each class, and the features of a few of its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import StateError
from holdfast.heads.moments import Moments

__all__ = ["Samples"]


class Samples(Moments):
    """A Gram matrix per class, as :class:`Moments`, and up to so many rows of each class themselves.

    Which rows of many are kept depends on their keys alone, the smallest of each class: so whatever the order in which
    they came, they are the same.

    Args:
        keep: rows per class, at most.
        dtype: as for :class:`Moments`; the rows have it too.

    Attributes:
        rows: ``[n, D]``, by class and then by key; ``None`` before the first sample.
        owners: their labels, int64 ``[n]``.
        keys: int64 ``[n]``.
    """

    owners: Tensor
    keys: Tensor

    def __init__(self, keep: int, *, dtype: torch.dtype = torch.float64) -> None:
        super().__init__("per class", dtype=dtype)
        self.keep = keep
        self.rows: Tensor | None = None
        self.owners = self.keys = torch.zeros(0, dtype=torch.int64)
        self._new: list[tuple[Tensor, Tensor, Tensor]] = []

    def tensors(self) -> dict[str, Tensor]:
        """As of :class:`Moments`, and the rows."""
        found = super().tensors()
        return found if self.rows is None else {**found, "rows": self.rows, "owners": self.owners, "keys": self.keys}

    def square_bytes(self, size: int, classes: int) -> int:
        """Bytes of the Gram matrices and of the rows."""
        return super().square_bytes(size, classes) + classes * self.keep * (size * self.dtype.itemsize + 16)

    def like(self) -> Samples:
        """As this was before its first sample."""
        return Samples(self.keep, dtype=self.dtype)

    def add(self, features: Tensor, labels: Tensor, keys: Tensor | None = None) -> None:
        """Count samples in, and keep those with the smallest keys; as :meth:`Moments.add`."""
        assert keys is not None
        super().add(features, labels, keys)
        self._new.append((features.detach().to(self.dtype, copy=True), labels, keys))

    def settle(self) -> None:
        """Add the rows that wait for more of them."""
        super().settle()
        if not self._new:
            return
        before = [] if self.rows is None else [(self.rows, self.owners, self.keys)]
        device = self.counts.device
        rows, owners, keys = (
            torch.cat([part.to(device) for part in parts]) for parts in zip(*before, *self._new, strict=True)
        )
        self._new = []
        order = keys.argsort(stable=True)
        order = order[owners[order].argsort(stable=True)]
        _, numbers = torch.unique_consecutive(owners[order], return_counts=True)
        place = torch.arange(len(order), device=device)
        first = (numbers.cumsum(0) - numbers).repeat_interleave(numbers)
        order = order[place - first < self.keep]
        self.rows, self.owners, self.keys = rows[order], owners[order], keys[order]

    def merge(self, other: Moments) -> None:
        """Add all that another has; it is used up."""
        assert isinstance(other, Samples)
        other.settle()
        super().merge(other)
        if other.rows is not None:
            self._new.append((other.rows, other.owners, other.keys))
            self.settle()

    def exchange(self, gathered: Callable[[Tensor], Tensor]) -> None:
        """Keep of all processes' rows what one process would have kept of them."""
        if self.rows is None:
            assert self.sums is not None
            self.rows = self.sums.new_zeros(0, self.sums.shape[1], dtype=self.dtype)
        owners, keys = (part.to(self.rows.device) for part in (self.owners, self.keys))
        self._new = [(gathered(self.rows), gathered(owners), gathered(keys))]
        self.rows = None
        self.settle()

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take over a copy of what :meth:`state_dict` returned.

        Raises:
            StateError: if it has another form.
        """
        super().load_state_dict(state, device)
        self._new, self.rows, self.owners, self.keys = [], None, *([torch.zeros(0, dtype=torch.int64)] * 2)
        if self.sums is None:
            return
        found = [part for name in ("rows", "owners", "keys") if isinstance(part := state.get(name), Tensor)]
        if len(found) < 3 or len({len(part) for part in found}) > 1:
            raise StateError("the state of a head that keeps features holds no rows, owners and keys of equal length")
        rows, owners, keys = (part.detach().to(device, copy=True) for part in found)
        if rows.dim() != 2 or rows.shape[1] != self.sums.shape[1] or rows.dtype != self.dtype:
            raise StateError(
                f"rows in the state of a head are {tuple(rows.shape)} in {rows.dtype}; expected "
                f"(n, {self.sums.shape[1]}) in {self.dtype}"
            )
        self.rows, self.owners, self.keys = rows, owners, keys

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        super().to(device)
        self.rows = None if self.rows is None else self.rows.to(device)
        self.owners, self.keys = self.owners.to(device), self.keys.to(device)
