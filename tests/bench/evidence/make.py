"""Fabricated folders of results: records as recipes have them, and what their grids tried."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.bench import recipes
from holdfast.bench.evidence import page
from holdfast.bench.records import record as records
from holdfast.bench.records.choice import Candidate, Choice
from holdfast.bench.records.record import Hyperparameter, Record
from tests.bench.records.make import make_record

NAME, HSU = "anastrophic-split-mnist", "hsu-split-mnist"
Scores = Mapping[float, float | None]
SIX: Scores = {1e5: 0.9951, 10.0: 0.9710, 1000.0: 0.9841, 100.0: 0.9750, 1e4: 0.9910, 1e6: None}
"""Candidates of a strength and their validation accuracies; one has failed."""


def make(
    label: str, seed: int, row: list[float], /, name: str = NAME, scores: Scores | None = None, **extra: Any
) -> Record:
    """A record as a recipe has it, whose last row is given; ``scores`` is what its grid tried, the chosen one first."""
    recipe = recipes.load(name)
    method = next(each for each in recipe.methods if each.label == label)
    values = {}
    for key, candidates in method.grid.items():
        found = scores or {float(value): 0.9 - k / 100 for k, value in enumerate(candidates)}
        tried = tuple(Candidate(values={key: value}, score=score) for value, score in found.items())
        choice = Choice(kind="grid", seed=0, candidates=tried)
        values[key] = Hyperparameter(value=next(iter(found)), source="grid", choice=choice)
    record = make_record(method.method, seed, tasks=2)
    given = {"recipe": name, **({"part": "task"} if name == HSU else {}), "label": label, **extra}
    old = record.config.model_copy(update={"extra": given, "hyperparameters": values})
    return record.model_copy(update={"config": recipes.as_planned(recipe, old), "matrix": [[0.99, 0.0], row]})


def tried(record: Record) -> list[Record]:
    """The records of the candidates that a record's grid had."""
    found = []
    for key in record.config.chosen:
        choice = record.config.hyperparameters[key].choice
        for each in () if choice is None else choice.candidates:
            one = {key: Hyperparameter(value=each.values[key], source="grid")}
            config = record.config.model_copy(update={"hyperparameters": {**record.config.hyperparameters, **one}})
            status = "failed" if each.score is None else "finished"
            fields = {
                "config": config,
                "status": status,
                "matrix": [[0.5, 0.5]],
                "validation": [[each.score or 0.0] * 2],
            }
            found.append(record.model_copy(update=fields))
    return found


def fill(folder: Path, found: list[Record], name: str = NAME) -> Path:
    """A folder of results: the records, and beside them what their grids tried."""
    for record in found:
        records.save(record, folder / name / "records" / records.filename(record.config))
        for number, each in enumerate(tried(record)):
            records.save(each, folder / name / "choices" / f"{records.row_name(each.config)}-{number}.json")
    return folder


def read(folder: Path) -> str:
    """All pages of a folder of results, one after the other."""
    return "\n".join(text for name, text in page.render(folder).items() if name.endswith(".md"))


def changed(record: Record, **fields: Any) -> Record:
    return record.model_copy(update={"config": record.config.model_copy(update=fields)})
