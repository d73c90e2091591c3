"""What does not fit its objective is refused by every consumer, and the error names the objective that fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast import (
    EWC,
    MAS,
    ANPyC,
    CausalLM,
    Classification,
    DataError,
    LwF,
    MaskedLM,
    MultiLabel,
    QuestionAnswering,
    Regression,
    Segmentation,
    Seq2SeqLM,
    TokenClassification,
)
from holdfast.importance import mas, taylor
from holdfast.objectives import Objective


class Gives(nn.Module):
    """Outputs of a given shape, whatever is asked, that depend on a weight."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor, **ignored: Any) -> Tensor:
        return torch.tanh(self.weight) * x.reshape(len(x), *[1] * (self.weight.dim()))


IMAGES = ((3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long))
TOKENS = ((5, 3), torch.zeros(2, 5, dtype=torch.long))
CLASSES = ((3,), torch.zeros(2, dtype=torch.long))
REAL = ((3,), torch.zeros(2, 3))

WRONG: list[tuple[Objective, tuple[tuple[int, ...], Tensor], str]] = [
    (Classification(), IMAGES, "Segmentation"),
    (Classification(), TOKENS, "TokenClassification"),
    (TokenClassification(), IMAGES, "Segmentation"),
    (TokenClassification(), CLASSES, "Classification"),
    (MaskedLM(), IMAGES, "Segmentation"),
    (MaskedLM(), CLASSES, "Classification"),
    (CausalLM(per="sequence"), IMAGES, "Segmentation"),
    (CausalLM(per="token"), CLASSES, "Classification"),
    (Seq2SeqLM(per="sequence"), IMAGES, "Segmentation"),
    (Seq2SeqLM(per="token"), CLASSES, "Classification"),
    (Segmentation(), CLASSES, "Classification"),
    (QuestionAnswering(), CLASSES, "Classification"),
    (QuestionAnswering(), TOKENS, "TokenClassification"),
]


def consumers(model: nn.Module, objective: Objective) -> list[Callable[[Any], Any]]:
    """All that takes in batches which may be labelled."""
    methods = [
        *(EWC(model, strength=1.0, fisher=kind, objective=objective) for kind in ("empirical", "sampled", "auto")),
        MAS(model, strength=1.0, objective=objective),
        ANPyC(model, strength=1.0, objective=objective),
        ANPyC(model, strength=1.0, reduction="batch", objective=objective),
    ]
    return [method.consolidate for method in methods]


def named(value: Any) -> str:
    return type(value).__name__ if isinstance(value, Objective) else "x".join(map(str, value[0]))


@pytest.mark.parametrize(("objective", "data", "fits"), WRONG, ids=[f"{named(o)}-{named(d)}" for o, d, _ in WRONG])
def test_outputs_of_another_shape(objective: Objective, data: Any, fits: str) -> None:
    shape, labels = data
    model, batch = Gives(*shape), (torch.ones(2), labels)
    for method in (
        EWC(model, strength=1.0, fisher="empirical", objective=objective),
        EWC(model, strength=1.0, fisher="sampled", objective=objective),
        MAS(model, strength=1.0, objective=objective),
        ANPyC(model, strength=1.0, objective=objective),
    ):
        with pytest.raises(DataError, match=f"expects.*{fits}"):
            method.consolidate([batch])
        assert method.num_tasks == 0
    keep = LwF(model, strength=1.0, objective=objective)
    keep.consolidate()
    with pytest.raises(DataError, match=f"expects.*{fits}"):
        keep.penalty(batch, model(batch[0]))


@pytest.mark.parametrize(
    ("objective", "data", "fits"),
    [
        (Classification(), REAL, "Regression"),
        (Classification(), ((3,), TOKENS[1]), "one label per sample|at each labelled position"),
        (Regression(), CLASSES, "Classification"),
        (MultiLabel(), CLASSES, "Classification"),
        (Regression(), IMAGES, "Segmentation"),
        (MultiLabel(), TOKENS, "TokenClassification"),
        (TokenClassification(), ((5, 3), torch.zeros(2, 5)), "Regression"),
        (Segmentation(), ((3, 4, 4), torch.zeros(2, 4, 4)), "Regression"),
    ],
    ids=lambda value: None,
)
def test_targets_of_another_shape(objective: Objective, data: Any, fits: str) -> None:
    shape, labels = data
    model = Gives(*shape)
    for consume in consumers(model, objective):
        with pytest.raises(DataError, match=fits):
            consume([(torch.ones(2), labels)])


