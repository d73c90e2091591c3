r"""CoMA and CoFiMA: after every task, the weights are merged with those before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, NumericsError
from holdfast.importance import FisherKind, fisher
from holdfast.merging.weights import check_density, fisher_mean, least_kept
from holdfast.method import Method
from holdfast.names import Select
from holdfast.objectives import Batch, Objective
from holdfast.sharding import is_sharded
from holdfast.state import anchor_of

__all__ = ["CoFiMA", "CoMA"]


class CoMA(Method):
    r"""Continual model averaging: a running mean of the weights, after each task.

    .. math:: \theta^*_t = (1 - \alpha)\, \theta^*_{t-1} + \alpha\, \theta_t

    With a ``density`` below 1 the move :math:`\theta_t - \theta^*_{t-1}` is trimmed first, as in TIES for one
    training (Yadav et al. 2023, arXiv:2306.01708): that share of its entries stays, the largest of all parameters.

    Training itself is left as it is; ``consolidate`` changes the weights, from the second task on. A parameter that is
    new, such as the head of a new task, is not merged until the next one.

    Source: Marouf et al. 2024, arXiv:2312.08977, sec. 3.2. Differs: no. Running statistics of normalisations are those
    of the latest task.

    Args:
        model: the model to protect.
        weight: α, from 0 (nothing new is learned) to 1 (nothing is merged).
        density: the share of the move that stays, more than 0 and at most 1.
        select: which trainable parameters are merged.
        objective: not used; here so that methods can be exchanged.

    Raises:
        ConfigurationError: for a wrong argument; at ``consolidate``, for sharded parameters whose move is trimmed.
    """

    needs_data: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        weight: float = 0.5,
        density: float = 1.0,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
            raise ConfigurationError(f"weight is {weight!r}; expected a share, from 0 to 1")
        self.weight: float = float(weight)
        self.density: float = check_density(density)

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        self._merge({name: {} for name in self.params})

    def _merge(self, found: dict[str, dict[str, Tensor]]) -> None:
        """Merge the weights with their anchors, and remember both what came out and what was found of them."""
        least, merged = self._least_kept(), {}
        for name in self.params:
            now = anchor_of(self.scope(name))
            if not bool(now.isfinite().all()):
                raise NumericsError(f"parameter {name!r} is not finite, so nothing was merged")
            known = self.state.get(name)
            if known is not None and least is not None:
                now = torch.where((now - known["anchor"]).abs() >= least.to(now), now, known["anchor"])
            merged[name] = found[name] | {"anchor": now if known is None else self._mean(known, now, found[name])}
        self.state: dict[str, dict[str, Tensor]] = {**self.state, **merged}

    @torch.no_grad()
    def _least_kept(self) -> Tensor | None:
        """The smallest entry of the move that stays; ``None`` where all do, or nothing was remembered yet."""
        known = [name for name in self.params if name in self.state]
        if self.density == 1 or not known:
            return None
        for name in known:
            if is_sharded(self.params[name]):
                raise ConfigurationError(
                    f"density={self.density} trims all parameters together, but {name!r} is sharded; expected 1"
                )
        sizes = [(anchor_of(self.scope(name)) - self.state[name]["anchor"]).abs().flatten() for name in known]
        return least_kept([size.to(sizes[0]) for size in sizes], self.density)

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

    Source: Marouf et al. 2024, arXiv:2312.08977, sec. 3.3. Differs: the Fisher is per sample, as in :class:`EWC`,
    where the release squares gradients of batches and clips them; 0/0 is the plain mean; rows that a head gained are
    left as they are, which the release multiplies by their Fisher.

    Args:
        model: the model to protect.
        weight: α, from 0 to 1.
        density: as for :class:`CoMA`.
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
        density: float = 1.0,
        fisher: FisherKind = "auto",
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, weight=weight, density=density, select=select, objective=objective)
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
