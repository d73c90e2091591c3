r"""CoMA and CoFiMA: after every task, the weights are merged with those before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, NumericsError
from holdfast.importance import FisherKind, fisher
from holdfast.merging.weights import fisher_mean
from holdfast.method import Method
from holdfast.names import Select
from holdfast.objectives import Batch, Objective
from holdfast.state import anchor_of

__all__ = ["CoFiMA", "CoMA"]


class CoMA(Method):
    r"""Continual model averaging: a running mean of the weights, after each task.

    .. math:: \theta^*_t = (1 - \alpha)\, \theta^*_{t-1} + \alpha\, \theta_t

    Training itself is left as it is; ``consolidate`` changes the weights, from the second task on. A parameter that is
    new, such as the head of a new task, is not merged until the next one.

    Source: Marouf et al. 2024, arXiv:2312.08977, sec. 3.2. Differs: no. Running statistics of normalisations are those
        of
    the latest task.

    Args:
        model: the model to protect.
        weight: α, from 0 (nothing new is learned) to 1 (nothing is merged).
        select: which trainable parameters are merged.
        objective: not used; here so that methods can be exchanged.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    needs_data: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        weight: float = 0.5,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
            raise ConfigurationError(f"weight is {weight!r}; expected a share, from 0 to 1")
        self.weight: float = float(weight)

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        self._merge({name: {} for name in self.params})

    def _merge(self, found: dict[str, dict[str, Tensor]]) -> None:
        """Merge the weights with their anchors, and remember both what came out and what was found of them."""
        merged = {}
        for name in self.params:
            now = anchor_of(self.scope(name))
            if not bool(now.isfinite().all()):
                raise NumericsError(f"parameter {name!r} is not finite, so nothing was merged")
            known = self.state.get(name)
            merged[name] = found[name] | {"anchor": now if known is None else self._mean(known, now, found[name])}
        self.state: dict[str, dict[str, Tensor]] = {**self.state, **merged}

    @torch.no_grad()
    def _begin_anew(self) -> None:
        for name in self.params:
            self.scope(name).copy_(self.state[name]["anchor"])

    def _mean(self, known: dict[str, Tensor], now: Tensor, found: dict[str, Tensor]) -> Tensor:
        return torch.lerp(known["anchor"], now, self.weight)


class CoFiMA(CoMA):
    r"""Continual Fisher-weighted averaging: each weight by how much the old and the new task need it.

    .. math:: \theta^*_t = \frac{(1 - \alpha) F_{t-1} \theta^*_{t-1} + \alpha F_t \theta_t}
        {(1 - \alpha) F_{t-1} + \alpha F_t}

    The importance of what came out is :math:`(1 - \alpha) F_{t-1} + \alpha F_t`.

    Source: Marouf et al. 2024, arXiv:2312.08977, sec. 3.3. Differs: the Fisher is per sample and exact by default,
        where the
    release squares gradients of batches and clips them; 0/0 is the plain mean; rows that a head gained are left as they
    are, which the release multiplies by their Fisher.

    Args:
        model: the model to protect.
        weight: α, from 0 to 1.
        fisher: as for :class:`holdfast.EWC`.
        select: which trainable parameters are merged.
        objective: what a batch means.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    needs_data: ClassVar[bool] = True
    renewed: ClassVar[int] = 3  # the new Fisher, what is merged, and one of its terms

    def __init__(
        self,
        model: nn.Module,
        *,
        weight: float = 0.5,
        fisher: FisherKind = "auto",
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, weight=weight, select=select, objective=objective)
        if fisher not in ("auto", "exact", "sampled", "empirical", "batched"):
            raise ConfigurationError(
                f"fisher is {fisher!r}; expected 'auto', 'exact', 'sampled', 'empirical' or 'batched'"
            )
        self.fisher = fisher

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        found = fisher(
            self.model, batches, objective=objective, kind=self.fisher, names=list(self.params), generator=generator
        )
        self._merge({name: {"importance": self.scope(name, F).clone()} for name, F in found.items()})

    def _mean(self, known: dict[str, Tensor], now: Tensor, found: dict[str, Tensor]) -> Tensor:
        before, after = known["importance"], found["importance"]
        merged = fisher_mean(known["anchor"], now, before.to(now), after.to(now), self.weight)
        found["importance"] = torch.lerp(before.to(after), after, self.weight)
        return merged
