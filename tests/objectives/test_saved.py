"""Objectives as plain values: those of today, and those of states written before there were so many."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from holdfast import (
    CausalLM,
    ClassBalanced,
    Classification,
    LwF,
    MaskedLM,
    ModelLoss,
    MultiLabel,
    Objective,
    QuestionAnswering,
    Regression,
    Segmentation,
    Seq2SeqLM,
    StateError,
    TokenClassification,
)
from holdfast.objectives import describe, meaning_of, restore
from tests.objectives.plain import Words

EVERY: list[Objective] = [
    Classification((2, 1), head="a"),
    Classification(),
    ClassBalanced([3, 40], beta=0.9, classes=(2, 1), head=1),
    Regression(),
    MultiLabel(),
    TokenClassification(per="token"),
    MaskedLM(),
    CausalLM(per="sequence"),
    Seq2SeqLM(per="token"),
    QuestionAnswering(),
    Segmentation(ignored=(0,)),
]


@pytest.mark.parametrize("objective", EVERY, ids=lambda o: type(o).__name__)
def test_every_objective_comes_back(objective: Objective) -> None:
    described = json.loads(json.dumps(describe(objective)))
    [again] = restore([described], [])
    assert type(again) is type(objective)
    assert describe(again) == describe(objective)
    assert meaning_of(again).covers(objective) and meaning_of(objective).covers(again)


def test_states_from_before_load() -> None:
    old = [
        {"kind": "Classification", "classes": [0, 1], "head": None},
        {"kind": "CausalLM", "per": "token"},
        {"kind": "Regression"},
        {"kind": "MultiLabel"},
    ]
    assert [describe(o) for o in restore(old, [])] == old
    model = nn.Linear(3, 2)
    keep = LwF(model, strength=1.0)
    keep.consolidate()
    state = keep.state_dict()
    state["meta"]["objectives"] = old[:1]
    again = LwF(model, strength=1.0)
    again.load_state_dict(state)
    assert isinstance(again.objectives[0], Classification) and again.objectives[0].classes == (0, 1)


class Own(TokenClassification):
    """Derived from a built-in one."""


@pytest.mark.parametrize(
    "objective", [Own(), Regression(forward=lambda m, b: m(b)), ModelLoss()], ids=["own", "forward", "loss"]
)
def test_what_cannot_be_saved_must_be_given_again(objective: Any) -> None:
    name = type(objective).__name__
    assert describe(objective) == {"kind": "given", "type": name}
    with pytest.raises(StateError, match=f"cannot be saved \\({name}\\)"):
        restore([describe(objective)], [])
    assert restore([describe(objective)], [objective]) == [objective]


def test_a_kind_that_nobody_knows_is_refused() -> None:
    with pytest.raises(StateError, match="'Poetry', which is unknown"):
        restore([{"kind": "Poetry"}], [])


def test_what_a_sample_is_makes_no_second_distance() -> None:
    """A teacher's distance is the same per token and per sequence: one term, not two."""
    keep = LwF(Words(), strength=1.0)
    for per in ("token", "sequence"):
        keep.consolidate(objective=CausalLM(per=per))
        keep.meta["steps"] = 1
    assert len(keep.objectives) == 1
    assert not meaning_of(Own()).covers(TokenClassification())
    assert not meaning_of(TokenClassification()).covers(MaskedLM())


def test_the_callers_outputs_serve_every_objective_that_goes_through_the_model_alike() -> None:
    """Whether labels are given to the model or not changes none of its outputs, so nothing runs twice."""

    class Counted(Words):
        calls = 0

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return super().forward(*args, **kwargs)

    model = Counted()
    keep = LwF(model, strength=1.0)
    words = torch.randint(7, (2, 4))
    batch = {"input_ids": words, "labels": words}
    for objective in (Seq2SeqLM(per="token"), MaskedLM()):
        keep.consolidate(objective=objective)
        keep.meta["steps"] = 1
    raw = model(**batch)
    model.calls = 0
    assert keep.penalty(batch, raw).item() == 0.0
    assert model.calls == 0
