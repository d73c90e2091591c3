"""Runs that are stopped again and again, each time at another step, and go on from the files alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.bench.comparing import plan
from holdfast.bench.data import streams
from holdfast.bench.data.tasks import Stream
from holdfast.bench.records.record import Record, RunConfig
from holdfast.bench.training import runner
from holdfast.bench.training.checkpoint import Checkpoints
from holdfast.bench.training.snapshot import Snapshot


class Stopped(BaseException):
    """Stands in for SIGKILL: nothing in the run may catch it."""


class Stopping(Checkpoints):
    """Writes a checkpoint every few steps and stops the run after some more."""

    def __init__(self, folder: Path, config: RunConfig, *, spacing: int, steps: int) -> None:
        super().__init__(folder, config, share=math.inf)
        self._spacing, self._left = spacing, steps
        self.resumed_at: int | None = None

    def load(self) -> Snapshot | None:
        snapshot = super().load()
        self.resumed_at = None if snapshot is None else snapshot.ledger.steps
        return snapshot

    def keep(self, take: Callable[[], Snapshot], *, must: bool) -> None:
        self._left -= 1
        if must or self._left % self._spacing == 0:
            super().keep(take, must=True)
        if self._left <= 0:
            raise Stopped

    def finish(self, learner: Callable[[], dict[str, Any]]) -> None:
        pass


def small_stream(**options: Any) -> Stream:
    """Three tasks of two digits each."""
    return streams.build("split-digits", **{"seed": 0, "tasks": 3, "validation_fraction": 0.1, **options})


def small_config(stream: Stream, method: str, **fields: Any) -> RunConfig:
    """A run of eighty steps or so, with a dropout that draws at each."""
    fields = {**SUITS.get(method, {}), **fields}
    settings = fields.pop("settings", None)
    changes = {"model": "mlp-12", "epochs": 3, "optimizer_between_tasks": fields.pop("between", None)}
    changes |= {name: fields.pop(name, changes.get(name)) for name in ("model", "lr", "optimizer", "epochs")}
    fields = {"model_options": {"dropout": 0.2}, "stream_options": {"tasks": 3}, **fields}
    return plan.plan(stream, method, settings=settings, changes=changes, **fields)


class Normalised(nn.Module):
    """What ``fixnorm`` asks for: a layer that a normalisation follows; a head per task, or one."""

    def __init__(self, input_shape: tuple[int, ...], outputs: int | tuple[int, ...]) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(input_shape), 12, bias=False)
        self.norm = nn.LayerNorm(12)
        self.single = isinstance(outputs, int)
        self.heads = nn.ModuleList(nn.Linear(12, k) for k in ([outputs] if isinstance(outputs, int) else outputs))

    def forward(self, inputs: Tensor) -> Tensor | list[Tensor]:
        x = torch.relu(self.norm(self.layer(inputs.flatten(1))))
        found = [head(x) for head in self.heads]
        return found[0] if self.single else found


# What a method needs of a run to have something to do.
SUITS: dict[str, dict[str, Any]] = {
    "hft": {"model": "mlp-12-12"},  # half of the layers that are alike: there must be two
    "fixnorm": {"model": "tests.bench.training.stops:Normalised", "model_options": {}},
}


def run_with_stops(config: RunConfig, stream: Stream, folder: Path, draw: random.Random) -> tuple[Record, list[int]]:
    """The record in the end, and the steps at which the run went on."""
    resumed: list[int] = []
    for _ in range(60):
        keeper = Stopping(folder, config, spacing=draw.randint(1, 7), steps=draw.randint(10, 50))
        try:
            record = runner.run(config, stream=stream, keeper=keeper)
        except Stopped:
            record = None
        if keeper.resumed_at is not None:
            resumed.append(keeper.resumed_at)
        if record is not None:
            return record, resumed
    raise AssertionError("the run makes no progress")
