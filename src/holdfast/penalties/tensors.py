"""What penalties ask of tensors before they work on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError
from holdfast.pieces import flat_alike, pieces

__all__ = ["dense_gradients", "side_by_side"]


def dense_gradients(method: str, params: Mapping[str, nn.Parameter], names: Iterable[str]) -> list[Tensor]:
    """The gradients of some parameters that have one.

    Args:
        method: what is said to want them.
        params: name -> parameter.
        names: of those wanted.

    Returns:
        The gradients themselves, each ``[*p]``.

    Raises:
        ConfigurationError: naming a parameter whose gradient is sparse.
    """
    found = []
    for name in names:
        grad = params[name].grad
        assert grad is not None
        if grad.layout is not torch.strided:
            raise ConfigurationError(
                f"{method}: the gradient of parameter {name!r} is {grad.layout}; expected a dense one (for example an "
                "Embedding with sparse=False)"
            )
        found.append(grad)
    return found


def side_by_side(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same entries of each tensor, as views, so many at a time that what is made of them takes little memory.

    Args:
        *tensors: of one shape; all at once where their layouts differ.
    """
    return pieces(*tensors) if flat_alike(*tensors) else iter([tensors])
