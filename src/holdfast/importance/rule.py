"""What a layer rule is: a layer's input and the gradient at its output in, the sum of a statistic out."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.importance.statistic import Statistic

__all__ = ["Room", "Rule", "Target"]

# On a CPU, chunks that stay in its cache are up to four times as fast as large ones.
_CACHED = 4 * 2**20


@dataclass(frozen=True)
class Target:
    """Where the statistic of one parameter is added up.

    Attributes:
        total: the running sum ``[*p]``, in the precision of accumulation.
        parameter: the parameter's values ``[*p]``.
    """

    total: Tensor
    parameter: Tensor

    @property
    def weight(self) -> Tensor:
        """The parameter's values ``[*p]``, in the precision of accumulation."""
        return self.parameter.detach().to(self.total.dtype)


class Room:
    """Memory that the rules of one batch share for what they keep from one term to the next.

    Args:
        left: how many bytes may be kept in all; 0 where there is one term only, and keeping gains nothing.
    """

    left: int

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, size: int) -> bool:
        """Whether ``size`` bytes more may be kept; if so they are taken."""
        if size > self.left:
            return False
        self.left -= size
        return True


class Rule(abc.ABC):
    """The statistic of one layer over one batch: ``add`` for each term, then ``finish``.

    Args:
        modules: the layer, and any other that shares its weight.
        inputs: what each was given in its one call of this batch, ``[B, ...]``.
        targets: local parameter name -> where its sum goes; parameters that are not wanted are absent.
        statistic: what is summed.
        max_bytes: how much memory per-sample gradients may take at once.
        room: how much more memory what is kept between terms may take, of all rules together.
    """

    inputs: Tensor
    further: list[Tensor]
    weight: Target | None
    bias: Target | None
    dtype: torch.dtype

    def __init__(
        self,
        modules: Sequence[nn.Module],
        inputs: Sequence[Tensor],
        targets: Mapping[str, Target],
        statistic: Statistic,
        max_bytes: int,
        room: Room,
    ) -> None:
        self.inputs, *self.further = inputs
        self.weight = targets.get("weight")
        self.bias = targets.get("bias")
        self.statistic = statistic
        self.max_bytes = max_bytes
        self.room = room
        self.dtype = next(iter(targets.values())).total.dtype
        self.prepare(*modules)

    @staticmethod
    def accepts(module: nn.Module, inputs: Tensor) -> bool:
        """Whether the rule is exact for this layer and this input."""
        return inputs.dim() >= 2

    @property
    def held_back(self) -> bool:
        """Whether what :meth:`add` is given is added by :meth:`finish` only."""
        return False

    @abc.abstractmethod
    def prepare(self, *modules: nn.Module) -> None:
        """Compute once what all terms share."""

    @abc.abstractmethod
    def add(self, *grads: Tensor) -> None:
        """Add one term, given its gradient at the output of each of the modules, ``[B, ...]``."""

    def finish(self) -> None:
        """Add what was held back until all terms were seen; the rule is of no further use."""
        del self.inputs, self.further

    def chunks(self, samples: int, entries: int) -> Iterator[slice]:
        """Slices of samples, each of which needs ``entries`` numbers, that fit into the memory allowed."""
        room = min(self.max_bytes, _CACHED) if self.inputs.device.type == "cpu" else self.max_bytes
        size = max(1, room // max(1, entries * self.dtype.itemsize))
        for start in range(0, samples, size):
            yield slice(start, start + size)

    def add_each(self, target: Target | None, gradient: Tensor) -> None:
        """Add a small parameter's per-sample gradients ``[B, *p]``."""
        if target is not None:
            self.statistic.add(target.total, gradient, target.weight)
