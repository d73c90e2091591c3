"""Fabricated folders of results: records as recipes have them, and what their grids tried."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from holdfast.bench import recipes
from holdfast.bench.records import record as records
from holdfast.bench.records.record import Hyperparameter, Record
from tests.bench.records.make import make_record

NAME, HSU = "anastrophic-split-mnist", "hsu-split-mnist"
SIX = "strength=100000.0 99.51%, strength=10.0 97.10%, strength=1000.0 98.41%, strength=100.0 97.50%, "
SIX += "strength=10000.0 99.10%, strength=1000000.0 failed"


def make(label: str, seed: int, row: list[float], /, name: str = NAME, scores: str = "", **extra: Any) -> Record:
    """A record as a recipe has it, whose last row is given; ``scores`` is what its grid tried, the best first."""
    recipe = recipes.load(name)
    method = next(each for each in recipe.methods if each.label == label)
    values = {}
    for key, candidates in method.grid.items():
        tried = scores or ", ".join(f"{key}={float(value)} {90 - k}.00%" for k, value in enumerate(candidates))
        detail = f"best of {tried.count(', ') + 1} by validation accuracy, seed 0: {tried}"
        best = float(tried.split("=")[1].split(" ")[0])
        values[key] = Hyperparameter(value=best, source="grid", detail=detail)
    record = make_record(method.method, seed, tasks=2)
    given = {"recipe": name, **({"part": "task"} if name == HSU else {}), "label": label, **extra}
    old = record.config.model_copy(update={"extra": given, "hyperparameters": values})
    return record.model_copy(update={"config": recipes.as_planned(recipe, old), "matrix": [[0.99, 0.0], row]})


def tried(record: Record) -> list[Record]:
    """The candidates of a record's grid, as its detail has them."""
    found = []
    for key in record.config.chosen:
        chosen = record.config.hyperparameters[key]
        for value, score in re.findall(rf"{key}=(\S+) ([\d.]+%|failed)", chosen.detail):
            one = {key: chosen.model_copy(update={"value": float(value), "detail": ""})}
            config = record.config.model_copy(update={"hyperparameters": {**record.config.hyperparameters, **one}})
            status = "failed" if score == "failed" else "finished"
            accuracy = 0.0 if score == "failed" else float(score.rstrip("%")) / 100
            fields = {"config": config, "status": status, "matrix": [[0.5, 0.5]], "validation": [[accuracy] * 2]}
            found.append(record.model_copy(update=fields))
    return found


def fill(folder: Path, found: list[Record], name: str = NAME) -> Path:
    """A folder of results: the records, and beside them what their grids tried."""
    for record in found:
        records.save(record, folder / name / "records" / records.filename(record))
        for number, each in enumerate(tried(record)):
            records.save(each, folder / name / "choices" / f"{records.row_name(each.config)}-{number}.json")
    return folder


def changed(record: Record, **fields: Any) -> Record:
    return record.model_copy(update={"config": record.config.model_copy(update=fields)})
