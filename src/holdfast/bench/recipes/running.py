"""A recipe, run: every row of its table as a comparison of one method, all of them kept in one folder."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast import registry
from holdfast.bench import compare, grids, plan, streams
from holdfast.bench.compare import Comparison
from holdfast.bench.executing import Executor
from holdfast.bench.jobs import Job, Monitor, Store
from holdfast.bench.recipes.schema import Method, Part, Recipe
from holdfast.bench.record import Hyperparameter, Record, RunConfig
from holdfast.bench.tasks import Stream
from holdfast.errors import ConfigurationError

__all__ = ["Row", "Table", "check", "command", "differing", "resolve", "run"]

_PROTOCOL = tuple(field.name for field in dataclasses.fields(plan.Protocol))


@dataclass(frozen=True)
class Row:
    """One row of the table in one part: what is run, and if there is a grid, by what its values are chosen.

    ``final`` are the runs that read the test set; ``trials`` the same with a validation part, ``None`` without a grid.
    """

    label: str
    part: str
    final: Comparison
    trials: Comparison | None


@dataclass(frozen=True)
class Table:
    """A recipe in one variant, with everything settled but the values that grids choose.

    ``command`` is what to type to repeat all of it.
    """

    recipe: Recipe
    variant: str
    quick: bool
    rows: tuple[Row, ...]
    command: str

    def jobs(self, row: Row, chosen: Mapping[str, compare.Settings] | None = None) -> list[Job]:
        """The runs of a row that read the test set, with how to repeat each."""
        found = []
        for job in compare.jobs(row.final, chosen):
            parts = (row.part,) if len(self.recipe.parts) > 1 else ()
            seeds = job.config.seed + 1
            again = command(self.recipe.name, self.variant, (row.label,), parts, seeds, quick=self.quick)
            found.append(dataclasses.replace(job, command=again))
        return found


def command(
    name: str,
    variant: str,
    labels: Sequence[str] = (),
    parts: Sequence[str] = (),
    seeds: int | None = None,
    *,
    quick: bool = False,
) -> str:
    """What to type to run a recipe."""
    words = ["holdfast", "recipe", "run", name]
    words += ["--variant", variant] if variant else []
    words += ["--methods", ",".join(labels)] if labels else []
    words += ["--parts", ",".join(parts)] if parts else []
    words += ["--seeds", str(seeds)] if seeds is not None else []
    return shlex.join(words + ["--quick"] * quick)


def resolve(
    recipe: Recipe,
    *,
    variant: str | None = None,
    labels: Sequence[str] = (),
    parts: Sequence[str] = (),
    seeds: int | None = None,
    quick: bool = False,
    data_dir: Path | str | None = None,
    device: str = "cpu",
) -> Table:
    """Settle everything that a recipe leaves open.

    Args:
        recipe: the recipe.
        variant: one of its variants; ``None``: the first, if it has any.
        labels: rows to run; empty: all.
        parts: streams to run; empty: all.
        seeds: how many; ``None``: as many as the recipe says.
        quick: the smaller version.
        data_dir: where the data sets are.
        device: where to run.

    Raises:
        ConfigurationError: for a variant, a row or a part that is not there.
        DataError: if a data set cannot be read.
    """
    chosen = _variant(recipe, variant)
    wanted = [row for row in recipe.methods if not row.variants or chosen in row.variants]
    for what, asked, known in (
        ("row", labels, [row.label for row in wanted]),
        ("part", parts, list(recipe.parts)),
    ):
        for each in asked:
            if each not in known:
                raise ConfigurationError(f"{recipe.name} has no {what} {each!r}; it has {', '.join(known)}")
    rows = []
    for name, part in recipe.parts.items():
        if parts and name not in parts:
            continue
        mine = [row for row in wanted if (not row.parts or name in row.parts) and (not labels or row.label in labels)]
        if mine:
            settled = _Settled(recipe, chosen, name, part, quick, seeds, device, data_dir)
            rows += [settled.row(method) for method in mine]
    if not rows:
        raise ConfigurationError(f"{recipe.name} has none of the rows {', '.join(labels)} in {', '.join(parts)}")
    again = command(recipe.name, chosen, labels, parts, seeds, quick=quick)
    return Table(recipe, chosen, quick, tuple(rows), again)


def _variant(recipe: Recipe, asked: str | None) -> str:
    if asked is None:
        return next(iter(recipe.variants), "")
    if asked not in recipe.variants:
        known = f"it has {', '.join(recipe.variants)}" if recipe.variants else "it has none"
        raise ConfigurationError(f"{recipe.name} has no variant {asked!r}; {known}")
    return asked


class _Settled:
    """One part of a recipe in one variant: what all of its rows share."""

    def __init__(
        self,
        recipe: Recipe,
        variant: str,
        name: str,
        part: Part,
        quick: bool,
        seeds: int | None,
        device: str,
        data_dir: Path | str | None,
    ) -> None:
        self.recipe, self.variant, self.name, self.quick, self.seeds = recipe, variant, name, quick, seeds
        self.extra: dict[str, Any] = {"recipe": recipe.name}
        self.extra |= {"variant": variant} if variant else {}
        self.extra |= {"part": name} if len(recipe.parts) > 1 else {}
        self.extra |= {"quick": True} if quick else {}
        smaller = recipe.quick.stream_options if quick else {}
        self.device = device
        self.options = {**recipe.stream_options_of(name, variant), **smaller}
        self.stream: Stream = streams.build(
            part.stream,
            seed=0,
            scenario=part.scenario,
            training_outputs=part.training_outputs,
            data_dir=data_dir,
            **self.options,
        )

    def row(self, method: Method) -> Row:
        """A row with its training and its grid settled."""
        training = self.recipe.training_of(method, self.name, self.variant)
        if self.quick:
            training = self.recipe.quick.train.over(training)
        final = self._comparison(method, training, {})
        if not method.grid:
            return Row(method.label, self.name, final, None)
        share = training["validation_fraction"] or self.recipe.choose_with
        limit = self.recipe.quick.candidates if self.quick else None
        candidates = {key: [str(value) for value in values[:limit]] for key, values in method.grid.items()}
        trials = self._comparison(method, {**training, "validation_fraction": share}, {method.method: candidates})
        return Row(method.label, self.name, final, trials)

    def _comparison(
        self, method: Method, training: Mapping[str, Any], grids: Mapping[str, Mapping[str, Sequence[str]]]
    ) -> Comparison:
        entry = registry.lookup(method.method)
        given = {
            key: Hyperparameter(value=plan.typed(entry, key, str(value)), source="recipe", detail=method.source)
            for key, value in method.set.items()
        }
        fields = {key: value for key, value in training.items() if key not in _PROTOCOL}
        return Comparison(
            stream=self.stream,
            methods=(method.method,),
            seeds=tuple(range(self._number_of_seeds(method))),
            settings={method.method: given},
            grids=grids,
            changes={key: value for key, value in training.items() if key in _PROTOCOL},
            fields={
                "device": self.device,
                "stream_options": self.options,
                "extra": {**self.extra, "label": method.label},
                **fields,
            },
        )

    def _number_of_seeds(self, method: Method) -> int:
        if self.seeds is not None:
            return self.seeds
        if self.quick:
            return self.recipe.quick.seeds
        return self.recipe.seeds_of(method, self.variant)


def check(table: Table) -> None:
    """Refuse, before anything is trained, whatever would be refused later.

    Raises:
        ConfigurationError: in one sentence that names the row.
    """
    for row in table.rows:
        try:
            compare.check(row.trials or row.final)
        except ConfigurationError as error:
            raise type(error)(f"{row.label} ({row.part}): {error}") from error


def run(table: Table, store: Store, monitor: Monitor, executor: Executor) -> list[Record]:
    """Run a table: choose where there are grids, beyond their ends if need be, then run every row on every seed.

    Args:
        table: what is run.
        store: keeps every record as soon as it is there, and knows those of an earlier call.
        monitor: is told how it is getting on.
        executor: does the runs.

    Returns:
        The records of the runs that read the test set.
    """
    monitor.planned(sum(len(row.final.seeds) for row in table.rows))
    trials = {index: row.trials for index, row in enumerate(table.rows) if row.trials is not None}
    settled = grids.settle(trials, executor, store, monitor, limit=0 if table.quick else grids.LIMIT)
    todo = []
    for index, row in enumerate(table.rows):
        chosen = {row.final.methods[0]: settled[index]} if index in settled else {}
        todo += table.jobs(row, chosen)
    return compare.execute(todo, executor, store, monitor)


def differing(table: Table, old: Iterable[Record]) -> str | None:
    """Why records cannot lie in one folder with those of this table, in words; ``None``: they can.

    Values that a grid chose are left out: they follow from the candidates, which are compared themselves.
    """
    planned = {_place(job.config): job.config for row in table.rows for job in table.jobs(row)}
    mine = next(iter(planned.values())).extra
    for record in old:
        config = record.config
        label = f"{config.extra.get('label')}, seed {config.seed}"
        for name in ("recipe", "variant", "quick"):
            if config.extra.get(name) != mine.get(name):
                return f"{label} differs in {name}"
        new = planned.get(_place(config))
        for name in RunConfig.model_fields if new is not None else ():
            if getattr(config, name) != getattr(new, name) and name not in _by_grid(config):
                return f"{label} differs in {name.replace('_', ' ')}"
    return None


def _place(config: RunConfig) -> tuple[Any, ...]:
    return config.extra.get("part"), config.extra.get("label"), config.seed


def _by_grid(config: RunConfig) -> set[str]:
    """The fields that a grid chose: of an optimizer also the learning rate, which stands there and among its values."""
    chosen = {key for key, value in config.hyperparameters.items() if value.source == "grid"}
    own = chosen & {"lr"} if registry.lookup(config.method).kind == "optimizer" else set()
    return own | ({"hyperparameters"} if chosen else set())
