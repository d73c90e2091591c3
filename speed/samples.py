"""Does EWC's default Fisher, of some of the samples, serve as well as that of all? The table of docs/importance.md.

``python -m speed.samples --out docs/records/fisher-samples.json`` runs EWC and online EWC on Split-MNIST in all
scenarios, with ``fisher="auto"`` and ``fisher="exact"``, on the same seeds; ``--of FILE`` prints the table of such a
file. It can be stopped and begun again. Nothing is chosen by it, so test accuracy is what it shows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from holdfast import metrics
from holdfast.bench.comparing import plan
from holdfast.bench.data import streams
from holdfast.bench.records.record import write_whole
from holdfast.bench.training import runner
from holdfast.bench.training.environment import describe
from speed.defaults import shown

STREAM = "split-mnist"
SCENARIOS = ("task", "domain", "class")
METHODS = ("ewc", "online-ewc")
KINDS = ("auto", "exact")
SEEDS = range(5)
_KEY = ("method", "scenario", "seed", "fisher")


def missing(known: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The runs that are not done yet, done one after the other."""
    done = {tuple(row[key] for key in _KEY) for row in known}
    for seed in SEEDS:
        for scenario in SCENARIOS:
            todo = [(m, k) for m in METHODS for k in KINDS if (m, scenario, seed, k) not in done]
            stream = streams.build(STREAM, seed=seed, scenario=scenario) if todo else None
            for method, kind in todo:
                assert stream is not None
                record = runner.run(plan.plan(stream, method, seed=seed, settings={"fisher": kind}), stream=stream)
                yield {
                    "method": method, "scenario": scenario, "seed": seed, "fisher": kind,
                    "test": round(100 * metrics.average_accuracy(record.matrix), 2),
                    "consolidate_seconds": round(record.costs.seconds_consolidate, 2),
                }  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracies side by side, their differences seed by seed, and what consolidating took."""
    lines = [
        "| method, scenario | seeds | exact, all samples | auto | auto less exact | consolidating, of exact's time |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for method in METHODS:
        for scenario in SCENARIOS:
            mine = [row for row in rows if (row["method"], row["scenario"]) == (method, scenario)]
            found = {kind: {row["seed"]: row for row in mine if row["fisher"] == kind} for kind in KINDS}
            seeds = sorted(found["auto"].keys() & found["exact"].keys())
            if not seeds:
                continue
            tests = {kind: [found[kind][seed]["test"] for seed in seeds] for kind in KINDS}
            seconds = [sum(found[kind][seed]["consolidate_seconds"] for seed in seeds) for kind in KINDS]
            gains = [auto - exact for auto, exact in zip(tests["auto"], tests["exact"], strict=True)]
            cells = [shown(tests["exact"]), shown(tests["auto"]), shown(gains, "+", 2)]
            lines.append(
                f"| {method}, {scenario} | {len(seeds)} | {' | '.join(cells)} | {100 * seconds[0] / seconds[1]:.0f} % |"
            )
    return "\n".join(lines)


def main() -> None:
    """Parse, run what is missing, write it down, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="file to write; runs that it has are kept")
    where.add_argument("--of", type=Path, help="print the table of such a file, run nothing")
    asked = parser.parse_args()
    path: Path = asked.out or asked.of
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    torch.set_num_threads(1)
    for row in missing(rows) if asked.out else ():
        rows.append(row)
        lines = ",\n".join(json.dumps(each) for each in sorted(rows, key=lambda row: tuple(row[key] for key in _KEY)))
        environment = json.dumps(describe("cpu").model_dump())
        write_whole(path, f'{{"environment": {environment},\n"rows": [\n{lines}\n]}}\n', "record")
    print(table(rows))


if __name__ == "__main__":
    main()
