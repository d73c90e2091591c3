r"""PackNet: each task owns some weights, and the next ones learn with what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

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
    check_ready,
    check_retrained,
    clear,
    is_prunable,
    kept_bits,
    normalisations,
    put_back,
    smallest,
    statistics,
)
from holdfast.sharding import local, made_of, place_like, reshard, total, whole
from holdfast.state import anchor_of

__all__ = ["PackNet"]

_FREE, _PRUNED = 0, -1  # any other owner is the number of a task, from 1


class PackNet(HoldsExactly):
    r"""After a task its smallest free weights are pruned, the rest is retrained, then owned by the task and frozen.

    .. math:: o_i = \begin{cases} t & |\theta_i| > q_s(|\theta_j| : o_j = 0) \\ 0 & \text{else: free, and 0}
        \end{cases}

    Source: Mallya and Lazebnik 2018, arXiv:1711.05769, sec. 3. Differs: running statistics of normalisations are kept
    per task and put in place by :meth:`task`, where the paper stops updating them after the first task.

    Biases and scales (tensors of fewer than two dimensions) are never pruned; the first task that trains one owns it.
    A parameter that got no gradient during a task, such as another task's head, is neither pruned nor owned by it.

    Args:
        model: the model to protect.
        prune: share of each layer's free weights to set free after a task; several for the first, second, …
            task, the last of which is repeated.
        select: which trainable parameters to protect.
        objective: not used; here so that methods can be exchanged.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    on_shards: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        prune: float | Sequence[float] = 0.5,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        self.prune = tuple(prune) if isinstance(prune, Sequence) else (prune,)
        if not self.prune or not all(isinstance(s, int | float) and 0 <= s < 1 for s in self.prune):
            raise ConfigurationError(f"prune is {prune!r}; expected a share from 0 up to, but not including, 1")
        self.meta.update(round=0, ready=False, pruned_at=0, touched=[])
        self._touched: set[str] = set()
        self._kept: dict[str, Tensor] = {}
        self._anchors: dict[str, Tensor] = {}

    @property
    def free_share(self) -> float:
        """Share of the weights known so far that no task owns; 1 before the first task ends."""
        owners = [held["owner"] for held in self.state.values() if is_prunable(held["owner"])]
        return _free(owners) if owners else 1.0

    @property
    def fullness(self) -> dict[str, float]:
        """The share of each weight that tasks own; 1 where it is held whole, as a bias is."""
        return {name: 1 - _free([held["owner"]]) for name, held in self.state.items()}

    def _distance(self, name: str) -> Tensor:
        """Of what is owned: what is free has no anchor."""
        owned = self.state[name]["owner"] != _FREE
        away = (self.part(name).double() - self.state[name]["anchor"].double()) * owned
        distance: Tensor = away.norm()
        return distance

    def _neutral(self, kind: str) -> float | None:
        return float(_FREE)  # and an anchor of 0, as wherever nobody owns

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

    def next_round(
        self, batches: Iterable[Batch] = (), *, objective: Objective | None = None, last: bool = False
    ) -> bool:
        """Prune once per task; ``True`` means retrain, then ask again.

        Args:
            batches: not used.
            objective: not used.
            last: whether this was the last task, which keeps all that is free.

        Raises:
            ProtectionError: if nothing was trained since the pruning.
        """
        if self.meta["ready"]:
            return False
        share = self.prune[min(self.num_tasks, len(self.prune) - 1)]
        if self.meta["round"] > 0:
            check_retrained(self)
        if last or share == 0 or self.meta["round"] > 0:
            self.meta["ready"] = True
            return False
        self._resolve(self._optimizers)
        self._fill_up(self.state)
        for name in self._trained():
            p = self.scope(name)
            if not is_prunable(p):
                continue
            held, anchor = self._held(name)
            owner = whole(held)  # what is smallest is a question to a whole layer
            pruned = smallest(whole(p).abs(), owner == _FREE, share)
            self.state[name] = {"owner": place_like(p, owner.masked_fill(pruned, _PRUNED)), "anchor": anchor}
            local(p).masked_fill_(local(place_like(p, pruned)), 0.0)
        self._loaded()
        self.meta.update(round=1, pruned_at=self.meta["steps"])
        return True

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        check_ready(self)
        for name, held in self.state.items():
            if name in self.params:
                check_held(name, self.part(name), held["anchor"], held["owner"] != _FREE)
        task = self.num_tasks + 1
        for name in self._trained():
            p = anchor_of(self.scope(name))
            owner, anchor = map(local, self._held(name))
            mine = owner == _FREE
            self.state[name] = {
                "owner": made_of(p, owner.masked_fill(mine, task).masked_fill(owner == _PRUNED, _FREE)),
                "anchor": made_of(p, torch.where(mine, local(p), anchor)),
            }
        for name, tensor in statistics(normalisations(self.model)).items():
            self.buffers[f"statistics.{task - 1}.{name}"] = tensor.detach().clone()
        self.meta.update(round=0, ready=False, pruned_at=0, touched=[])
        self._loaded()

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
        self._kept = {name: kept_bits(local(held["owner"]) == _FREE) for name, held in self.state.items()}
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
        for name, held in self.state.items():
            owner = local(held["owner"])
            later[name] = filled_up((owner > index + 1) | (owner <= _FREE), here[name], True)
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
    free = [(local(owner) <= _FREE).sum() for owner in owners]
    return int(total(free, owners)) / max(1, sum(owner.numel() for owner in owners))
