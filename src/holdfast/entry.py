"""What is known of a method, an optimizer, a head or a baseline before it is imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ["Bound", "Choice", "Entry", "Family", "Kind", "Promise", "Range", "Value"]

Value: TypeAlias = "float | int | bool | str | None"
Kind: TypeAlias = Literal["method", "optimizer", "head", "baseline"]
Family: TypeAlias = Literal["penalty", "projection", "distillation", "merging", "optimizer", "head", "baseline"]
Bound: TypeAlias = Literal["floor", "ceiling"]
Promise: TypeAlias = Literal[
    "quadratic", "exact-weights", "retrains", "through-loss", "path-integral", "merges", "between-tasks", "bounds"
]


@dataclass(frozen=True)
class Range:
    """A hyperparameter between two bounds, searched on a logarithmic scale unless told otherwise."""

    low: float
    high: float
    log: bool = True


@dataclass(frozen=True)
class Choice:
    """A hyperparameter out of a few values."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Entry:
    """What the command line, the runner, the docs table and the contract tests know of a method.

    Args:
        name: what users type.
        kind: a ``Method``, a ``torch.optim.Optimizer``, a head, or a baseline that does nothing by itself.
        family: which part of a training step it acts on.
        home: ``"module:name"`` of what builds it, imported when it is first asked for; see :attr:`build`.
        defaults: hyperparameter -> default value; also the valid keys and their types.
        search: hyperparameter -> where a search looks.
        further: like ``defaults``, of those for comparisons only: a run's record has them only where they were set.
        automatic: hyperparameters that are a finite number, or the word ``auto``.
        source: the paper.
        state: tensors of the size of a parameter that it keeps, as shown to users.
        needs_data: whether ``consolidate`` needs data of the task just learned.
        needs_task_id: whether a task must be named when it is tested.
        needs_one_head: whether it is about classes that compete in one head: a head per task leaves it nothing to do.
        needs_few_shot: whether it is for streams of a base task and then few samples of new classes, and no others.
        needs_unlabelled: whether it wants, before the first task, unlabelled samples of the tasks to come.
        takes_memory: whether it takes ``memory=``, batches to ask a teacher about.
        needs_adapters: whether each task is learned by an adapter of its own, beside those before it: it is for models
            with adapters, and no others.
        keeps_optimizer: whether the optimizer is the memory and must survive the task change.
        control: whether every claim should be held against it.
        bound: whether it is the floor (no protection) or the ceiling of a comparison, never its winner.
        all_at_once: whether it sees the data of all tasks at once.
        trains: whether it learns a task by steps of an optimizer.
        listed: whether it is offered to users; what only a published protocol needs is not.
        controls: the methods that a comparison with this one always shows, unless it is told not to.
        promises: what the contract tests hold it to beyond what they ask of all.
        importance: ``"module:name"`` of what estimates its penalty's importances from a task's data; see
            :attr:`estimator`.
        dial: the setting of which more protects more, and 0 nothing; ``strength`` unless told otherwise, if it has one.
    """

    name: str
    kind: Kind
    family: Family
    home: str | None
    source: str
    state: str
    defaults: Mapping[str, Value] = field(default_factory=dict)
    search: Mapping[str, Range | Choice] = field(default_factory=dict)
    further: Mapping[str, Value] = field(default_factory=dict)
    automatic: frozenset[str] = frozenset()
    needs_data: bool = False
    needs_task_id: bool = False
    needs_one_head: bool = False
    needs_few_shot: bool = False
    needs_unlabelled: bool = False
    takes_memory: bool = False
    needs_adapters: bool = False
    keeps_optimizer: bool = False
    control: bool = False
    bound: Bound | None = None
    all_at_once: bool = False
    trains: bool = True
    listed: bool = True
    controls: tuple[str, ...] = ()
    promises: frozenset[Promise] = frozenset()
    importance: str | None = None
    dial: str | None = None

    def __post_init__(self) -> None:
        if self.dial is None and "strength" in self.settings:
            object.__setattr__(self, "dial", "strength")
        assert self.dial is None or self.dial in self.settings, self.name

    @property
    def build(self) -> Callable[..., Any] | None:
        """``(model, **settings)`` for a method; of parameters for an optimizer, of features for a head."""
        return None if self.home is None else _imported(self.home)

    @property
    def estimator(self) -> Callable[..., Any] | None:
        """``(model, batches, *, objective, names) -> {name: importance}``, as in ``holdfast.importance``."""
        return None if self.importance is None else _imported(self.importance)

    @property
    def settings(self) -> Mapping[str, Value]:
        """Every hyperparameter that may be set, and its default value."""
        return {**self.defaults, **self.further}

    @property
    def auto_fraction(self) -> float | None:
        """What ``strength="auto"`` aims at, in units of the task's gradient; ``None`` for a method that has no such."""
        fraction: float | None = getattr(self.build, "auto_fraction", None) if self.kind == "method" else None
        return fraction


def _imported(place: str) -> Callable[..., Any]:
    module, name = place.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
