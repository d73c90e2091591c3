r"""InRank between tasks: what a task changes of a weight is a product of two thin factors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.checks import check_interval, check_not_negative
from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError
from holdfast.method import Method
from holdfast.names import Select, canonical_modules, owners
from holdfast.objectives import Batch, Objective
from holdfast.processes import of_the_first
from holdfast.reparam.lowrank import check_ranks, check_share, product
from holdfast.reparam.spectra import drawn, grown_rank, most_rank
from holdfast.reparam.twins import Twin
from holdfast.reparam.weights import LAYERS
from holdfast.state import anchor_of

__all__ = ["InRank", "factor_gradients"]

_TWIN = "twin."


def factor_gradients(up: Tensor, down: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    r"""Of a weight's gradient, those of its factors.

    .. math:: \frac{\partial L}{\partial B} = G A^\top, \qquad \frac{\partial L}{\partial A} = B^\top G, \qquad
        G = \frac{\partial L}{\partial W}, \quad W = W_0 + B A

    Source: the chain rule. Differs: no.

    Args:
        up: B, ``[m, k]``.
        down: A, ``[k, n]``.
        gradient: G, ``[m, n]``.

    Returns:
        Of B ``[m, k]`` and of A ``[k, n]``.

    Example:
        >>> factor_gradients(torch.zeros(1, 1), torch.tensor([[3.0, 0.0]]), torch.tensor([[0.1, 0.2]]))
        (tensor([[0.3000]]), tensor([[0., 0.]]))
    """
    return gradient @ down.T, up.T @ gradient


class InRank(Method):
    r"""After a task, each weight moves by low rank, and the rank grows with what the next task has need of.

    .. math:: W = W_0 + \sum_{i \le r + b} B_{:, i} A_i

    :math:`W_0` is where the latest task left the weight; B begins at 0, A is drawn. B and A are trained by an optimizer
    of the attached one's kind, with its settings of the moment, on the gradient that W has (see
    :func:`factor_gradients`); what the attached one made of W is put aside. So model and optimizer keep their tensors,
    and what they save has no more. Every ``gap`` steps after the first ``warmup`` of a task, r becomes the first rank
    that explains more than ``threshold`` of the spectrum of B A (see :func:`~holdfast.reparam.spectra.next_rank`); only
    then it waits for the device. Weights are those of linear layers and convolutions (a filter is a row). Everything
    else, and what is new since the latest ``consolidate``, such as a new head, is free. A pretrained model:
    ``consolidate()`` first, then train.

    Source: Zhao et al. 2023, arXiv:2306.11250, by its abstract and the code of its efficient form. Differs: the source
    trains one task from the beginning; that each task is an update by low rank is ours. The ranks' rule is the code's,
    counted in steps of the optimizer.

    Args:
        model: the model to protect.
        rank: r, with which each task begins, >= 1.
        buffer: b, the directions that are trained beyond the rank, >= 0; with 0 the rank is fixed.
        threshold: τ, from 0 to 1.
        warmup: how many steps of a task go by before ranks may grow.
        gap: how many steps lie between one look at the ranks and the next.
        max_rank: the largest rank plus buffer; ``None`` for half of each weight's shorter side.
        select: which trainable parameters to protect.
        objective: not used; here so that methods can be exchanged.

    Raises:
        ConfigurationError: for a wrong argument, or if no weight of such a layer is selected.
        NumericsError: in a step, if what has been learned is not finite when ranks may grow.
    """

    rank: int
    buffer: int
    max_rank: int | None
    warmup: int
    gap: int
    needs_data: ClassVar[bool] = False
    puts_back: ClassVar[bool] = True
    order: ClassVar[int] = -20  # before subspaces, and those that hold weights to the last bit

    def __init__(
        self,
        model: nn.Module,
        *,
        rank: int = 2,
        buffer: int = 8,
        threshold: float = 0.9,
        warmup: int = 200,
        gap: int = 25,
        max_rank: int | None = None,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        check_ranks(rank, buffer, max_rank)
        self.rank, self.buffer, self.max_rank = rank, buffer, max_rank
        self.threshold: float = check_share("threshold", threshold)
        if check_not_negative("warmup", warmup) != int(warmup):
            raise ConfigurationError(f"warmup is {warmup!r}; expected a whole number of steps, >= 0")
        self.warmup, self.gap = int(warmup), check_interval("gap", gap)
        self.meta["kinds"] = {}  # weight -> the kind of optimizer that has trained its factors
        self._ranks: dict[str, int] = {}
        self._twins: dict[int, Twin] = {}  # optimizer -> what trains the factors of its weights
        if not self._matrices():
            raise ConfigurationError(
                f"no weight of a linear layer or a convolution is selected (as {next(iter(self.params))!r} is); InRank "
                "is for these"
            )

    @property
    def ranks(self) -> dict[str, int]:
        """Name -> r of each weight that moves by low rank."""
        return dict(self._ranks)

    def _matrices(self) -> list[str]:
        """What is selected of the weights of such layers, also of those that are computed from another tensor."""
        layers = {name: module for name, module in canonical_modules(self.model) if isinstance(module, LAYERS)}
        weights = {id(module._parameters.get("weight")) for module in layers.values()}
        owned = {f"{owner}.weight" if owner else "weight" for owner in owners(self.model).values() if owner in layers}
        return [name for name, p in self.params.items() if id(p) in weights or name in owned]

    def most_buffer_bytes(self) -> int:
        """Of factors as large as they may become, with two moments of each, as Adam has them."""
        found = 0
        for name in self._matrices():
            weight = self.scope(name)
            rows, columns = len(weight), weight[0].numel()
            size = torch.promote_types(weight.dtype, torch.float32).itemsize
            found += 3 * (rows + columns) * most_rank(rows, columns, self.max_rank) * size + 8
        return found

    def _used(self, name: str) -> tuple[Tensor, Tensor, int]:
        """The factors of a weight, and how many of their directions are trained."""
        up, down = self.buffers[f"up.{name}"], self.buffers[f"down.{name}"]
        return up, down, min(self._ranks[name] + self.buffer, len(down))

    def _twin(self, optimizer: Optimizer) -> Twin:
        if id(optimizer) not in self._twins:
            names = [name for name in self._owned.get(id(optimizer), ()) if name in self.state]
            placed = {
                name: (self.params[name], {part: self.buffers[f"{part}.{name}"] for part in ("up", "down")})
                for name in names
            }
            kind, kinds = type(optimizer).__qualname__, self.meta["kinds"]
            others = [name for name in names if kinds.get(name) != kind]  # whose moments are of another kind
            anew = tuple(f".{part}.{name}" for name in others for part in ("up", "down"))
            saved = {
                key: held for key, held in self.buffers.items() if key.startswith(_TWIN) and not key.endswith(anew)
            }
            self._twins[id(optimizer)] = Twin(
                optimizer, placed, {key.removeprefix(_TWIN): held for key, held in saved.items()}
            )
            self.buffers = {k: held for k, held in self.buffers.items() if not k.startswith(_TWIN)} | saved
            kinds.update(dict.fromkeys(names, kind))
        return self._twins[id(optimizer)]

    def project_gradient(self, step: Step) -> None:
        """Take from the gradient of each weight those of its factors."""
        for name in self.live(step):
            up, down, k = self._used(name)
            gradient = self.params[name].grad
            assert gradient is not None
            of_up, of_down = factor_gradients(up[:, :k], down[:k], self.part(name, gradient).flatten(1).to(up.dtype))
            up.grad, down.grad = torch.zeros_like(up), torch.zeros_like(down)
            up.grad[:, :k], down.grad[:k] = of_up, of_down

    def restore_weights(self, step: Step) -> None:
        """Step the factors, and put the weights where these say."""
        names = self.live(step)
        if not names:
            return
        twin = self._twin(step.optimizer)
        twin.step(step)
        self.buffers.update({_TWIN + key: held for key, held in twin.state()})
        for name in names:
            here, base = self.part(name), self.state[name]["anchor"]
            after = (base.flatten(1) + product(*self._used(name))).reshape(here.shape)
            here.copy_(step.unless_skipped(after.to(here.dtype), here))  # which a skipped step has not moved
        if self._is_due(step):
            self._grow(names)

    def _is_due(self, step: Step) -> bool:
        """Whether ranks may grow after this step, each optimizer's counted by itself."""
        number = self.meta["steps"] // max(1, len(self._optimizers)) + 1
        if self.num_tasks == 0 or self.buffer == 0 or number <= self.warmup or number % self.gap:
            return False
        return step.found_inf is None or not bool(step.found_inf > 0)

    def _grow(self, names: Iterable[str]) -> None:
        for name in names:
            up, down = self.buffers[f"up.{name}"], self.buffers[f"down.{name}"]
            rank = grown_rank(name, up, down, self._ranks[name], buffer=self.buffer, threshold=self.threshold)
            self._set_rank(name, rank)

    def _set_rank(self, name: str, rank: int) -> None:
        self._ranks[name] = rank
        self.buffers[f"rank.{name}"] = torch.tensor(rank)

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        self.buffers: dict[str, Tensor] = {key: held for key, held in self.buffers.items() if not key.startswith(_TWIN)}
        for name in self._matrices():
            anchor = anchor_of(self.scope(name))
            rows, columns = anchor.flatten(1).shape
            most = most_rank(rows, columns, self.max_rank)
            self.state[name] = {"anchor": anchor}
            self.buffers[f"down.{name}"] = of_the_first(drawn(most, columns, generator=generator).to(anchor))
            self.buffers[f"up.{name}"] = anchor.new_zeros(rows, most)
            self._set_rank(name, min(self.rank, most))
        self.meta["kinds"] = {}
        self._twins = {}

    def _loaded(self) -> None:
        super()._loaded()
        self._twins = {}
        self._ranks = {name: int(self.buffers[f"rank.{name}"]) for name in self.state}

    def _resolve(self, optimizers: Sequence[Optimizer]) -> None:
        super()._resolve(optimizers)
        self._twins = {}

    def _detached(self) -> None:
        super()._detached()
        self._twins = {}
