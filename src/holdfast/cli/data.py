"""One's own data on the command line: as a stream, and what was found of them."""

from __future__ import annotations

import difflib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import ConfigurationError, DataError, HoldfastError, Option

if TYPE_CHECKING:
    from holdfast.bench.data.tasks import Stream
    from holdfast.cli.options import Read, Trained

__all__ = ["describe", "stream_of", "titled"]


def stream_of(asked: Trained, data_dir: Path | None) -> str | Stream:
    """The name of a stream, or a stream of the data that lie at a path.

    Raises:
        ConfigurationError: for what is neither, or an option that a named stream does not take.
    """
    from holdfast.bench.data import arranging, finding
    from holdfast.bench.data import asked as asking
    from holdfast.bench.data.pretrained import is_pretrained
    from holdfast.cli import show

    if finding.is_place(asked.stream):
        options = asked.scenes["stream_options"]
        for option in options.keys() - {"text"}:
            raise ConfigurationError(
                Option(option, (options[option],)),
                f" is for streams from 'holdfast streams'; {asked.stream} is data of your own",
            )
        return arranging.stream_of(
            asked.stream,
            say=show.note,
            scenario=asked.scenario,
            training_outputs=asked.training_outputs,
            text_options=options.get("text"),
            tokenizer=asked.model if asked.model is not None and is_pretrained(asked.model) else None,
            data_dir=data_dir,
            **asked.reading,
        )
    from holdfast.bench.data import streams

    try:
        asking.parse(asked.stream, list(streams.names()))
    except ConfigurationError as error:
        near = difflib.get_close_matches(asked.stream, [each.name for each in Path().iterdir()], n=3, cutoff=0.6)
        if not near:
            raise
        raise ConfigurationError(*error.args, f"; and no folder or file of that name, but {', '.join(near)}") from error
    for option, value in asked.reading.items():
        words = () if value is True else (str(value),)
        raise ConfigurationError(
            Option(option, words), f" is for data of your own; the stream {asked.stream!r} has a name"
        )
    return asked.stream


def describe(place: str, asked: Read, scenes: dict[str, Any]) -> bool:
    """Say what was found at a path, what a comparison would do with it, and what is wrong.

    Args:
        place: the path.
        asked: how the data are read.
        scenes: the scenario.

    Returns:
        Whether a comparison would run.

    Raises:
        DataError: if nothing could be read at all.
    """
    from holdfast.bench.comparing.protocols import protocol
    from holdfast.bench.data import arranging, describing, found
    from holdfast.bench.data.language import HOLDS
    from holdfast.bench.data.parts import counted
    from holdfast.cli import show

    reading = {name: value for name, value in asked.reading.items() if name in ("text", "label", "task")}
    wrong: HoldfastError | None = None
    try:
        there = found.read(place, skip_broken=asked.skip_broken, **reading)
    except DataError as error:
        if asked.skip_broken:
            raise
        try:
            there = found.read(place, skip_broken=True, **reading)
        except DataError:
            raise error from None
        wrong = error
    show.note(describing.headline(there))
    if there.classes:
        counts = describing.by_class(there)
        show.plain(counts.headers, counts.rows)
    if there.has_tasks:
        counts = describing.by_task(there)
        show.plain(counts.headers, counts.rows)
    try:
        dealing = {name: value for name, value in asked.reading.items() if name not in (*reading, "skip_broken")}
        arranged = arranging.arrange(there, **scenes, **dealing)
    except HoldfastError as error:
        wrong = wrong or error
    else:
        stream = arranged.stream
        for sentence in arranged.notes:
            show.note(sentence)
        trained = protocol(stream.name, stream.holds)
        heads = "" if stream.holds == HOLDS else f"; heads stand on {trained.backbone}"
        show.note(
            f"A comparison learns {stream.about['data']} in {counted(len(stream), 'task')} "
            f"({'; '.join(task.name for task in stream)}), {stream.scenario}-incremental, with {trained.model}, "
            f"{trained.optimizer} at {trained.lr:g}, {counted(trained.epochs, 'epoch')} of batches of "
            f"{trained.batch_size}{heads}."
        )
    if wrong is None:
        words = [place]
        for name, value in {**asked.reading, **scenes}.items():
            if value is not None:
                words += [_typed(Option(name))] + ([] if value is True else [str(value)])
        show.note(f"holdfast compare {shlex.join(words)} --methods A,B,C ('holdfast methods' lists them)")
        return True
    show.aside(f"a comparison would stop: {wrong.worded(_typed)}")
    return False


def _typed(option: Option) -> str:
    return f"--{option.name.replace('_', '-')}"


def titled(asked: Trained, stream: str | Stream) -> str:
    """What the folder of results is called, unless told otherwise."""
    from holdfast.bench.data.asked import usual_scenario

    if isinstance(stream, str):
        return f"{stream}-{asked.scenario or usual_scenario(stream)}"
    return f"{stream.name}-{stream.scenario}"
