"""Low-rank adapters in place of all weights, through PEFT: put in before training, merged after it."""

from __future__ import annotations

from holdfast.adapt.opened import Opened
from holdfast.bench.models import adapters
from holdfast.errors import ConfigurationError, Option

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
    last = None if opened.kind == "language" else opened.model.get_submodule(opened.last_layer)
    model = adapters.adapted(opened.model, rank, skip=last)
    if model is None:
        raise ConfigurationError(
            Option("lora"), f" is {rank}, but {opened.source} has no linear layer that adapters could be put in"
        )
    opened.model = model
    if last is not None:
        last.requires_grad_(True)


def merged(opened: Opened) -> None:
    """Put the adapters into the weights, so that the model is what it was before but for these."""
    opened.model = adapters.merged(opened.model)
