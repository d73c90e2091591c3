r"""Counts, class sums and a Gram matrix: all that a closed-form head remembers of its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError, DataError, NumericsError, StateError

__all__ = ["CHUNK", "Gram", "Moments", "Summary", "add_gram", "mirror", "scatter", "summary"]

Gram: TypeAlias = Literal["none", "shared", "per class"]

CHUNK = 1024
"""Rows that are gathered before the Gram matrix is touched: one row at a time would wait for its memory."""

_PANELS = 6  # of a Gram matrix: only its upper triangle is computed, and more panels would be too narrow to be fast


@torch.no_grad()
def add_gram(gram: Tensor, rows: Tensor) -> None:
    r"""Add the products of rows with themselves: :math:`G \leftarrow G + Z^\top Z`, its upper triangle alone.

    By panels of rows, each from its diagonal on: little more than half of the products. The plain twin is
    ``gram += rows.T @ rows``; what stands below the diagonal afterwards is :func:`mirror`'s to mend.

    Args:
        gram: G, ``[D, D]``; changed.
        rows: Z, ``[B, D]``, of the same type.
    """
    size = len(gram)
    width = -(-size // _PANELS)
    for start in range(0, size, width):
        gram[start : start + width, start:].addmm_(rows[:, start : start + width].T, rows[:, start:])


@torch.no_grad()
def mirror(gram: Tensor) -> None:
    """Copy what is above the diagonal to below it, panel by panel, in place: ``[D, D]``."""
    size = len(gram)
    width = -(-size // 32)  # narrow, so that what is copied aside is little
    for start in range(0, size, width):
        end = min(start + width, size)
        square = gram[start:end, start:end]
        square.copy_(square.triu() + square.triu(1).T)
        gram[end:, start:end].copy_(gram[start:end, end:].T)


class Moments:
    r"""The sums from which every closed-form head is derived.

    .. math:: n_c = \sum_{i: y_i = c} 1, \qquad S_c = \sum_{i: y_i = c} z_i, \qquad G = \sum_i z_i z_i^\top

    Sums do not depend on the order of their terms, so neither does anything that is derived from them; in float64 up to
    1e-15 or so. No sample is kept beyond the call that brought it.

    Args:
        gram: ``"shared"``, one matrix ``[D, D]``; ``"per class"``, one for each class; or ``"none"``.
        dtype: of the Gram matrix. Class sums are float64 whatever it is. Where it is float32, products are summed
            within a chunk of rows and then chunk by chunk.

    Attributes:
        labels: the classes met, ascending.
        counts: n, int64 ``[C]``.
        sums: S, float64 ``[C, D]``; ``None`` before the first sample.
        gram: G, ``[D, D]`` or ``[C, D, D]``, its upper triangle; ``None`` before the first sample, or always.
    """

    dtype: torch.dtype

    def __init__(self, gram: Gram = "shared", *, dtype: torch.dtype = torch.float64) -> None:
        if dtype not in (torch.float64, torch.float32):
            raise ConfigurationError(
                f"dtype is {dtype}; expected torch.float64 or torch.float32, which sums are kept in"
            )
        self.kind, self.dtype = gram, dtype
        self.labels: tuple[int, ...] = ()
        self.counts: Tensor = torch.zeros(0, dtype=torch.int64)
        self.sums: Tensor | None = None
        self.gram: Tensor | None = None
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        """How many samples were added."""
        return int(self.counts.sum()) + self._rows

    @property
    def _rows(self) -> int:
        return sum(len(labels) for _, labels in self._waiting)

    @property
    def size(self) -> int | None:
        """D; ``None`` before the first sample."""
        if self.sums is not None:
            return self.sums.shape[1]
        return self._waiting[0][0].shape[1] if self._waiting else None

    def square_bytes(self, size: int, classes: int) -> int:
        """Bytes of the Gram matrix of D features and C classes."""
        number = {"none": 0, "shared": 1, "per class": classes}[self.kind]
        return number * size * size * self.dtype.itemsize

    def row_bytes(self, size: int) -> int:
        """The most bytes of rows that wait, or are being added."""
        return 4 * CHUNK * size * self.dtype.itemsize

    def like(self) -> Moments:
        """As this was before its first sample."""
        return Moments(self.kind, dtype=self.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """All that is remembered, by name; what does not exist yet is left out."""
        found = {"counts": self.counts, "sums": self.sums, "gram": self.gram}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @torch.no_grad()
    def add(self, features: Tensor, labels: Tensor, keys: Tensor | None = None) -> None:
        """Count samples in.

        Args:
            features: z, ``[B, D]``.
            labels: y, any integers, ``[B]``.
            keys: a number of each sample that depends on its inputs alone, int64 ``[B]``, for those who keep some.

        Raises:
            DataError: for another D than before.
            NumericsError: for a feature that is not finite.
        """
        if self.size is not None and features.shape[1] != self.size:
            raise DataError(f"a batch has {features.shape[1]} features per sample; expected {self.size}, as before")
        if not bool(features.isfinite().all()):
            raise NumericsError("a feature is not finite, so nothing was remembered of these batches")
        for start in range(0, len(labels), CHUNK):
            self._waiting.append((features[start : start + CHUNK].to(self.dtype), labels[start : start + CHUNK]))
            if self._rows >= CHUNK:
                self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Add the rows that wait for more of them."""
        if not self._waiting:
            return
        rows = torch.cat([features for features, _ in self._waiting])
        labels = torch.cat([labels for _, labels in self._waiting]).to(rows.device)
        self._waiting = []
        found, inverse = torch.unique(labels, return_inverse=True)
        self.make_room(found.tolist(), rows.shape[1], rows.device)
        assert self.sums is not None
        places = torch.tensor([self.labels.index(label) for label in found.tolist()], device=rows.device)[inverse]
        self.counts.index_add_(0, places, torch.ones_like(places))
        self.sums.index_add_(0, places, rows.double())
        if self.gram is None:
            return
        if self.kind == "shared":
            add_gram(self.gram, rows)
        else:
            for place in sorted(set(places.tolist())):
                add_gram(self.gram[place], rows[places == place])

    def make_room(self, labels: Iterable[int], size: int, device: torch.device) -> None:
        """Rows of zeros for classes that are new, in ascending order of all; of D features, if these are the first."""
        new = sorted(set(labels) - set(self.labels))
        if self.sums is None:
            self.sums = torch.zeros(0, size, dtype=torch.float64, device=device)
            self.counts = self.counts.to(device)
            if self.kind != "none":
                shape = (size, size) if self.kind == "shared" else (0, size, size)
                self.gram = torch.zeros(shape, dtype=self.dtype, device=device)
        if new:
            known = (*self.labels, *new)
            order = torch.tensor(sorted(range(len(known)), key=known.__getitem__), device=self.sums.device)
            self.labels = tuple(sorted(known))
            self.counts = _grown(self.counts, len(new))[order]
            self.sums = _grown(self.sums, len(new))[order]
            if self.kind == "per class":
                assert self.gram is not None
                self.gram = _grown(self.gram, len(new))[order]

    @torch.no_grad()
    def merge(self, other: Moments) -> None:
        """Add all that another has; it is used up.

        Raises:
            DataError: if it has another D. Nothing has changed then.
        """
        if self.size is not None and other.size is not None and self.size != other.size:
            raise DataError(f"the features have {other.size} entries per sample; expected {self.size}, as before")
        if other.sums is not None:
            if self.sums is not None:
                other.to(self.sums.device)
            if self.sums is None:
                self.labels, self.counts, self.sums, self.gram = other.labels, other.counts, other.sums, other.gram
            else:
                self.make_room(other.labels, self.sums.shape[1], self.sums.device)
                places = torch.tensor([self.labels.index(label) for label in other.labels], device=self.sums.device)
                self.counts.index_add_(0, places, other.counts)
                self.sums.index_add_(0, places, other.sums)
                if self.gram is not None and other.gram is not None:
                    if self.kind == "shared":
                        self.gram.add_(other.gram)
                    else:
                        self.gram.index_add_(0, places, other.gram)
        self._waiting += other._waiting
        self.settle()

    def exchange(self, gathered: Callable[[Tensor], Tensor]) -> None:
        """Of what processes cannot add up, take what one process would have; these sums are all added up."""

    def state_dict(self) -> dict[str, Any]:
        """Labels, counts and sums, as tensors."""
        self.settle()
        for gram in () if self.gram is None else self.gram.view(-1, *self.gram.shape[-2:]):
            mirror(gram)  # whoever reads the file expects a whole matrix
        return {"labels": torch.tensor(self.labels, dtype=torch.int64), **self.tensors()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take over a copy of what :meth:`state_dict` returned.

        Raises:
            StateError: if it has another form.
        """
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        wanted = {"labels", "counts"} | (set() if not state.get("labels", torch.zeros(0)).numel() else {"sums"})
        if self.kind != "none" and "sums" in wanted:
            wanted |= {"gram"}
        if not wanted <= tensors.keys():
            raise StateError(f"the state of a head holds {sorted(tensors)}; expected {sorted(wanted)}")
        copied = {name: tensor.detach().to(device, copy=True) for name, tensor in tensors.items()}
        size, classes = copied["sums"].shape[1] if "sums" in copied else 0, copied["labels"].numel()
        gram = {"none": None, "shared": (size, size), "per class": (classes, size, size)}[self.kind]
        for name, shape in (("counts", (classes,)), ("sums", (classes, size)), ("gram", gram)):
            if name in copied and tuple(copied[name].shape) != shape:
                raise StateError(
                    f"{name} in the state of a head has shape {tuple(copied[name].shape)}; expected {shape}"
                )
        if "gram" in copied and copied["gram"].dtype != self.dtype:
            raise StateError(f"the state of the head has sums in {copied['gram'].dtype}; expected {self.dtype}")
        self.labels = tuple(copied["labels"].tolist())
        self.counts, self._waiting = copied["counts"], []
        self.sums, self.gram = copied.get("sums"), copied.get("gram")

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        self.settle()
        self.counts = self.counts.to(device)
        self.sums = None if self.sums is None else self.sums.to(device)
        self.gram = None if self.gram is None else self.gram.to(device)


def _grown(tensor: Tensor, rows: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(rows, *tensor.shape[1:])])


class Summary:
    """What one or more accumulators hold together, for those who derive something from it.

    Attributes:
        labels: ascending.
        counts: n, float64 ``[C]``.
        sums: S, float64 ``[C, D]``.
    """

    def __init__(self, parts: list[Moments]) -> None:
        self._parts = [part for part in parts if part.sums is not None]
        self.labels: tuple[int, ...] = tuple(sorted({label for part in self._parts for label in part.labels}))
        first = self._parts[0].sums
        assert first is not None
        self.counts: Tensor = torch.zeros(len(self.labels), dtype=torch.float64, device=first.device)
        self.sums: Tensor = torch.zeros(len(self.labels), first.shape[1], dtype=torch.float64, device=first.device)
        for part in self._parts:
            assert part.sums is not None
            places = torch.tensor([self.labels.index(label) for label in part.labels], device=first.device)
            self.counts.index_add_(0, places, part.counts.double())
            self.sums.index_add_(0, places, part.sums)

    @property
    def total(self) -> float:
        """N, the number of samples."""
        return float(self.counts.sum())

    @property
    def means(self) -> Tensor:
        """The class means, float64 ``[C, D]``."""
        return self.sums / self.counts[:, None]

    def mean_square(self) -> float:
        """The mean of G's diagonal: N times the mean square of a feature."""
        traces = [float(part.gram.diagonal().double().sum()) for part in self._parts if part.gram is not None]
        return sum(traces) / self.sums.shape[1] or 1.0

    def product(self, right: Tensor) -> Tensor:
        """G X, float64 ``[D, C]``, without another G."""
        found = torch.zeros_like(right)
        for part in self._parts:
            assert part.gram is not None
            mirror(part.gram)
            found += (part.gram @ right.to(part.gram.dtype)).double()
        return found

    def gram(self) -> Tensor:
        """A fresh G that may be worked in: ``[D, D]``, symmetric."""
        grams = [part.gram for part in self._parts if part.gram is not None]
        found = grams[0].clone() if len(grams) == 1 else torch.add(grams[0], grams[1])
        mirror(found)
        return found


def summary(*parts: Moments) -> Summary:
    """What accumulators hold together; at least one must hold something."""
    for part in parts:
        part.settle()
    return Summary(list(parts))


def scatter(moments: Moments, row: int) -> Tensor:
    """What a class's samples differ from their mean, ``[D, D]``."""
    assert moments.gram is not None and moments.sums is not None
    gram, total = moments.gram[row], moments.sums[row]
    mirror(gram)
    return gram.double() - torch.outer(total, total) / moments.counts[row]
