"""Avalanche's own cost of protecting, over the same samples as :mod:`speed.runs`, where it installs."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from holdfast.bench.models import named as models
from speed.rows import Row
from speed.runs import ByHand, split_mnist
from speed.timing import Setup, alternate

__all__ = ["avalanche"]

_STRATEGIES: dict[str, dict[str, Any]] = {
    "Naive": {},
    "EWC": {"ewc_lambda": 100.0},
    "SynapticIntelligence": {"si_lambda": 1.0},
    "MAS": {},
    "LwF": {"alpha": 1.0, "temperature": 2.0},
}


def avalanche(setup: Setup) -> list[Row]:
    """Its strategies beside the plain loop; nothing, and a sentence, where it cannot be imported."""
    try:
        training: Any = importlib.import_module("avalanche.training")
        scenarios: Any = importlib.import_module("avalanche.benchmarks")
    except Exception as error:  # it reaches for many packages, any of which may be missing or too new for it
        print(f"Avalanche is left out: it cannot be imported ({error}); 'pip install avalanche-lib' brings it.")
        return []
    stream, data = split_mnist(setup)
    by_hand = ByHand(stream, setup)
    data_sets = [[_data_set(scenarios, *tensors) for tensors in part] for part in (by_hand.train, by_hand.test)]
    plain = scenarios.benchmark_from_datasets(train=data_sets[0], test=data_sets[1])
    tasks = scenarios.task_incremental_benchmark(plain, reset_task_labels=True)
    works: dict[str, Any] = {"by hand": by_hand}
    for name, values in _STRATEGIES.items():
        works[name] = lambda name=name, values=values: _run(getattr(training, name), values, tasks)
    timings = alternate(setup, works, warm=0)
    return [
        Row(
            "avalanche", f"Avalanche {name}, whole run", "cpu", "plain loop",
            timings.median(name) / timings.median("by hand"), "times as long", seconds=timings.median(name),
            beside_seconds=timings.median("by hand"), rounds=timings.rounds, note=data,
        )
        for name in _STRATEGIES
    ]  # fmt: skip


def _data_set(scenarios: Any, inputs: Tensor, targets: Tensor) -> Any:
    samples: Any = TensorDataset(inputs, targets)
    samples.targets = targets.tolist()
    return scenarios.utils.as_taskaware_classification_dataset(scenarios.utils.as_classification_dataset(samples))


def _run(strategy: Any, values: dict[str, Any], tasks: Any) -> None:
    model = models.build("mlp", (1, 28, 28), 2, seed=0)
    learner = strategy(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=128,
        train_epochs=1,
        eval_mb_size=1000,
        evaluator=None,
        **values,
    )
    for experience in tasks.train_stream:
        learner.train(experience)
        learner.eval(tasks.test_stream)
