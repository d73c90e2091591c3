"""A small comparison in a process of its own, which can be killed."""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
from rich.console import Console

from holdfast.bench.comparing import refusing
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.jobs.folder import Folder
from holdfast.bench.jobs.progress import Lines
from holdfast.bench.records.record import Record
from tests.bench.comparing.here import run_here
from tests.bench.training.stops import small_stream

METHODS = ("ewc", "packnet")


def compare_into(path: Path) -> list[Record]:
    """Run the comparison, or what is left of it."""
    torch.set_num_threads(1)
    comparison = Comparison(
        small_stream(),
        METHODS,
        seeds=(0,),
        grids={"ewc": {"strength": ["10", "1000"]}},
        changes={"model": "mlp-12", "epochs": 2},
        fields={"stream_options": {"tasks": 3}, "model_options": {"dropout": 0.2}},
    )
    folder = Folder(path, every=0.0, share=0.2, warn=_fail)
    refusing.prepare(folder, comparison)
    with open(os.devnull, "w") as nowhere:
        return run_here(comparison, folder, Lines(Console(file=nowhere)))


def _fail(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
    os._exit(3)  # a killed process leaves no damaged checkpoint


def _start(target: Callable[..., object], *arguments: object) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    # What takes long to import is imported once, in the server from which every process is forked.
    context.set_forkserver_preload(["tests.bench.jobs.killing", "sklearn.datasets", "holdfast.bench.jobs.folder"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def warm_up() -> None:
    """Start the server, and wait until it has imported everything."""
    assert wait(_start(small_stream))


def start(path: Path) -> ForkServerProcess:
    """The comparison in a process that shares nothing with this one but the folder."""
    return _start(compare_into, path)


def wait(process: ForkServerProcess, seconds: float = math.inf) -> bool:
    """Whether a process ends by itself within so many seconds."""
    process.join(None if seconds == math.inf else seconds)
    return process.exitcode is not None
