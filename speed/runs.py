"""Whole runs of the bench on Split-MNIST beside a loop written by hand over the same samples."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from holdfast import registry
from holdfast.bench.data.tasks import Split, Stream, Task
from holdfast.bench.models import named as models
from holdfast.bench.records.measured import Costs
from holdfast.bench.records.record import Hyperparameter, RunConfig
from holdfast.bench.training import building, optimizers, runner
from holdfast.dispatch import PHASES_AFTER, PHASES_BEFORE
from holdfast.method import Method
from holdfast.objectives import Classification
from speed.plain import train_step
from speed.rows import Row, cost
from speed.timing import Setup, alternate

__all__ = ["ByHand", "runs", "split_mnist"]

_LEARNING_RATES = {"sgd": 0.05, "adam": 1e-3}  # the optimizer with the least arithmetic, and the stream's own
_TARGETS = {"finetune": 1.05, "ewc": 1.5, "si": 1.15, "mas": 1.5, "lwf": 1.4}
_MEAN, _STD = 0.1307, 0.3081
_FEW = 2000  # samples per task for importances, in the second figure of methods that need data
_FISHERS = {"auto": 1.6, "exact": None, "sampled": None}  # of EWC where all classes compete -> target


def split_mnist(setup: Setup) -> tuple[Stream, str]:
    """Split-MNIST where it is at hand, else random images of the same number and shape."""
    folder = os.environ.get("HOLDFAST_DATA")
    if folder and not setup.quick and (Path(folder) / "mnist").is_dir():
        return building.build_stream(_config(setup, "finetune", None, "sgd"), data_dir=folder), "MNIST"
    draw = torch.Generator().manual_seed(0)
    per_task, tested = (64, 32) if setup.quick else (12_000, 2_000)
    tasks = []
    for index in range(5):
        splits = []
        for count in (per_task, 0, tested):
            images = torch.randint(0, 256, (count, 1, 28, 28), generator=draw, dtype=torch.uint8)
            targets = torch.randint(0, 2, (count,), generator=draw)
            splits.append(Split(images, torch.arange(count), targets))
        objective = Classification()
        scale, shift = torch.full((1, 1, 1), 1 / 255 / _STD), torch.full((1, 1, 1), -_MEAN / _STD)
        tasks.append(
            Task(
                f"task {index}",
                index,
                splits[0],
                splits[1],
                splits[2],
                (0, 1),
                (0, 1),
                objective,
                objective,
                scale,
                shift,
            )
        )
    found = Stream("split-mnist", "domain", "all", tuple(tasks), 2, None, (1, 28, 28), (_MEAN,), (_STD,))
    return found.to(setup.device), "random images in place of MNIST"


def _all_classes(setup: Setup) -> tuple[Stream, str]:
    """The same digits where all ten compete in one head; scikit-learn's where MNIST is not at hand."""
    folder = os.environ.get("HOLDFAST_DATA")
    config = _config(setup, "finetune", None, "adam").model_copy(update={"scenario": "class"})
    if folder and not setup.quick and (Path(folder) / "mnist").is_dir():
        return building.build_stream(config, data_dir=folder), "MNIST"
    digits = config.model_copy(update={"stream": "split-digits", "tasks": 2 if setup.quick else 5})
    return building.build_stream(digits), "digits in place of MNIST"


def _config(setup: Setup, method: str, few: int | None, optimizer: str, **settings: Any) -> RunConfig:
    defaults = dict(registry.lookup(method).defaults) | settings
    if "strength" in defaults:
        defaults["strength"] = 1.0  # weak enough for the learning rate; the cost is the same
    return RunConfig(
        stream="split-mnist", scenario="domain", training_outputs="all", tasks=5, method=method, model="mlp",
        optimizer=optimizer, lr=_LEARNING_RATES[optimizer], optimizer_between_tasks="kept", epochs=1, batch_size=128,
        seed=0, validation_fraction=0.0, device=setup.device.type, importance_samples=few,
        hyperparameters={k: Hyperparameter(value=v, source="default") for k, v in defaults.items()},
    )  # fmt: skip


class ByHand:
    """The same training and testing as a script would do it, on images that were normalised beforehand."""

    def __init__(self, stream: Stream, setup: Setup, optimizer: str = "sgd") -> None:
        self.device = setup.device
        self.optimizer = optimizer
        self.shape, self.outputs = stream.input_shape, stream.outputs
        self.seconds, self.seconds_training = 0.0, 0.0  # of the latest run
        self.train = [self._ready(task, task.train) for task in stream]
        self.test = [self._ready(task, task.test) for task in stream]

    def _ready(self, task: Task, split: Split) -> tuple[Tensor, Tensor]:
        return task.inputs(split.samples), split.targets

    def __call__(self) -> list[list[float]]:
        """One run: the accuracy on every task, before the first and after each."""
        began = time.perf_counter()
        self.seconds_training = 0.0
        model = models.build("mlp", self.shape, self.outputs, seed=0).to(self.device)
        optimizer = optimizers.build(self.optimizer, model.parameters(), _LEARNING_RATES[self.optimizer])
        matrix = [self._accuracies(model)]
        for inputs, targets in self.train:
            start_of_task = time.perf_counter()
            order = torch.randperm(len(inputs)).to(self.device)
            for start in range(0, len(order), 128):
                chosen = order[start : start + 128]
                train_step(model, optimizer, (inputs[chosen], targets[chosen]))
            self.seconds_training += time.perf_counter() - start_of_task
            matrix.append(self._accuracies(model))
        self.seconds = time.perf_counter() - began
        return matrix

    @torch.no_grad()
    def _accuracies(self, model: nn.Module) -> list[float]:
        model.eval()
        found = []
        for inputs, targets in self.test:
            right = torch.zeros((), device=self.device)
            for start in range(0, len(inputs), 1000):
                chosen = slice(start, start + 1000)
                right += (model(inputs[chosen]).argmax(1) == targets[chosen]).sum()
            found.append(float(right) / len(inputs))
        model.train()
        return found


