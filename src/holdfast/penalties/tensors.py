"""What penalties ask of tensors before they work on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError
from holdfast.pieces import flat_alike, pieces
from holdfast.sharding import is_sharded, local

__all__ = ["dense_gradients", "side_by_side"]


def dense_gradients(method: str, params: Mapping[str, nn.Parameter], names: Iterable[str]) -> list[Tensor]:
    """The gradients of some parameters that have one.

    Args:
        method: what is said to want them.
        params: name -> parameter.
        names: of those wanted.

    Returns:
        The gradients themselves, each ``[*p]``; of sharded parameters the parts that are here.

    Raises:
        ConfigurationError: naming a parameter whose gradient is sparse, or sharded in another way than itself.
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
        found.append(here(method, name, params[name], grad))
    return found


def here(method: str, name: str, parameter: Tensor, grad: Tensor) -> Tensor:
    """The part of a gradient that belongs to the part of its parameter that this process holds; in place of it.

    Raises:
        ConfigurationError: for a gradient that is sharded in another way than its parameter.
    """
    if is_sharded(grad) and not (is_sharded(parameter) and grad.placements == parameter.placements):
        raise ConfigurationError(
            f"{method}: the gradient of parameter {name!r} is placed as {grad.placements}; expected what the parameter "
            f"has, {parameter.placements if is_sharded(parameter) else 'a plain tensor'}"
        )
    return local(grad)


def side_by_side(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same entries of each tensor, as views, so many at a time that what is made of them takes little memory.

    Args:
        *tensors: of one shape; all at once where their layouts differ. Of sharded ones, the parts that are here.
    """
    tensors = tuple(map(local, tensors))
    return pieces(*tensors) if flat_alike(*tensors) else iter([tensors])
