"""Look at a model without leaving a trace in it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import torch
from torch import nn

from holdfast.sharding import reshard
from holdfast.wrappers import is_compiled

__all__ = ["undisturbed", "untouched"]


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[list[torch.device]]:
    """Gradients on, whatever the caller has set, and the random state of the CPU and of the model's devices put back.

    Args:
        model: the model whose devices count.

    Yields:
        Its devices other than the CPU.
    """
    devices = list({p.device for p in model.parameters() if p.device.type not in ("cpu", "meta")})
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for device in devices:
            stack.enter_context(torch.random.fork_rng(devices=[device], device_type=device.type))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield devices


@contextlib.contextmanager
def untouched(model: nn.Module, wanted: Collection[nn.Parameter]) -> Iterator[None]:
    """Evaluation mode, with gradients for the wanted parameters only; everything is restored on leaving.

    Restored, also after an exception: every module's mode, every ``requires_grad``, the random state of the
    CPU and of the model's devices. ``.grad`` is never written, because nothing here calls ``backward``.

    Args:
        model: the model to look at.
        wanted: the parameters whose gradients will be asked for.
    """
    # FSDP2 keeps the root's whole parameters after a forward pass without a backward: these, made while gradients are
    # off, would take part in training without any.
    reshard(model)
    modules = list(model.modules())
    # The attribute, not eval(): some models override train() to hold layers, or to merge adapters into weights.
    modes = [module.training for module in modules]
    parameters = [p for p in model.parameters() if p.is_floating_point() or p.is_complex()]
    flags = [p.requires_grad for p in parameters]
    keep = {id(p) for p in wanted}
    with contextlib.ExitStack() as stack:
        devices = stack.enter_context(undisturbed(model))
        if devices and any(isinstance(module, nn.RNNBase) for module in modules):
            # cuDNN's recurrent layers have no backward in evaluation mode.
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        if any(map(is_compiled, modules)):
            # Inside a compiled part no forward hook runs.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for module in modules:
                module.training = False
            for parameter in parameters:
                parameter.requires_grad_(id(parameter) in keep)
            yield
        finally:
            reshard(model)
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for parameter, flag in zip(parameters, flags, strict=True):
                parameter.requires_grad_(flag)
