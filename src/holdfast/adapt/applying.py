"""How each kind of protection is applied to a model of one's own: asked of the registry, never by a method's name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from holdfast import registry
from holdfast.adapt.last import filled, replace
from holdfast.adapt.opened import Opened
from holdfast.errors import ConfigurationError, DataError, Option
from holdfast.method import Method
from holdfast.objectives import Classification, Objective

__all__ = ["WISE_FT", "Candidate", "built", "computed", "merges", "offered", "protected", "refusal"]

WISE_FT = "wise-ft"
"""Weights on the line from before to after plain fine-tuning: no method that trains, so the registry has it not."""

Value: TypeAlias = "float | int | bool | str | None"


@dataclass(frozen=True)
class Candidate:
    """One way to learn the new data.

    Attributes:
        method: a name of the registry, or :data:`WISE_FT`.
        settings: what differs from the method's defaults.
    """

    method: str
    settings: Mapping[str, Value] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As reports and files call it."""
        shown = (
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in self.settings.items()
        )
        return " ".join([self.method, *shown])


def refusal(method: str, opened: Opened, *, has_old: bool, adapters: bool = False) -> str | None:
    """Why a method can't be used here; ``None`` where it can.

    Args:
        method: its name.
        opened: the model.
        has_old: whether there are data of what must not be lost.
        adapters: whether adapters are trained in place of the weights.
    """
    if method == WISE_FT:
        return None
    entry = registry.lookup(method)
    if entry.needs_data and not has_old and opened.kind != "language":  # which has its own words
        return "needs data of what must not be lost: give it with --keep"
    if entry.all_at_once and not has_old:
        return "learns old and new data at once: give the old with --keep"
    if entry.needs_few_shot:
        return "is no last layer that a model could be written back with"
    if entry.needs_adapters:
        return "keeps the adapter of a new task apart from those of earlier ones, and here there are none"
    if entry.needs_task_id:
        return "has an answer for each task, and a model that is written back has one"
    if "path-integral" in entry.promises:
        return "measures while the old data are learned, and that was before"
    if entry.kind == "optimizer":
        return "remembers in an optimizer that has to have trained the old data, too"
    if entry.kind == "head" and opened.kind == "language":
        return "answers with classes, and a language model has none"
    if entry.kind == "head" and not _linear_by_nature(entry):
        return "has an answer that is no linear function of the features, so that no last layer can hold it"
    on_effective = "quadratic" in entry.promises  # a path integral was refused above
    if adapters and entry.kind == "method" and not on_effective and "through-loss" not in entry.promises:
        return "acts on the weights, which adapters leave as they are"
    if "retrains" in entry.promises:
        return "asks for rounds of retraining"
    return None


def offered(opened: Opened, *, has_old: bool, adapters: bool = False) -> list[str]:
    """The methods that can be used here."""
    names = [entry.name for entry in registry.entries() if entry.listed]
    return [name for name in [*names, WISE_FT] if refusal(name, opened, has_old=has_old, adapters=adapters) is None]


def merges(candidate: Candidate) -> bool:
    """Whether a method acts when it is asked to remember what was learned, and not on the steps."""
    return candidate.method != WISE_FT and "between-tasks" in registry.lookup(candidate.method).promises


def built(
    candidate: Candidate, opened: Opened, objective: Objective, own: Callable[[], Iterable[Any]] | None = None
) -> Any:
    """The method or the head of a candidate, which has seen nothing yet; ``None`` of what is neither.

    Args:
        candidate: which.
        opened: the model, not grown yet.
        objective: what a batch means.
        own: texts of the model's own, for a method that asks a teacher about a memory; ``None``: it writes none.

    Raises:
        ConfigurationError: for a setting that it does not have, or a value that it refuses.
    """
    if candidate.method == WISE_FT:
        return None
    entry = registry.lookup(candidate.method)
    unknown = next((key for key in candidate.settings if key not in entry.settings), None)
    if unknown is not None:
        valid = f"it has {', '.join(entry.settings)}" if entry.settings else "it has none"
        raise ConfigurationError(f"{entry.name} has no setting {unknown!r}; {valid}")
    if entry.kind not in ("method", "head"):
        return None
    assert entry.build is not None
    settings = {**entry.defaults, **candidate.settings}
    if entry.kind == "head":
        return entry.build(None, **settings)
    memory = {"memory": lambda model: own()} if own is not None and entry.takes_memory else {}
    return entry.build(opened.model, objective=objective, **settings, **memory)


