"""The ANPyC study: how importances are spread over the weights, before and after pruning the unimportant ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from holdfast import registry
from holdfast.bench.data.tasks import Stream
from holdfast.bench.models.heads import Heads
from holdfast.bench.records import seeding
from holdfast.bench.records.record import RunConfig
from holdfast.bench.records.spreads import ImportanceRecord, Spread
from holdfast.bench.study import distribution
from holdfast.bench.training import environment
from holdfast.bench.training.learner import Learner
from holdfast.bench.training.session import Session
from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError, Option
from holdfast.importance import taylor
from holdfast.method import Method
from holdfast.objectives import Batch, Objective
from holdfast.projections.masks import is_prunable

__all__ = ["check", "kinds", "study"]

STEP = 5.0
RETRAIN_EPOCHS = 2


def kinds() -> tuple[str, ...]:
    """One method for each estimate of importances that there is: the first of the registry."""
    found: dict[str, str] = {}
    for entry in registry.entries():
        if entry.importance is not None:
            found.setdefault(entry.importance, entry.name)
    return tuple(found.values())


class _KeptAtZero(Method):
    """Holds pruned weights at exactly 0."""

    needs_data: ClassVar[bool] = False

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        super().__init__(model, select=list(masks))
        self._masks = masks

    @torch.no_grad()
    def restore_weights(self, step: Step) -> None:
        """Put the pruned weights back to 0."""
        for name, mask in self._masks.items():
            self.params[name].masked_fill_(mask, 0.0)

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        """Nothing to remember."""


def check(methods: Sequence[str], prune_to: float) -> None:
    """Refuse what :func:`study` cannot do.

    Raises:
        ConfigurationError: for an unknown importance, or a percentage out of range.
    """
    known = ", ".join(entry.name for entry in registry.entries() if entry.importance is not None)
    if not methods:
        raise ConfigurationError(Option("methods"), f" names no importance; expected some of {known}")
    for name in methods:
        if registry.lookup(name).importance is None:
            raise ConfigurationError(Option("methods"), f" has {name!r}; an importance is that of {known}")
    if not 0 < prune_to < 100:
        raise ConfigurationError(Option("prune_to"), f" is {prune_to:g}; expected a percentage above 0 and below 100")


def study(
    config: RunConfig,
    stream: Stream,
    *,
    methods: Sequence[str] | None = None,
    prune_to: float = 85.0,
    tell: Callable[[str], None] = lambda line: None,
    command: str = "",
) -> ImportanceRecord:
    """Learn the first task, measure importances, prune step by step, measure again.

    The weights of hidden layers with the smallest ANPyC importance are pruned, per layer, 5 % more at a time, each
    time followed by two epochs of retraining with the pruned weights held at 0.

    Args:
        config: how the first task is trained; its method is the one that protects nothing.
        stream: where the task comes from; its test part is not read.
        methods: whose importances are measured; ``None``: one method for each kind there is.
        prune_to: percentage of the weights of each hidden layer that is pruned in the end.
        tell: is told what happens.
        command: how to repeat it, for the record.

    Raises:
        ConfigurationError: for an unknown method or a percentage out of range.
    """
    methods = kinds() if methods is None else methods
    check(methods, prune_to)
    task = stream.tasks[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive_seed(config.seed, "training"))
        learner = Learner(config, stream)
        session = Session(0, (task,))
        learner.begin(session)
        _train(learner, session, config.epochs, round_=0)
        hidden = _hidden(learner.model)
        before = {name: _importance(learner, _estimator(name), hidden) for name in methods}
        accuracy = learner.accuracy(task, task.valid)
        tell(f"learned: validation accuracy {accuracy:.2%}")
        masks = {name: torch.zeros_like(hidden[name], dtype=torch.bool) for name in hidden if is_prunable(hidden[name])}
        _KeptAtZero(learner.model, masks).attach(learner.optimizer)
        for round_, percentage in enumerate(_percentages(prune_to), start=1):
            _prune(learner, masks, percentage)
            _train(learner, session, RETRAIN_EPOCHS, round_=round_)
            tell(f"pruned to {percentage:g} %: validation accuracy {learner.accuracy(task, task.valid):.2%}")
        after = {name: _importance(learner, _estimator(name), hidden) for name in methods}
        pruned = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        low, high = _range([*before.values(), *after.values()])
        spreads = [
            spread
            for was_pruned, found in ((False, before), (True, after))
            for name in methods
            for spread in _spreads(name, found[name], low, high, pruned=was_pruned)
        ]
        return ImportanceRecord(
            config=config,
            environment=environment.describe(config.device),
            methods=list(methods),
            prune_to=prune_to,
            pruned_share=pruned,
            accuracy_before=accuracy,
            accuracy_after=learner.accuracy(task, task.valid),
            low=low,
            high=high,
            spreads=spreads,
            command=command,
        )


def _percentages(prune_to: float) -> Iterator[float]:
    reached = 0.0
    while reached < prune_to:
        reached = min(prune_to, reached + STEP)
        yield reached


def _hidden(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of the hidden layers: all but the heads', in a model that says which are heads."""
    inner = model.trunk if isinstance(model, Heads) else model
    prefix = "trunk." if isinstance(model, Heads) else ""
    return {prefix + name: parameter for name, parameter in inner.named_parameters()}


