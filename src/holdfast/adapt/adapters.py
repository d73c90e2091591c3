"""Low-rank adapters in place of all weights, through PEFT: put in before training, merged after it."""

from __future__ import annotations

import warnings
from collections import Counter

from torch import nn

from holdfast.adapt.opened import Opened
from holdfast.errors import ConfigurationError, DependencyError, Option

__all__ = ["merged", "with_adapters"]


def with_adapters(opened: Opened, rank: int) -> None:
    """Freeze a model and give its linear layers adapters; a classifier's last layer is trained as a whole.

    A layer that shares its weight with another gets none, for merging would change the other one, too; nor does the
    last layer of a language model, as is usual.

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
    last = None if opened.kind == "language" else opened.model.get_submodule(opened.last_layer)
    targets = [name for name, layer in _linear(opened) if layer is not last]
    if not targets:
        raise ConfigurationError(
            Option("lora"), f" is {rank}, but {opened.source} has no linear layer that adapters could be put in"
        )
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    with warnings.catch_warnings():  # PEFT sees for itself that GPT-2's layers are transposed, and says so for each
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        opened.model = get_peft_model(opened.model, config)
    if last is not None:
        last.requires_grad_(True)


def merged(opened: Opened) -> None:
    """Put the adapters into the weights, so that the model is what it was before but for these."""
    merge = getattr(opened.model, "merge_and_unload", None)
    if callable(merge):
        opened.model = merge()


def _linear(opened: Opened) -> list[tuple[str, nn.Module]]:
    """The linear layers within (GPT-2's are called Conv1D) with a weight of their own, and a name."""
    owners = Counter(id(owned) for layer in opened.model.modules() for owned in layer._parameters.values())
    answering = getattr(opened.model, "get_output_embeddings", lambda: None)() if opened.kind == "language" else None
    return [
        (name, layer)
        for name, layer in opened.model.named_modules()
        if (isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D")
        and layer is not answering
        and owners[id(layer.weight)] == 1
    ]