def protected(
    candidate: Candidate,
    opened: Opened,
    objective: Objective,
    old: Callable[[], Iterable[Any]] | None,
    own: Callable[[], Iterable[Any]] | None = None,
) -> Method | None:
    """A method that remembers what the model knows now, for a candidate that trains under one.

    Args:
        candidate: which.
        opened: the model, not grown yet.
        objective: what a batch means.
        old: batches of what must not be lost, if there are any.
        own: texts of the model's own, which stand in for them.
    """
    keep = built(candidate, opened, objective, own)
    if not isinstance(keep, Method):
        return None
    known = own if old is None else old
    keep.consolidate(known() if known is not None and keep.needs_data else ())
    return keep


def computed(candidate: Candidate, opened: Opened, batches: Iterable[Any]) -> None:
    """Give a classifier the last layer that a closed-form head computes, out of old and new data alike.

    Args:
        candidate: a head.
        opened: the model, grown already; its last layer is replaced.
        batches: ``(inputs, columns)`` of all classes.

    Raises:
        ConfigurationError: if the head's answer is no linear function of features.
    """
    place = opened.last_layer
    layer = opened.model.get_submodule(place)
    assert isinstance(layer, nn.Linear)
    backbone = copy.deepcopy(opened.model).eval()
    replace(backbone, place, nn.Identity())
    asked = Classification()
    head = built(candidate, opened, asked)
    with torch.no_grad():
        head.consolidate((asked.outputs(backbone, batch).double().flatten(1), batch[1]) for batch in batches)
    weight, bias = _linear(head, layer.in_features, candidate.method)
    full, shift = (
        torch.zeros(len(opened.classes), layer.in_features, dtype=torch.float64),
        bias.new_full((len(opened.classes),), -1e4),
    )
    rows = list(head.classes)
    full[rows], shift[rows] = weight, bias
    replace(opened.model, place, filled(layer, full, shift))


def _linear_by_nature(entry: registry.Entry) -> bool:
    """Whether a head's answer is a linear function of the features, seen on a few that are drawn."""
    assert entry.build is not None
    head, draw = entry.build(None, **entry.defaults), torch.Generator().manual_seed(0)
    z = torch.rand(64, 3, dtype=torch.float64, generator=draw)  # some heads take powers of them
    y = torch.arange(64) % 2
    head.consolidate([(z + y[:, None], y)])
    try:
        _linear(head, 3, entry.name)
    except ConfigurationError:
        return False
    return True


def _linear(head: Any, features: int, name: str) -> tuple[Tensor, Tensor]:
    """The weight and the bias that answer as a head does, up to what is the same for all classes."""

    def centred(z: Tensor) -> Tensor:
        scores: Tensor = head(z)
        return scores - scores.mean(1, keepdim=True)

    probe = torch.randn(4, features, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        bias = centred(torch.zeros(1, features, dtype=torch.float64))[0]
        weight = (centred(torch.eye(features, dtype=torch.float64)) - bias).T
        near = 1e-6 * float(bias.abs().max() + 1)
        linear = torch.allclose(centred(probe), probe @ weight.T + bias, rtol=1e-6, atol=near)
    except DataError:  # not even defined for all features
        linear = False
    if not linear:
        raise ConfigurationError(
            Option("methods"), f" has {name}, whose answer is no linear function of the features, so that the model's "
            "last layer cannot hold it"
        )  # fmt: skip
    return weight, bias
