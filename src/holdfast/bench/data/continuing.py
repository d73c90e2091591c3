"""One's own texts without labels, or prompts with answers, as a stream of texts to be continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from holdfast.bench.data import language, own
from holdfast.bench.data.found import SHOWN, Found, FoundTask
from holdfast.bench.data.language import Texts
from holdfast.bench.data.parts import Part, counted
from holdfast.bench.data.tasks import Stream

__all__ = ["KINDS", "arrange"]

KINDS = ("language", "answers")
"""What data hold that are to be continued."""


def arrange(there: Found, options: Mapping[str, Any], reading: Mapping[str, Any]) -> tuple[Found, Stream, list[str]]:
    """Texts that were read, as a stream; the data's own tasks are its tasks.

    Args:
        there: the data.
        options: any of `language.Options`.
        reading: the options by which they were read, for the record.

    Returns:
        The data with a part to test in each task, the stream, and what was decided that nobody asked for.

    Raises:
        DataError: for data that are too few.
        ConfigurationError: for a wrong option.
    """
    wanted = language.options(options)
    answers = there.kind == "answers"
    what = SHOWN[there.kind]
    notes = [f"Left out of {there.place}: {line}." for line in there.left_out]
    if not there.called:
        read_as = "The answers are learned" if answers else "They are to be continued word by word"
        notes.append(f"{there.place} holds {what}. {read_as}; a column of labels would make classes of them.")
    held = there.with_test(fraction=wanted.test_fraction)
    pairs = zip(there.tasks, held.tasks, strict=True)
    cut = sum(len(after.parts["test"]) for before, after in pairs if "test" not in before.parts)
    if cut:
        notes.append(
            f"{there.place} has no part to test: {counted(cut, 'sample')}, {wanted.test_fraction:.0%} of each task, "
            "are held out for that, always the same."
        )
    if len(held.tasks) == 1:
        notes.append("They make one task: nothing comes after it that it could be forgotten for.")
    name = f"own-{there.name}" if own.is_named(there.name) else there.name
    stream, shortened = language.of_texts(name, [_texts(task, there.name) for task in held.tasks], wanted, shuffle=True)
    if shortened:
        notes.append(
            f"{counted(shortened, 'pair')} of prompt and answer of more than {stream.input_shape[0]} words are "
            "shortened: the prompt's beginning first (text.tokens says how many words)."
        )
    count = sum(len(part) for task in there.tasks for part in task.parts.values())
    about: dict[str, Any] = {
        "data": f"{count:,} {what}, in rows of {stream.input_shape[0]} of {stream.num_outputs:,} different words",
        "columns": dict(there.columns),
        **{key: value for key, value in reading.items() if value},
    }
    if options:
        about["text_options"] = dict(options)
    return held, replace(stream, about=about, own=language.digest(stream)), notes


def _texts(task: FoundTask, name: str) -> Texts:
    train, test = (_samples(task.parts[part]) for part in ("train", "test"))
    valid = _samples(task.parts["validation"]) if "validation" in task.parts else ()
    return Texts(task.name or name, train, test, valid)


def _samples(part: Part) -> Sequence[Any]:
    return [part.samples[k] for k in range(len(part))]
