r"""A term whose gradient is added right before a step, over the micro-batches that the step is made of.

.. math:: g \leftarrow g + \frac1K \sum_{k=1}^{K} \nabla_\theta P(x_k)

K is the number of micro-batches since this optimizer's latest step, and θ what this optimizer trains. Over processes
that hold the same weights the gradient is averaged, as DDP averages the loss's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch
import torch.distributed
from torch import Tensor
from torch.optim import Optimizer

from holdfast.errors import ConfigurationError
from holdfast.method import Method
from holdfast.objectives import Batch
from holdfast.processes import several
from holdfast.sharding import is_sharded

__all__ = ["PendingTerms"]

_MOST = 64  # micro-batches: for an optimizer that rests for long the mean is over the latest


class PendingTerms:
    """Adds a method's term before the steps of some optimizers, unless the loop has asked for it itself.

    Args:
        keep: the method.
    """

    def __init__(self, keep: Method) -> None:
        self._keep = keep
        self._own = 0  # terms that were asked for here
        self._batch: Batch = None
        self._waiting: dict[int, deque[Batch]] = {}
        self._asked: dict[int, int] = {}  # optimizer -> terms that the loop had asked for at its latest step

    def begin(self, batch: Batch, optimizers: Iterable[Optimizer]) -> None:
        """Take note of a micro-batch before it is trained on.

        Args:
            batch: the micro-batch.
            optimizers: all that may step on it.
        """
        self._batch = batch
        for optimizer in optimizers:
            self._asked.setdefault(id(optimizer), self._of_the_loop())

    def backward(self, optimizers: Iterable[Optimizer]) -> None:
        """Take note of a backward pass that is about to begin."""
        for optimizer in optimizers:
            waiting = self._waiting.setdefault(id(optimizer), deque(maxlen=_MOST))
            if all(p.grad is None for group in optimizer.param_groups for p in group["params"]):
                waiting.clear()  # nothing of those before is part of the step to come
            if not waiting or waiting[-1] is not self._batch:
                waiting.append(self._batch)

    def _of_the_loop(self) -> int:
        return self._keep.penalty_calls.asked - self._own

    def add(self, optimizer: Optimizer, scale: float = 1.0) -> None:
        """Add the term's gradient to what this optimizer is about to step by.

        Args:
            optimizer: which one.
            scale: what its gradients are multiplied by at this moment.

        Raises:
            ConfigurationError: for sharded parameters, which a backward pass by itself does not reach.
        """
        waiting = self._waiting.get(id(optimizer), deque())
        batches = list(waiting) or [self._batch]  # it steps on the same micro-batch again
        waiting.clear()
        asked, self._asked[id(optimizer)] = self._asked.get(id(optimizer), 0), self._of_the_loop()
        if self._of_the_loop() > asked:
            return
        keep = self._keep
        ids = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
        params = [p for p in keep.model.parameters() if id(p) in ids]
        if not params:
            return
        if any(map(is_sharded, params)):
            raise ConfigurationError(
                f"in manual optimisation of sharded parameters the term of {type(keep).__name__} is added to the loss "
                "alone: train on loss + keep.penalty(batch, outputs) in training_step"
            )
        found: list[Tensor | None] = [None] * len(params)
        for batch in batches:
            term = keep.penalty(batch, scale=scale / len(batches))
            self._own += 1
            if term.requires_grad:
                gradients = torch.autograd.grad(term, params, allow_unused=True)
                found = [b if a is None else a if b is None else a + b for a, b in zip(found, gradients, strict=True)]
        _added(params, found)
        keep.penalty_calls.settled(optimizer)


@torch.no_grad()
def _added(params: list[torch.nn.Parameter], gradients: list[Tensor | None]) -> None:
    for p, gradient in zip(params, gradients, strict=True):
        if several():
            gradient = torch.zeros_like(p) if gradient is None else gradient.contiguous()
            torch.distributed.all_reduce(gradient)
            gradient /= torch.distributed.get_world_size()
        if gradient is None:
            continue
        if p.grad is None:
            p.grad = gradient
        else:
            p.grad += gradient
