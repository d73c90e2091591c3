"""Every error that Holdfast raises on purpose.

::

    HoldfastError
    ├── ConfigurationError (ValueError)    an argument is wrong
    ├── DataError          (ValueError)    batches are empty, or not what the objective expects
    ├── StateError         (ValueError)    a saved state does not fit, or a file is not what it should be
    ├── ProtectionError    (RuntimeError)  protection would have failed silently
    ├── NumericsError      (RuntimeError)  a number is no longer finite
    └── DependencyError    (RuntimeError)  an optional package is missing

and one warning, :class:`ProtectionWarning`: training goes on, but protected less than it seems.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "ConfigurationError",
    "DataError",
    "DependencyError",
    "HoldfastError",
    "NumericsError",
    "Option",
    "ProtectionError",
    "ProtectionWarning",
    "StateError",
]


@dataclass(frozen=True)
class Option:
    """An option that a sentence names: a keyword in Python, and on the command line whatever was typed for it.

    Args:
        name: the keyword.
        values: what it is set to, or would have to be set to; empty: the option itself is meant.

    Example:
        >>> print(Option("batch_size"), Option("executor", ("processes", "ray")))
        batch_size executor='processes' or 'ray'
    """

    name: str
    values: tuple[object, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}={' or '.join(map(repr, self.values))}" if self.values else self.name


class HoldfastError(Exception):
    """Base of every error that Holdfast raises on purpose.

    Args:
        *parts: the sentence, whole or in pieces; an :class:`Option` among them is named as its reader knows it.

    Example:
        >>> error = ConfigurationError(Option("batch_size"), " is 0; expected at least 1")
        >>> print(error)
        batch_size is 0; expected at least 1
        >>> error.worded(lambda option: "--batch-size")
        '--batch-size is 0; expected at least 1'
    """

    def __init__(self, *parts: str | Option) -> None:
        super().__init__(*parts)

    def __str__(self) -> str:
        return self.worded(str)

    def worded(self, named: Callable[[Option], str]) -> str:
        """The sentence, with its options named for somebody else.

        Args:
            named: what an option is called there.
        """
        return "".join(named(part) if isinstance(part, Option) else str(part) for part in self.args)

    def within(self, where: str) -> HoldfastError:
        """The same error, its sentence preceded by what it is about.

        Args:
            where: such as the method's name.
        """
        return type(self)(f"{where}: ", *self.args)


class ConfigurationError(HoldfastError, ValueError):
    """An argument is wrong: the message names it, its value and what was expected."""


class DataError(HoldfastError, ValueError):
    """Batches are empty, missing, or not what the objective expects."""


class StateError(HoldfastError, ValueError):
    """A saved state does not fit the model, or a file is not what it should be."""


class ProtectionError(HoldfastError, RuntimeError):
    """Protection would have failed silently: a forgotten attach, a lost hook, a missing penalty."""


class NumericsError(HoldfastError, RuntimeError):
    """A loss, gradient, importance or penalty is no longer finite."""


class DependencyError(HoldfastError, RuntimeError):
    """An optional package is missing: the message names the extra to install."""


class ProtectionWarning(UserWarning):
    """Training goes on, but protected less than it seems."""
