"""What a user typed, as values of the types that a method expects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from holdfast.errors import ConfigurationError
from holdfast.registry import Entry, Value

__all__ = ["AUTO", "pairs", "per_method", "shown", "typed"]

AUTO = "auto"
"""In place of a strength: to be found from the first batches of each task, by the methods that can."""


def typed(entry: Entry, key: str, text: str) -> Value:
    """The value of a method's hyperparameter, of the type of its default.

    Args:
        entry: the method.
        key: the hyperparameter.
        text: what the user typed.

    Raises:
        ConfigurationError: for an unknown key, naming the valid ones, or a text of another type.
    """
    if key not in entry.settings:
        valid = f"it has {', '.join(entry.settings)}" if entry.settings else "it has none"
        raise ConfigurationError(f"{entry.name} has no setting {key!r}; {valid}")
    default = entry.settings[key]
    if text == AUTO and (key == "strength" or key in entry.automatic):
        return AUTO
    automatic = key in entry.automatic or (key, default) == ("strength", AUTO)
    found, expected = _parse(text, 0.0 if automatic else default)
    if found is _WRONG:
        expected += f" or {AUTO!r}" * automatic
        raise ConfigurationError(
            f"{entry.name}.{key} is {text!r}; expected {expected}, such as its default {shown(default)}"
        )
    value: Value = found
    return value


_WRONG: Any = object()
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _parse(text: str, default: Value) -> tuple[Any, str]:
    """The value, or `_WRONG`, and what was expected."""
    if isinstance(default, bool):
        return _TRUTH.get(text.strip().lower(), _WRONG), "true or false"
    if isinstance(default, int):
        return _number(text, int), "a whole number"
    if isinstance(default, float):
        number = _number(text, float)
        return (number if number is _WRONG or math.isfinite(number) else _WRONG), "a finite number"
    if default is None:
        if text.strip().lower() in ("none", ""):
            return None, ""
        candidates = [_number(text, int), _number(text, float), text]
        return next(value for value in candidates if value is not _WRONG), ""
    return text, "a word"


def _number(text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        return _WRONG


def shown(value: Value) -> str:
    """A value as it would be typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def pairs(option: str, texts: list[str]) -> list[tuple[str, str]]:
    """``KEY=VALUE`` texts, split.

    Args:
        option: the option that they were given to, for the message.
        texts: as typed.

    Raises:
        ConfigurationError: for a text that is no such pair.
    """
    found = []
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise ConfigurationError(f"{option} got {text!r}; expected KEY=VALUE")
        found.append((key.strip(), value.strip()))
    return found


def per_method(option: str, texts: list[str], methods: Sequence[str]) -> dict[str, dict[str, str]]:
    """``METHOD.KEY=VALUE`` texts as method -> key -> value; with one method, ``KEY=VALUE`` will do.

    Raises:
        ConfigurationError: for a text that is no such thing, a key given twice, or a method that is not compared.
    """
    found: dict[str, dict[str, str]] = {}
    for name, value in pairs(option, texts):
        method, dot, key = name.partition(".")
        if not dot and len(methods) == 1:
            method, key = methods[0], name
        elif not dot:
            raise ConfigurationError(
                f"{option} got {name}={value}; expected METHOD.KEY=VALUE, such as ewc.{name}={value}"
            )
        if method not in methods:
            raise ConfigurationError(f"{option} names the method {method!r}; this compares {', '.join(methods)}")
        if key in found.get(method, {}):
            raise ConfigurationError(f"{option} gives {method}.{key} twice")
        found.setdefault(method, {})[key] = value
    return found
