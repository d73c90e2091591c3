"""Rows of a data set, and rows set aside: the same share of every class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.bench.records import seeding
from holdfast.errors import ConfigurationError, Option

__all__ = ["Split", "check_share", "holdout"]


def check_share(option: str, fraction: float) -> None:
    """Refuse a share that cannot be set aside.

    Args:
        option: what the caller knows it by.
        fraction: the share.

    Raises:
        ConfigurationError: if it is not in [0, 1).
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction < 1:
        raise ConfigurationError(Option(option), f" is {fraction!r}; expected at least 0 and less than 1")


def holdout(labels: Tensor, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Part of the rows set aside, the same share of every class, each part in the order of the rows.

    Args:
        labels: int64 ``[N]``; of words, ``[N, T]``, there are no classes.
        fraction: share set aside, in [0, 1); rounded per class, at least one row of a class that has two.
        generator: draws the rows.

    Returns:
        Rows that stay and rows set aside, int64, ascending.

    Raises:
        ConfigurationError: if `fraction` is not in [0, 1).
    """
    check_share("fraction", fraction)
    aside = torch.zeros(len(labels), dtype=torch.bool)
    if labels.dim() > 1:
        aside[torch.randperm(len(labels), generator=generator)[: round(fraction * len(labels))]] = True
    elif fraction:
        for label in sorted(set(labels.tolist())):
            rows = (labels == label).nonzero().flatten()
            count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
            aside[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    return (~aside).nonzero().flatten(), aside.nonzero().flatten()


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows of a data set. The samples themselves are shared with every other part, never copied.

    Attributes:
        storage: samples of the whole data set, ``[N, ...]``, uint8 for images.
        rows: rows of `storage` that belong to this part, int64 ``[n]``, ascending.
        targets: what the task's objective expects for each of them, int64 ``[n]``; of words, ``[n, T]``.
    """

    storage: Tensor
    rows: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.rows)

    @property
    def samples(self) -> Tensor:
        """All samples of this part as they are stored, ``[n, ...]``: a copy."""
        return self.storage.index_select(0, self.rows)

    def set_aside(self, fraction: float, seed: int, twin: int) -> tuple[Split, Split]:
        """What a task learns from, and its validation part.

        Args:
            fraction: the share of every class that is set aside, in [0, 1).
            seed: of the run.
            twin: the task's place in the stream, or an earlier one's that has the same samples.

        Raises:
            ConfigurationError: for a share out of its range.
        """
        stays, aside = holdout(self.targets, fraction, seeding.generator(seed, "validation", twin))
        train, valid = (Split(self.storage, self.rows[rows], self.targets[rows]) for rows in (stays, aside))
        return train, valid
