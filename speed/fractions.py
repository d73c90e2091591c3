"""Which fraction of the task's gradient should an automatic strength pull with? The table of docs/tuning.md.

``python -m speed.fractions --out docs/records/fractions.json`` runs every method with every fraction, and for
judging them only a grid of powers of ten, on the test set of split-digits; ``--of FILE`` prints the table of such a
file. It can be stopped and begun again: a row that FILE has already is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from holdfast import metrics, registry
from holdfast.bench.comparing.compare import Comparison, Settings
from holdfast.bench.data import streams
from holdfast.bench.jobs import work
from holdfast.bench.jobs.job import Job
from holdfast.bench.records.record import write_whole
from holdfast.bench.training.environment import describe
from holdfast.registry import Range

ROWS = (
    ("ewc", "task"), ("si", "task"), ("mas", "task"), ("anpyc", "task"), ("ewc", "domain"), ("si", "domain"),
    ("mas", "domain"), ("l2sp", "task"), ("l2sp", "domain"),
)  # fmt: skip
FRACTIONS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
SEEDS = (0, 1)


@contextmanager
def fraction_of(method: str, fraction: float) -> Iterator[None]:
    """As if this were the method's own fraction, for the length of a block."""
    built: Any = registry.lookup(method).build
    before = built.__dict__.get("auto_fraction")
    built.auto_fraction = fraction
    try:
        yield
    finally:
        if before is None:
            del built.auto_fraction
        else:
            built.auto_fraction = before


def accuracy(comparison: Comparison, method: str, chosen: Settings) -> list[float]:
    """Average test accuracy of a setting, seed by seed, in percent."""
    found = []
    for seed in comparison.seeds:
        record = work.run_job(Job(comparison.config(method, seed, chosen)))
        found.append(round(100 * metrics.average_accuracy(record.matrix), 2) if record.status == "finished" else 0.0)
    return found


def powers(where: Range) -> list[float]:
    """The powers of ten of a range, its bounds among them."""
    low, high = round(math.log10(where.low)), round(math.log10(where.high))
    return [10.0**power for power in range(low, high + 1)]


def measure(method: str, scenario: str) -> dict[str, Any]:
    """One row: fraction or strength -> accuracy by seed."""
    comparison = Comparison(streams.build("split-digits", seed=0, scenario=scenario), (method,), SEEDS)
    row: dict[str, Any] = {"method": method, "scenario": scenario, "fractions": {}, "strengths": {}}
    for fraction in FRACTIONS:
        with fraction_of(method, fraction):
            row["fractions"][f"{fraction:g}"] = accuracy(comparison, method, {"strength": "auto"})
    where = registry.lookup(method).search["strength"]
    assert isinstance(where, Range)
    for strength in powers(where):
        row["strengths"][f"{strength:g}"] = accuracy(comparison, method, {"strength": str(strength)})
    return row


def table(found: Mapping[str, Any]) -> str:
    """The rows in Markdown: means over seeds, the best fraction bold."""
    lines = [
        f"| method, scenario | f = {' | '.join(f'{fraction:g}' for fraction in FRACTIONS)} | best of the grid |",
        f"|---|{'---|' * len(FRACTIONS)}---|",
    ]
    for row in found["rows"]:
        means = [sum(values) / len(values) for values in row["fractions"].values()]
        grid = {key: sum(values) / len(values) for key, values in row["strengths"].items()}
        best = max(grid, key=lambda key: grid[key])
        shown = [f"**{mean:.1f}**" if mean == max(means) else f"{mean:.1f}" for mean in means]
        lines.append(f"| {row['method']}, {row['scenario']} | {' | '.join(shown)} | {grid[best]:.1f} (at {best}) |")
    return "\n".join(lines)


def main() -> None:
    """Parse, run what is missing, write it down, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="file to write; rows that it has are kept")
    where.add_argument("--of", type=Path, help="print the table of such a file, run nothing")
    asked = parser.parse_args()
    path = asked.out or asked.of
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if asked.of or path.is_file() else {"rows": []}
    torch.set_num_threads(1)
    for method, scenario in ROWS if asked.out else ():
        if not any((row["method"], row["scenario"]) == (method, scenario) for row in found["rows"]):
            found["rows"].append(measure(method, scenario))
            found |= {"environment": describe("cpu").model_dump(), "stream": "split-digits", "seeds": list(SEEDS)}
            write_whole(path, json.dumps(found, indent=1) + "\n", "record")
    print(table(found))


if __name__ == "__main__":
    main()
