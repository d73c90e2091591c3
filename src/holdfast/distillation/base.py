"""A teacher without a second set of weights: the model with its adapters off, or a copy that shares what is frozen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from holdfast.distillation.teacher import frozen_copy, tensors_of
from holdfast.errors import ConfigurationError
from holdfast.names import canonical_parameters, unwrap
from holdfast.sharding import fsdp_modules
from holdfast.wrappers import adapters_of

__all__ = ["base_of", "own_tensors", "without_adapters"]


def base_of(model: nn.Module) -> nn.Module:
    """What to ask in place of a copy of the model as it was.

    Args:
        model: with adapters of PEFT, or with frozen parameters.

    Returns:
        The model itself, without wrappers, if it has adapters: ask it under :func:`without_adapters`. Else a copy in
        eval mode that nothing can train, whose frozen parameters are the model's own.

    Raises:
        ConfigurationError: if more than adapters is trained, or nothing is frozen.
    """
    inner = unwrap(model)
    if adapters_of(inner):
        with without_adapters(inner):  # also says what else is trained
            return inner
    frozen = [p for p in inner.parameters() if not p.requires_grad]
    if not frozen:
        raise ConfigurationError(
            "teacher='base' asks the model itself with its adapters off, or shares what is frozen, but this model has "
            "neither: expected adapters of PEFT, a frozen base, or teacher='copy'"
        )
    if fsdp_modules(inner):
        raise ConfigurationError(
            "teacher='base' on a model of fully_shard expects adapters of PEFT; use teacher='copy', sharded like it"
        )
    return frozen_copy(inner, frozen)


def own_tensors(teacher: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """What a teacher does not share with the model, by canonical name: nothing, if it is the model itself.

    Args:
        teacher: as :func:`base_of` made it.
        model: of which.

    Raises:
        ConfigurationError: if something that they share is trained by now.
    """
    if teacher is unwrap(model):
        return {}
    shared = {id(p): name for name, p in canonical_parameters(model).items()}
    for p in teacher.parameters():
        if id(p) in shared and p.requires_grad:
            raise ConfigurationError(
                f"parameter {shared[id(p)]!r} was frozen, so teacher='base' shares it, but it is trained now: freeze "
                "it, or use teacher='copy'"
            )
    return {name: tensor for name, tensor in tensors_of(teacher).items() if id(tensor) not in shared}


@contextlib.contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The base of a model with adapters of PEFT, in evaluation mode; modes and ``requires_grad`` are restored.

    Args:
        model: with adapters in it.

    Raises:
        ConfigurationError: if it has none, or if parameters are trained that are not theirs: then what is left
            without them is not the base.
    """
    adapters = adapters_of(model)
    if adapters is None:
        raise ConfigurationError(
            "the model's adapters are gone, with which teacher='base' found its base: keep them unmerged, or use "
            "teacher='copy'"
        )
    prompted, layers = adapters
    modules = list(model.modules())  # walked once: this is done in every step
    parameters = list({id(p): p for module in modules for p in module._parameters.values() if p is not None}.values())
    training = [module for module in modules if module.training]
    flags = [p.requires_grad for p in parameters]
    enabled = [layer for layer in layers if not layer.disable_adapters]
    with contextlib.ExitStack() as stack:
        for each in prompted:
            stack.enter_context(each.disable_adapter())
        try:
            for module in training:
                module.training = False
            for layer in enabled:
                layer.enable_adapters(False)
            kept = [p for p, flag in zip(parameters, flags, strict=True) if flag and p.requires_grad]
            _check_frozen(model, prompted, kept)
            yield
        finally:
            for layer in enabled:
                layer.enable_adapters(True)
            for parameter, flag in zip(parameters, flags, strict=True):
                if parameter.requires_grad != flag:
                    parameter.requires_grad_(flag)
            for module in training:
                module.training = True


def _check_frozen(model: nn.Module, prompted: list[Any], kept: list[nn.Parameter]) -> None:
    """With their adapters off PEFT freezes what is theirs: what is trained on either side of that is the base's."""
    theirs = {id(p) for each in prompted for p in each.prompt_encoder.parameters()}
    found = {id(p) for p in kept} - theirs
    if found:
        trained = [name for name, p in canonical_parameters(model).items() if id(p) in found]
        raise ConfigurationError(
            f"parameter {trained[0]!r} ({len(trained)} in all) is trained and is no adapter's, so the model without "
            "adapters is not its base: freeze it, or use teacher='copy'"
        )
