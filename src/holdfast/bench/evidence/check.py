"""Which records are evidence: those of a published recipe as it is now, each where it belongs, chosen as it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast import registry
from holdfast.bench import recipes
from holdfast.bench.comparing import compare, grids
from holdfast.bench.comparing.typed import typed
from holdfast.bench.recipes import Method, Recipe
from holdfast.bench.records import record as records
from holdfast.bench.records.choice import Candidate, label
from holdfast.bench.records.record import Hyperparameter, Record, RunConfig
from holdfast.errors import StateError

__all__ = ["check"]


def check(folder: Path, recipe: Recipe, variant: str, loaded: Sequence[Record]) -> None:
    """Refuse records that are no evidence.

    Args:
        folder: the folder that holds them; what grids tried is beside it, in ``choices/``.
        recipe: theirs.
        variant: theirs; empty: it has none.
        loaded: the records, of every row and seed.

    Raises:
        StateError: in one sentence that names the record and what is wrong with it.
    """
    misplaced = {path.name for path in folder.glob("*.json")} ^ {records.filename(record.config) for record in loaded}
    if misplaced:
        raise StateError(
            f"{folder} holds {', '.join(sorted(misplaced))} under another name than its row and seed; expected one "
            "file for each row and seed, named after them"
        )
    chosen: dict[tuple[str, str], Record] = {}
    for record in loaded:
        _check_one(folder, recipe, variant, record)
        first = chosen.setdefault(_place(recipe, record.config), record)
        differing = _differing(first.config.hyperparameters, record.config.hyperparameters)
        if differing:
            raise StateError(
                f"{folder / records.filename(record.config)} has another {differing}, or another choice of it, than "
                f"seed {first.config.seed} of its row: run this row again, with all its seeds"
            )
    tried = _tried(folder.parent / "choices", recipe)
    for place, record in chosen.items():
        _check_choice(folder, _row(recipe, record.config), record, tried.get(place, []))


def _row(recipe: Recipe, config: RunConfig) -> Method:
    return next(row for row in recipe.methods if row.label == config.extra["label"])


def _place(recipe: Recipe, config: RunConfig) -> tuple[str, str]:
    return config.extra.get("part", next(iter(recipe.parts))), config.extra.get("label", "")


def _check_one(folder: Path, recipe: Recipe, variant: str, record: Record) -> None:
    extra, path = record.config.extra, folder / records.filename(record.config)
    if (extra.get("recipe"), extra.get("variant", "")) != (recipe.name, variant):
        raise StateError(f"{folder} holds records of more than one recipe or variant; expected one")
    part, label = _place(recipe, record.config)
    if part not in recipe.parts or label not in [row.label for row in recipe.rows_of(part, variant)]:
        raise StateError(f"{path} is of a row that the recipe {recipe.name} no longer has: delete it")
    if extra.get("quick"):
        raise StateError(f"{folder} holds records of a quick version, which are no evidence")
    other = _other_than(recipe, record.config)
    if other:
        raise StateError(f"{path} has another {other} than the recipe {recipe.name} now says: delete it, run it again")
    if record.status == "finished" and len(record.matrix[-1]) != record.config.tasks:
        raise StateError(f"{path} is finished, but its last row has not {record.config.tasks} accuracies, one a task")


def _other_than(recipe: Recipe, config: RunConfig) -> str:
    """In what a run is not as its recipe would have it now, in a word or two; empty where it is."""
    row = _row(recipe, config)
    entry = registry.lookup(row.method)
    for key, values in row.grid.items():
        found = config.hyperparameters.get(key)
        allowed = grids.reach([typed(entry, key, str(value)) for value in values])
        if found is None or found.source != "grid" or found.value not in allowed:
            return key
    planned = recipes.as_planned(recipe, config)
    for name in RunConfig.model_fields:
        if name != "hyperparameters" and getattr(config, name) != getattr(planned, name):
            return name.replace("_", " ")
    return _differing(config.hyperparameters, planned.hyperparameters)


def _differing(some: Mapping[str, Hyperparameter], others: Mapping[str, Hyperparameter]) -> str:
    """The first hyperparameter that is not the same, what it was chosen among included; empty where all are."""
    return next((key for key in [*some, *others] if not _same(some.get(key), others.get(key))), "")


def _same(one: Hyperparameter | None, other: Hyperparameter | None) -> bool:
    if one is None or other is None or one.without_story() != other.without_story():
        return False
    return one.choice == other.choice if one.choice is None else one.choice.agrees(other.choice)


def _tried(folder: Path, recipe: Recipe) -> dict[tuple[str, str], list[Record]]:
    """What every row's grid tried."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records.load_all(folder) if folder.is_dir() else []:
        found.setdefault(_place(recipe, record.config), []).append(record)
    return found


def _check_choice(folder: Path, row: Method, record: Record, tried: Sequence[Record]) -> None:
    """What a grid chose is the best of the candidates that lie beside the records, which are all that it says."""
    if not row.grid:
        return
    beside = [compare.candidate(each.config, each, row.grid) for each in tried]
    taken = {key: record.config.hyperparameters[key].value for key in row.grid}
    best = max((each.score for each in beside if each.score is not None), default=None)
    path, choices = folder / records.filename(record.config), folder.parent / "choices"
    if any(each.values == taken and each.score != best for each in beside):
        raise StateError(f"{path} has {label(taken)}, not the best that its grid tried")
    choice = record.config.hyperparameters[next(iter(row.grid))].choice
    said = () if choice is None else choice.candidates
    more = [each.label for each in beside if all(each.values != one.values for one in said)]
    if more:
        raise StateError(
            f"{choices} holds {', '.join(more)} of the row of {path}, which does not say that it was tried: run the "
            "row again, or delete what its grid no longer tries"
        )
    missing = [each.label for each in beside if not any(each.agrees(one) for one in said)]
    missing += _untried(row, beside)
    if missing or choice is None or choice.count != len(beside):
        raise StateError(
            f"{path} was chosen among other candidates than {choices} holds"
            f"{' (' + missing[0] + ')' if missing else ''}: run its row again"
        )


def _untried(row: Method, beside: Sequence[Candidate]) -> list[str]:
    """The values of a row's grid that no candidate had."""
    entry = registry.lookup(row.method)
    wanted = [(key, typed(entry, key, str(value))) for key, values in row.grid.items() for value in values]
    return [label({key: value}) for key, value in wanted if all(each.values[key] != value for each in beside)]
