"""What does not fit its objective is refused by every consumer, and the error names the objective that fits."""

from __future__ import annotations

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
    model, batch = Gives(*shape), (torch.ones(2), labels)
    for kind in ("empirical", "sampled", "exact"):
        method = EWC(model, strength=1.0, fisher=kind, objective=objective)
        with pytest.raises(DataError, match=fits):
            method.consolidate([batch])


def test_targets_of_another_task_do_not_hinder_a_teacher() -> None:
    """Old classes are distilled while boxes, values or tags are learned: their targets say nothing of the old."""
    model = Gives(3)
    keep = LwF(model, strength=1.0)
    keep.consolidate()
    for targets in (None, torch.zeros(2, 4), torch.zeros(2, 5, dtype=torch.long), [{"boxes": torch.zeros(1, 4)}] * 2):
        assert keep.penalty((torch.ones(2), targets), model(torch.ones(2))).item() == 0.0


def test_one_value_per_sample_may_be_without_an_axis() -> None:
    outputs, targets = torch.randn(4, 1), torch.rand(4).round()
    for objective in (Regression(), MultiLabel()):
        flat = objective.losses(outputs, (None, targets))
        torch.testing.assert_close(flat, objective.losses(outputs, (None, targets[:, None])))
