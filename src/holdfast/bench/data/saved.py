"""A stream of one's own on disk, for the processes and machines that cannot see its tensors: safetensors, no pickle."""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from holdfast.bench.data import language, own
from holdfast.bench.data.language import Rows
from holdfast.bench.data.tasks import Stream
from holdfast.bench.data.vocabulary import Vocabulary
from holdfast.errors import StateError

__all__ = ["read", "write"]


def write(stream: Stream, path: Path) -> Path:
    """Write a stream of one's own.

    Args:
        stream: as `Stream.from_tensors` made it.
        path: the file.

    Raises:
        StateError: if it cannot be written.
    """
    assert stream.own
    tensors = {}
    for task in stream.tasks:
        for part, split in (("train", task.train), ("test", task.test), ("valid", task.valid)):
            if part == "valid" and not len(split):
                continue
            tensors[f"{task.index}.{part}.samples"] = split.samples.contiguous()
            tensors[f"{task.index}.{part}.targets"] = split.targets.contiguous()
    about = {
        "name": stream.name,
        "scenario": stream.scenario,
        "training_outputs": stream.training_outputs,
        "own": stream.own,
        "tasks": [task.name for task in stream.tasks],
        "answers": [task.answers for task in stream.tasks],
        "mean": stream.mean,
        "std": stream.std,
        "tokenizer": stream.tokenizer,
        "vocabulary": None if stream.vocabulary is None else dataclasses.asdict(stream.vocabulary),
        "about": dict(stream.about),
        "holds": stream.holds,
    }
    try:
        save_file(tensors, path, metadata={"stream": json.dumps(about)})
    except (OSError, SafetensorError) as error:
        raise StateError(f"the stream cannot be written to {path}: {error}") from error
    return path


@lru_cache(maxsize=1)  # a worker does many jobs of one stream
def read(path: Path) -> Stream:
    """Read what :func:`write` wrote.

    Raises:
        StateError: if it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["stream"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} is not a stream of holdfast: {error}") from error
    if about["vocabulary"] is not None:
        return _continued(about, tensors)
    given = own.Given(
        tuple(_task(name, index, tensors) for index, name in enumerate(about["tasks"])),
        about["scenario"],
        {},
        tuple(about["mean"]),
        tuple(about["std"]),
    )
    stream = Stream.from_given(given, about["name"], about["training_outputs"])
    tasks = (
        dataclasses.replace(task, answers=tuple(answers))
        for task, answers in zip(stream.tasks, about["answers"], strict=True)
    )
    kept = {name: about[name] for name in ("own", "tokenizer", "about", "holds")}
    return dataclasses.replace(stream, tasks=tuple(tasks), **kept)


def _continued(about: dict[str, Any], tensors: dict[str, Tensor]) -> Stream:
    """A stream of texts to be continued."""
    told = about["vocabulary"]
    tasks = []
    for index, name in enumerate(about["tasks"]):
        parts = [part for part in ("train", "test", "valid") if f"{index}.{part}.samples" in tensors]
        rows = {part: Rows(tensors[f"{index}.{part}.samples"], tensors[f"{index}.{part}.targets"]) for part in parts}
        tasks.append((name, rows))
    stream = language.stream_of(about["name"], tasks, Vocabulary(**{**told, "begin": tuple(told["begin"])}))
    return dataclasses.replace(stream, own=about["own"], about=about["about"])


def _task(name: str, index: int, tensors: dict[str, Tensor]) -> own.GivenTask:
    found = {
        f"{part}_{short}": tensors.get(f"{index}.{part}.{what}")
        for part in ("train", "test", "valid")
        for short, what in (("x", "samples"), ("y", "targets"))
    }
    return own.GivenTask(name, **found)  # type: ignore[arg-type]  # none but those of a validation part is missing