def _train(learner: Learner, session: Session, epochs: int, *, round_: int) -> None:
    size = learner.config.batch_size
    for epoch in range(epochs):
        learner.set_learning_rate(epoch)
        order = session.order(learner.config, round_, epoch)
        learner.model.train()
        for start in range(0, len(order), size):
            learner.step(session.parts(order[start : start + size]))


Estimator: TypeAlias = "Callable[..., dict[str, Tensor]]"


def _estimator(method: str) -> Estimator:
    found = registry.lookup(method).estimator
    assert found is not None
    return found


def _importance(learner: Learner, estimate: Estimator, names: Mapping[str, Any]) -> dict[str, Tensor]:
    task = learner.stream.tasks[0]
    options: dict[str, Any] = {"objective": task.training_objective, "names": list(names)}
    return estimate(learner.model, learner.importance_batches(task), **options)


@torch.no_grad()
def _prune(learner: Learner, masks: dict[str, Tensor], percentage: float) -> None:
    parameters = dict(learner.model.named_parameters())
    importances = _importance(learner, taylor, masks)
    for name, mask in masks.items():
        # Pruned weights have importance 0 (g·0), so they are among the smallest again; they are put first in any case.
        ranked = importances[name].masked_fill(mask, -1.0)
        k = math.ceil(percentage / 100 * mask.numel() - 1e-9)
        chosen = mask.flatten().clone()
        chosen[ranked.flatten().argsort(stable=True)[:k]] = True
        mask.copy_(chosen.view_as(mask))
        parameters[name].masked_fill_(mask, 0.0)


def _range(found: Sequence[Mapping[str, Tensor]]) -> tuple[float, float]:
    """The powers of ten that hold all positive importances, at most sixteen of them."""
    positive = torch.cat([t.flatten().double() for each in found for t in each.values()])
    positive = positive[positive > 0]
    if not len(positive):
        return -1.0, 0.0
    high = float(math.ceil(float(positive.max().log10())))
    low = float(math.floor(float(positive.min().log10())))
    return max(low, high - 16.0), high if high > low else low + 1.0


def _spreads(method: str, found: Mapping[str, Tensor], low: float, high: float, *, pruned: bool) -> Iterator[Spread]:
    layers: dict[str, list[Tensor]] = {"all": [t.flatten() for t in found.values()]}
    for name, tensor in found.items():
        layers.setdefault(name.rpartition(".")[0] or name, []).append(tensor.flatten())
    for layer, parts in layers.items():
        values = torch.cat(parts)
        yield Spread(
            method=method,
            layer=layer,
            pruned=pruned,
            count=values.numel(),
            zeros=distribution.zeros(values),
            skewness=distribution.skewness(values),
            kurtosis=distribution.kurtosis(values),
            density=distribution.density(values, low, high),
        )
