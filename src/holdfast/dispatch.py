"""One dispatcher per optimizer: it runs each phase of a step over all attached methods.

The dispatcher lives in the optimizer's own hook tables and nowhere else, so a second method finds it there,
and a deep-copied optimizer (which loses its hooks) has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from holdfast.errors import ConfigurationError, ProtectionError
from holdfast.guards import is_no_step
from holdfast.travelling import Traveller, give_back, left_behind, pack_up
from holdfast.wrappers import is_schedule_free, unwrapped

__all__ = ["PHASES_AFTER", "PHASES_BEFORE", "Dispatcher", "Phased", "Step", "unwrap_optimizer"]

PHASES_BEFORE = ("observe_gradient", "add_gradient", "project_gradient")
PHASES_AFTER = ("pull_weights", "restore_weights", "observe_update")


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step, as its phases see it.

    Args:
        optimizer: the optimizer that is stepping.
        grad_scale: what the gradients are multiplied by under fp16 with a fused optimizer, ``[]``; else ``None``.
        found_inf: 1 if that optimizer is going to skip this step, else 0, ``[]``; ``None`` where it cannot skip.
    """

    optimizer: Optimizer
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def unscaled(self, value: Tensor) -> Tensor:
        """A gradient (or a linear function of it) without ``grad_scale``."""
        return value if self.grad_scale is None else value / self.grad_scale.to(value.device)

    def unless_skipped(self, value: Tensor, otherwise: Tensor) -> Tensor:
        """``value``, or ``otherwise`` if the step is skipped; decided on the device, without a host sync."""
        if self.found_inf is None:
            return value
        return torch.where(self.found_inf.to(value.device) > 0, otherwise, value)


class Phased(Traveller, Protocol):
    """What the dispatcher needs to know of a method."""

    @property
    def sort_key(self) -> tuple[Any, ...]:
        """Where the method stands within a phase, whatever the order of attaching."""
        ...

    def phase(self, name: str) -> Callable[[Step], None] | None:
        """The method's part in a phase, or ``None`` if it has none."""
        ...

    def check_step(self, optimizer: Optimizer) -> None:
        """Raise if this optimizer's step would go unprotected."""
        ...

    def count_step(self) -> None:
        """Note that a step was observed."""
        ...


def unwrap_optimizer(optimizer: Any) -> Optimizer:
    """The optimizer whose ``step`` really runs, inside its wrappers if there are any: see :mod:`holdfast.wrappers`.

    Raises:
        ConfigurationError: if it is no optimizer, or one that cannot be hooked.
    """
    optimizer = unwrapped(optimizer)
    if optimizer is None:
        raise ConfigurationError(
            "attach got None; expected an optimizer (a Trainer makes its own late: call trainer.create_optimizer() "
            "first, then attach(trainer.optimizer))"
        )
    if is_schedule_free(optimizer) and not isinstance(optimizer, Optimizer):
        raise ConfigurationError(
            f"attach got a {type(optimizer).__name__}, whose optimizer steps other weights than are trained, out of "
            "sight of a method; expected one that is schedule-free itself, such as AdamWScheduleFree"
        )
    if not isinstance(optimizer, Optimizer):
        raise ConfigurationError(f"attach got a {type(optimizer).__name__}; expected a torch.optim.Optimizer")
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise ConfigurationError(
            f"{type(optimizer).__name__} has maximize=True, which would climb the penalty; negate the loss instead"
        )
    return optimizer


