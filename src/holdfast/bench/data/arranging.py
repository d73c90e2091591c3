"""One's own data as a stream: which samples are a task's, which outputs its labels have, how they reach the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from holdfast.bench.data import asked, continuing, found, own, rendering
from holdfast.bench.data.found import Found, FoundTask
from holdfast.bench.data.own import Given, GivenTask
from holdfast.bench.data.parts import Part, listed, some
from holdfast.bench.data.tasks import Stream
from holdfast.bench.records.record import Scenario, TrainingOutputs
from holdfast.checks import check_count
from holdfast.errors import ConfigurationError, DataError, Option

__all__ = ["Arranged", "arrange", "stream_of"]


@dataclass(frozen=True, eq=False)
class Arranged:
    """One's own data, and the stream that they make.

    Attributes:
        found: as they were read, each task with a part to train on and one to test.
        stream: of them.
        notes: what was decided that nobody asked for, a sentence each.
    """

    found: Found
    stream: Stream
    notes: tuple[str, ...]


def stream_of(place: str | Path, *, say: Callable[[str], None] = lambda sentence: None, **options: Any) -> Stream:
    """A stream of one's own data.

    Args:
        place: see `found.read`.
        say: is told what was decided that nobody asked for.
        **options: see `arrange`, and ``text``, ``label``, ``task``, ``skip_broken`` and ``data_dir`` of `found.read`.
    """
    reading: dict[str, Any] = {
        name: options.pop(name) for name in ("text", "label", "task", "skip_broken") if name in options
    }
    there = found.read(place, data_dir=options.pop("data_dir", None), **reading)
    arranged = arrange(there, reading=reading, **options)
    for sentence in arranged.notes:
        say(sentence)
    return arranged.stream


def arrange(
    there: Found,
    *,
    scenario: Scenario | None = None,
    training_outputs: TrainingOutputs = "all",
    classes_per_task: int | None = None,
    image_size: int | None = None,
    words: int | None = None,
    text_options: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    reading: Mapping[str, Any] | None = None,
    cache_dir: Path | str | None = None,
) -> Arranged:
    """Data that were read, as a stream.

    Args:
        there: the data; their own tasks are the stream's, otherwise their classes are dealt out in order.
        scenario: what the model must answer: see `streams.build`; ``None``: ``domain`` for texts without labels, else
            ``task``.
        training_outputs: for the ``class`` scenario: the outputs that the training loss sees.
        classes_per_task: of data without tasks, 2 by default; what is left over joins the last task.
        image_size: images become so many pixels wide and high; default: as they are, if all are of one size of at most
            64 pixels, else 32.
        words: of a text, from its beginning; default 30.
        text_options: of texts to be continued, any of `language.Options`.
        tokenizer: likewise, a pretrained model whose words they are read with, unless these options say otherwise.
        reading: the options by which they were read, for the record.
        cache_dir: see `cache.default_directory`.

    Raises:
        DataError: for data of which no stream can be made.
        ConfigurationError: for a wrong option, or one that means nothing here.
    """
    continued = there.kind in continuing.KINDS
    usual: Scenario = "domain" if continued else "task"
    scenario = usual if scenario is None else scenario
    asked.Asked(seed=0, scenario=scenario, training_outputs=training_outputs)
    _check_options(there, classes_per_task, image_size, words, text_options)
    if continued:
        asked.check_continued(there.place, scenario)
        chosen = {**({} if tokenizer is None else {"tokenizer": tokenizer}), **(text_options or {})}
        held, stream, said = continuing.arrange(there, chosen, reading or {})
        return Arranged(held, stream, tuple(said))
    made, notes = rendering.render(there, image_size=image_size, words=words, cache_dir=cache_dir)
    parts = made.found
    dealt = parts.tasks if parts.has_tasks else _dealt(parts, classes_per_task or 2, notes)
    if len(dealt) == 1:
        notes.append("They make one task: nothing comes after it that it could be forgotten for.")
    place = {name: label for label, name in enumerate(there.classes)}
    shared = scenario == "domain" and not parts.has_tasks  # as in named streams, tasks share their columns
    given = Given(
        tuple(_task(task, place, shared) for task in dealt),
        scenario,
        {label + step: name for name, label in place.items() for step in (0, len(place))},
        made.mean,
        made.std,
    )
    name = f"own-{there.name}" if own.is_named(there.name) else there.name
    options = {"classes_per_task": classes_per_task, "image_size": image_size, "words": words, **(reading or {})}
    about = {
        "data": made.about,
        "columns": dict(there.columns),
        **{key: value for key, value in options.items() if value},
    }
    stream = Stream.from_given(given, name, training_outputs)
    stream = replace(stream, about=about, holds=made.holds, tokenizer=made.tokenizer)
    return Arranged(parts, stream, tuple(notes))


def _check_options(
    there: Found,
    classes_per_task: int | None,
    image_size: int | None,
    words: int | None,
    text_options: Mapping[str, Any] | None,
) -> None:
    for option, count in (("classes_per_task", classes_per_task), ("image_size", image_size), ("words", words)):
        check_count(option, count)
    continued = there.kind in continuing.KINDS
    if not continued and len(there.classes) < 2:
        raise DataError(f"{there.place} has one class, {there.classes[0]!r}; expected at least two")
    for option, value, fits in (
        ("image_size", image_size, there.kind == "images"),
        ("words", words, there.kind == "texts"),
        ("classes_per_task", classes_per_task, not there.has_tasks and not continued),
        ("text", text_options, continued),
    ):
        if value is not None and not fits:
            has_tasks = option == "classes_per_task" and not continued
            tasks = f"has tasks of its own ({listed([task.name for task in there.tasks], 3)})"
            what = tasks if has_tasks else f"holds {found.SHOWN[there.kind]}"
            raise ConfigurationError(Option(option), f" does not apply to {there.place}, which {what}")


def _dealt(parts: Found, per_task: int, notes: list[str]) -> tuple[FoundTask, ...]:
    """The classes in order, so many to a task; what is left over joins the last."""
    (whole,) = parts.tasks
    classes = list(parts.classes)
    if per_task > len(classes):
        raise ConfigurationError(
            Option("classes_per_task"), f" is {per_task}, but {parts.place} has {len(classes)} classes"
        )
    groups = [classes[start : start + per_task] for start in range(0, len(classes), per_task)]
    if len(groups[-1]) < per_task:
        left = groups.pop()
        groups[-1] += left
        notes.append(
            f"{len(classes)} classes do not divide into tasks of {per_task}: the last has {len(groups[-1])} "
            f"({', '.join(groups[-1])})."
        )
    tasks = []
    for group in groups:
        mine = {name: _of_classes(part, set(group)) for name, part in whole.parts.items()}
        tasks.append(FoundTask("/".join(group), {name: part for name, part in mine.items() if len(part)}))
    return tuple(tasks)


def _of_classes(part: Part, classes: set[str]) -> Part:
    return some(part, [row for row, label in enumerate(part.labels) if label in classes])


def _task(task: FoundTask, place: Mapping[str, int], shared: bool) -> GivenTask:
    for name, what in (("train", "train on"), ("test", "test")):
        if name not in task.parts:
            raise DataError(f"the task {task.name} has no sample to {what}; expected some")
    known = sorted({place[label] for label in task.parts["train"].labels})
    columns = {label: column for column, label in enumerate(known)} if shared else {label: label for label in known}
    tensors: dict[str, torch.Tensor] = {}
    for name, short in (("train", "train"), ("test", "test"), ("validation", "valid")):
        part = task.parts.get(name)
        if part is not None:
            # a label that is not trained on keeps a number that no other has, for the check of it all
            labels = [columns.get(place[label], len(place) + place[label] if shared else place[label])
                      for label in part.labels]  # fmt: skip
            tensors |= {f"{short}_x": torch.stack(list(part.samples)), f"{short}_y": torch.tensor(labels)}
    names = list(place)
    return GivenTask(task.name, answers=tuple(names[label] for label in known) if shared else (), **tensors)
