"""Checks of arguments, each with a sentence that names the argument, its value and what was expected."""

from __future__ import annotations

import math

from holdfast.errors import ConfigurationError

__all__ = ["check_interval", "check_not_negative", "check_positive"]


def check_not_negative(name: str, value: float) -> float:
    """A finite number >= 0.

    Raises:
        ConfigurationError: naming the argument and its value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigurationError(f"{name} is {value!r}; expected a finite number >= 0")
    return float(value)


def check_positive(name: str, value: float) -> float:
    """A finite number > 0.

    Raises:
        ConfigurationError: naming the argument and its value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ConfigurationError(f"{name} is {value!r}; expected a finite number > 0")
    return float(value)


def check_interval(name: str, value: int) -> int:
    """A whole number of steps, >= 1.

    Raises:
        ConfigurationError: naming the argument and its value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} is {value!r}; expected a whole number of steps, >= 1")
    return value
