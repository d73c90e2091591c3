"""The stream of a run, as its configuration asks for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from holdfast.bench.data import streams
from holdfast.bench.data.tasks import Stream
from holdfast.bench.records.record import RunConfig
from holdfast.errors import ConfigurationError

__all__ = ["build_stream", "prepared"]


def prepared(stream: Stream, config: RunConfig) -> Stream:
    """A stream of one's own as a configuration asks for it, on its device."""
    stream = stream.with_validation(config.validation_fraction, config.seed)
    return dataclasses.replace(stream, tasks=stream.tasks[: config.tasks]).to(config.device)


def build_stream(config: RunConfig, *, data_dir: Path | str | None = None) -> Stream:
    """The stream that a configuration asks for, on its device; a search asks for the first of its tasks only.

    Raises:
        ConfigurationError: for a stream that was made of somebody's own tensors, which no name can bring back.
    """
    if "own" in config.stream_options:
        raise ConfigurationError(
            f"the stream {config.stream!r} is of somebody's own data, which no name brings back: make the same "
            "comparison again"
        )
    stream = streams.build(
        config.stream,
        seed=config.seed,
        scenario=config.scenario,
        training_outputs=config.training_outputs,
        validation_fraction=config.validation_fraction,
        data_dir=data_dir,
        **config.stream_options,
    )
    return dataclasses.replace(stream, tasks=stream.tasks[: config.tasks]).to(config.device)
