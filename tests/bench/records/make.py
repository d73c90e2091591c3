"""Fabricated but realistic records for the tests of records, metrics, tables and reports."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from holdfast.bench.records.record import Costs, Curves, Environment, Hyperparameter, Record, RunConfig

# method -> (accuracy when learned, drop per later task, seconds per step, state bytes per parameter, peak MiB)
PROFILES: dict[str, tuple[float, float, float, float, float]] = {
    "finetune": (0.995, 0.105, 1.00e-3, 0.0, 310.0),
    "joint": (0.984, 0.0, 1.02e-3, 0.0, 318.0),
    "l2sp": (0.962, 0.045, 1.09e-3, 4.0, 314.0),
    "ewc": (0.981, 0.021, 1.12e-3, 8.0, 342.0),
    "anastrophic": (0.958, 0.038, 1.31e-3, 4.0, 330.0),
    "lwf": (0.988, 0.028, 1.55e-3, 4.0, 366.0),
    "classp": (0.951, 0.030, 1.18e-3, 4.0, 316.0),
    "si": (0.979, 0.034, 1.24e-3, 16.0, 340.0),
}

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
    learned, drop, step, state, peak = PROFILES.get(method, PROFILES["ewc"])
    base = [min(1.0, learned + draw.gauss(0.0, noise)) for _ in range(tasks)]

    def cell(i: int, j: int) -> float:
        if j > i:
            return 0.5 + 0.05 * draw.random()
        return min(1.0, max(0.0, base[j] - drop * (i - j) + draw.gauss(0.0, noise)))

    matrix = [[cell(i, j) for j in range(tasks)] for i in range(tasks)]
    if method == "joint":
        matrix = [[base[j] for j in range(tasks)]]
    if rows is not None:
        matrix = matrix[:rows]
    parameters, steps = 478_410, 470
    config: dict[str, Any] = {
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
    config.update({name: changes.pop(name) for name in list(changes) if name in RunConfig.model_fields})
    seconds = step * (1.0 + 0.03 * draw.random())
    points = range(0, steps, 25)
    fields: dict[str, Any] = {
        "status": status,
        "config": RunConfig(**config),
        "environment": Environment(
            python="3.11.7",
            torch="2.13.0+cpu",
            holdfast="0.1.0",
            platform="Linux-6.1-x86_64",
            processor="x86_64",
            threads=2,
            device_name="cpu",
            date=f"2026-11-22T00:0{seed % 10}:00Z",
        ),
        "task_names": [f"{2 * t} and {2 * t + 1}" for t in range(tasks)],
        "initial": [0.5 + 0.05 * draw.random() for _ in range(tasks)],
        "matrix": matrix,
        "curves": Curves(
            task=[point * tasks // steps for point in points],
            step=list(points),
            loss=[0.7 / (1.0 + point % 94) + 0.02 * draw.random() for point in points],
            penalty_share=[None if method in ("finetune", "joint") or point < 94 else 0.2 for point in points],
        ),
        "costs": Costs(
            steps=steps,
            seconds_total=steps * seconds + 1.0,
            seconds_training=steps * seconds,
            seconds_per_step=seconds,
            seconds_consolidate=0.3 if state else 0.0,
            seconds_evaluate=0.5,
            peak_memory_bytes=int((peak + draw.random()) * 2**20),
            parameters=parameters,
            state_bytes=int(state * parameters),
        ),
        "command": f"holdfast run split-digits --method {method} --seed {seed}",
    }
    fields.update(changes)
    return Record(**fields)


def make_records(
    methods: Sequence[str] = ("finetune", "l2sp", "ewc", "anastrophic", "lwf", "classp", "joint"),
    seeds: int = 3,
    **changes: Any,
) -> list[Record]:
    """A whole comparison."""
    return [make_record(method, seed, **changes) for method in methods for seed in range(seeds)]