def runs(setup: Setup) -> list[Row]:
    """One epoch a task of finetune, EWC, SI, MAS and LwF, importances and tests included."""
    stream, data = split_mnist(setup)
    return [row for optimizer in _LEARNING_RATES for row in _runs(setup, stream, data, optimizer)]


def competing(setup: Setup) -> list[Row]:
    """EWC's default, the exact and the sampled Fisher where all ten classes compete: a backward pass for each."""
    stream, data = _all_classes(setup)
    head = f"Adam: {len(stream)} tasks of 2 classes in one head of {stream.outputs}, 1 epoch each, batch 128; {data}; "
    rows = []
    for fisher, target in _FISHERS.items():
        config = _config(setup, "ewc", None, "adam", fisher=fisher)
        changed = {"stream": stream.name, "scenario": stream.scenario, "tasks": len(stream)}
        run = _Run(config.model_copy(update=changed), stream)
        by_hand = ByHand(stream, setup, "adam")
        timings = alternate(setup, {"by hand": by_hand, "run": run}, warm=0)
        label = f"whole run, all classes compete, ewc, fisher={fisher}"
        note = f"{fisher}: {_profile(run.costs, by_hand)}"
        rows.append(
            cost(
                timings, "run", "by hand", bench="competing", work=label, device=setup.device.type, than="plain loop",
                target=target, note=note if rows else head + note,
            )
        )  # fmt: skip
    return rows


def _runs(setup: Setup, stream: Stream, data: str, optimizer: str) -> list[Row]:
    asked: dict[str, tuple[str, int | None]] = {}
    for method in _TARGETS:
        if registry.lookup(method).needs_data:
            asked[f"{method}, importances from all samples"] = (method, None)
            asked[f"{method}, importances from {_FEW} samples a task"] = (method, 32 if setup.quick else _FEW)
        else:
            asked[method] = (method, None)
    called = {"sgd": "SGD", "adam": "Adam"}[optimizer]
    head = f"{called}: 5 tasks of 2 classes in one head of 2, 1 epoch each, batch 128, MLP 784-400-400-2; {data}; "
    rows = []
    for label, (method, few) in asked.items():
        by_hand = ByHand(stream, setup, optimizer)
        run = _Run(_config(setup, method, few, optimizer), stream)
        # Two by two, so that what changes on the machine from one minute to the next changes for both.
        timings = alternate(setup, {"by hand": by_hand, "run": run}, warm=0)
        note = f"{called}, {label}: {_profile(run.costs, by_hand)}"
        if not few and setup.device.type == "cpu":
            note += _phases(run.config, stream)
        rows.append(
            cost(
                timings, "run", "by hand", bench="runs", work=f"whole run, {called}, {label}", device=setup.device.type,
                than="plain loop", target=_TARGETS[method], note=note if rows else head + note,
            )
        )  # fmt: skip
    return rows


class _Run:
    """A run of the bench."""

    def __init__(self, config: RunConfig, stream: Stream) -> None:
        self.config = config
        self.stream = stream

    def __call__(self) -> None:
        record = runner.run(self.config, stream=self.stream)
        assert record.status == "finished", record.failure
        self.costs = record.costs  # of the latest run


def _profile(costs: Costs, by_hand: ByHand) -> str:
    """Where a run's time went, in its last round."""
    total = costs.seconds_total
    return (
        f"{_share(costs.seconds_training, total)} training ({costs.seconds_training / by_hand.seconds_training:.2f} "
        f"times the plain loop's, which is {_share(by_hand.seconds_training, by_hand.seconds)} training), "
        f"{_share(costs.seconds_consolidate, total)} consolidating, {_share(costs.seconds_evaluate, total)} testing"
    )


def _phases(config: RunConfig, stream: Stream) -> str:
    """What each phase of the method's step takes, on the average over a run of its own; empty where it has none."""
    kind: Any = registry.lookup(config.method).build
    spent: Counter[str] = Counter()

    def timed(name: str, part: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            began = time.perf_counter()
            part(*args)
            spent[name] += time.perf_counter() - began  # type: ignore[assignment]  # a counter of seconds

        return run

    with ExitStack() as patched:
        for name in PHASES_BEFORE + PHASES_AFTER:
            if kind is not None and getattr(kind, name) is not getattr(Method, name):
                patched.enter_context(mock.patch.object(kind, name, timed(name, getattr(kind, name))))
        steps = runner.run(config, stream=stream).costs.steps
    parts = [f"{name} {1e3 * seconds / steps:.2f} ms" for name, seconds in spent.items() if seconds / steps > 1e-5]
    return f"; of each step {', '.join(parts)}" if parts else ""


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %"
