"""An optimizer of another's kind, for tensors that a method trains in the place of parameters."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError

__all__ = ["Twin"]

_NUMBER = "number of "


class Twin:
    """Steps some tensors as an optimizer would step them, with the settings that its groups have now.

    Args:
        optimizer: the one that is followed.
        placed: name -> the parameter in whose place tensors are stepped, and the tensors by their own names.
        saved: what :meth:`state` gave; what it knows of no tensor begins anew.

    Raises:
        ConfigurationError: if no other of its kind can be made.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        placed: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]],
        saved: Mapping[str, Tensor],
    ) -> None:
        self._followed = optimizer
        self._names: dict[str, Tensor] = {}
        self._groups: list[int] = []
        groups = []
        for index, group in enumerate(optimizer.param_groups):
            ids = {id(p) for p in group["params"]}
            mine = {name: tensors for name, (p, tensors) in placed.items() if id(p) in ids}
            if mine:
                self._names |= {f"{part}.{name}": t for name, tensors in mine.items() for part, t in tensors.items()}
                own = [tensor for tensors in mine.values() for tensor in tensors.values()]
                groups.append({**_settings(group), "params": own})
                self._groups.append(index)
        self._optimizer = _made(optimizer, groups)
        for index, group in zip(self._groups, self._optimizer.param_groups, strict=True):
            on_host = not (optimizer.param_groups[index].get("fused") or group.get("capturable"))
            for tensor in group["params"]:
                self._optimizer.state[tensor].update(self._recalled(tensor, saved, on_host=on_host))

    def _recalled(self, tensor: Tensor, saved: Mapping[str, Tensor], *, on_host: bool) -> dict[str, Any]:
        name = next(name for name, each in self._names.items() if each is tensor)
        found: dict[str, Any] = {}
        for key, value in saved.items():
            if key.endswith(f".{name}"):
                kind = key.removesuffix(f".{name}")
                if kind.startswith(_NUMBER):
                    found[kind.removeprefix(_NUMBER)] = value.item()
                else:  # a count of steps is a number on the host, but for what is computed on the device alone
                    found[kind] = value.cpu() if on_host and value.dim() == 0 else value
        return found

    def step(self, step: Step) -> None:
        """Step the tensors by their gradients, which are scaled if those of the step are."""
        for index, group in zip(self._groups, self._optimizer.param_groups, strict=True):
            group.update(_settings(self._followed.param_groups[index]))
        scaled = step.grad_scale is not None or step.found_inf is not None
        takes_scale = getattr(self._followed, "_step_supports_amp_scaling", False)
        if scaled and takes_scale:  # as torch.amp.GradScaler hands them to such an optimizer
            self._optimizer.grad_scale = step.grad_scale  # type: ignore[attr-defined]  # PyTorch's own, set from outside
            self._optimizer.found_inf = step.found_inf  # type: ignore[attr-defined]  # PyTorch's own, set from outside
        elif scaled:
            for tensor in self._names.values():
                if tensor.grad is not None:
                    tensor.grad = step.unscaled(tensor.grad)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that it remembers, by name; tensors are those that it goes on with."""
        for name, tensor in self._names.items():
            for kind, value in self._optimizer.state.get(tensor, {}).items():
                if isinstance(value, Tensor):
                    yield f"{kind}.{name}", value
                elif isinstance(value, bool | int | float):
                    yield f"{_NUMBER}{kind}.{name}", torch.tensor(value)


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _made(optimizer: Optimizer, groups: Sequence[dict[str, Any]]) -> Optimizer:
    kind = type(optimizer)
    known = inspect.signature(kind).parameters
    options = {key: value for key, value in optimizer.defaults.items() if key in known}
    try:
        return kind(list(groups), **options)
    except Exception as error:
        raise ConfigurationError(
            f"factors are trained by another {kind.__name__} beside the one that is attached, and none can be made of "
            f"its defaults ({error}); expected an optimizer whose arguments but the parameters are in its defaults"
        ) from error
