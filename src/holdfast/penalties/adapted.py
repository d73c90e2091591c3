"""The half of a quadratic penalty that meets adapters: see :meth:`holdfast.Method.rebind`."""

from __future__ import annotations

import abc
import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError, StateError
from holdfast.method import Method
from holdfast.names import Select, canonical_parameters
from holdfast.objectives import Batch, Objective
from holdfast.penalties.effective import Site, gradient_at, merged, moved_with, pulled_back, sites
from holdfast.rebinding import adapters_in, matched
from holdfast.state import check_form

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

    params: dict[str, nn.Parameter]
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

    @contextlib.contextmanager
    def _as_computed(self) -> Iterator[None]:
        if not self._effective:
            yield
            return
        own, live = self.params, canonical_parameters(self.model)
        moved = moved_with(self.model)
        names = [name for name in live if name in self.state or name in moved]
        with merged(self.model, sites(self.model, names)):
            self.params = {name: live[name] for name in names}
            try:
                yield
            finally:
                self.params = own
        self._find_sites()  # also of what is new
        self._find_dormant()

    def _places(self) -> dict[str, Tensor]:
        """Where weights are that something is remembered of."""
        bases = {name: site.base for name, site in self._sites.items()}
        return {**self._dormant, **bases, **self.params} if self._effective else {**self.params}

    def _take_effect(self, model: nn.Module, *, effective: bool) -> None:
        if effective and self.coupling == "proximal":
            raise ConfigurationError("on='effective' has no proximal step; expected coupling='gradient' or 'loss'")
        if effective:
            sites(model, list(matched(self.state, model).values()))  # what it refuses has changed nothing yet
        self._effective = effective

    def _resolve(self, optimizers: Sequence[Optimizer]) -> None:
        super()._resolve(optimizers)
        self._find_sites()

    def _find_sites(self) -> None:
        self._sites = sites(self.model, list(self.state)) if self._effective else {}

    def _mind_adapters(self) -> None:
        if not self._effective:
            super()._mind_adapters()
            return
        # Of a layer that is trained as a copy, what is remembered belongs to the copy that is active now.
        live = canonical_parameters(self.model)
        trained = [name for name, parameter in live.items() if parameter.requires_grad]
        active = {place: name for name, (_, place) in adapters_in(trained, self.model).items()}
        moves = {
            name: active[place]
            for name, (_, place) in adapters_in(self.state, self.model).items()
            if place in active and name not in trained
        }
        if moves:
            self._move({name: moves.get(name, name) for name in self.state})

    def _saved_meta(self) -> dict[str, Any]:
        return {**super()._saved_meta(), "effective": self._effective} if self._effective else super()._saved_meta()

    def _load(self, state: dict[str, Any], objectives: Sequence[Objective]) -> None:
        check_form(state, type(self).__name__, self.version)
        if state["meta"].get("effective", False) and not self._effective:
            raise StateError(
                f"the state of {type(self).__name__} acts on the effective weights of adapters, and this one on those "
                "that are trained: rebind(model, on='effective'), then load"
            )
        super()._load(state, objectives)
        self.meta.pop("effective", None)
        self._find_sites()

    def _here(self, name: str) -> Tensor:
        """The weights that an anchor is of, without their graph: what of them this process holds."""
        return self._sites[name].weight().detach() if name in self._sites else self.part(name)

    def _distance(self, name: str) -> Tensor | None:
        if name not in self._sites:
            return super()._distance(name)
        here = self._here(name).double()
        distance: Tensor = torch.linalg.vector_norm(here - self.state[name]["anchor"].to(here))
        return distance

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
