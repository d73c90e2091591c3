"""Fabricated but realistic records for the tests of records, metrics, tables and reports."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from holdfast.bench.records.measured import Costs, Curves, Environment
from holdfast.bench.records.record import Hyperparameter, Record, RunConfig


class Profile(NamedTuple):
    """How a method's records look: the unit of memory is the MiB, that of the state the byte per parameter."""

    learned: float  # accuracy on a task that was just learned
    drop: float  # with every later task
    seconds: float  # a step
    state: float
    peak: float


PROFILES: dict[str, Profile] = {
    "finetune": Profile(0.995, 0.105, 1.00e-3, 0.0, 310.0),
    "joint": Profile(0.984, 0.0, 1.02e-3, 0.0, 318.0),
    "l2sp": Profile(0.962, 0.045, 1.09e-3, 4.0, 314.0),
    "ewc": Profile(0.981, 0.021, 1.12e-3, 8.0, 342.0),
    "anastrophic": Profile(0.958, 0.038, 1.31e-3, 4.0, 330.0),
    "lwf": Profile(0.988, 0.028, 1.55e-3, 4.0, 366.0),
    "classp": Profile(0.951, 0.030, 1.18e-3, 4.0, 316.0),
    "si": Profile(0.979, 0.034, 1.24e-3, 16.0, 340.0),
}

PARAMETERS, STEPS = 478_410, 470

STRENGTHS: dict[str, Hyperparameter] = {
    "l2sp": Hyperparameter(value=0.1, source="default"),
    "ewc": Hyperparameter(value=1000.0, source="grid", detail="of 100, 1000, 10000 by validation accuracy 95.12"),
    "anastrophic": Hyperparameter(value=3.0, source="given"),
    "lwf": Hyperparameter(value=1.0, source="default"),
    "si": Hyperparameter(value=0.7, source="tuned", detail="30 trials, validation average accuracy 92.40"),
}


def make_record(
    method: str = "ewc",
    seed: int = 0,
    *,
    tasks: int = 5,
    status: str = "finished",
    rows: int | None = None,
    noise: float = 0.008,
    **changes: Any,
) -> Record:
    """One record; ``changes`` replace fields of the record, or of its config where the config has the field."""
    draw = random.Random(f"{method}-{seed}")
    profile = PROFILES.get(method, PROFILES["ewc"])
    matrix = _matrix(draw, profile, tasks, noise, single=method == "joint")
    config = _config(method, seed, tasks)
    config.update({name: changes.pop(name) for name in list(changes) if name in RunConfig.model_fields})
    seconds = profile.seconds * (1.0 + 0.03 * draw.random())
    fields: dict[str, Any] = {
        "status": status,
        "config": RunConfig(**config),
        "environment": _environment(seed),
        "task_names": [f"{2 * t} and {2 * t + 1}" for t in range(tasks)],
        "initial": [0.5 + 0.05 * draw.random() for _ in range(tasks)],
        "matrix": matrix[:rows],
        "curves": _curves(draw, tasks, penalised=method not in ("finetune", "joint")),
        "costs": _costs(draw, profile, seconds),
        "command": f"holdfast run split-digits --method {method} --seed {seed}",
    }
    return Record(**{**fields, **changes})


def _matrix(draw: random.Random, profile: Profile, tasks: int, noise: float, *, single: bool) -> list[list[float]]:
    """Accuracies that fall with every later task; of all tasks at once, the last row alone."""
    base = [min(1.0, profile.learned + draw.gauss(0.0, noise)) for _ in range(tasks)]

    def cell(i: int, j: int) -> float:
        if j > i:
            return 0.5 + 0.05 * draw.random()
        return min(1.0, max(0.0, base[j] - profile.drop * (i - j) + draw.gauss(0.0, noise)))

    matrix = [[cell(i, j) for j in range(tasks)] for i in range(tasks)]
    return [base] if single else matrix


def _config(method: str, seed: int, tasks: int) -> dict[str, Any]:
    return {
        "stream": "split-digits",
        "scenario": "task",
        "training_outputs": "current",
        "tasks": tasks,
        "method": method,
        "model": "mlp-400-400",
        "optimizer": "classp" if method == "classp" else "adam",
        "lr": 0.2 if method == "classp" else 1e-3,
        "optimizer_between_tasks": "kept",
        "epochs": 2,
        "batch_size": 128,
        "validation_fraction": 0.1,
        "seed": seed,
        "hyperparameters": {"strength": STRENGTHS[method]} if method in STRENGTHS else {},
    }


def _environment(seed: int) -> Environment:
    return Environment(
        python="3.11.7",
        torch="2.13.0+cpu",
        holdfast="0.1.0",
        platform="Linux-6.1-x86_64",
        processor="x86_64",
        threads=2,
        device_name="cpu",
        date=f"2026-11-22T00:0{seed % 10}:00Z",
    )


def _curves(draw: random.Random, tasks: int, *, penalised: bool) -> Curves:
    points = range(0, STEPS, 25)
    return Curves(
        task=[point * tasks // STEPS for point in points],
        step=list(points),
        loss=[0.7 / (1.0 + point % 94) + 0.02 * draw.random() for point in points],
        penalty_share=[0.2 if penalised and point >= 94 else None for point in points],
    )


def _costs(draw: random.Random, profile: Profile, seconds: float) -> Costs:
    """What it cost, at so many seconds a step."""
    return Costs(
        steps=STEPS,
        seconds_total=STEPS * seconds + 1.0,
        seconds_training=STEPS * seconds,
        seconds_per_step=seconds,
        seconds_consolidate=0.3 if profile.state else 0.0,
        seconds_evaluate=0.5,
        peak_memory_bytes=int((profile.peak + draw.random()) * 2**20),
        parameters=PARAMETERS,
        state_bytes=int(profile.state * PARAMETERS),
    )


def make_records(
    methods: Sequence[str] = ("finetune", "l2sp", "ewc", "anastrophic", "lwf", "classp", "joint"),
    seeds: int = 3,
    **changes: Any,
) -> list[Record]:
    """A whole comparison."""
    return [make_record(method, seed, **changes) for method in methods for seed in range(seeds)]
