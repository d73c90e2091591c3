"""What each layer of two models gives for the same samples, for as many samples as are wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from holdfast.auditing.drift import linear_cka
from holdfast.names import canonical_modules

__all__ = ["Features", "similarities"]

_CHANNELS_FIRST = (_ConvNd, _NormBase, nn.GroupNorm, nn.PReLU)
_LEAST = 4  # samples, for the unbiased form


class Features:
    """Representations ``[N, D]`` of each layer (a module that owns parameters) of one model.

    Pixels and tokens are averaged over, so that a sample is one row.

    Args:
        model: the model.
        most: N, how many samples at most.
    """

    def __init__(self, model: nn.Module, most: int) -> None:
        self._modules = {
            name: module
            for name, module in canonical_modules(model)
            if any(parameter is not None for parameter in module._parameters.values())
        }
        self._most = most
        self._parts: dict[str, list[Tensor]] = {name: [] for name in self._modules}
        self._now: dict[str, Tensor] = {}

    @contextlib.contextmanager
    def heard(self, rows: int) -> Iterator[None]:
        """Within this, the forward pass of one batch is listened to.

        Args:
            rows: how many samples the batch has; what a layer gives for another number is left out.
        """
        seen = max((sum(map(len, parts)) for parts in self._parts.values()), default=0)
        left = self._most - seen
        if left <= 0:
            yield
            return
        handles: list[RemovableHandle] = []
        try:
            for name, module in self._modules.items():
                handles.append(module.register_forward_hook(self._listener(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()
        for name, found in self._now.items():
            if len(found) == rows:
                self._parts[name].append(found[:left].cpu())
        self._now = {}

    def _listener(self, name: str) -> Any:
        def listen(module: nn.Module, inputs: Any, output: Any) -> None:
            found = output if isinstance(output, Tensor) else next((o for o in _flat(output)), None)
            if found is not None and found.dim() >= 2 and found.is_floating_point() and name not in self._now:
                self._now[name] = _one_row_each(found.detach(), isinstance(module, _CHANNELS_FIRST))

        return listen

    @property
    def found(self) -> dict[str, Tensor]:
        """Layer -> ``[N, D]``."""
        return {name: torch.cat(parts) for name, parts in self._parts.items() if parts}


def similarities(before: Features, after: Features) -> tuple[dict[str, float], int]:
    """Unbiased linear CKA of every layer that both models have, and of how many samples it is at least."""
    old, new = before.found, after.found
    shared = [name for name in old if name in new and len(old[name]) == len(new[name]) >= _LEAST]
    return {name: linear_cka(old[name], new[name], unbiased=True) for name in shared}, min(
        (len(old[name]) for name in shared), default=0
    )


def _flat(output: Any) -> Iterator[Tensor]:
    values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else ()
    return (value for value in values if isinstance(value, Tensor))


def _one_row_each(output: Tensor, channels_first: bool) -> Tensor:
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    if wide.dim() == 2:
        return wide
    return wide.flatten(2).mean(2) if channels_first else wide.flatten(1, -2).mean(1)
