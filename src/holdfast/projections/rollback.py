r"""OLOR: after each step, every layer goes a share of the way back, the first layers most."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from holdfast.checks import check_not_negative
from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError
from holdfast.method import Method
from holdfast.names import Select, owners
from holdfast.objectives import Batch, Objective
from holdfast.penalties.equations import move_towards
from holdfast.sharding import local
from holdfast.state import anchor_of

__all__ = ["OLOR", "Variant", "rollback", "rollback_levels"]

Variant: TypeAlias = Literal["paper", "released"]


def rollback_levels(number: int, *, level_max: float, level_min: float, power: float) -> list[float]:
    r"""The share of the way back that each layer goes, from the first to the last.

    .. math:: \lambda_i = \iota_2 + \Bigl(1 - \frac{i}{n}\Bigr)^{\gamma} (\iota_1 - \iota_2), \qquad i = 0 \dots n

    Source: the code of Huang et al. 2024, arXiv:2401.10962. Differs: it counts tensors, so that weight and bias are two
    layers, divides by 0 where there is one, and has 1e-8 in the bracket, which for an odd power takes the last layer a
    little away from its anchor. Of one layer alone the level is :math:`\iota_1`.

    Args:
        number: of layers, n + 1.
        level_max: :math:`\iota_1`, of the first layer, from 0 to 1.
        level_min: :math:`\iota_2`, of the last one, from 0 to ``level_max``.
        power: :math:`\gamma`, >= 0: the higher, the sooner the levels fall; with 0 they do not.

    Returns:
        One number per layer.

    Example:
        >>> rollback_levels(3, level_max=0.01, level_min=0.0, power=1.0)
        [0.01, 0.005, 0.0]
    """
    last = max(1, number - 1)
    return [level_min + (1 - i / last) ** power * (level_max - level_min) if i else level_max for i in range(number)]


@torch.no_grad()
def rollback(
    param: Tensor,
    anchor: Tensor,
    level: Tensor | float,
    *,
    before: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    r"""Take back a share of the way from the anchor.

    .. math:: \theta \leftarrow \hat\theta - \lambda (\hat\theta - \theta_0)

    where :math:`\hat\theta` is what the optimizer's step has given. With ``before``, the released SGD's order, which
    takes the share of where the weights stood before the step:

    .. math:: \theta \leftarrow \hat\theta - \lambda (\theta_{t-1} - \theta_0)

    Source: Huang et al. 2024, arXiv:2401.10962, figure 2 and code. Differs: no.

    Args:
        param: the weights after the step, ``[*p]``; changed.
        anchor: :math:`\theta_0`, ``[*p]``.
        level: λ, from 0 to 1: a number, or ``[]`` of the anchor's type.
        before: the weights before the step, ``[*p]``.
        found_inf: > 0 if the optimizer skipped its step; then nothing is taken back.
    """
    if before is None:
        move_towards(param, anchor, level, found_inf)
        return
    back = (before.to(anchor) - anchor).mul_(level)
    if found_inf is not None:
        back = torch.where(found_inf.to(back.device) > 0, 0.0, back)
    param.copy_(param.to(anchor.dtype).sub_(back)) if param.dtype != anchor.dtype else param.sub_(back)


class OLOR(Method):
    r"""Weights are rolled back towards where the latest task left them, in each step and layer by layer.

    .. math:: \theta \leftarrow \hat\theta - \lambda_i (\hat\theta - \theta_0), \qquad
        \lambda_i = \iota_2 + \Bigl(1 - \frac{i}{n}\Bigr)^{\gamma} (\iota_1 - \iota_2)

    It acts behind the step :math:`\hat\theta` of any optimizer. Layers are the modules that own protected parameters,
    in the order in which the model registers them. What is new since ``consolidate``, such as a new head, is free; a
    head that was there is left out with ``select``. A pretrained model: ``consolidate()`` first, then train.

    Source: Huang et al. 2024, arXiv:2401.10962: its figure and its code, for the text could not be read. Differs:
    layers are counted, not tensors; λ does not depend on the learning rate.

    Args:
        model: the model to protect.
        level_max: :math:`\iota_1`, the first layer's level, from 0 to 1.
        level_min: :math:`\iota_2`, the last layer's, from 0 to ``level_max``.
        power: :math:`\gamma`, >= 0.
        scale_with_lr: multiply λ by the share that a group's learning rate has of its first one since the latest
            ``consolidate`` (or of a scheduler's ``initial_lr`` or ``max_lr``), 1 at most: the released Adam.
        select: which trainable parameters to protect.
        variant: ``"paper"``, or ``"released"`` for the released SGD, which rolls back from the weights before the step.
        objective: not used; here so that methods can be exchanged.

    Raises:
        ConfigurationError: for a wrong argument; from ``attach``, for ``variant="released"`` with an optimizer that is
            no SGD.
    """

    on_shards: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    puts_back: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        *,
        level_max: float = 0.01,
        level_min: float = 0.0,
        power: float = 1.0,
        scale_with_lr: bool = False,
        select: Select = None,
        variant: Variant = "paper",
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        self.level_max: float = _check_level("level_max", level_max, 1.0)
        self.level_min: float = _check_level("level_min", level_min, self.level_max)
        self.power: float = check_not_negative("power", power)
        if not isinstance(scale_with_lr, bool):
            raise ConfigurationError(f"scale_with_lr is {scale_with_lr!r}; expected True or False")
        self.scale_with_lr = scale_with_lr
        if variant not in ("paper", "released"):
            raise ConfigurationError(f"variant is {variant!r}; expected 'paper' or 'released'")
        self.variant = variant
        self.meta["rates"] = {}  # the first of each group, where they are needed
        self._levels: dict[str, float] = {}
        self._before: dict[str, Tensor] = {}  # weights before the step under way

    @property
    def levels(self) -> dict[str, float]:
        """Name -> λ of what is protected, from 0 to 1."""
        return dict(self._levels)

    @property
    def elementwise(self) -> bool:
        """Whether nothing but single weights is looked at."""
        return True

    def _check_optimizer(self, optimizer: Optimizer) -> None:
        super()._check_optimizer(optimizer)
        if self.variant == "released" and not isinstance(optimizer, SGD):
            raise ConfigurationError(
                f"variant is 'released', which is the order of the released SGD, and the optimizer is "
                f"{type(optimizer).__name__}; expected torch.optim.SGD, or variant='paper' (the released Adam: "
                "scale_with_lr=True)"
            )
        rates = [group.get("lr") for group in optimizer.param_groups]
        if self.scale_with_lr and any(rate is None for rate in rates):
            raise ConfigurationError(
                f"scale_with_lr is True, but {type(optimizer).__name__} has groups without a learning rate of their "
                "own; expected a number 'lr' in each, or scale_with_lr=False"
            )

    def observe_gradient(self, step: Step) -> None:
        """Note where the weights stand, where the rollback is taken from there."""
        if self.variant == "released":
            self._before.update({name: self.part(name).clone() for name in self.live(step)})

    def pull_weights(self, step: Step) -> None:
        """Roll the weights back."""
        names = self.live(step)
        shares = self._shares(step) if self.scale_with_lr and names else {}
        for name in names:
            anchor, level = local(self.state[name]["anchor"]), self._levels[name]
            share = shares.get(id(self.params[name]), 1.0)
            here = share.to(anchor) * level if isinstance(share, Tensor) else share * level
            rollback(self.part(name), anchor, here, before=self._before.pop(name, None), found_inf=step.found_inf)

    def _shares(self, step: Step) -> dict[int, Tensor | float]:
        """Parameter -> the share that its group's rate has of its first one."""
        found: dict[int, Tensor | float] = {}
        which = next(i for i, optimizer in enumerate(self._optimizers) if optimizer is step.optimizer)
        for number, group in enumerate(step.optimizer.param_groups):
            rate = group["lr"]
            first = group.get("max_lr", group.get("initial_lr"))
            if first is None:
                known, place = self.meta["rates"], f"{which}.{number}"
                if not known.get(place):  # a rate of 0 is none to compare with
                    known[place] = float(rate)
                first = known[place]
            if isinstance(rate, Tensor) or isinstance(first, Tensor):
                share: Tensor | float = torch.as_tensor(rate / first).nan_to_num(0.0).clamp(max=1.0)
            else:
                share = min(1.0, rate / first) if first else float(rate > 0)
            found |= dict.fromkeys(map(id, group["params"]), share)
        return found

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        self.state.update({name: {"anchor": anchor_of(self.scope(name))} for name in self.params})
        self._find_levels()

    def _find_levels(self) -> None:
        owner = {name: module for name, module in owners(self.model).items() if name in self.state}
        layers = list(dict.fromkeys(owner.values()))
        levels = rollback_levels(len(layers), level_max=self.level_max, level_min=self.level_min, power=self.power)
        of = dict(zip(layers, levels, strict=True))
        self._levels = {name: of[module] for name, module in owner.items()}

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self.meta["rates"] = {}

    def _loaded(self) -> None:
        super()._loaded()
        self._find_levels()

    def _detached(self) -> None:
        self._before.clear()


def _check_level(name: str, value: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ConfigurationError(f"{name} is {value!r}; expected a share, from 0 to {most:g}")
    return float(value)
