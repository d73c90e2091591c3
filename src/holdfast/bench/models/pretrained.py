"""Any causal language model of Transformers as the bench's model, from its own weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from holdfast.bench.data import pretrained
from holdfast.errors import ConfigurationError, Option

__all__ = ["build"]

_ENDINGS = ("ForCausalLM", "LMHeadModel")


def build(source: str, shape: tuple[int, ...], outputs: int | tuple[int, ...], *, digest: str | None) -> nn.Module:
    """A causal language model with its pretrained weights, in float32.

    Args:
        source: a folder, or an id of the Hub.
        shape: of one sample: how many words a row has.
        outputs: how many different words the rows have.
        digest: what must be in the folder, as :func:`pretrained.digest` says it; ``None``: anything.

    Raises:
        ConfigurationError: if there is no such model, it is another than expected, or does not fit the rows.
        StateError: if its weights cannot be loaded.
        DependencyError: if Transformers is not installed.
    """
    if len(shape) != 1 or not isinstance(outputs, int):
        raise ConfigurationError(f"the model {source!r} continues texts, got samples {shape}")
    config = pretrained.config_of(source)
    named = config.architectures or ["no architecture"]
    if not any(name.endswith(_ENDINGS) for name in named):
        raise ConfigurationError(Option("model"), f" {source} is {', '.join(named)}; expected a causal language model")
    there = pretrained.digest(source)
    if digest is not None and digest != there:
        raise ConfigurationError(
            f"the model {source!r} is not the one that this was begun with: its files have the digest {there}; "
            f"expected {digest}"
        )
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and shape[0] > most:
        raise ConfigurationError(f"rows of {shape[0]} words are longer than the {most} that {source!r} reads")
    load = pretrained.library().AutoModelForCausalLM.from_pretrained
    model: Any = pretrained.loaded(source, lambda place: load(place, dtype=torch.float32))
    known = model.get_input_embeddings().weight.shape[0]
    if known < outputs:
        raise ConfigurationError(f"the model {source!r} knows {known} words; the stream has {outputs}")
    model.train()
    return model  # type: ignore[no-any-return]  # a module, by its class
