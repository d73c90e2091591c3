r"""EfficientPackNet: PackNet on powers, where tasks share weights and each takes no more than it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.errors import ConfigurationError, DataError
from holdfast.importance.untouched import untouched
from holdfast.names import Select, canonical_modules, named
from holdfast.objectives import Batch, Classification, Objective
from holdfast.objectives.batches import targets_of
from holdfast.objectives.distributions import IGNORED
from holdfast.parts import filled_up
from holdfast.processes import of_the_first, summed
from holdfast.projections.masks import is_prunable, kept_bits, put_back
from holdfast.projections.owning import FREE, Owning
from holdfast.reparam.power import Power, check_alpha, inverse_power, register_powers
from holdfast.reparam.weights import reparametrised
from holdfast.state import anchor_of

__all__ = ["DENSITIES", "EfficientPackNet", "largest", "sparsest"]

_MASK = "mask."


def _geomspace(low: float, high: float, number: int) -> tuple[float, ...]:
    inner = [low * (high / low) ** (i / (number - 1)) for i in range(1, number - 1)]
    return (low, *inner, high)


DENSITIES = _geomspace(0.01, 1.0, 20)
"""The shares of a layer's weights that are tried, from the sparsest on."""


def largest(values: Tensor, share: float) -> Tensor:
    r"""The largest entries by magnitude; of equal ones those that come first.

    .. math:: |\{i\}| = \lfloor p \, n \rfloor

    Source: Schwarz et al. 2021, arXiv:2110.00296, by its released notebook. Differs: ties are decided, by place.

    Args:
        values: w, or φ, which are in the same order, ``[*p]``.
        share: p, from 0 to 1.

    Returns:
        bool ``[*p]``.

    Example:
        >>> largest(torch.tensor([0.1, -3.0, 2.0, 2.0]), 0.5)
        tensor([False,  True,  True, False])
    """
    found = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    k = int(share * values.numel())
    found[values.abs().flatten().sort(descending=True, stable=True).indices[:k]] = True
    return found.view(values.shape)


def sparsest(scores: Iterable[float], dense: float, gamma: float) -> int | None:
    r"""The first candidate that is good enough; those after it are not looked at.

    .. math:: \min \{ j : P_j \ge \gamma P \}

    Source: Schwarz et al. 2021, arXiv:2110.00296, algorithm 1, as it is reported. Differs: not known.

    Args:
        scores: :math:`P_j`, from the sparsest candidate to the densest.
        dense: P, with all weights.
        gamma: γ, from 0 to 1.

    Returns:
        Which; ``None`` if none is.

    Example:
        >>> sparsest([0.2, 0.7, 0.89, 0.9], dense=0.9, gamma=0.98)
        2
    """
    return next((number for number, score in enumerate(scores) if score >= gamma * dense), None)


