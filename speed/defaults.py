"""Is a strength that is found in training at least as good as a number? The tables of docs/tuning.md.

``python -m speed.defaults --out docs/records/defaults.json`` runs the penalties on both streams and in all scenarios,
with the number that was a method's default before and with ``strength="auto"``, on the same seeds; ``--of FILE`` prints
the tables of such a file. It can be stopped and begun again: a run that FILE has already is not done again. Validation
accuracy alone decides; the test accuracies stand beside it, to be read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from holdfast import metrics, registry
from holdfast.bench.comparing import plan
from holdfast.bench.data import streams
from holdfast.bench.data.tasks import Stream
from holdfast.bench.records.record import write_whole
from holdfast.bench.training import runner
from holdfast.bench.training.environment import describe
from speed.fractions import fraction_of

NUMBERS = {
    "ewc": 1e4, "online-ewc": 1e4, "anpyc": 3e2, "mas": 1.0, "rwalk": 10.0, "l2sp": 1e-2,
    "si": 100.0, "anastrophic": 3.0,
}  # fmt: skip
"""Method -> the number that was its default before."""
DOUBTED = {"ewc": (3.0, 10.0), "online-ewc": (3.0, 10.0), "mas": (1.0, 3.0), "rwalk": (1.0, 3.0), "si": (1.0, 3.0)}
"""Method -> fractions of the task's gradient that were tried on split-digits, the method's own among them."""
CELLS = [(stream, scenario) for stream in ("split-digits", "split-mnist") for scenario in ("task", "domain", "class")]
SEEDS = range(5)


@dataclass(frozen=True)
class Setting:
    """A strength as a number, or a fraction of the task's gradient to be matched."""

    strength: float | None = None
    fraction: float | None = None


def own(method: str) -> Setting:
    """The method's automatic strength."""
    return Setting(fraction=registry.lookup(method).auto_fraction)


def settings(stream: str, method: str) -> list[Setting]:
    """What is run of a method on a stream."""
    further = DOUBTED.get(method, ()) if stream == "split-digits" else ()
    return list(dict.fromkeys([Setting(NUMBERS[method]), own(method), *(Setting(fraction=f) for f in further)]))


def outcome(stream: Stream, method: str, seed: int, setting: Setting) -> dict[str, Any]:
    """One run: average test and validation accuracy in percent, and the strengths that were found, task by task."""
    typed = "auto" if setting.strength is None else repr(setting.strength)
    with nullcontext() if setting.fraction is None else fraction_of(method, setting.fraction):
        record = runner.run(plan.plan(stream, method, seed=seed, settings={"strength": typed}), stream=stream)
    if record.status != "finished":
        return {"test": 0.0, "validation": 0.0, "failure": record.failure}
    found = {"test": record.matrix, "validation": record.validation}
    row: dict[str, Any] = {key: round(100 * metrics.average_accuracy(matrix), 2) for key, matrix in found.items()}
    strengths = [float(f"{value:.3g}") for value in record.diagnostics.get("strength", {}).values()]
    return row | ({"strengths": strengths} if strengths else {})


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes a run."""
    return row["stream"], row["scenario"], row["method"], row["seed"], Setting(row["strength"], row["fraction"])


def missing(known: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The runs that are not done yet, done one after the other."""
    done = {key_of(row) for row in known}
    for seed in SEEDS:
        for stream, scenario in CELLS:
            todo = [(m, s) for m in methods for s in settings(stream, m) if (stream, scenario, m, seed, s) not in done]
            built = streams.build(stream, seed=seed, scenario=scenario) if todo else None
            for method, setting in todo:
                assert built is not None
                row = {"stream": stream, "scenario": scenario, "method": method, "seed": seed, **vars(setting)}
                yield row | outcome(built, method, seed, setting)


def column(
    rows: Sequence[Mapping[str, Any]], cell: tuple[str, str], method: str, setting: Setting, part: str
) -> dict[int, float]:
    """Seed -> accuracy in percent."""
    return {row["seed"]: row[part] for row in rows if key_of(row) == (*cell, method, row["seed"], setting)}


