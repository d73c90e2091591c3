"""What freezing, PackNet and pruning share: holding weights and running statistics exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from holdfast.names import canonical_modules

__all__ = ["hold", "hold_statistics", "normalisations", "statistics", "zero"]


@torch.no_grad()
def zero(grads: Sequence[Tensor]) -> None:
    """Set whole gradients to 0, in place (also where they are not finite)."""
    if grads:
        torch._foreach_zero_(list(grads))


@torch.no_grad()
def hold(params: Sequence[Tensor], anchors: Sequence[Tensor]) -> None:
    """Put whole tensors back, exactly: momentum and weight decay move weights even where their gradient is 0."""
    if params:
        torch._foreach_copy_(list(params), list(anchors))


def normalisations(model: nn.Module, frozen: Iterable[str]) -> dict[str, nn.Module]:
    """The normalisations with running statistics whose own weights are all frozen.

    Args:
        model: any module, wrapped or not.
        frozen: canonical names of parameters that no longer move.

    Returns:
        canonical name -> module.
    """
    names = set(frozen)
    found: dict[str, nn.Module] = {}
    for prefix, module in canonical_modules(model):
        own = {_join(prefix, name) for name, p in module._parameters.items() if p is not None}
        if isinstance(module, nn.modules.batchnorm._NormBase) and own and own <= names:
            found[prefix] = module
    return found


def statistics(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The live running statistics of normalisations, by canonical name."""
    return {
        _join(prefix, name): buffer
        for prefix, module in modules.items()
        for name, buffer in module._buffers.items()
        if buffer is not None
    }


def hold_statistics(modules: Mapping[str, nn.Module], held: Mapping[str, Tensor], prefix: str) -> None:
    """Put running statistics back: a frozen normalisation must answer in eval mode as it did.

    Args:
        modules: what :func:`normalisations` found.
        held: prefix + canonical name -> statistics.
        prefix: what the names in ``held`` begin with.
    """
    live = {name: buffer for name, buffer in statistics(modules).items() if prefix + name in held}
    hold(list(live.values()), [held[prefix + name] for name in live])


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
