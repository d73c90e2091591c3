"""What PackNet and its relatives share: each weight belongs to the task that took it, and never moves again."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError
from holdfast.names import Select, canonical_parameters
from holdfast.objectives import Batch, Objective
from holdfast.parts import filled_up, rows_of, within
from holdfast.projections.masks import (
    HoldsExactly,
    check_held,
    clear,
    is_prunable,
    kept_bits,
    normalisations,
    put_back,
    statistics,
)
from holdfast.sharding import local, reshard, total
from holdfast.state import anchor_of

__all__ = ["FREE", "Owning"]

FREE = 0  # nobody owns the weight; its owner is the number of a task, from 1


class Owning(HoldsExactly):
    """Weights that tasks own are held to the last bit, and each task is tested with its own.

    A subclass decides in ``_remember`` what a task comes to own, and says in :meth:`_absent` what it does without.

    Args:
        model: the model to protect.
        select: which trainable parameters to protect.
        objective: what a batch means, where ``consolidate`` is not told.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        self.meta["touched"] = []
        self._touched: set[str] = set()
        self._kept: dict[str, Tensor] = {}
        self._anchors: dict[str, Tensor] = {}

    @abc.abstractmethod
    def _absent(self, index: int, name: str) -> Tensor:
        """Where a task does without a parameter that something is remembered of, bool as that is."""

    @property
    def free_share(self) -> float:
        """Share of the weights known so far that no task owns; 1 before the first task ends."""
        owners = [held["owner"] for held in self.state.values() if is_prunable(held["owner"])]
        return _free(owners) if owners else 1.0

    @property
    def fullness(self) -> dict[str, float]:
        """The share of each weight that tasks own; 1 where it is held whole, as a bias is."""
        return {name: 1 - _free([held["owner"]]) for name, held in self.state.items()}

    def _distance(self, name: str) -> Tensor | None:
        """Of what is owned: what is free has no anchor."""
        if name not in self.params:
            return None
        owned = self.state[name]["owner"] != FREE
        away = (self.part(name).double() - self.state[name]["anchor"].double()) * owned
        distance: Tensor = away.norm()
        return distance

    def _neutral(self, kind: str) -> float | None:
        return float(FREE)  # and an anchor of 0, as wherever nobody owns

    def observe_gradient(self, step: Step) -> None:
        """Note which parameters this task trains."""
        names = self.live(step, held=False)
        if not self._touched.issuperset(names):
            self._touched.update(names)
            self.meta["touched"] = sorted(self._touched)

    def project_gradient(self, step: Step) -> None:
        """No gradient for what is owned or pruned."""
        names = [name for name in self.live(step) if name in self._kept]
        grads = [self.part(name, grad) for name in names if (grad := self.params[name].grad) is not None]
        clear(grads, [self._kept[name] for name in names])

    def restore_weights(self, step: Step) -> None:
        """Undo what momentum and weight decay did to what is owned or pruned."""
        names = [name for name in self._owned.get(id(step.optimizer), ()) if name in self._kept]
        params = [self.part(name) for name in names]
        put_back(params, [self._kept[name] for name in names], [self._anchors[name] for name in names])

    def _check_held(self) -> None:
        """Refuse to go on from weights that moved although a task owns them."""
        for name, held in self.state.items():
            if name in self.params:
                check_held(name, self.part(name), held["anchor"], held["owner"] != FREE)

    def _remember_statistics(self, task: int) -> None:
        """Keep the running statistics with which a task, from 0, is tested."""
        for name, tensor in statistics(normalisations(self.model)).items():
            self.buffers[f"statistics.{task}.{name}"] = tensor.detach().clone()

    def _trained(self) -> list[str]:
        """What the task at hand has trained; a pretrained model's task has trained everything."""
        return [name for name in self.params if name in self._touched or not self._touched]

    def _held(self, name: str) -> tuple[Tensor, Tensor]:
        """Owner and anchor of a parameter; nobody's and 0 if it is new. Anchors are 0 wherever nobody owns."""
        if name in self.state:
            return self.state[name]["owner"], self.state[name]["anchor"]
        p = anchor_of(self.scope(name))
        return torch.zeros_like(p, dtype=torch.int16), torch.zeros_like(p)

    def _loaded(self) -> None:
        self._touched = set(self.meta["touched"])
        self._kept = {name: kept_bits(local(held["owner"]) == FREE) for name, held in self.state.items()}
        live = canonical_parameters(self.model)
        self._anchors = {name: local(held["anchor"]).to(live[name].dtype) for name, held in self.state.items()}

    def task(self, index: int) -> AbstractContextManager[None]:
        """The weights with which task ``index`` is tested: those of later tasks are 0 for as long as it lasts.

        Args:
            index: 0 is the first task; that of the task being learned leaves everything as it is.

        Raises:
            ConfigurationError: for a negative index, or what is none.
        """
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ConfigurationError(f"index is {index!r}; expected the number of a task, from 0")
        return self._as_of(index)

    @contextmanager
    def _as_of(self, index: int) -> Iterator[None]:
        if index >= self.num_tasks:
            yield
            return
        live = canonical_parameters(self.model)
        here = {name: local(rows_of(p.detach(), self._rows.get(name))) for name, p in live.items()}
        later = {name: torch.ones_like(here[name], dtype=torch.bool) for name in self._touched - self.state.keys()}
        for name in self.state:
            later[name] = filled_up(self._absent(index, name), here[name], True)
        prefix = f"statistics.{index}."
        running = statistics(normalisations(self.model))
        running = {name: tensor for name, tensor in running.items() if prefix + name in self.buffers}
        swapped = [here[name] for name in later] + list(running.values())
        before = [tensor.clone() for tensor in swapped]
        try:
            for name, mask in later.items():
                here[name].masked_fill_(mask, 0.0)
            for name, tensor in running.items():
                then = self.buffers[prefix + name]
                within(tensor, then).copy_(then)
            yield
        finally:
            for tensor, value in zip(swapped, before, strict=True):
                tensor.copy_(value)
            reshard(self.model)


def _free(owners: Sequence[Tensor]) -> float:
    """The share of weights that no task owns."""
    free = [(local(owner) <= FREE).sum() for owner in owners]
    return int(total(free, owners)) / max(1, sum(owner.numel() for owner in owners))
