"""Low-rank adapters in place of all weights, through PEFT: put in before training, merged after it."""

from __future__ import annotations

from holdfast.adapt.opened import Opened
from holdfast.errors import ConfigurationError, DependencyError, Option

__all__ = ["merged", "with_adapters"]


def with_adapters(opened: Opened, rank: int) -> None:
    """Freeze a model and give its linear layers adapters; the layer that grew is trained as a whole.

    Args:
        opened: its model is replaced.
        rank: of the adapters.

    Raises:
        ConfigurationError: if PEFT finds no layer for them.
        DependencyError: if PEFT is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise DependencyError("adapters need: pip install 'holdfast[adapt]'") from error
    whole = [] if opened.kind == "language" else [opened.last_layer.rpartition(".")[2]]
    targets = [name for name in _linear(opened) if name.rpartition(".")[2] not in whole]
    if not targets:
        raise ConfigurationError(
            Option("lora"), f" is {rank}, but {opened.source} has no linear layer that adapters could be put in"
        )
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, modules_to_save=whole or None)
    opened.model = get_peft_model(opened.model, config)


def merged(opened: Opened) -> None:
    """Put the adapters into the weights, so that the model is what it was before but for these."""
    merge = getattr(opened.model, "merge_and_unload", None)
    if callable(merge):
        opened.model = merge()


def _linear(opened: Opened) -> list[str]:
    """The linear layers within, by name; GPT-2's are called Conv1D."""
    from torch import nn

    return [
        name
        for name, module in opened.model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    ]
