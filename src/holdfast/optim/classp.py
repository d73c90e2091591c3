"""CLASSP: let a weight move only where its gradient is large, and the less the more it has moved before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from holdfast.errors import ConfigurationError, StateError
from holdfast.optim._kernels import Rule, accumulator_dtype, advance
from holdfast.parts import may_hold, within
from holdfast.sharding import local, place_like

__all__ = ["CLASSP", "effective_step_size"]

_VARIANTS = ("paper", "released")
_NUMBERS = ("lr", "threshold", "eps", "power")
_GROUP_VALUES = (*_NUMBERS, "scaling", "variant")


def effective_step_size(state_sum: Tensor, *, lr: float, eps: float, power: float, scaling: bool) -> Tensor:
    r"""The step that CLASSP takes per unit of gradient, elementwise, where the gradient passes the threshold.

    .. math:: D = \alpha / (\varepsilon + s)^{1/p} \quad\text{with scaling, else}\quad D = \alpha

    Source: arXiv:2405.09637v2, the algorithm listing; both variants share it. Differs: no.

    Args:
        state_sum: the accumulator ``state[p]["sum"]``, ``[*p]``, >= 0.
        lr: the group's step size.
        eps: the group's ``eps``, > 0.
        power: the group's ``power``, > 0.
        scaling: the group's ``scaling``.

    Returns:
        ``[*p]``, in weight per gradient; a new tensor of the accumulator's dtype.
    """
    if not scaling:
        return torch.full_like(state_sum, lr)
    return (state_sum + eps).pow_(-1.0 / power).mul_(lr)


class CLASSP(Optimizer):
    r"""Continual learning by gating and scaling each weight's own step; the accumulator is the memory.

    .. math:: g^2 > t \;\Rightarrow\; s \leftarrow s + |g|^p,\quad w \leftarrow w - \alpha g / (\varepsilon + s)^{1/p}

    Source: arXiv:2405.09637v2, the algorithm listing (its eq. 1 also sums gradients that were gated away, which makes
    the first step :math:`\alpha g/\varepsilon^{1/p}`). ``power=2, threshold=0`` is AdaGrad, ``eps`` inside the root.
    Differs: the gate compares :math:`|g|` with :math:`\sqrt{t}`, which underflows later than :math:`g^2`.

    Keep one optimizer through all tasks: a fresh one has forgotten what to protect. All six values belong to the
    parameter group, so a scheduler or :meth:`consolidate` may change them between tasks. The state is one tensor
    ``"sum"`` per parameter, in the parameter's dtype, or float32 where that is a half precision.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: step size, >= 0.
        threshold: weights whose squared gradient is not above it stay where they are, >= 0; 0 lets every weight move.
        eps: added to the accumulator inside the root, > 0.
        power: exponent of the accumulated gradient and of the root, > 0.
        scaling: False: step by ``lr * g``; gate and accumulate all the same.
        variant: ``"paper"``, or ``"released"`` for what the released class computes: a threshold below 1 does nothing,
            one of 1 or more freezes every weight, and the accumulator sums :math:`|g|` whatever the power. (The
            released class also gives every group the first group's values; here each keeps its own.)
        fused: compile the update to one pass over memory (``torch.compile``; on CPU it needs a C++ compiler). The first
            step then takes seconds, some 15 for a network of 60 tensors.

    Raises:
        ConfigurationError: if a value is out of its range, or a parameter is complex or given twice.
    """

    fused: bool = False
    _step_supports_amp_scaling = True  # GradScaler then leaves unscaling and skipping to `step`, without a host sync

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.2,
        *,
        threshold: float = 0.5,
        eps: float = 1e-5,
        power: float = 1.0,
        scaling: bool = True,
        variant: str = "paper",
        fused: bool = False,
    ) -> None:
        values = {"lr": lr, "threshold": threshold, "eps": eps, "power": power, "scaling": scaling, "variant": variant}
        super().__init__(params, {name: _checked(name, value) for name, value in values.items()})
        if not isinstance(fused, bool):
            raise ConfigurationError(f"CLASSP: fused is {fused!r}, expected True or False.")
        self.fused = fused

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with values of their own; what is not given is taken from the constructor's values.

        Args:
            param_group: ``{"params": ..., **group_values}``.

        Raises:
            ConfigurationError: if a value is out of its range, or a parameter is complex or given twice.
        """
        given = param_group["params"]
        members = [given] if isinstance(given, Tensor) else given if isinstance(given, set) else list(given)
        seen: set[int] = set()
        for number, member in enumerate(members):
            p = member[1] if isinstance(member, tuple) else member
            label = f"{member[0]!r}" if isinstance(member, tuple) else f"number {number} of its group"
            if isinstance(p, Tensor) and p.is_complex():
                raise ConfigurationError(f"CLASSP: parameter {label} is {p.dtype}, expected a real dtype.")
            if id(p) in seen:
                raise ConfigurationError(f"CLASSP: parameter {label} is given twice, expected each parameter once.")
            seen.add(id(p))
        values = {name: _checked(name, param_group[name]) for name in _GROUP_VALUES if name in param_group}
        super().add_param_group({**param_group, **values, "params": members})

    def consolidate(
        self,
        batches: Iterable[Any] = (),
        *,
        objective: Any = None,
        generator: torch.Generator | None = None,
        **group_values: Any,
    ) -> None:
        """Go on to the next task: change the given values in every group, and keep what was accumulated.

        The published experiment goes from its first task to its second by ``consolidate(threshold=0, scaling=True)``.
        A scheduler that is still attached will set ``lr`` again.

        Args:
            batches: not needed: the accumulator already holds what the method remembers.
            objective: not needed.
            generator: not needed.
            **group_values: any of ``lr``, ``threshold``, ``eps``, ``power``, ``scaling``, ``variant``.

        Raises:
            ConfigurationError: if a name is unknown or a value out of its range; then nothing is changed.
        """
        unknown = sorted(set(group_values) - set(_GROUP_VALUES))
        if unknown:
            raise ConfigurationError(f"CLASSP has no group value {unknown[0]!r}; expected {', '.join(_GROUP_VALUES)}.")
        values = {name: _checked(name, value) for name, value in group_values.items()}
        for group in self.param_groups:
            group.update(values)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step.

        Args:
            closure: evaluates the model again, calls ``backward`` and returns the loss.

        Returns:
            What the closure returned, else None.

        Raises:
            ConfigurationError: if a gradient is sparse, or a group value was set out of its range.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rule = _rule(group)
            live = [p for p in group["params"] if p.grad is not None]
            for p in live:
                if p.grad.layout != torch.strided:
                    raise ConfigurationError(
                        f"CLASSP: the gradient of a parameter of shape {tuple(p.shape)} is {p.grad.layout}, expected a"
                        " dense one (for example an Embedding with sparse=False)."
                    )
                if not self.state[p]:
                    self.state[p]["sum"] = torch.zeros_like(p, dtype=accumulator_dtype(p.dtype))
            if rule is not None:
                advance(
                    [local(p) for p in live],
                    [local(p.grad) for p in live],
                    [local(self.state[p]["sum"]) for p in live],
                    rule,
                    fused=self.fused,
                    # A GradScaler sets both for the time of its step and deletes them afterwards.
                    grad_scale=self.__dict__.get("grad_scale"),
                    found_inf=self.__dict__.get("found_inf"),
                )
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned; the accumulators move to their parameters' devices.

        This is how the memory goes on where a parameter has grown (a classifier with more rows): its old entries keep
        what they accumulated, its new ones begin at 0.

        Args:
            state_dict: from a CLASSP over as many parameters, of the same shapes or of leading blocks of them; their
                dtypes may differ.

        Raises:
            StateError: if it comes from another optimizer, or an accumulator is no leading block of its parameter.
        """
        loaded: dict[str, Any] = {}

        def remember(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
            loaded.update(state_dict)
            _check_saved(state_dict, [p for group in optimizer.param_groups for p in group["params"]])

        # The last pre-hook sees the dictionary that will be loaded, whatever the user's own hooks replaced in it.
        handle = self.register_load_state_dict_pre_hook(remember)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        # torch casts a state to its parameter's dtype: in bfloat16 the small terms of a long sum would be lost. It also
        # keeps the saved memory format, where the fast step wants the parameter's.
        for p, saved in _pairs(loaded, [p for group in self.param_groups for p in group["params"]]):
            held = place_like(p, saved["sum"])
            state_sum = torch.zeros_like(p, dtype=accumulator_dtype(p.dtype))
            within(state_sum, held).copy_(held)
            self.state[p]["sum"] = state_sum

    def __getstate__(self) -> dict[str, Any]:
        """What a deep copy takes along: torch's part and the choice of kernel."""
        return {**super().__getstate__(), "fused": self.fused}


def _checked(name: str, value: Any) -> float | bool | str:
    """One group value as a plain Python value, or one sentence about what is wrong with it."""
    if name in _NUMBERS:
        positive = name in ("eps", "power")
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            raise ConfigurationError(f"CLASSP: {name} is {value!r}, expected a finite number.")
        if value < 0 or (positive and value == 0):
            raise ConfigurationError(f"CLASSP: {name} is {value!r}, expected a number {'> 0' if positive else '>= 0'}.")
        return float(value)
    if name == "scaling" and not isinstance(value, bool):
        raise ConfigurationError(f"CLASSP: scaling is {value!r}, expected True or False.")
    if name == "variant" and value not in _VARIANTS:
        raise ConfigurationError(f"CLASSP: variant is {value!r}, expected one of {', '.join(_VARIANTS)}.")
    assert isinstance(value, (bool, str))
    return value


def _rule(group: dict[str, Any]) -> Rule | None:
    """The group's values as the kernels want them; None: no weight of the group may move."""
    for name in _GROUP_VALUES[1:]:  # a scheduler owns lr, and may round it a hair below 0
        _checked(name, group[name])
    released = group["variant"] == "released"
    if released and group["threshold"] >= 1.0:
        return None
    return Rule(
        lr=group["lr"],
        cut=0.0 if released else math.sqrt(group["threshold"]),
        eps=group["eps"],
        growth=1.0 if released else group["power"],
        root=group["power"],
        scaling=group["scaling"],
    )


def _pairs(state_dict: dict[str, Any], params: list[nn.Parameter]) -> list[tuple[nn.Parameter, dict[str, Any]]]:
    """Every parameter that has a saved state, beside it."""
    keys = [key for group in state_dict["param_groups"] for key in group["params"]]
    return [(p, state_dict["state"][key]) for key, p in zip(keys, params, strict=True) if key in state_dict["state"]]


def _check_saved(state_dict: dict[str, Any], params: list[nn.Parameter]) -> None:
    """Refuse a saved state that is not CLASSP's, or not of this model."""
    for number, group in enumerate(state_dict["param_groups"]):
        missing = [name for name in _GROUP_VALUES if name not in group]
        if missing:
            raise StateError(f"Saved group {number} has no {missing[0]!r}: expected the state of a CLASSP optimizer.")
    if len(params) != sum(len(group["params"]) for group in state_dict["param_groups"]):
        return  # torch says so itself
    for p, saved in _pairs(state_dict, params):
        if set(saved) != {"sum"}:
            raise StateError(f"A saved parameter state holds {sorted(saved)}, expected ['sum'] alone.")
        if not may_hold(saved["sum"], p):
            raise StateError(
                f"A saved accumulator has shape {tuple(saved['sum'].shape)}, expected its parameter's {tuple(p.shape)}."
            )
