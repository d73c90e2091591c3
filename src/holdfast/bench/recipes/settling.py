"""What a recipe says, settled: the comparison that a row is, and the configuration that each of its runs has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast import registry
from holdfast.bench.comparing import plan
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.comparing.protocols import Protocol
from holdfast.bench.comparing.typed import typed
from holdfast.bench.data import asked
from holdfast.bench.data.language import HOLDS
from holdfast.bench.data.tasks import Stream
from holdfast.bench.recipes.schema import Method, Recipe
from holdfast.bench.records.record import Hyperparameter, RunConfig

__all__ = ["Row", "Settled", "as_planned"]

_FRONT = "one of a front, which nobody chose among"
_PROTOCOL = tuple(field.name for field in dataclasses.fields(Protocol))


@dataclass(frozen=True)
class Row:
    """One row of the table in one part: what is run, and if there is a grid, by what its values are chosen.

    ``final`` are the runs that read the test set; ``trials`` the same with a validation part, ``None`` without a grid.
    """

    label: str
    part: str
    final: Comparison
    trials: Comparison | None


class Settled:
    """One part of a recipe in one variant: what all of its rows share."""

    recipe: Recipe
    variant: str
    name: str
    quick: bool
    seeds: int | None

    def __init__(
        self,
        recipe: Recipe,
        variant: str,
        name: str,
        quick: bool = False,
        seeds: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.recipe, self.variant, self.name, self.quick, self.seeds = recipe, variant, name, quick, seeds
        self.extra: dict[str, Any] = {"recipe": recipe.name}
        self.extra |= {"variant": variant} if variant else {}
        self.extra |= {"part": name} if len(recipe.parts) > 1 else {}
        self.extra |= {"quick": True} if quick else {}
        smaller = recipe.quick.stream_options if quick else {}
        self.device = device
        self.options: dict[str, Any] = {**recipe.stream_options_of(name, variant), **smaller}

    def row(self, method: Method, stream: Stream) -> Row:
        """A row with its training and its grid settled."""
        training = self.training(method)
        final = self._comparison(method, stream, training, {})
        if not method.grid:
            return Row(method.label, self.name, final, None)
        share = training["validation_fraction"] or self.recipe.choose_with
        limit = self.recipe.quick.candidates if self.quick else None
        candidates = {key: [str(value) for value in values[:limit]] for key, values in method.grid.items()}
        validated = {**training, "validation_fraction": share}
        return Row(
            method.label, self.name, final, self._comparison(method, stream, validated, {method.method: candidates})
        )

    def training(self, method: Method) -> dict[str, Any]:
        """How a row is trained."""
        training = self.recipe.training_of(method, self.name, self.variant)
        return self.recipe.quick.train.over(training) if self.quick else training

    def settings(self, method: Method) -> dict[str, Hyperparameter]:
        """The values that the recipe gives."""
        entry = registry.lookup(method.method)
        return {
            key: Hyperparameter(value=typed(entry, key, str(value)), source="recipe", detail=method.source or _FRONT)
            for key, value in method.set.items()
        }

    def fields(self, method: Method, training: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What changes the default protocol, and the further fields of a configuration."""
        changes = {key: value for key, value in training.items() if key in _PROTOCOL}
        further = {key: value for key, value in training.items() if key not in _PROTOCOL}
        extra = {**self.extra, "label": method.label, **({"front": method.front} if method.front else {})}
        options = {**self.options, **method.stream_options}
        return changes, {"device": self.device, "stream_options": options, "extra": extra, **further}

    def _comparison(
        self,
        method: Method,
        stream: Stream,
        training: Mapping[str, Any],
        grids: Mapping[str, Mapping[str, Sequence[str]]],
    ) -> Comparison:
        changes, fields = self.fields(method, training)
        return Comparison(
            stream=stream,
            methods=(method.method,),
            seeds=tuple(range(self._number_of_seeds(method))),
            settings={method.method: self.settings(method)},
            grids=grids,
            changes=changes,
            fields=fields,
        )

    def _number_of_seeds(self, method: Method) -> int:
        if self.seeds is not None:
            return self.seeds
        if self.quick:
            return self.recipe.quick.seeds
        return self.recipe.seeds_of(method, self.variant)


@dataclass(frozen=True)
class _Outline:
    """Of a stream that is not built, what a configuration says."""

    name: str
    scenario: str
    training_outputs: str
    tasks: int

    @property
    def holds(self) -> str:
        return HOLDS if asked.parse(self.name).kind == HOLDS else ""

    @property
    def few_shot(self) -> bool:
        return asked.parse(self.name).shots is not None

    def __len__(self) -> int:
        return self.tasks


def as_planned(recipe: Recipe, old: RunConfig) -> RunConfig:
    """The configuration that the recipe would give a run now, in place of an old one, without looking at any data.

    Args:
        recipe: the recipe.
        old: says the variant, part, label, seed, device and number of tasks, and what a grid chose.

    Raises:
        ConfigurationError: if what a grid chose is no value of its hyperparameter.
    """
    row = next(each for each in recipe.methods if each.label == old.extra["label"])
    name = old.extra.get("part", next(iter(recipe.parts)))
    part = recipe.parts[name]
    settled = Settled(recipe, old.extra.get("variant", ""), name, device=old.device)
    chosen = {key: value for key, value in old.hyperparameters.items() if key in row.grid and value.source == "grid"}
    changes, fields = settled.fields(row, settled.training(row))
    return plan.plan(
        _Outline(part.stream, part.scenario, part.training_outputs, old.tasks),
        row.method,
        seed=old.seed,
        settings={**settled.settings(row), **chosen},
        changes=changes,
        **fields,
    )