@pytest.mark.parametrize(
    ("objective", "data"),
    [
        (Classification(), CLASSES),
        (Regression(), REAL),
        (MultiLabel(), REAL),
        (TokenClassification(), TOKENS),
        (MaskedLM(), TOKENS),
        (CausalLM(per="token"), TOKENS),
        (Seq2SeqLM(per="sequence"), TOKENS),
        (Segmentation(), IMAGES),
        (QuestionAnswering(forward=lambda model, batch: model(batch[0])), ((5, 2), torch.ones(2, 2).long())),
    ],
    ids=lambda value: named(value) if isinstance(value, Objective) else "",
)
def test_what_needs_no_targets_takes_batches_without(objective: Objective, data: Any) -> None:
    shape, labels = data
    x = torch.tensor([1.0, -2.0])
    for estimate in (mas, taylor):
        without, labelled = (estimate(Gives(*shape), [(x, y)], objective=objective)["weight"] for y in (None, labels))
        assert without.any()
        assert torch.equal(without, labelled)


def test_targets_of_another_task_do_not_hinder_a_teacher() -> None:
    """Old classes are distilled while boxes, values or tags are learned: their targets say nothing of the old."""
    model = Gives(3)
    keep = LwF(model, strength=1.0)
    keep.consolidate()
    for targets in (None, torch.zeros(2, 4), torch.zeros(2, 5, dtype=torch.long), [{"boxes": torch.zeros(1, 4)}] * 2):
        assert keep.penalty((torch.ones(2), targets), model(torch.ones(2))).item() == 0.0


@pytest.mark.parametrize(
    ("objective", "shape", "labels"),
    [
        (Classification(), (3,), torch.tensor([0, 3])),
        (Classification(), (3,), torch.tensor([0, -1])),
        (Classification(classes=(1, 2)), (3,), torch.tensor([1, 0])),
        (TokenClassification(), (5, 3), torch.tensor([[0, 1, 2, 3, 0]] * 2)),
        (TokenClassification(), (5, 3), torch.tensor([[0, 1, 2, -1, -1]] * 2)),
        (MaskedLM(), (5, 3), torch.tensor([[0, 1, 2, -1, -1]] * 2)),
        (Segmentation(), (3, 2, 2), torch.tensor([[[0, 1], [2, 3]]] * 2)),
        (Segmentation(), (3, 2, 2), torch.tensor([[[0, 1], [2, -1]]] * 2)),
    ],
    ids=lambda value: None,
)
def test_a_target_without_an_output_is_refused_whatever_the_fisher(
    objective: Objective, shape: tuple[int, ...], labels: Tensor
) -> None:
    """Also where targets only say which positions count: -1 for padding would make padding count."""
    for consume in consumers(Gives(*shape), objective):
        with pytest.raises(DataError, match=r"target (3|-1|0) is not among"):
            consume([(torch.ones(2), labels)])


@pytest.mark.parametrize(
    ("objective", "shape", "rows"),
    [
        (TokenClassification(), (5, 3), [0, 1, 2, -100, -100]),
        (TokenClassification(per="token"), (5, 3), [0, 1, 2, -100, -100]),
        (Segmentation(), (3, 5), [0, 1, 2, -100, -100]),
    ],
    ids=lambda value: None,
)
def test_no_negative_target_counts_where_none_is_asked_for(
    objective: Objective, shape: tuple[int, ...], rows: list[int]
) -> None:
    """A teacher, to whom labels may be another task's, asks a target only whether it is one; -1 is none, as -100 is."""
    usual = torch.tensor([rows] * 2)
    other = usual.masked_fill(usual < 0, -1)
    found = []
    for labels in (usual, other):
        model = Gives(*shape)
        keep = LwF(model, strength=1.0, objective=objective)
        keep.consolidate()
        with torch.no_grad():
            model.weight += torch.arange(15.0).view_as(model.weight) / 15
        found.append(keep.penalty((torch.ones(2), labels)).detach())
    assert found[0] > 0
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("shape", "labels", "fits"),
    [
        ((5, 3), torch.zeros(2, 5, dtype=torch.long), "TokenClassification"),
        ((3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.long), "Segmentation expects integers"),
        ((3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long), "Segmentation expects integers"),
    ],
    ids=["tokens before classes", "with channels", "of fewer images"],
)
def test_a_teacher_refuses_labels_of_places_in_another_shape(shape: tuple[int, ...], labels: Tensor, fits: str) -> None:
    """Taken for another task's, they would have the softmax run over tokens, or what is ignored count."""
    model = Gives(*shape)
    keep = LwF(model, strength=1.0, objective=Segmentation())
    keep.consolidate()
    with pytest.raises(DataError, match=fits):
        keep.penalty((torch.ones(2), labels), model(torch.ones(2)))


def test_one_value_per_sample_may_be_without_an_axis() -> None:
    outputs, targets = torch.randn(4, 1), torch.rand(4).round()
    for objective in (Regression(), MultiLabel()):
        flat = objective.losses(outputs, (None, targets))
        torch.testing.assert_close(flat, objective.losses(outputs, (None, targets[:, None])))
