"""What SI and RWalk share: they follow the task loss's own gradient along the way that training takes."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.attaching import Attached
from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError, NumericsError, ProtectionError
from holdfast.objectives import Batch, Objective
from holdfast.penalties.quadratic import Options, QuadraticPenalty
from holdfast.penalties.tensors import dense_gradients
from holdfast.sharding import anywhere, local
from holdfast.state import anchor_of, finiteness
from holdfast.strength import Strength
from holdfast.wrappers import is_schedule_free

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["PathPenalty"]


class PathPenalty(QuadraticPenalty):
    """A quadratic penalty whose importance is gathered while training.

    Between the gradient and the displacement of a step it holds a copy of both ends: the weights before the step, and
    the gradient before anyone edits it. Both are streamed over on the device; nothing waits for the host.

    Args:
        model: the model to protect; attach before the first task, which has to be watched too.
        strength: how much the penalty weighs against the loss, >= 0.
        coupling: ``"gradient"`` or ``"proximal"``. ``"loss"`` is refused, here and in every other quadratic penalty on
            the same optimizer: the path integral would contain that penalty.
        select: which trainable parameters to protect.
        objective: not used; here so that methods can be exchanged.
        **options: also ``importance_dtype``, ``state_device`` and ``fused``: see ``holdfast.penalties.resources``.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    halved: ClassVar[bool] = False
    begin_at_zero: ClassVar[tuple[str, ...]] = ("path",)  # kinds of state that follow one task only
    needs_data: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength,
        **options: Unpack[Options],
    ) -> None:
        name = type(self).__name__
        if options.get("coupling") == "loss":
            raise ConfigurationError(
                f"coupling is 'loss', but {name} measures the gradient of the task's loss alone, which would then "
                "contain its own penalty; expected 'gradient' or 'proximal'"
            )
        super().__init__(model, strength=strength, **options)
        self._before: dict[str, tuple[Tensor, Tensor]] = {}  # name -> weights and gradient before the step
        self._watched: dict[int, list[str]] = {}  # optimizer -> names with a gradient in the step under way

    def _check_optimizer(self, optimizer: Optimizer) -> None:
        super()._check_optimizer(optimizer)
        if is_schedule_free(optimizer) and not all("train_mode" in group for group in optimizer.param_groups):
            kind = type(optimizer).__name__
            raise ConfigurationError(
                f"{type(self).__name__} follows the weights from where a gradient is taken, and {kind} moves them "
                f"there and back within its step; expected {kind.removesuffix('Closure')}, with train() and eval()"
            )

    def _take_effect(self, model: nn.Module, *, effective: bool) -> None:
        if effective:
            raise ConfigurationError(
                f"{type(self).__name__} measures importance along the way of the weights that are trained, and "
                "adapters are others; expected on='weights'"
            )

    def _check_companion(self, other: Attached) -> None:
        if isinstance(other, QuadraticPenalty) and other.coupling == "loss":
            raise ConfigurationError(
                f"{type(other).__name__}(coupling='loss') cannot share an optimizer with {type(self).__name__}, which "
                "measures the gradient of the task's loss alone; use coupling='gradient' or 'proximal' for it"
            )

    def _detached(self) -> None:
        self._before.clear()
        self._watched.clear()

    def _neutral(self, kind: str) -> float | None:
        return None if kind in ("start", "mark") else super()._neutral(kind)

    def observe_gradient(self, step: Step) -> None:
        """Copy the weights and the loss's own gradient."""
        super().observe_gradient(step)
        names = self.live(step, held=False)
        observed = dense_gradients(type(self).__name__, self.params, names)
        self._watched[id(step.optimizer)] = names
        if not names:
            return
        for name in names:
            self._begin(name)
        params = [local(self.scope(name)) for name in names]
        observed = [self.scope(name, grad) for name, grad in zip(names, observed, strict=True)]
        weights, gradients = (list(part) for part in zip(*(self._before[name] for name in names), strict=True))
        torch._foreach_copy_(weights, params)
        torch._foreach_copy_(gradients, observed)
        if step.grad_scale is not None:
            torch._foreach_div_(gradients, step.grad_scale.to(gradients[0].device))
        if step.found_inf is not None:
            for g in gradients:  # a skipped step moves nothing, but 0 times infinity is not 0
                g.copy_(step.unless_skipped(g, torch.zeros_like(g)))

    def _begin(self, name: str) -> None:
        """Make room for a parameter that is watched for the first time."""
        p = self.scope(name)
        held = self.state.setdefault(name, {})
        if "path" not in held:
            if not self.holds(name):
                held["start"] = anchor_of(p)
            held["path"] = torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
        if held["path"].shape != p.shape:  # it has grown: its new entries start here, and are followed from now on
            self._fill_up([name])
            held = self.state[name]
        here = local(held["path"])
        if name not in self._before or self._before[name][0].shape != here.shape:
            self._before[name] = (torch.empty_like(here), torch.empty_like(here))

    def observe_update(self, step: Step) -> None:
        """Integrate over the displacement that was really made."""
        names = self._watched.pop(id(step.optimizer), [])
        if names:
            weights, gradients = (list(part) for part in zip(*(self._before[name] for name in names), strict=True))
            self._integrate(names, weights, gradients, step)

    def _integrate(self, names: list[str], before: list[Tensor], gradients: list[Tensor], step: Step) -> None:
        """Take one step into account; ``before`` and ``gradients`` may be overwritten."""
        backward = before  # minus the displacement
        torch._foreach_sub_(backward, [local(self.scope(name)) for name in names])
        torch._foreach_addcmul_([local(self.state[name]["path"]) for name in names], gradients, backward)

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        if not any("path" in self.state.get(name, ()) for name in self.params):
            raise ProtectionError(
                f"{type(self).__name__} measures importance while training, and saw none: call attach(optimizer) "
                "before the first task (to protect a model that is trained already, use EWC, MAS or L2SP)"
            )
        self._before.clear()  # room for what comes now; the next step makes it anew
        fresh = self._summarise()
        named = [
            (name, kind, tensor) for name, held in fresh.items() for kind, tensor in held.items() if tensor.numel()
        ]
        tensors = [tensor for *_, tensor in named]
        broken = anywhere([~finite for finite in finiteness(tensors)], tensors)
        for (name, kind, _), bad in zip(named, broken, strict=True):
            if bad:
                raise NumericsError(
                    f"the {kind} of parameter {name!r} is not finite: a gradient overflowed or was NaN in training"
                )
        self.state.update(fresh)

    @abc.abstractmethod
    def _summarise(self) -> dict[str, dict[str, Tensor]]:
        """For each parameter what the next task will hold, but for what begins at 0: ``anchor`` and ``importance``."""

    def _begin_anew(self) -> None:
        super()._begin_anew()
        for name in self.params:
            held = self.state[name]
            held |= {kind: torch.zeros_like(held["anchor"]) for kind in self.begin_at_zero}
