"""A loss of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives.base import Batch, Forward, Objective, Plain
from holdfast.objectives.classification import Classification

__all__ = ["LossOnly", "as_objective"]


class LossOnly(Plain):
    """A bare callable ``(outputs, batch) -> one loss per sample [B]``: only the empirical Fisher is known.

    Args:
        function: the loss of each sample.
        forward: ``(model, batch) -> outputs``, when ``model(inputs)`` is not the call.
    """

    def __init__(self, function: Callable[[Any, Batch], Tensor], forward: Forward | None = None) -> None:
        super().__init__(forward)
        self._function = function

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """What the callable returns, checked to be one loss per sample."""
        losses = self._function(outputs, batch)
        if not isinstance(losses, Tensor):
            raise DataError(f"the objective returned a {type(losses).__name__}; expected a tensor [B] of losses")
        if losses.dim() != 1:
            raise DataError(
                f"the objective returned losses of shape {tuple(losses.shape)}; expected one per sample [B] "
                "(reduction='none')"
            )
        return losses

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Batch:
        """Refused: a bare callable says nothing about the model's distribution."""
        raise ConfigurationError("a bare callable knows no distribution to sample from: choose fisher='empirical'")

    def factors(self, outputs: Tensor) -> Iterator[Tensor]:
        """Refused: a bare callable says nothing about the model's distribution."""
        raise ConfigurationError("a bare callable knows no exact Fisher: choose fisher='empirical'")


def as_objective(objective: Objective | Callable[[Any, Batch], Tensor] | None) -> Objective:
    """An objective as given, a bare callable as :class:`LossOnly`, ``None`` as :class:`Classification`.

    Raises:
        ConfigurationError: if it is neither.
    """
    if objective is None:
        return Classification()
    if isinstance(objective, type):
        raise ConfigurationError(
            f"objective is the class {objective.__name__}; expected an instance: {objective.__name__}(…)"
        )
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, nn.modules.loss._Loss):
        raise ConfigurationError(
            f"objective is {objective!r}, which takes targets and returns a mean; expected an Objective or a callable "
            "(outputs, batch) -> [B], such as lambda outputs, batch: cross_entropy(outputs, batch[1], reduction='none')"
        )
    if callable(objective):
        return LossOnly(objective)
    raise ConfigurationError(f"objective is {objective!r}; expected an Objective or a callable (outputs, batch) -> [B]")
