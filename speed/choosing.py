"""How good is a strength that was chosen without the test set? Searched, automatic, and the best of a grid that peeks.

``python -m speed.choosing split-mnist --method ewc --epochs 1 --out results/choosing`` runs a search of 30 trials
on validation data and then, for judging it only, all 30 points of a grid on the test set. It can be stopped and begun
again. What it found is in OUT/STREAM-METHOD.json.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from holdfast import metrics, registry
from holdfast.bench.comparing import compare, protocols, studies, tuning
from holdfast.bench.comparing.compare import Comparison, Settings
from holdfast.bench.data import streams
from holdfast.bench.jobs import handing_out as executing
from holdfast.bench.jobs import work
from holdfast.bench.jobs.folder import Folder
from holdfast.bench.jobs.job import Job
from holdfast.bench.jobs.progress import Lines
from holdfast.bench.records.record import Hyperparameter, Record, write_whole
from holdfast.bench.training.environment import describe
from holdfast.registry import Range


def grid(where: Range, points: int) -> list[float]:
    """Points between the bounds of a range, evenly spaced on its scale."""
    low, high = (math.log(where.low), math.log(where.high)) if where.log else (where.low, where.high)
    steps = [low + (high - low) * k / (points - 1) for k in range(points)]
    return [float(f"{math.exp(step) if where.log else step:.3g}") for step in steps]


def accuracy(records: list[Record]) -> dict[str, Any]:
    """Average test accuracy of a setting, seed by seed."""
    values = [metrics.average_accuracy(record.matrix) if record.status == "finished" else 0.0 for record in records]
    return {"test_accuracy": math.fsum(values) / len(values), "by_seed": values}


def judge(comparison: Comparison, method: str, trials: int, folder: Path) -> dict[str, Any]:
    """Search, then test what was chosen beside every point of the grid and the automatic strength."""
    store, monitor = Folder(folder), Lines(Console(stderr=True))
    search = tuning.Search(trials, storage=studies.file_url(folder / "search.db"))
    where = registry.lookup(method).search["strength"]
    assert isinstance(where, Range)

    def tested(chosen: Settings, label: str) -> list[Record]:
        configs = [comparison.config(method, seed, chosen) for seed in comparison.seeds]
        own = Folder(folder / "tests" / label)  # a folder has one record per method and seed
        with executing.Local(work.here(own, monitor)) as local:
            return compare.execute([Job(config) for config in configs], local, own, monitor)

    (folder / "choices").mkdir(parents=True, exist_ok=True)
    with executing.Local(work.here(store, monitor)) as local:
        chosen = tuning.search(comparison, method, search, executor=local, store=store, monitor=monitor)
    strength = chosen["strength"]
    assert isinstance(strength, Hyperparameter)
    monitor.planned((trials + 2) * len(comparison.seeds))
    found: dict[str, Any] = {"tuned": {"strength": strength.value, "how": strength.story}}
    found["tuned"] |= accuracy(tested(chosen, "tuned"))
    automatic = tested({"strength": "auto"}, "auto")
    found["auto"] = {"strengths": [record.diagnostics.get("strength") for record in automatic]}
    found["auto"] |= accuracy(automatic)
    found["grid"] = [
        {"strength": value} | accuracy(tested({"strength": str(value)}, f"strength-{value:g}"))
        for value in grid(where, trials)
    ]
    best = max(found["grid"], key=lambda point: point["test_accuracy"])
    found["best_of_grid"] = best
    for name in ("tuned", "auto"):
        found[name]["below_best_of_grid"] = best["test_accuracy"] - found[name]["test_accuracy"]
    return found


def main() -> None:
    """Parse, run, and write down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("stream")
    parser.add_argument("--method", default="ewc")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--scenario", default="task")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder for the runs' records; default: a temporary one")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    fraction = protocols.protocol(asked.stream).validation_fraction
    stream = streams.build(asked.stream, seed=0, scenario=asked.scenario, validation_fraction=fraction)
    changes = {} if asked.epochs is None else {"epochs": asked.epochs}
    comparison = Comparison(stream, (asked.method,), tuple(range(asked.seeds)), changes=changes)
    with tempfile.TemporaryDirectory() as temporary:
        found = judge(comparison, asked.method, asked.trials, asked.work or Path(temporary))
    config = comparison.config(asked.method, 0)
    shown = {"stream": asked.stream, "scenario": asked.scenario, "method": asked.method, "model": config.model}
    shown |= {"epochs": config.epochs, "batch_size": config.batch_size, "lr": config.lr, "seeds": asked.seeds}
    found = {"protocol": shown, "environment": describe("cpu").model_dump(), **found}
    path = write_whole(
        asked.out / f"{asked.stream}-{asked.scenario}-{asked.method}.json", json.dumps(found, indent=1) + "\n", "record"
    )
    gaps = {name: 100 * found[name]["below_best_of_grid"] for name in ("tuned", "auto")}
    print(f"{path}: below the best of the grid: tuned {gaps['tuned']:.2f} points, auto {gaps['auto']:.2f} points")


if __name__ == "__main__":
    main()
