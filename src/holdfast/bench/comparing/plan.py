"""From what a user asks for to the configuration of a run: defaults, refusals, and the command that repeats it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from holdfast import registry
from holdfast.bench.comparing.fitting import Outline, check_model, check_prequential, check_words, refusal
from holdfast.bench.comparing.protocols import Protocol, protocol
from holdfast.bench.comparing.typed import AUTO, shown, typed
from holdfast.bench.data.language import HOLDS
from holdfast.bench.records.record import Hyperparameter, Memory, RunConfig
from holdfast.checks import check_count, unknown_name
from holdfast.errors import ConfigurationError, Option
from holdfast.registry import Entry
from holdfast.strength import AutoStrength

__all__ = ["check_backbone", "check_changes", "command", "keep_their_own", "plan", "refusal", "settled"]


def _automatic(entry: Entry) -> str:
    """How an automatic strength is found, for the record; nothing for a method that will refuse it."""
    fraction = entry.auto_fraction
    return "" if fraction is None else AutoStrength().describe(fraction)


def _default(entry: Entry, key: str) -> Hyperparameter:
    value = entry.defaults[key]
    how = _automatic(entry) if (key, value) == ("strength", AUTO) else ""
    return Hyperparameter(value=value, source="default", detail=how)


def plan(
    stream: Outline,
    method: str,
    *,
    seed: int = 0,
    settings: Mapping[str, str | Hyperparameter] | None = None,
    changes: Mapping[str, Any] | None = None,
    **fields: Any,
) -> RunConfig:
    """The configuration of one run.

    Args:
        stream: its stream; the scenario and the number of tasks are read off it.
        method: a name of the registry.
        seed: of the run.
        settings: hyperparameter -> what the user typed, or a value that was chosen; the others stay at the
            registry's defaults.
        changes: fields of the stream's default :class:`Protocol` that are not to be the default; ``None`` values
            are left out. A method that is itself the optimizer keeps its own optimizer, step size and state.
        fields: further fields of the configuration.

    Raises:
        ConfigurationError: for an unknown method or setting, a value of another type or out of range, or a method
            that does not apply to the stream.
    """
    entry = registry.lookup(method)
    why_not = refusal(entry, stream)
    if why_not is not None:
        raise ConfigurationError(why_not)
    given = {key: value for key, value in (changes or {}).items() if value is not None}
    chosen = {key: _default(entry, key) for key in entry.defaults}
    chosen |= {key: _hyperparameter(entry, key, value) for key, value in (settings or {}).items()}
    options, model = fields.get("model_options") or {}, given.get("model")
    named = model if isinstance(model, str) else None
    usual = protocol(stream.name, stream.holds, named, adapters=options.get("lora") is not None)
    trained = dataclasses.replace(usual, **given)
    check_model(trained.model, options, entry, stream)
    check_words(trained, stream)
    if trained.outputs == "growing" and stream.scenario != "class":
        raise ConfigurationError(
            Option("outputs", ("growing",)),
            " needs ",
            Option("scenario", ("class",)),
            f", in which each task brings outputs of its own; got {stream.scenario!r}",
        )
    check_prequential(trained, entry, stream)
    if entry.kind == "optimizer":
        lr = chosen["lr"].value
        assert isinstance(lr, float)
        trained = dataclasses.replace(trained, optimizer=method, lr=lr)
    if entry.keeps_optimizer:
        trained = dataclasses.replace(trained, optimizer_between_tasks="kept")
    values = dataclasses.asdict(trained)
    epochs = values.pop("pretrain_epochs")
    return _config(
        stream=stream.name,
        scenario=stream.scenario,
        training_outputs=stream.training_outputs,
        tasks=len(stream),
        method=method,
        seed=seed,
        hyperparameters=chosen,
        **{
            **values,
            "backbone": trained.backbone if entry.kind == "head" else None,
            "memory": _memory(trained, entry, stream),
            "pretraining": _pretraining(epochs, protocol(stream.name, stream.holds, named), entry),
        },
        **fields,
    )


def _pretraining(epochs: int | None, usual: Protocol, entry: Entry) -> Mapping[str, Any] | None:
    """The first task beforehand, as the stream is usually trained: whatever the runs that start from it change."""
    if epochs is None:
        return None
    if entry.needs_adapters:
        raise ConfigurationError(
            f"{entry.name} holds a new adapter against those of the tasks before, and ",
            Option("pretrain_epochs"),
            " learns the first task without any: leave one of them out",
        )
    if entry.needs_unlabelled:
        raise ConfigurationError(
            f"{entry.name} prepares the network in its first task, which ",
            Option("pretrain_epochs"),
            " learns beforehand: leave one of them out",
        )
    if "path-integral" in entry.promises:
        raise ConfigurationError(
            f"{entry.name} measures importance while a task is learned, and ",
            Option("pretrain_epochs"),
            " learns the first one without it: use EWC, MAS or L2-SP, which protect a model that is trained already",
        )
    return {"epochs": epochs, "optimizer": usual.optimizer, "lr": usual.lr}


def _memory(trained: Protocol, entry: Entry, stream: Outline) -> Memory | None:
    """What a method remembers texts by: where it asks a teacher, what the model writes itself unless told otherwise."""
    if stream.holds != HOLDS:
        if trained.memory is not None:
            raise ConfigurationError(
                Option("memory"),
                f" is for texts to be continued, and the stream {stream.name!r} has none",
            )
        return None
    return trained.memory or _usual_memory(entry)


def _usual_memory(entry: Entry) -> Memory:
    return "generations" if entry.takes_memory else "data"


def _hyperparameter(entry: Entry, key: str, value: str | Hyperparameter) -> Hyperparameter:
    if isinstance(value, Hyperparameter):
        return value
    found = typed(entry, key, value)
    automatic = (key, found) == ("strength", AUTO)
    return Hyperparameter(
        value=found, source="auto" if automatic else "given", detail=_automatic(entry) if automatic else ""
    )


def settled(config: RunConfig, chosen: Mapping[str, str | Hyperparameter], **fields: Any) -> RunConfig:
    """A planned configuration with some hyperparameters chosen, and other fields replaced.

    Args:
        config: as from :func:`plan`.
        chosen: hyperparameter -> the value that a grid or a search chose, or what a user typed.
        fields: such as the seed.
    """
    if chosen:
        entry = registry.lookup(config.method)
        found = {key: _hyperparameter(entry, key, value) for key, value in chosen.items()}
        fields["hyperparameters"] = {**config.hyperparameters, **found}
        if entry.kind == "optimizer" and "lr" in found:
            fields["lr"] = found["lr"].value
    return config.model_copy(update=fields) if fields else config


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def check_changes(changes: Mapping[str, Any]) -> None:
    """Refuse what is no field of a protocol.

    Raises:
        ConfigurationError: naming the nearest.
    """
    known = [each.name for each in dataclasses.fields(Protocol)]
    for name in changes:
        if name not in known:
            raise unknown_name("training option", name, known)
    for name in ("epochs", "batch_size", "prequential", "pretrain_epochs"):
        check_count(name, changes.get(name))


def check_backbone(methods: Sequence[str], backbone: str | None) -> None:
    """Refuse a backbone where no method stands on one.

    Raises:
        ConfigurationError: naming the heads that there are.
    """
    if backbone is None or any(registry.lookup(method).kind == "head" for method in methods):
        return
    heads = ", ".join(entry.name for entry in registry.entries() if entry.kind == "head")
    raise ConfigurationError(
        Option("backbone"),
        f" is {backbone!r}, but only closed-form heads stand on one, and {', '.join(methods)} is none; expected one of "
        f"{heads} among the methods",
    )


def keep_their_own(methods: Sequence[str], changes: Mapping[str, Any]) -> list[str]:
    """The methods that some of these changes do not reach, because they are the optimizer themselves."""
    asked = {name for name, value in changes.items() if value is not None}
    found = []
    for entry in map(registry.lookup, methods):
        fresh = entry.keeps_optimizer and changes.get("optimizer_between_tasks") == "fresh"
        if fresh or (entry.kind == "optimizer" and asked & {"optimizer", "lr"}):
            found.append(entry.name)
    return found


def _config(**fields: Any) -> RunConfig:
    try:
        return RunConfig(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(Option(name), f" is {first['input']!r}: {first['msg'].lower()}") from error


def command(config: RunConfig, *, threads: int | None = None) -> str:
    """What to type to repeat a run: everything that differs from the defaults.

    Empty for a stream of somebody's own tensors, which no command can name.
    """
    if "own" in config.stream_options:
        return ""
    entry = registry.lookup(config.method)
    words = ["holdfast", "run", config.stream, "--method", config.method]
    for key, chosen in config.hyperparameters.items():
        if chosen.value != entry.settings.get(key):
            words += ["--set", f"{key}={shown(chosen.value)}"]
    words += ["--seed", str(config.seed), "--scenario", config.scenario]
    for name, value in config.stream_options.items():
        own = name in ("imbalance", "class_balance")
        words += [f"--{name.replace('_', '-')}", shown(value)] if own else ["--stream-option", f"{name}={_json(value)}"]
    if config.training_outputs != "all":
        words += ["--training-outputs", config.training_outputs]
    for key, value in sorted(config.asked_of_model.items()):
        words += ["--model-option", f"{key}={_json(value)}"]
    usual = protocol(config.stream, "", config.model, adapters=config.model_options.get("lora") is not None)
    for name, default in {**dataclasses.asdict(usual), "model": protocol(config.stream).model}.items():
        own = entry.kind == "optimizer" and name in ("optimizer", "lr")
        own |= entry.keeps_optimizer and name == "optimizer_between_tasks"
        own |= entry.kind != "head" and name == "backbone"
        own |= name == "memory" and config.memory == _usual_memory(entry)
        if not own and getattr(config, name) != default:
            words += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    if config.device != "cpu":
        words += ["--device", config.device]
    if threads is not None:
        words += ["--threads", str(threads)]
    return shlex.join(words)
