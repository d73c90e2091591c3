r"""MoFO: of every matrix, only the entries whose momentum is largest move in a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError
from holdfast.method import Method
from holdfast.names import Select
from holdfast.objectives import Batch, Objective
from holdfast.state import anchor_of

__all__ = ["MoFO", "largest_share"]


def largest_share(values: Tensor, fraction: float) -> Tensor:
    r"""Where a tensor's largest entries by magnitude are.

    .. math:: \lvert m_i \rvert \ge \text{the } \lfloor \alpha n \rfloor \text{-th largest of } \lvert m \rvert

    Source: Chen et al. 2024, arXiv:2407.20999, alg. 1. Differs: a tensor of fewer than :math:`1/\alpha` entries, of
    which the release takes none and fails, is taken whole.

    Args:
        values: m, ``[*p]``; equal ones at the edge are all taken.
        fraction: :math:`\alpha`, > 0, at most 1.

    Returns:
        Bool ``[*p]``.

    Example:
        >>> largest_share(torch.tensor([[0.1, -3.0], [2.0, 0.5]]), 0.5)
        tensor([[False,  True],
                [ True, False]])
    """
    count = int(fraction * values.numel())
    if count == 0 or count >= values.numel():
        return torch.ones_like(values, dtype=torch.bool)
    size = values.abs()
    return size >= size.flatten().topk(count, sorted=False).values.min()


class MoFO(Method):
    r"""Momentum-filtered optimizer: each step moves a share of a matrix, where the momentum is largest; the rest stays.

    .. math:: \theta_i \leftarrow \begin{cases} \hat\theta_i & \lvert m_i \rvert \ge
        \text{the } \lfloor \alpha n \rfloor \text{-th largest of } \lvert m \rvert \\ \theta_i & \text{else}\end{cases}

    with :math:`\hat\theta` what any optimizer with momentum m made of :math:`\theta`. The momentum itself is kept in
    full, so every entry has its turn. Biases, normalisations and other vectors move as a whole. It acts from the first
    ``consolidate`` on; what is new since then, such as a new head, is free.

    Source: Chen et al. 2024, arXiv:2407.20999, alg. 1. Differs: weight decay, which in the release goes on pulling all
    weights, is filtered too; small tensors are taken whole.

    Args:
        model: the model to protect.
        fraction: :math:`\alpha`, the share of each matrix that moves, > 0 and at most 1; the authors recommend 0.05 to
            0.2.
        select: which trainable parameters are filtered; the others move as they like.
        objective: not used; here so that methods can be exchanged.

    Raises:
        ConfigurationError: for a wrong argument; in the first step, for an optimizer without momentum other than SGD
            (which is filtered by its gradient).
    """

    needs_data: ClassVar[bool] = False
    puts_back: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        *,
        fraction: float = 0.15,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise ConfigurationError(f"fraction is {fraction!r}; expected a share above 0, at most 1")
        self.fraction: float = float(fraction)
        self._before: dict[str, Tensor] = {}  # weights before the step under way

    def observe_gradient(self, step: Step) -> None:
        """Note where the matrices stand."""
        self._before = {name: self.part(name).clone() for name in self.live(step) if self.params[name].dim() > 1}

    @torch.no_grad()
    def restore_weights(self, step: Step) -> None:
        """Put back what has not the largest momentum, whatever moved it."""
        for name, before in self._before.items():
            moved = largest_share(self.part(name, _momentum(step.optimizer, self.params[name])), self.fraction)
            here = self.part(name)
            here.copy_(torch.where(moved, here, before))
        self._before = {}

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        self.state.update({name: {"anchor": anchor_of(self.scope(name))} for name in self.params})

    def _detached(self) -> None:
        self._before = {}


def _momentum(optimizer: Optimizer, parameter: nn.Parameter) -> Tensor:
    held = optimizer.state.get(parameter, {})
    found = held.get("exp_avg", held.get("momentum_buffer"))
    if found is None and isinstance(optimizer, SGD):
        found = parameter.grad
    if not isinstance(found, Tensor):
        raise ConfigurationError(
            f"MoFO filters by momentum, of which {type(optimizer).__name__} keeps none; expected one that does, such "
            "as AdamW, or SGD"
        )
    return found
