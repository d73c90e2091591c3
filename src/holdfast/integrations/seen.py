"""What a trainer logs of a method, and how much of its data a method is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from holdfast.method import Method
from holdfast.objectives import Batch
from holdfast.objectives.batches import leading_size

__all__ = ["figures", "first"]


def figures(keep: Method) -> dict[str, float]:
    """What the latest step shows of a method, by the names under which it is logged.

    Args:
        keep: the method; its share of a step is there after a step under ``keep.watch()``.
    """
    seen = keep.watched()
    found = {"holdfast/penalty": float(keep.value().detach())}
    if seen.share is not None:
        found["holdfast/penalty_share"] = seen.share
    if seen.distance:
        found["holdfast/distance"] = math.hypot(*seen.distance.values())
    return found


def first(batches: Iterable[Batch], samples: int | None) -> Iterator[Batch]:
    """Batches, until they hold so many samples.

    Args:
        batches: one after the other.
        samples: how many at least; ``None`` for all.
    """
    seen = 0
    for batch in batches:
        yield batch
        if samples is not None:
            seen += leading_size(batch)
            if seen >= samples:
                return
