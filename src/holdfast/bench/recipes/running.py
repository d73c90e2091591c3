"""A recipe, run: every row of its table as a comparison of one method, all of them kept in one folder."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast import registry
from holdfast.bench.comparing import compare, grids
from holdfast.bench.data import streams
from holdfast.bench.jobs.folder import Folder
from holdfast.bench.jobs.handing_out import Executor
from holdfast.bench.jobs.job import Job, Monitor, Store
from holdfast.bench.recipes.markers import markers_of
from holdfast.bench.recipes.schema import Recipe
from holdfast.bench.recipes.settling import Row, Settled
from holdfast.bench.records.record import Record, RunConfig
from holdfast.bench.report import PublishedValue
from holdfast.errors import ConfigurationError, Option

__all__ = ["Table", "Undertaken", "check", "command", "differing", "resolve", "run"]


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

    def jobs(self, row: Row, chosen: Mapping[str, compare.Chosen] | None = None) -> list[Job]:
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
    for option, what, asked, known in (
        ("labels", "row", labels, [row.label for row in wanted]),
        ("parts", "part", parts, list(recipe.parts)),
    ):
        for each in asked:
            if each not in known:
                raise ConfigurationError(
                    Option(option), f" has {each!r}, no {what} of {recipe.name}; it has {', '.join(known)}"
                )
    rows = []
    for name, part in recipe.parts.items():
        if parts and name not in parts:
            continue
        mine = [row for row in wanted if (not row.parts or name in row.parts) and (not labels or row.label in labels)]
        if mine:
            settled = Settled(recipe, chosen, name, quick=quick, seeds=seeds, device=device)
            stream = streams.build(
                part.stream,
                seed=0,
                scenario=part.scenario,
                training_outputs=part.training_outputs,
                data_dir=data_dir,
                **settled.options,
            )
            rows += [settled.row(method, stream) for method in mine]
    if not rows:
        raise ConfigurationError(
            f"{recipe.name} has none of the rows {', '.join(labels)} (",
            Option("labels"),
            f") in {', '.join(parts)} (",
            Option("parts"),
            ")",
        )
    again = command(recipe.name, chosen, labels, parts, seeds, quick=quick)
    return Table(recipe, chosen, quick, tuple(rows), again)


def _variant(recipe: Recipe, asked: str | None) -> str:
    if asked is None:
        return next(iter(recipe.variants), "")
    if asked not in recipe.variants:
        known = f"it has {', '.join(recipe.variants)}" if recipe.variants else "it has none"
        raise ConfigurationError(Option("variant"), f" is {asked!r}, no variant of {recipe.name}; {known}")
    return asked


def check(table: Table) -> None:
    """Refuse, before anything is trained, whatever would be refused later.

    Raises:
        ConfigurationError: in one sentence that names the row.
    """
    for row in table.rows:
        try:
            compare.check(row.trials or row.final)
        except ConfigurationError as error:
            raise error.within(f"{row.label} ({row.part})") from error


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


@dataclass(frozen=True)
class Undertaken:
    """A table, as ``carrying.carry_out`` wants it."""

    table: Table

    own = None

    @property
    def title(self) -> str:
        """The recipe and its variant."""
        return "-".join(filter(None, (self.table.recipe.name, self.table.variant)))

    @property
    def device(self) -> str:
        """Where its runs compute."""
        return str(self.table.rows[0].final.fields["device"])

    @property
    def again(self) -> str:
        """The recipe's command, whatever options it was typed with."""
        return self.table.command

    def check(self) -> None:
        """Refuse whatever would be refused later: see :func:`check`."""
        check(self.table)

    def prepare(self, folder: Folder) -> None:
        """Make the folder, and refuse one that holds another experiment's records.

        Raises:
            ConfigurationError: naming the first record that differs, and in what.
        """
        folder.make()
        why_not = differing(self.table, folder.records())
        if why_not is not None:
            raise ConfigurationError(
                f"the folder {folder.path} holds records of another experiment ({why_not}): name another with ",
                Option("out"),
                ", or delete that folder",
            )

    def run(self, executor: Executor, store: Store, monitor: Monitor) -> list[Record]:
        """Run the table: see :func:`run`."""
        return run(self.table, store, monitor, executor)

    def published(self, records: Sequence[Record]) -> Sequence[PublishedValue]:
        """What the recipe says was published of these rows."""
        return markers_of(records)


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
        if new is None:
            continue
        told, expected = config.without_story(), new.without_story()
        for name in RunConfig.model_fields:
            if getattr(told, name) != getattr(expected, name) and name not in _by_grid(config):
                return f"{label} differs in {name.replace('_', ' ')}"
    return None


def _place(config: RunConfig) -> tuple[Any, ...]:
    return config.extra.get("part"), config.extra.get("label"), config.seed


def _by_grid(config: RunConfig) -> set[str]:
    """The fields that a grid chose: of an optimizer also the learning rate, which stands there and among its values."""
    own = config.chosen & {"lr"} if registry.lookup(config.method).kind == "optimizer" else set()
    return own | ({"hyperparameters"} if config.chosen else set())
