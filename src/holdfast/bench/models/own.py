"""A model of one's own, by ``package.module:factory``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from holdfast.errors import ConfigurationError

__all__ = ["call", "find", "here_importable"]


@contextmanager
def here_importable() -> Iterator[None]:
    """The working folder among those that modules are found in, as for ``python -m``: a command leaves it out."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def find(name: str) -> Callable[..., Any]:
    """The factory of that name.

    Raises:
        ConfigurationError: in a sentence that says why it cannot be had.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"the model {name!r} must read package.module:factory")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's own code, which may raise anything
        raise ConfigurationError(
            f"the model {name!r} could not be imported: {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"the model {name!r} was not found: {module_name} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigurationError(f"the model {name!r} is a {type(found).__name__}; expected a function or a class")
    factory: Callable[..., Any] = found
    return factory


def call(name: str, factory: Callable[..., Any], shape: tuple[int, ...], outputs: int | tuple[int, ...]) -> nn.Module:
    """The module that a factory makes.

    Raises:
        ConfigurationError: if it fails, or makes something else.
    """
    try:
        model = factory(input_shape=shape, outputs=outputs)
    except Exception as error:  # the user's own code, which may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(
            f"the model {name!r} could not be called as factory(input_shape={shape}, outputs={outputs}): {reason}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"the model {name!r} returned a {type(model).__name__}; expected a torch.nn.Module")
    return model
