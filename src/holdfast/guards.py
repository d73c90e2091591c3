"""What would go wrong in silence, noticed at the step where it does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.checks import check_not_negative
from holdfast.errors import ConfigurationError, ProtectionError, ProtectionWarning
from holdfast.sharding import local

__all__ = ["PenaltyCalls", "check_scale", "is_no_step", "warn"]


def warn(sentence: str) -> None:
    """Warn of training that goes on, protected less than it seems.

    Args:
        sentence: what was noticed, and what to do.
    """
    warnings.warn(sentence, ProtectionWarning, stacklevel=2)


def check_scale(scale: float | Tensor) -> None:
    """Refuse what no term can be multiplied by; a tensor's value stays on its device, unseen.

    Raises:
        ConfigurationError: naming it.
    """
    if not isinstance(scale, Tensor):
        check_not_negative("scale", scale)
    elif scale.dim() > 0:
        raise ConfigurationError(f"scale is a tensor of shape {tuple(scale.shape)}; expected a number or a scalar []")


def is_no_step(optimizer: Optimizer) -> bool:
    """Whether an optimizer's first step is none: a rate of 0 and no gradient that is not.

    Distributed checkpoints (``torch.distributed.checkpoint``) take such a step to have an optimizer make its state.
    """
    if optimizer.state:
        return False
    rates = [group.get("lr") for group in optimizer.param_groups]
    if any(rate is None or float(rate) != 0 for rate in rates):
        return False
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return not any(bool(local(grad).any()) for grad in grads)


class PenaltyCalls:
    """Counts the penalties that a method was asked for, and the backward passes that went through them.

    One penalty covers one step of each optimizer: several may step after one backward pass.
    """

    def __init__(self) -> None:
        self._asked = self._reached = self._graphs = 0  # with gradients on; passes through one; those with a graph
        self._passes: dict[int, int] = {}  # parameter -> backward passes that came by
        self._used: dict[int, tuple[int, int, int, int]] = {}  # optimizer -> all of these until its latest step
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    @property
    def asked(self) -> int:
        """How many penalties were asked for with gradients on."""
        return self._asked

    def settled(self, optimizer: Optimizer) -> None:
        """Take it that this optimizer's step to come has its whole term, whatever backward passes it is made of."""
        reached, passes = (self._now()[i] - self._used[id(optimizer)][i] for i in (1, 3))
        self._reached += max(0, passes - reached)

    def note(self, value: Tensor) -> None:
        """Take a penalty into account; one that is computed under ``no_grad`` protects nothing and counts for nothing.

        Args:
            value: what is returned to the caller, ``[]``.
        """
        if not torch.is_grad_enabled():
            return
        self._asked += 1
        if torch.compiler.is_compiling():
            self._reached += 1  # no hook can tell
        elif value.requires_grad:
            self._graphs += 1
            value.register_hook(self._was_reached)  # type: ignore[no-untyped-call]  # torch's own gap
        else:
            self._reached += 1  # 0, for there is nothing to protect: no pass has to go through it

    def _was_reached(self, gradient: Tensor) -> None:
        self._reached += 1

    def follow(self, optimizers: Iterable[Optimizer], params: Iterable[nn.Parameter]) -> None:
        """Begin to count for some optimizers, and to notice backward passes at some parameters.

        Args:
            optimizers: all that are attached; none ends it.
            params: those that they train.
        """
        for handle in self._handles:
            handle.remove()
        latest = max(self._used.values(), default=(0, 0, 0, 0))
        self._used = {id(optimizer): self._used.get(id(optimizer), latest) for optimizer in optimizers}
        self._handles = [_at(p, self._pass) for p in params] if self._used else []

    def _pass(self, parameter: Tensor) -> None:
        self._passes[id(parameter)] = self._passes.get(id(parameter), 0) + 1

    def passed(self, optimizer: Optimizer) -> None:
        """Note a step that needed no penalty."""
        self._used[id(optimizer)] = self._now()

    def _now(self) -> tuple[int, int, int, int]:
        return self._asked, self._reached, self._graphs, max(self._passes.values(), default=0)

    def check(self, name: str, optimizer: Optimizer) -> str | None:
        """Refuse a step without its penalty.

        Args:
            name: of the method.
            optimizer: that is about to step.

        Returns:
            What is worth a warning.

        Raises:
            ProtectionError: if no penalty was asked for since the optimizer's latest step, or none was trained on.
        """
        now = self._now()
        asked, reached, graphs, passes = (a - b for a, b in zip(now, self._used[id(optimizer)], strict=True))
        if not asked:
            raise ProtectionError(
                f"{name} acts through the loss, but this step had no penalty() (one under no_grad is none): train on "
                "loss + keep.penalty(batch, outputs)"
            )
        if graphs and not reached:
            raise ProtectionError(
                f"{name} acts through the loss, and its penalty() was computed, but no backward pass of this step went "
                "through it: train on loss + keep.penalty(batch, outputs)"
            )
        self._used[id(optimizer)] = now
        if passes > reached:
            return (
                f"{name} acts through the loss, but of the {passes} backward passes of this step {reached} went "
                "through a penalty(): where they are micro-batches, add it to the loss of each"
            )
        return None


def _at(parameter: nn.Parameter, hook: Callable[[Tensor], None]) -> torch.utils.hooks.RemovableHandle:
    handle: torch.utils.hooks.RemovableHandle = parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]  # torch's own gap
    return handle