class Dispatcher:
    """The step hooks of one optimizer, and the methods attached to it."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._methods: list[Phased] = []
        self._phases: dict[str, list[Callable[[Step], None]]] = {}
        self._edited = False
        self._none = False  # whether the step under way is none
        self._optimizer = optimizer
        self._state = optimizer.state  # replaced whenever a state is loaded
        self._untold: list[Phased] = []  # methods of which the state loaded latest carried nothing
        self._handles = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
            optimizer.register_state_dict_post_hook(self._pack_up),
            optimizer.register_load_state_dict_pre_hook(self._give_back),
            optimizer.register_load_state_dict_post_hook(self._loaded),
        )

    @classmethod
    def find(cls, optimizer: Optimizer) -> Dispatcher | None:
        """The optimizer's dispatcher, if it has one."""
        for hook in optimizer._optimizer_step_pre_hooks.values():
            owner = getattr(hook, "__self__", None)
            if isinstance(owner, cls):
                return owner
        return None

    @classmethod
    def of(cls, optimizer: Optimizer) -> Dispatcher:
        """The optimizer's dispatcher, made if it has none yet."""
        return cls.find(optimizer) or cls(optimizer)

    @property
    def methods(self) -> tuple[Phased, ...]:
        """The attached methods, in the order in which a phase runs over them."""
        return tuple(self._methods)

    def add(self, method: Phased) -> None:
        """Attach a method; attaching it twice changes nothing."""
        if not any(m is method for m in self._methods):
            self._methods.append(method)
            self.rearrange()

    def remove(self, method: Phased) -> None:
        """Detach a method; the last one takes the hooks with it."""
        self._methods = [m for m in self._methods if m is not method]
        self.rearrange()
        if not self._methods:
            for handle in self._handles:
                handle.remove()

    def rearrange(self) -> None:
        """Ask the methods for their parts, anew where one has something else to do from now on."""
        # Sorted, because floating-point sums depend on their order and the order of attaching must not matter.
        self._methods.sort(key=lambda method: method.sort_key)
        self._phases = {
            name: [part for m in self._methods if (part := m.phase(name)) is not None]
            for name in PHASES_BEFORE + PHASES_AFTER
        }

    def _pack_up(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        pack_up(state_dict, [method for method in self._methods if method.travels_with(optimizer)])

    def _give_back(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        untold = give_back(state_dict, self._methods)
        self._untold = [m for m in self._methods if m in untold and m.travels_with(optimizer)]

    def _loaded(self, optimizer: Optimizer) -> None:
        self._state = optimizer.state

    def _notice_loading(self, optimizer: Optimizer) -> None:
        if optimizer.state is not self._state:  # some optimizers load in a way of their own, without the hooks
            self._state = optimizer.state
            if optimizer.state:
                self._untold = [method for method in self._methods if method.travels_with(optimizer)]
        if self._untold:
            left_behind(self._untold)
            self._untold = []

    def _run(self, names: tuple[str, ...], optimizer: Optimizer) -> None:
        if not any(self._phases[name] for name in names):
            return
        step = Step(optimizer, getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None))
        with torch.no_grad():
            for name in names:
                for part in self._phases[name]:
                    part(step)

    def _edit_gradients(self, optimizer: Optimizer) -> None:
        self._notice_loading(optimizer)
        for method in self._methods:
            method.check_step(optimizer)
        self._run(PHASES_BEFORE, optimizer)
        self._edited = True

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if optimizer is not self._optimizer:
            raise ProtectionError(
                f"the step is of another {type(optimizer).__name__} than the {type(self._optimizer).__name__} given to "
                "attach, which shares its hooks: give attach the optimizer inside the wrapper"
            )
        self._edited = False
        positional = len(args) > 1  # args[0] is the optimizer itself
        closure = args[1] if positional else kwargs.get("closure")
        self._none = closure is None and is_no_step(optimizer)
        if self._none:
            return None
        if closure is None:
            self._edit_gradients(optimizer)
            return None

        def then_edit() -> Any:
            if self._edited and not isinstance(optimizer, LBFGS):  # which only those get that do not mind
                raise ProtectionError(
                    f"{type(optimizer).__name__} evaluated its closure twice in one step, so a penalty would be "
                    "added twice; use an optimizer that evaluates it once"
                )
            loss = closure()
            self._edit_gradients(optimizer)
            return loss

        if positional:
            return (args[0], then_edit, *args[2:]), kwargs
        return args, {**kwargs, "closure": then_edit}

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._none:
            return
        if not self._edited:
            raise ProtectionError(f"{type(optimizer).__name__} never evaluated its closure: the step went unprotected")
        self._run(PHASES_AFTER, optimizer)
        for method in self._methods:
            method.count_step()
