r"""Freezing: some parameters stay exactly as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError
from holdfast.names import Select
from holdfast.objectives import Batch, Objective
from holdfast.projections.masks import HoldsExactly, HoldsStatistics, hold, zero
from holdfast.sharding import local
from holdfast.state import anchor_of

__all__ = ["Freeze"]


class Freeze(HoldsStatistics, HoldsExactly):
    r"""The selected parameters stop moving at a ``consolidate``, to the last bit.

    .. math:: g_i \leftarrow 0, \qquad \theta_i \leftarrow \theta_i^*

    Source: common practice; the ANPyC release's "SGD with the hidden layers frozen" (arXiv:1912.09091). Differs:
    the weights are put back after each step, because momentum and weight decay move a weight without a gradient.

    A parameter is frozen where it stands at the first ``consolidate`` that finds it: a head that is added later
    learns its task first. Running statistics of a normalisation whose weights are all frozen are held as well, so
    in eval mode the frozen part answers as it did; in train mode a BatchNorm still normalises by its batch, unless
    you call ``eval()`` on it.

    Args:
        model: the model to protect.
        select: which trainable parameters to freeze: names, shell patterns (``"encoder.*"``) or a function.
        after: at which ``consolidate`` the freezing begins: 1 is the first.
        objective: not used; here so that methods can be exchanged.

    Raises:
        ConfigurationError: for a wrong argument, or a selection that names nothing.
    """

    on_shards: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    prunes: ClassVar[bool] = False
    acts_on_gradients: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        select: Select,
        after: int = 1,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        if select is None:
            raise ConfigurationError("select is None; expected what to freeze, such as 'encoder.*' ('*': everything)")
        super().__init__(model, select=select, objective=objective)
        if isinstance(after, bool) or not isinstance(after, int) or after < 1:
            raise ConfigurationError(f"after is {after!r}; expected the number of a task, 1 or more")
        self.after = after

    @property
    def elementwise(self) -> bool:
        """Whether nothing but single weights is looked at."""
        return True

    def project_gradient(self, step: Step) -> None:
        """No gradient for what is frozen: the optimizer's own state then learns nothing of it either."""
        zero([self.part(name, grad) for name in self.live(step) if (grad := self.params[name].grad) is not None])

    def restore_weights(self, step: Step) -> None:
        """Undo what momentum and weight decay did."""
        names = [name for name in self._owned.get(id(step.optimizer), ()) if name in self.state]
        hold([self.part(name) for name in names], [local(self.state[name]["anchor"]) for name in names])
        self._restore_statistics()

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        if self.num_tasks + 1 < self.after:
            return
        for name in self.params:
            if name not in self.state:
                self.state[name] = {"anchor": anchor_of(self.scope(name))}
        self._remember_statistics()
