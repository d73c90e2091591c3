"""Checks of arguments, each with a sentence that names the argument, its value and what was expected."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

from holdfast.errors import ConfigurationError, Option

__all__ = ["check_count", "check_interval", "check_not_negative", "check_positive", "unknown_name"]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigurationError:
    """The error for a name that is not there, with the nearest ones that are, or all where none is near.

    Args:
        kind: of what, in the singular.
        name: as it was given.
        known: those there are.

    Example:
        >>> print(unknown_name("method", "ewk", ["ewc", "finetune"]))
        there is no method 'ewk'; the nearest are ewc
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    found = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(names) or 'none'}"
    return ConfigurationError(f"there is no {kind} {name!r}; {found}")


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


def check_count(option: str, value: int | None) -> None:
    """How many of something: a whole number, at least 1; ``None`` where that was not said.

    Raises:
        ConfigurationError: naming the option and its value.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and (not whole or value < 1):
        raise ConfigurationError(
            Option(option), f" is {value!r}; expected {'at least 1' if whole else 'a whole number'}"
        )


def check_interval(name: str, value: int) -> int:
    """A whole number of steps, >= 1.

    Raises:
        ConfigurationError: naming the argument and its value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} is {value!r}; expected a whole number of steps, >= 1")
    return value
