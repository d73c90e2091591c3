"""What fits a stream: which method, which model, which way to measure; all else is refused in a sentence."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from holdfast.bench.comparing.protocols import Protocol
from holdfast.bench.data.language import HOLDS
from holdfast.bench.data.pretrained import is_pretrained
from holdfast.bench.training import adapting
from holdfast.checks import check_count
from holdfast.errors import ConfigurationError, Option
from holdfast.registry import Entry

__all__ = ["Outline", "check_model", "check_prequential", "check_words", "refusal"]


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
    if entry.needs_adapters and stream.holds != HOLDS:
        return (
            f"{entry.name} learns each task by an adapter of its own, which language models are trained by here, "
            f"and the stream {stream.name!r} has no texts to be continued: leave it out"
        )
    if entry.needs_one_head and stream.scenario == "task" and len(stream) > 1:
        return (
            f"{entry.name} is about classes that compete in one head, and in the scenario 'task' each task has a head "
            "of its own: use the scenario 'class', or leave it out"
        )
    return None


def check_model(model: object, options: Mapping[str, Any], entry: Entry, stream: Outline) -> None:
    """Refuse a model that cannot learn the stream, or not in the way of the method.

    Args:
        model: its name.
        options: what else it is built with.
        entry: of the method.
        stream: what it is to learn.
    """
    if isinstance(model, str) and is_pretrained(model) and stream.holds != HOLDS:
        raise ConfigurationError(
            Option("model"), f" is {model}, which continues texts, and the stream {stream.name!r} has none such"
        )
    rank, (start, _) = options.get("lora"), adapting.asked(options)
    if rank is None and (entry.needs_adapters or start is not None):
        whose = (
            f"lora_start={start} is of adapters"
            if start is not None
            else f"{entry.name} learns each task by an adapter of its own"
        )
        raise ConfigurationError(
            f"{whose}, and {model!r} is trained without any: add lora=8 or the like to ", Option("model_options")
        )
    if entry.needs_adapters and start is not None:
        raise ConfigurationError(
            f"lora_start={start} is of one adapter, and {entry.name} learns each task by a new one, which begins as "
            "PEFT has it: leave one of them out"
        )
    check_count("lora", rank)
    if rank is not None and stream.holds != HOLDS:
        raise ConfigurationError(
            f"lora={rank} does not apply to the stream {stream.name!r}: adapters are for texts to be continued"
        )


def check_words(trained: Protocol, stream: Outline) -> None:
    """Refuse a choice of words where there are none, or one that no word can meet."""
    limit = trained.low_perplexity
    if limit is not None and stream.holds != HOLDS:
        raise ConfigurationError(
            Option("low_perplexity", (limit,)),
            f" is of words that are foretold, and the stream {stream.name!r} has no texts to be continued",
        )
    if limit is not None and not 1 < limit < float("inf"):
        raise ConfigurationError(
            Option("low_perplexity", (limit,)), ", but no word is below 1; expected more, such as 2.5"
        )


def check_prequential(trained: Protocol, entry: Entry, stream: Outline) -> None:
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
