"""What third parties wrap around models and optimizers: one table, of modules and of optimizers alike.

A wrapper is known by its type, never by an attribute: a user's own attribute called ``module`` must survive.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from torch import nn

__all__ = [
    "adapters_of",
    "canonical_name",
    "inner",
    "is_compiled",
    "is_copied",
    "is_lora",
    "is_schedule_free",
    "unwrapped",
]

_T = TypeVar("_T")


def is_schedule_free(optimizer: object) -> bool:
    """Whether an optimizer trains other weights than are evaluated: one of the package ``schedulefree``."""
    return any(kind.__module__.partition(".")[0] == "schedulefree" for kind in type(optimizer).__mro__)


_COMPILED = ("torch._dynamo.eval_frame", "OptimizedModule")

# (where its type is defined, the type) -> the attribute under which it keeps what it wraps. By name, so that nobody's
# library is imported for it: whoever has such a wrapper has imported it. A subclass counts, for Lightning makes one of
# each optimizer. Accelerate's optimizer has no hook tables of its own; Lightning's shares those of the one inside.
_WRAPPERS = {
    ("torch.nn.parallel.distributed", "DistributedDataParallel"): "module",
    ("torch.nn.parallel.data_parallel", "DataParallel"): "module",
    _COMPILED: "_orig_mod",
    ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel"): "_fsdp_wrapped_module",
    (
        "torch.distributed.algorithms._checkpoint.checkpoint_wrapper",
        "CheckpointWrapper",
    ): "_checkpoint_wrapped_module",
    ("torch.optim.swa_utils", "AveragedModel"): "module",
    ("lightning.fabric.wrappers", "_FabricModule"): "_forward_module",
    ("lightning_fabric.wrappers", "_FabricModule"): "_forward_module",
    ("accelerate.optimizer", "AcceleratedOptimizer"): "optimizer",
    ("lightning.pytorch.core.optimizer", "LightningOptimizer"): "optimizer",
    ("pytorch_lightning.core.optimizer", "LightningOptimizer"): "optimizer",
    ("lightning.fabric.wrappers", "_FabricOptimizer"): "optimizer",
    ("lightning_fabric.wrappers", "_FabricOptimizer"): "optimizer",
}

# What they leave in the names of a state dict. ``module`` is left out: it may be a user's own.
_MARKS = frozenset(_WRAPPERS.values()) - {"module", "optimizer"}


def inner(wrapper: object) -> Any:
    """What a wrapper wraps; ``None`` for anything that is none.

    Args:
        wrapper: a module or an optimizer.
    """
    for kind in type(wrapper).__mro__:
        attribute = _WRAPPERS.get((kind.__module__, kind.__name__))
        if attribute is not None:
            # A module keeps what it wraps among its modules; looked up there, its own __getattr__ has no say.
            return wrapper._modules[attribute] if isinstance(wrapper, nn.Module) else getattr(wrapper, attribute)
    return None


def unwrapped(wrapper: _T) -> _T | Any:
    """What stands inside all wrappers, however many.

    Args:
        wrapper: a module, an optimizer, or anything else, which is returned as it is.
    """
    while (within := inner(wrapper)) is not None:
        wrapper = within
    return wrapper


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is called as a compiled graph, in which no hook runs that came later: in whatever way.

    Args:
        module: the module itself, whatever is within it: ``torch.compile(module)``, ``module.compile()``, or a module
            of Lightning's that was compiled.
    """
    compiled = any((kind.__module__, kind.__name__) == _COMPILED for kind in type(module).__mro__)
    return compiled or module._compiled_call_impl is not None or getattr(module, "_compiler_ctx", None) is not None


def canonical_name(name: str) -> str:
    """A name as PyTorch writes it into a state dict, without the marks of wrappers and parametrisations.

    Args:
        name: of a parameter or buffer.

    Example:
        >>> canonical_name("_orig_mod.layers.0._fsdp_wrapped_module.parametrizations.weight.original")
        'layers.0.weight'
        >>> canonical_name("head.parametrizations.weight.original1")
        'head.weight.original1'
    """
    parts = [part for part in name.split(".") if part not in _MARKS]
    if len(parts) >= 3 and parts[-3] == "parametrizations" and parts[-1].startswith("original"):
        parts = [*parts[:-3], parts[-2], *([] if parts[-1] == "original" else parts[-1:])]
    return ".".join(parts)


# (where its type is defined, the type): a layer of PEFT that can be told to leave its adapters out.
_ADAPTED = {("peft.tuners.tuners_utils", "BaseTunerLayer"), ("peft.utils.other", "AuxiliaryTrainingWrapper")}
_PEFT_MODEL = ("peft.peft_model", "PeftModel")
# Its layers that add s·B·A to a weight. Others that derive from LoRA's (AdaLoRA) have a sum of their own.
_LORA = {("peft.tuners.lora.layer", kind) for kind in ("Linear", "Embedding", "_ConvNd")}
_COPIED = ("peft.utils.other", "ModulesToSaveWrapper")


@functools.cache
def _kind_in_peft(kind: type) -> str | None:
    kinds = {(each.__module__, each.__name__) for each in kind.__mro__}
    return "layer" if kinds & _ADAPTED else "model" if _PEFT_MODEL in kinds else None


def is_lora(layer: object) -> bool:
    """Whether a layer is one of PEFT's LoRA, whose adapters add to a weight."""
    return bool({(each.__module__, each.__name__) for each in type(layer).__mro__} & _LORA)


def is_copied(layer: object) -> bool:
    """Whether a layer is one of which PEFT trains a copy: ``modules_to_save``."""
    return _COPIED in {(each.__module__, each.__name__) for each in type(layer).__mro__}


def adapters_of(model: nn.Module) -> tuple[list[Any], list[Any]] | None:
    """What PEFT has put into a model; ``None`` for nothing.

    Args:
        model: any module.

    Returns:
        The models of PEFT that prepend prompts, and the layers with adapters.
    """
    prompted: list[Any] = []
    layers: list[Any] = []
    for module in model.modules():
        kind = _kind_in_peft(type(module))  # type: ignore[arg-type]  # mypy takes a module's hash for its type's
        if kind == "layer":
            layers.append(module)
        elif kind == "model" and module.active_peft_config.is_prompt_learning:  # type: ignore[union-attr]  # known by its type
            prompted.append(module)
    return (prompted, layers) if prompted or layers else None
