"""Adapters of a run: in place of the weights that it starts with, from whatever start was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import torch
from torch import nn

from holdfast.bench.models import adapters
from holdfast.bench.models import named as models
from holdfast.bench.models.heads import Heads
from holdfast.bench.records import seeding
from holdfast.bench.records.record import RunConfig
from holdfast.checks import unknown_name
from holdfast.errors import ConfigurationError, Option
from holdfast.integrations.peft import FREEZES, SETTINGS, Start, check_settings, start_lora
from holdfast.objectives import Batch, Objective

__all__ = ["again", "asked", "of_the_model", "put_in", "started"]

_OURS = ("lora", "lora_start")


def asked(options: Mapping[str, Any]) -> tuple[Start | None, dict[str, Any]]:
    """The start of adapters, and its settings: ``lora_start`` is its name, or a mapping that has it as ``how``.

    Raises:
        ConfigurationError: for what is no start, or no setting of it.
    """
    given = options.get("lora_start")
    if given is None:
        return None, {}
    settings = dict(given) if isinstance(given, Mapping) else {"how": given}
    if "how" not in settings:
        raise ConfigurationError(
            Option("lora_start"), f" is {given!r}; expected how among it, one of {', '.join(get_args(Start))}"
        )
    how = settings.pop("how")
    if how not in get_args(Start):
        raise unknown_name("start of adapters", str(how), get_args(Start))
    for name in settings:
        if name not in SETTINGS[how]:
            raise unknown_name(f"setting of the start {how}", name, SETTINGS[how])
    try:
        check_settings(**settings)
    except ConfigurationError as error:
        raise ConfigurationError(Option("lora_start"), f": {error}") from error
    return how, settings


def of_the_model(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the model is built with, without what is said of its adapters: they come after whatever it starts from."""
    return {name: value for name, value in options.items() if name not in _OURS}


def put_in(model: nn.Module, config: RunConfig) -> nn.Module:
    """The model with adapters trained in place of its weights, if that was asked for; its last layer gets none.

    Raises:
        ConfigurationError: if it has no layer for them.
        DependencyError: if PEFT is not installed.
    """
    rank = config.model_options.get("lora")
    if rank is None:
        return model
    skip = model.heads[0] if isinstance(model, Heads) else None
    with models.seeded(_seed(config, 0)):
        found = adapters.adapted(model, rank, skip=skip)
    if found is None:
        raise ConfigurationError(
            Option("lora"), f" is {rank}, but {config.model} has no linear layer that adapters could be put in"
        )
    found.train(model.training)
    if asked(config.model_options)[0] in FREEZES:
        for name, parameter in found.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and ".lora_A." not in name)
    return found


def started(
    model: nn.Module, config: RunConfig, *, keep: Iterable[Batch], new: Iterable[Batch], objective: Objective
) -> None:
    """Give the adapters the start that was asked for; the model answers as it did.

    Args:
        model: as from :func:`put_in`.
        config: of the run.
        keep: what must not be lost; read only by starts that need it.
        new: likewise, what is to be learned.
        objective: what both mean.

    Raises:
        ConfigurationError: for a rank that is too large.
    """
    how, settings = asked(config.model_options)
    if how is not None:
        start_lora(model, how, keep=keep, new=new, objective=objective, **settings)


def again(model: nn.Module, config: RunConfig, wanted: int) -> bool:
    """Add adapters until there are so many, each trained with the others frozen; whether any was missing."""
    missing = range(adapters.number(model), wanted)
    for number in missing:
        with models.seeded(_seed(config, number)):
            adapters.added(model)
    model.to(torch.device(config.device))
    return len(missing) > 0


def _seed(config: RunConfig, number: int) -> int:
    return seeding.derive_seed(config.seed, "adapter", number)
