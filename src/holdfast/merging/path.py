"""The way from one state to another, looked at step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from holdfast.errors import ConfigurationError
from holdfast.merging.weights import State, wise_ft

__all__ = ["interpolate"]

T = TypeVar("T")


def interpolate(
    before: State, after: State, evaluate: Callable[[dict[str, Tensor]], T], steps: int = 11
) -> list[tuple[float, T]]:
    """What is true of the states on the line between two: the curve of old accuracy against new, without training.

    Args:
        before: the state before a training.
        after: the state after it.
        evaluate: what to note of a state; for the curve: the accuracy on old and on new data.
        steps: how many states, both ends included, >= 2.

    Returns:
        ``(weight, what was noted)`` from weight 0, which is ``before``, to 1, which is ``after``.

    Raises:
        ConfigurationError: for fewer than two steps.
        StateError: if names or shapes differ.

    Example:
        >>> import torch
        >>> states = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
        >>> interpolate(*states, lambda state: float(state["w"]), steps=3)
        [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)]
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise ConfigurationError(f"steps is {steps!r}; expected a whole number of states, 2 or more")
    weights = [number / (steps - 1) for number in range(steps)]
    return [(weight, evaluate(wise_ft(before, after, weight))) for weight in weights]
