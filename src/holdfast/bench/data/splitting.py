"""Rows set aside: the same share of every class."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError, Option

__all__ = ["check_share", "holdout"]


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
        labels: int64 ``[N]``.
        fraction: share set aside, in [0, 1); rounded per class, at least one row of a class that has two.
        generator: draws the rows.

    Returns:
        Rows that stay and rows set aside, int64, ascending.

    Raises:
        ConfigurationError: if `fraction` is not in [0, 1).
    """
    check_share("fraction", fraction)
    aside = torch.zeros(len(labels), dtype=torch.bool)
    if fraction:
        for label in sorted(set(labels.tolist())):
            rows = (labels == label).nonzero().flatten()
            count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
            aside[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    return (~aside).nonzero().flatten(), aside.nonzero().flatten()
