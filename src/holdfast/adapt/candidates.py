"""Every candidate trained from the same start, measured on validation data, and remembered: a kill loses none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from holdfast import registry
from holdfast.adapt.adapters import merged, with_adapters
from holdfast.adapt.applying import WISE_FT, Candidate, computed, merges, protected
from holdfast.adapt.opened import Opened
from holdfast.adapt.own_words import own_words
from holdfast.adapt.points import Point, measured
from holdfast.adapt.samples import Part, batches_of, columns_of, joined, order
from holdfast.adapt.training import Course, Settings, train
from holdfast.errors import StateError
from holdfast.files import write_file
from holdfast.merging.weights import wise_ft
from holdfast.method import Method
from holdfast.objectives import Objective

__all__ = ["CURVE", "Data", "Workshop"]

CURVE = tuple(k / 10 for k in range(11))
"""Where the line from before to after is looked at."""

_POINTS = "points.json"


@dataclass(frozen=True)
class Data:
    """New data and, if there are any, old ones, each in three parts that share no sample."""

    new: Part
    new_validation: Part
    new_test: Part
    old: Part | None = None
    old_validation: Part | None = None
    old_test: Part | None = None
    trained_on: tuple[str, ...] = ()
    """What tells the training parts from any others (`parts.fingerprint`), as they were read."""


@dataclass
class Workshop:
    """Where candidates are trained, one after the other.

    Attributes:
        open: opens the model as it was before, anew each time.
        further: the classes that it lacks.
        data: new and old.
        objective: what a batch means.
        settings: how everything is trained.
        accelerator: of Accelerate.
        folder: for checkpoints, weights and points.
        stop: asked after every step.
        tell: told of every step: the candidate, how many are done, of how many, the loss.
        lora: the rank of adapters that are trained in place of all weights; ``None``: none are.
    """

    open: Callable[[], Opened]
    further: Sequence[str]
    data: Data
    objective: Objective
    settings: Settings
    accelerator: Any
    folder: Path
    stop: Callable[[], bool]
    tell: Callable[[str, int, int, float], None]
    lora: int | None = None

    def given(self) -> Opened:
        """The model as it was, in its own precision, on the device."""
        opened = self.open()
        opened.model.to(self.accelerator.device)
        return opened

    def before(self) -> Opened:
        """The model as it was, in single precision: of 16 bits, most small steps would be rounded away."""
        opened = self.given()
        opened.model.float()
        return opened

    def start(self) -> Opened:
        """The model as every candidate begins: with outputs for all classes."""
        opened = self.before()
        if self.further:
            opened.grow(self.further)
        return opened

    def point(self, candidate: Candidate) -> Point:
        """What a candidate kept and learned; trained now, unless it was before."""
        known = self.known().get(candidate.name)
        if known is not None and self.weights_file(candidate.name).is_file():
            return known
        began = time.monotonic()
        opened = self._made(candidate)
        point = replace(
            self.measure(opened), name=candidate.name, method=candidate.method, settings=dict(candidate.settings),
            seconds=time.monotonic() - began,
        )  # fmt: skip
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(_whole(opened), self.weights_file(candidate.name))
            self._note(point)
            self._checkpoint(candidate.name).unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        return point

    def curve(self, of: Candidate) -> list[Point]:
        """The line from the start to a trained candidate, which costs no training."""
        start = {name: tensor.cpu() for name, tensor in _whole(self.start()).items()}
        after = self.weights(of.name)
        opened, found = self.start(), []
        for weight in CURVE:
            opened.model.load_state_dict(wise_ft(start, after, weight))
            found.append(replace(self.measure(opened), name=f"{WISE_FT} {weight:g}", method=WISE_FT, weight=weight))
        return found

    def weights(self, name: str) -> dict[str, Tensor]:
        """A candidate's weights after training.

        Raises:
            StateError: if they are gone.
        """
        try:
            return load_file(self.weights_file(name))
        except OSError as error:
            raise StateError(f"the weights of {name} are gone: {error}") from error

    def finished(self, point: Point, base: Candidate | None) -> Opened:
        """The model of a point, in the precision that it had, ready to be tested and written.

        Args:
            point: one that was measured.
            base: the candidate at the end of the line on which it lies, where it lies on one.
        """
        if point.method == WISE_FT:
            assert base is not None
            start = {name: tensor.cpu() for name, tensor in _whole(self.start()).items()}
            weights = wise_ft(start, self.weights(base.name), point.weight)
        else:
            weights = self.weights(point.name)
        opened = self.given()
        if self.further:
            opened.grow(self.further)
            opened.model.to(self.accelerator.device)
        opened.model.load_state_dict(weights)  # which rounds, where the model was of 16 bits
        opened.model.eval()
        return opened

    def measure(self, opened: Opened) -> Point:
        """What a model keeps and knows, on validation data."""
        old = None
        if self.data.old_validation is not None:
            old = measured(opened, self.objective, self.batches(opened, self.data.old_validation, "the old data"))
        new = measured(opened, self.objective, self.batches(opened, self.data.new_validation, "the new data"))
        return Point("", "", kept=old, learned=new)

    def batches(self, opened: Opened, part: Part, what: str) -> Iterator[Any]:
        """A part as batches for a model."""
        columns = columns_of(opened, part, what)
        return batches_of(opened, part, columns, self.settings.batch_size, self.accelerator.device)

    def _made(self, candidate: Candidate) -> Opened:
        torch.manual_seed(self.settings.seed)  # of adapters and sampled importances, whatever was made before
        opened = self.before()
        entry = registry.lookup(candidate.method)
        keep = protected(candidate, opened, self.objective, self._old_of_mine(opened), self._own(opened))
        if self.further:
            opened.grow(self.further)
            opened.model.to(self.accelerator.device)
        if entry.kind == "head":
            computed(candidate, opened, self._all(opened))
            return opened
        data = self.data.new
        if entry.all_at_once and self.data.old is not None:
            data = joined(self.data.old, data)
        course = Course(
            self.accelerator, self.objective, data, columns_of(opened, data, "the new data"), self.settings,
            self._checkpoint(candidate.name), self.stop,
            lambda done, steps, loss: self.tell(candidate.name, done, steps, loss),
        )  # fmt: skip
        if self.lora:
            with_adapters(opened, self.lora)
            if keep is not None and not keep.needs_penalty:
                keep.rebind(opened.model, on="effective")
        train(opened, keep, course, self._merge(keep, opened) if merges(candidate) else None)
        merged(opened)
        return opened

    def _merge(self, keep: Method | None, opened: Opened) -> Callable[[], None]:
        assert keep is not None
        mine = self._mine(opened, self.data.new, "the new data")
        return lambda: keep.consolidate(mine())

    def _own(self, opened: Opened) -> Callable[[], Iterable[Any]] | None:
        """What the model writes by itself, where it writes: in place of old texts."""
        if opened.kind != "language":
            return None
        size = max(1, self.settings.batch_size // (self.accelerator.num_processes * self.settings.accumulation))
        return lambda: own_words(opened, seed=self.settings.seed, batch_size=size, folder=self.folder)

    def _old_of_mine(self, opened: Opened) -> Callable[[], Iterable[Any]] | None:
        return None if self.data.old is None else self._mine(opened, self.data.old, "the old data")

    def _mine(self, opened: Opened, part: Part, what: str) -> Callable[[], Iterable[Any]]:
        """This process's share of a part, in an order that does not sort classes."""
        places = order(len(part), 0, self.settings.seed)
        mine = places[self.accelerator.process_index :: self.accelerator.num_processes]
        columns = columns_of(opened, part, what)
        device, size = self.accelerator.device, self.settings.batch_size
        return lambda: batches_of(opened, part, columns, size, device, places=mine)

    def _all(self, opened: Opened) -> Iterator[Any]:
        assert self.data.old is not None
        for part, what in ((self.data.old, "the old data"), (self.data.new, "the new data")):
            yield from self.batches(opened, part, what)

    def known(self) -> dict[str, Point]:
        """What was measured before."""
        path = self.folder / _POINTS
        if not path.is_file():
            return {}
        try:
            return {item["name"]: Point(**item) for item in json.loads(path.read_text(encoding="utf-8"))}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StateError(f"{path} is not what was written there: {error}") from error

    def _note(self, point: Point) -> None:
        points = [*{**self.known(), point.name: point}.values()]
        text = json.dumps([each.plain() for each in points], indent=1) + "\n"
        write_file(self.folder / _POINTS, lambda file: file.write(text.encode()), what="points")

    def weights_file(self, name: str) -> Path:
        """Where a candidate's weights lie."""
        return self.folder / f"{_file(name)}.safetensors"

    def _checkpoint(self, name: str) -> Path:
        return self.folder / f"{_file(name)}.checkpoint.safetensors"


def _whole(opened: Opened) -> dict[str, Tensor]:
    """All weights and buffers, each with a memory of its own."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in opened.model.state_dict().items()}


def _file(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-._=" else "-" for c in name)
