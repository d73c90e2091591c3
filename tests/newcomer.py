"""A method that nobody foresaw, as a newcomer would write it: a file, and a line for the registry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import nn

from holdfast import Method, Objective, Step
from holdfast.objectives import Batch
from holdfast.registry import Entry, Range
from holdfast.state import anchor_of


class PullBack(Method):
    """After every step, back a share of the way to where the latest task left the weights."""

    needs_data: ClassVar[bool] = False

    def __init__(self, model: nn.Module, *, rate: float = 0.01) -> None:
        super().__init__(model)
        self.rate = rate

    def pull_weights(self, step: Step) -> None:
        for name in self.live(step):
            here, anchor = self.part(name), self.state[name]["anchor"]
            back = torch.lerp(here.to(anchor), anchor, self.rate)
            here.copy_(step.unless_skipped(back, here.to(anchor)))

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        self.state.update({name: {"anchor": anchor_of(self.scope(name))} for name in self.params})


ENTRY = Entry(
    "back", "method", "penalty", "tests.newcomer:PullBack", "nobody", "1",
    {"rate": 0.01}, {"rate": Range(1e-5, 1.0)}, dial="rate",
)  # fmt: skip
