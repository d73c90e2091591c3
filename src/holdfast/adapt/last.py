"""The last layer of a classifier: found, grown, and given weights that were computed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError

__all__ = ["grown", "last_layer", "replace"]


def last_layer(model: nn.Module, classes: int, source: str) -> str:
    """The name of the linear layer whose outputs the classes are: the last one with as many outputs.

    Args:
        model: the classifier.
        classes: how many it has.
        source: what the model is called, for the error.

    Raises:
        ConfigurationError: if it has none.
    """
    found: list[str] = [
        name for name, module in model.named_modules() if type(module) is nn.Linear and module.out_features == classes
    ]
    if not found:
        raise ConfigurationError(
            f"{source} has no linear layer with {classes} outputs, so it cannot be given further classes; expected one"
        )
    return found[-1]


def grown(old: nn.Linear, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with more outputs: the old ones as they were, the new ones drawn around 0 at the old ones' size.

    A new class begins with the mean of the old biases, so that it neither wins nor loses everywhere at first.

    Args:
        old: the layer.
        outputs: how many it shall have, at least as many as now.
        generator: draws.
    """
    new = nn.Linear(
        old.in_features, outputs, bias=old.bias is not None, device=old.weight.device, dtype=old.weight.dtype
    )
    with torch.no_grad():
        drawn = torch.randn(outputs, old.in_features, generator=generator, dtype=torch.float32)
        new.weight.copy_(drawn * old.weight.float().std().cpu())
        new.weight[: old.out_features] = old.weight
        if old.bias is not None:
            new.bias.fill_(old.bias.float().mean().item())
            new.bias[: old.out_features] = old.bias
    return new


def replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one that is called so."""
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def filled(layer: nn.Linear, weight: Tensor, bias: Tensor) -> nn.Linear:
    """A layer with the given weight ``[K, D]`` and bias ``[K]``, of the type and on the device of another."""
    new = nn.Linear(weight.shape[1], weight.shape[0], device=layer.weight.device, dtype=layer.weight.dtype)
    with torch.no_grad():
        new.weight.copy_(weight)
        new.bias.copy_(bias)
    return new
