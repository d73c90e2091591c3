"""The half of a quadratic penalty that meets adapters: see :meth:`holdfast.Method.rebind`."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError
from holdfast.method import Method
from holdfast.names import Select
from holdfast.objectives import Batch, Objective
from holdfast.penalties.effective import Site, gradient_at, pulled_back, sites

__all__ = ["AdaptedPenalty"]


class AdaptedPenalty(Method):
    """A penalty on weights that may act on those that layers with adapters compute with.

    Args:
        model: the model to protect.
        select: which trainable parameters to protect.
        objective: what a batch means.

    Attributes:
        coupling: how the penalty acts.
    """

    coupling: str

    def __init__(
        self,
        model: nn.Module,
        *,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        self._effective = False
        self._sites: dict[str, Site] = {}  # name of a weight -> its layer with adapters

    @abc.abstractmethod
    def holds(self, name: str) -> bool:
        """Whether the penalty acts on that parameter."""

    @abc.abstractmethod
    def _lists(self, names: list[str]) -> tuple[list[Tensor], list[Tensor] | None]:
        """Anchors, and importances where there are any."""

    def _prepare(self) -> None:
        if self._effective:
            raise ConfigurationError(
                f"{type(self).__name__} acts on the effective weights of adapters, of which it can remember no more: "
                "merge them (model = model.merge_and_unload()), rebind(model), then consolidate"
            )

    def _take_effect(self, model: nn.Module, *, effective: bool) -> None:
        if effective and self.coupling == "proximal":
            raise ConfigurationError("on='effective' has no proximal step; expected coupling='gradient' or 'loss'")
        self._effective = effective

    def _resolve(self, optimizers: Sequence[Optimizer]) -> None:
        super()._resolve(optimizers)
        self._sites = sites(self.model, list(self.state)) if self._effective else {}

    def _untouched(self, optimizer: Optimizer) -> str | None:
        here = any(p.grad is not None for site in self._sites.values() for p in site.trained())
        return None if here else super()._untouched(optimizer)

    def _pulls_back(
        self, step: Step, factor: float, scale: Tensor | None = None
    ) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """The penalty's gradient on effective weights, at the adapters that this optimizer trains."""
        owned = {id(p) for group in step.optimizer.param_groups for p in group["params"] if p.grad is not None}
        for name, site in self._sites.items():
            trained = [p for p in site.trained() if id(p) in owned]
            if trained and self.holds(name):
                anchors, importances = self._lists([name])
                pull_of = functools.partial(
                    gradient_at, anchors[0], None if importances is None else importances[0], factor, scale
                )
                yield from pulled_back(site, trained, pull_of)