class EfficientPackNet(Owning):
    r"""After a task the largest weights of every layer, as few as serve it, are its own and never move again.

    .. math:: M_t = \text{top}_{p}(|w|), \quad p = \min \{p : P(w \odot M_t) \ge \gamma P(w)\}, \qquad
        M \leftarrow M \cup M_t

    where :math:`w = \varphi |\varphi|^{\alpha - 1}`: the model is powerpropagated (see
    :func:`~holdfast.reparam.powerpropagate`) when this is made. The largest are sought among *all* weights of a layer,
    also those that earlier tasks own: tasks share what serves both. P is the accuracy on the batches that
    ``consolidate`` is given: **give it held-out data of the task**, no test data. Weights that no task owns are drawn
    anew, and nothing is retrained.

    Biases and scales (tensors of fewer than two dimensions) are never pruned; the first task that trains one owns it.
    A parameter that got no gradient during a task, such as another task's head, is no part of it.

    Source: Schwarz et al. 2021, arXiv:2110.00296, algorithm 1, as it is reported: neither its text nor code of it could
    be read. Differs: γ, the densities, the draw and what is done with biases are ours.

    Args:
        model: the model to protect; changed.
        alpha: α, >= 1; with 1 the weights are trained as they are.
        gamma: γ, the share of the task's accuracy to be kept, above 0 and up to 1.
        select: which trainable parameters to protect, and of which weights to take powers.
        head: layers that are not pruned: the first task that trains one owns it whole, as it is with a head per task.
        objective: what a batch means, where ``consolidate`` is not told; a classification.

    Raises:
        ConfigurationError: for a wrong argument, or a model that cannot be powerpropagated; from ``consolidate``, for
            an objective that has no accuracy.
    """

    buffers: dict[str, Tensor]

    def __init__(
        self,
        model: nn.Module,
        *,
        alpha: float = 2.0,
        gamma: float = 0.98,
        select: Select = None,
        head: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        self.alpha: float = check_alpha(alpha)
        if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 < gamma <= 1:
            raise ConfigurationError(f"gamma is {gamma!r}; expected a share above 0, up to 1")
        self.gamma: float = float(gamma)
        self._head = head
        super().__init__(model, select=select, objective=objective)
        self.reparametrises: bool = self.alpha > 1
        self._take_powers()
        self.meta["densities"] = []
        self._drawn: dict[str, Tensor] = {}  # what is about to take the place of what no task owns

    @property
    def densities(self) -> tuple[float, ...]:
        """The share of each layer's weights that every task so far is tested with."""
        return tuple(self.meta["densities"])

    def _take_powers(self) -> None:
        if self.alpha > 1:
            register_powers(self.model, self.alpha, self._select)
        powers = [by for _, module in canonical_modules(self.model) if isinstance(by := reparametrised(module), Power)]
        other = sorted({by.alpha for by in powers} - {self.alpha})
        if other:
            raise ConfigurationError(f"alpha is {self.alpha:g}, and the model is powerpropagated with {other[0]:g}")

    def _resolve(self, optimizers: Sequence[Optimizer]) -> None:
        """Take powers of what is new, such as a head; of one that has grown, what is owned stands where it stood."""
        self._take_powers()
        super()._resolve(optimizers)
        for name, held in self.state.items():
            if name in self.params and is_prunable(held["anchor"]):
                self._settle_powers(name, held)

    @torch.no_grad()
    def _settle_powers(self, name: str, held: dict[str, Tensor]) -> None:
        # The root of a power is the number itself but for rounding, and what is owned is held to the last bit.
        here, owned = self.part(name), held["owner"] != FREE
        anchor = held["anchor"].to(here.dtype)
        if torch.allclose(here[owned], anchor[owned], rtol=1e-5, atol=1e-7):
            put_back([here], [kept_bits(~owned)], [anchor])

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        if not isinstance(objective, Classification):
            raise ConfigurationError(
                "EfficientPackNet keeps a share of a task's accuracy, and the objective is "
                f"{type(objective).__name__}; expected a Classification"
            )
        self._check_held()
        index = self.num_tasks
        density, masks = self._search(list(batches), objective)
        for name in self._trained():
            p = anchor_of(self.scope(name))
            owner, anchor = self._held(name)
            mine = (owner == FREE) & masks.get(name, torch.ones_like(owner, dtype=torch.bool))
            self.state[name] = {
                "owner": owner.masked_fill(mine, index + 1),
                "anchor": torch.where(mine, p, anchor),
            }
        self.buffers |= {f"{_MASK}{index}.{name}": mask for name, mask in masks.items()}
        self._remember_statistics(index)
        self.meta.update(touched=[], densities=[*self.densities, density])
        self._loaded()
        self._draw(generator)

    def _search(self, batches: Sequence[Batch], objective: Classification) -> tuple[float, dict[str, Tensor]]:
        """The sparsest density that keeps the accuracy, and the masks that go with it."""
        whole = set() if self._head is None else set(named(self.model, self._head))
        pruned = [name for name in self._trained() if is_prunable(self.params[name]) and name not in whole]
        weights = {name: self.scope(name) for name in pruned}

        def tried() -> Iterator[float]:
            for density in DENSITIES:
                with _without(weights, {name: ~largest(w, density) for name, w in weights.items()}):
                    yield self._accuracy(batches, objective)

        found = sparsest(tried(), self._accuracy(batches, objective), self.gamma)
        assert found is not None  # the last candidate is all weights
        density = DENSITIES[found]
        return density, {name: largest(w, density) for name, w in weights.items()}

    @torch.no_grad()
    def _accuracy(self, batches: Sequence[Batch], objective: Classification) -> float:
        counts = torch.zeros(2, dtype=torch.int64, device=next(iter(self.params.values())).device)  # right, and all
        with untouched(self.model, ()), torch.no_grad():
            for batch in batches:
                answers, targets = objective.outputs(self.model, batch).argmax(1), targets_of(batch)
                valid = targets != IGNORED
                right = (answers == targets.to(answers.device)) & valid.to(answers.device)
                counts += torch.stack([right.sum(), valid.to(right.device).sum()]).to(counts.device)
        right_in_all, count = summed(counts).tolist()
        if count == 0:
            raise DataError("no batch has a label, so EfficientPackNet cannot say how few weights are enough")
        return float(right_in_all / count)

    @torch.no_grad()
    def _draw(self, generator: torch.Generator | None) -> None:
        """Draw anew what no task owns, as PyTorch's layers draw it: evenly from ±1/√(inputs)."""
        free = self.free_share
        if free == 0:
            self._warn(
                f"{type(self).__name__}: task {self.num_tasks + 1} took all weights that were left, so later tasks "
                "learn with what is new to them alone; lower gamma, or use a larger model"
            )
        self._drawn = {}
        for name, held in self.state.items():
            if name not in self.params or not is_prunable(held["owner"]):
                continue
            p = self.scope(name)
            bound = 1 / math.sqrt(p[0].numel())
            u = torch.empty(p.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
            self._drawn[name] = inverse_power(of_the_first(u.to(p.device)), self.alpha).to(p)

    @torch.no_grad()
    def _begin_anew(self) -> None:
        super()._begin_anew()
        for name, drawn in self._drawn.items():
            self.scope(name).copy_(torch.where(self.state[name]["owner"] == FREE, drawn, self.scope(name)))
        self._drawn = {}

    def _absent(self, index: int, name: str) -> Tensor:
        mask = self.buffers.get(f"{_MASK}{index}.{name}")
        owner = self.state[name]["owner"]
        if mask is None:
            return (owner > index + 1) | (owner <= FREE)
        return ~filled_up(mask, owner, False)


@contextmanager
def _without(weights: dict[str, Tensor], absent: dict[str, Tensor]) -> Iterator[None]:
    """Some weights are 0, for as long as the context lasts."""
    before = {name: weight.clone() for name, weight in weights.items()}
    try:
        for name, weight in weights.items():
            weight.masked_fill_(absent[name], 0.0)
        yield
    finally:
        for name, weight in weights.items():
            weight.copy_(before[name])
