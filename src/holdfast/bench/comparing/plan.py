"""From what a user asks for to the configuration of a run: defaults, refusals, and the command that repeats it."""

from __future__ import annotations

import dataclasses
import json
import shlex
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from holdfast import registry
from holdfast.bench.comparing.protocols import Protocol, protocol
from holdfast.bench.comparing.typed import AUTO, shown, typed
from holdfast.bench.data.language import HOLDS
from holdfast.bench.data.pretrained import is_pretrained
from holdfast.bench.records.record import Hyperparameter, Memory, RunConfig
from holdfast.checks import check_count, unknown_name
from holdfast.errors import ConfigurationError, Option
from holdfast.registry import Entry
from holdfast.strength import AutoStrength

__all__ = ["check_backbone", "check_changes", "command", "keep_their_own", "plan", "refusal", "settled"]


class Outline(typing.Protocol):
    """What the configuration of a run says of its stream."""

    @property
    def name(self) -> str:
        """As given to `streams.build`."""
        ...

    @property
    def scenario(self) -> str:
        """``task``, ``domain`` or ``class``."""
        ...

    @property
    def training_outputs(self) -> str:
        """Which outputs the training loss sees."""
        ...

    @property
    def few_shot(self) -> bool:
        """Whether a base task is followed by classes of few samples."""
        ...

    @property
    def holds(self) -> str:
        """What one's own data are; empty for a named stream."""
        ...

    def __len__(self) -> int:
        """Number of tasks."""
        ...


def refusal(entry: Entry, stream: Outline) -> str | None:
    """Why a method does not apply to a stream, as a sentence; ``None`` where it does."""
    if entry.needs_task_id and stream.scenario != "task":
        return (
            f"{entry.name} must be told at test which task a sample belongs to, and the scenario {stream.scenario!r} "
            "does not tell: use the scenario 'task', or leave it out"
        )
    if entry.needs_few_shot and not stream.few_shot:
        return (
            f"{entry.name} is for few samples of new classes after a base task, and the stream {stream.name!r} has no "
            "such tasks: use one like fewshot-mnist-4-2x5 (fewshot-DATA-BASE-WAYxSHOT)"
        )
    if (entry.kind == "head" or entry.needs_one_head) and stream.holds == HOLDS:
        about = "a head over" if entry.kind == "head" else "about"
        return (
            f"{entry.name} is {about} classes, and the stream {stream.name!r} has texts to be continued: leave it out"
        )
    if entry.needs_one_head and stream.scenario == "task" and len(stream) > 1:
        return (
            f"{entry.name} is about classes that compete in one head, and in the scenario 'task' each task has a head "
            "of its own: use the scenario 'class', or leave it out"
        )
    return None


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
    adapters = "lora" in fields.get("model_options", {})
    usual = protocol(stream.name, stream.holds, given.get("model"), adapters=adapters)
    trained = dataclasses.replace(usual, **given)
    if is_pretrained(trained.model) and stream.holds != HOLDS:
        raise ConfigurationError(
            Option("model"), f" is {trained.model}, which continues texts, and the stream {stream.name!r} has none such"
        )
    if trained.outputs == "growing" and stream.scenario != "class":
        raise ConfigurationError(
            Option("outputs", ("growing",)),
            " needs ",
            Option("scenario", ("class",)),
            f", in which each task brings outputs of its own; got {stream.scenario!r}",
        )
    _check_prequential(trained, entry, stream)
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
            "pretraining": _pretraining(epochs, usual, entry),
        },
        **fields,
    )


def _pretraining(epochs: int | None, usual: Protocol, entry: Entry) -> Mapping[str, Any] | None:
    """The first task beforehand, as the stream is usually trained: whatever the runs that start from it change."""
    if epochs is None:
        return None
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


def _check_prequential(trained: Protocol, entry: Entry, stream: Outline) -> None:
    """Refuse first answers where they would not be what they are taken for."""
    if trained.prequential is None:
        return
    asked = Option("prequential", (trained.prequential,))
    if stream.holds == HOLDS:
        raise ConfigurationError(asked, f" is of samples with one label each, and {stream.name!r} has texts")
    if stream.scenario == "task":
        raise ConfigurationError(
            asked,
            " is for streams without boundaries, and the scenario 'task' tells the model which task a sample is of: "
            "expected ",
            Option("scenario", ("domain",)),
            " or class",
        )
    if entry.kind == "head" and trained.backbone.startswith("first-task"):
        raise ConfigurationError(
            asked,
            f" judges {entry.name} by samples that it has not learned, but its features are trained on those of the "
            "first task: expected another ",
            Option("backbone"),
            f" than {trained.backbone}",
        )


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
    for key in sorted(config.model_options.keys() - {"digest", "text"}):  # which follow from the rest
        words += ["--model-option", f"{key}={_json(config.model_options[key])}"]
    usual = protocol(config.stream, "", config.model, adapters="lora" in config.model_options)
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
