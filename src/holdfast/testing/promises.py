"""How a broken promise is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["expect", "refused"]


def expect(kept: bool, promise: str) -> None:
    """Raise an AssertionError that names the promise, unless it was kept."""
    if not kept:
        raise AssertionError(f"broken promise: {promise}")


def refused(error: type[Exception], act: Callable[[], Any], promise: str) -> None:
    """Raise an AssertionError that names the promise, unless the act is refused by such an error."""
    try:
        act()
    except error:
        return
    raise AssertionError(f"broken promise: {promise} is refused by a {error.__name__}")
