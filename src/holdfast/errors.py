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

__all__ = [
    "ConfigurationError",
    "DataError",
    "DependencyError",
    "HoldfastError",
    "NumericsError",
    "ProtectionError",
    "ProtectionWarning",
    "StateError",
]


class HoldfastError(Exception):
    """Base of every error that Holdfast raises on purpose."""


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
