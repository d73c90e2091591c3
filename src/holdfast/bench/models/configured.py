"""A model of Transformers by its configuration alone: all of its shapes, and no memory for its weights."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from holdfast.bench.data import hub
from holdfast.bench.models.named import names
from holdfast.checks import unknown_name
from holdfast.errors import ConfigurationError, DependencyError, Option

__all__ = ["configured"]


def configured(source: str, dtype: torch.dtype | None = None) -> nn.Module:
    """The model that a configuration describes, on the ``meta`` device: nothing but ``config.json`` is read.

    Its class is the one that the configuration names; where it names none, a causal language model if there is one of
    its kind, else the bare model. Code that comes with a configuration is not run.

    Args:
        source: a folder with ``config.json``, the file itself, or an id on the Hub.
        dtype: of the weights; ``None`` for what the configuration says, or float32.

    Raises:
        ConfigurationError: if there is no such configuration, or Transformers has no model for it.
        DependencyError: if Transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise DependencyError("a model of Transformers needs: pip install 'holdfast[transformers]'") from error
    local = os.path.sep in source or Path(source).exists()
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise ConfigurationError(Option("model"), f" is {source!r}, a folder without config.json; expected one with it")
    with nullcontext(True) if Path(source).exists() else hub.asked() as reached:
        try:
            config = transformers.AutoConfig.from_pretrained(source)
        except (OSError, ValueError) as error:
            if not local:
                raise unknown_name("model", source, [*names(), *names(text=True)]) from error
            why = _sentence(error)
            if not reached:
                why = "there is no such folder, and the hub cannot be reached"
            raise ConfigurationError(
                Option("model"), f" is {source!r}, which is no configuration that Transformers can read: {why}"
            ) from error
    wanted = dtype or getattr(config, "dtype", None) or torch.float32
    with torch.device("meta"):
        try:
            model: nn.Module = _class_of(transformers, config, source)(config)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(
                Option("model"), f" is {source!r}, of which no model can be made: {_sentence(error)}"
            ) from error
    return model.to(wanted)


def _sentence(error: Exception) -> str:
    """The first of what Transformers says, in one line."""
    return " ".join(str(error).split()).split(". ")[0]


def _class_of(transformers: Any, config: Any, source: str) -> Any:
    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, nn.Module):
            return found
    for auto in (transformers.AutoModelForCausalLM, transformers.AutoModel):
        if type(config) in auto._model_mapping:
            return auto._model_mapping[type(config)]
    raise ConfigurationError(
        Option("model"), f" is {source!r}, of the kind {config.model_type!r}, of which Transformers has no model"
    )
