"""What trainers' callbacks share: what they are asked for, what they log, how much of its data a method is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from holdfast.errors import ConfigurationError
from holdfast.method import Method
from holdfast.objectives import Batch
from holdfast.objectives.batches import leading_size

__all__ = ["check_asked", "figures", "first"]


def check_asked(keep: object, samples: object) -> None:
    """Refuse what a trainer's callback cannot use.

    Args:
        keep: the method.
        samples: how many samples to consolidate with; ``None`` for all.

    Raises:
        ConfigurationError: naming the argument and its value.
    """
    if not isinstance(keep, Method):
        raise ConfigurationError(f"keep is a {type(keep).__name__}; expected a method, such as holdfast.EWC(model)")
    if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
        raise ConfigurationError(f"samples is {samples!r}; expected a whole number >= 1, or None for all")


def figures(keep: Method) -> dict[str, float]:
    """What the latest step shows of a method, by the names under which it is logged.

    Args:
        keep: the method; its share of a step is there after a step under ``keep.watch()``.
    """
    seen = keep.watched()
    found = {"holdfast/penalty": float(keep.value().detach())}
    if seen.share is not None:
        found["holdfast/penalty_share"] = seen.share
    if keep.divergence is not None:
        found["holdfast/divergence"] = keep.divergence
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