def gains(rows: Sequence[Mapping[str, Any]], cell: tuple[str, str], method: str, part: str) -> list[float]:
    """What the automatic strength gains over the number, seed by seed, in points."""
    fixed = column(rows, cell, method, Setting(NUMBERS[method]), part)
    auto = column(rows, cell, method, own(method), part)
    return [auto[seed] - fixed[seed] for seed in sorted(fixed.keys() & auto.keys())]


def judged(rows: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Method -> whether the automatic strength is to be its default, by validation accuracy.

    It is where it gains on average over the streams and scenarios, and loses measurably in none: in no cell does the
    interval of the paired gains lie below 0. As there are six cells to fail in, the intervals hold with 95 % for all of
    them together, each with 1 − 0.05/6 (Bonferroni). A method that was not run with all seeds in every cell keeps its
    number.
    """
    verdict = {}
    level = 1 - 0.05 / len(CELLS)
    for method in NUMBERS:
        found = [gains(rows, cell, method, "validation") for cell in CELLS]
        means = [sum(values) / len(values) for values in found if values]
        intervals = [metrics.interval(values, level) for values in found if values]
        worse = any(half is not None and mean + half < 0 for mean, half in intervals)
        complete = all(len(values) >= len(SEEDS) for values in found)
        verdict[method] = complete and sum(means) > 0 and not worse
    return verdict


def shown(values: Sequence[float], sign: str = "", digits: int = 1) -> str:
    """The mean with its interval, if there are several; a dash where there is none."""
    if not values:
        return "–"
    mean, half = metrics.interval(values)
    return f"{mean:{sign}.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Test accuracy with the number and with the automatic strength, what that gains seed by seed, and the verdict."""
    verdict = judged(rows)
    lines = [
        "| method, stream | scenario | seeds | number | auto | gain, test | gain, validation | default |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for method, number in NUMBERS.items():
        for cell in CELLS:
            parts = [column(rows, cell, method, setting, "test") for setting in (Setting(number), own(method))]
            seeds = sorted(parts[0].keys() & parts[1].keys())
            if not seeds:
                continue
            cells = [shown([part[seed] for seed in seeds]) for part in parts]
            change = [shown(gains(rows, cell, method, part), "+") for part in ("test", "validation")]
            default = "auto" if verdict[method] else f"{number:g}"
            lines.append(
                f"| {method}, {cell[0]} | {cell[1]} | {len(seeds)} | {' | '.join(cells + change)} | {default} |"
            )
    return "\n".join(lines)


def fractions_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean validation accuracy by fraction, over the seeds that all have, where the method's own was in doubt."""
    lines = ["| method, split-digits | fraction | seeds | task | domain | class |", "|---|---:|---:|---:|---:|---:|"]
    for method, tried in DOUBTED.items():
        cells = CELLS[:3]
        got = {f: [column(rows, cell, method, Setting(fraction=f), "validation") for cell in cells] for f in tried}
        seeds = sorted(set.intersection(*(set(part) for parts in got.values() for part in parts)))
        for fraction, parts in got.items() if seeds else ():
            means = " | ".join(f"{sum(part[seed] for seed in seeds) / len(seeds):.1f}" for part in parts)
            lines.append(f"| {method} | {fraction:g} | {len(seeds)} | {means} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, run what is missing, write it down, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="file to write; runs that it has are kept")
    where.add_argument("--of", type=Path, help="print the tables of such a file, run nothing")
    parser.add_argument("--methods", default=",".join(NUMBERS), help="run these only, with commas between them")
    asked = parser.parse_args()
    path: Path = asked.out or asked.of
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    torch.set_num_threads(1)
    for row in missing(rows, asked.methods.split(",")) if asked.out else ():
        rows.append(row)
        write(path, rows)
    print(table(rows), fractions_table(rows), sep="\n\n")


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One run a line, in the order of the tables."""

    def place(row: Mapping[str, Any]) -> tuple[Any, ...]:
        cell = CELLS.index((row["stream"], row["scenario"]))
        return list(NUMBERS).index(row["method"]), cell, str(row["strength"]), str(row["fraction"]), row["seed"]

    lines = ",\n".join(json.dumps(row) for row in sorted(rows, key=place))
    environment = json.dumps(describe("cpu").model_dump())
    write_whole(path, f'{{"environment": {environment},\n"rows": [\n{lines}\n]}}\n', "record")


if __name__ == "__main__":
    main()
