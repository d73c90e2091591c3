"""A loss of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives.base import Batch, Forward
from holdfast.objectives.batches import leading_size
from holdfast.objectives.distributions import spread
from holdfast.objectives.meaning import Meaning
from holdfast.objectives.plain import Plain, logits_of

__all__ = ["Loss", "LossesOnly"]


class LossesOnly(Plain, Meaning):
    """An objective that knows losses, and nothing of the model's distribution: the empirical Fisher is the only one."""

    losses_only: ClassVar[bool] = True

    def sample(self, outputs: Any, generator: torch.Generator | None) -> Batch:
        """Refused: a loss says nothing about the model's distribution."""
        raise ConfigurationError(f"{self.named} knows no distribution to sample from: choose fisher='empirical'")

    def factors(self, outputs: Any) -> Iterator[Tensor]:
        """Refused: a loss says nothing about the model's distribution."""
        raise ConfigurationError(f"{self.named} knows no exact Fisher: choose fisher='empirical'")

    def draw(self, outputs: Tensor, batch: Batch, generator: torch.Generator | None) -> Batch:
        """Refused, as :meth:`sample` is."""
        return self.sample(outputs, generator)

    def exact(self, outputs: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Refused, as :meth:`factors` is."""
        return self.factors(outputs)

    def exact_outputs(self, outputs: Tensor) -> int | None:
        """None."""
        return None

    def count(self, batch: Batch, outputs: Tensor | None = None) -> int:
        """The number of losses, where they are known; else that of rows in the batch."""
        return leading_size(batch) if outputs is None else len(outputs)

    def squares(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Over all that a row has."""
        return outputs.reshape(len(outputs), -1).square().sum(1)

    def spreads(self, outputs: Tensor, batch: Batch, measure: str) -> Tensor:
        """Over all that a row has, the last dimension as classes."""
        return spread(outputs, measure).reshape(len(outputs), -1).sum(1)


class Loss(LossesOnly):
    """A callable ``(outputs, batch) -> one loss per sample [B]``; it is given what the model returned, untouched.

    A bare callable given as an objective is the same. MAS and ANPyC, which need no loss, read the model's ``logits``.

    Args:
        function: the loss of each sample.
        forward: ``(model, batch) -> outputs``, when ``model(inputs)`` is not the call (all of a dict but ``labels`` are
            inputs).

    Example:
        >>> objective = Loss(lambda outputs, batch: (outputs - batch[1]).abs().sum(1))
        >>> objective.losses(torch.ones(2, 3), (None, torch.zeros(2, 3)))
        tensor([3., 3.])
    """

    def __init__(self, function: Callable[[Any, Batch], Tensor], forward: Forward | None = None) -> None:
        super().__init__(forward)
        if not callable(function):
            raise ConfigurationError(f"function is {function!r}; expected a callable (outputs, batch) -> [B]")
        self._function = function

    @property
    def named(self) -> str:
        """What errors call it."""
        return "a bare callable"

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """Whatever the model returns."""
        return self.forward(model, batch)

    def losses(self, outputs: Any, batch: Batch) -> Tensor:
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

    def root(self, model: nn.Module, batch: Batch) -> Tensor:
        """The losses themselves: what the model returned may be anything."""
        return self.losses(self.outputs(model, batch), batch)

    def losses_from(self, root: Tensor, batch: Batch) -> Tensor:
        """The losses, which are there already."""
        return root

    def answers(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's logits."""
        return logits_of(self.outputs(model, batch))
