"""The same data, padded more: no importance and no teacher may notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast import (
    EWC,
    MAS,
    ANPyC,
    AnpycPruning,
    CausalLM,
    LwF,
    MaskedLM,
    Objective,
    Segmentation,
    Seq2SeqLM,
    TokenClassification,
)
from tests.objectives.plain import Pixels, Words, equal, move
from tests.objectives.test_language import Translator

OBJECTIVES: list[Objective] = [
    kind(per=per) for kind in (CausalLM, MaskedLM, Seq2SeqLM, TokenClassification) for per in ("token", "sequence")
]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


def padded(objective: Objective, by: int, side: str = "right") -> dict[str, torch.Tensor]:
    words = torch.randint(1, 7, (3, 5), generator=torch.Generator().manual_seed(1))
    labels = words if isinstance(objective, CausalLM) else (words + 1) % 7
    where = (0, by) if side == "right" else (by, 0)
    pad = torch.nn.functional.pad
    batch = {"input_ids": pad(words, where), "labels": pad(labels, where, value=-100)}
    mask = pad(torch.ones_like(words), where)
    return {**batch, "attention_mask": mask, "decoder_attention_mask": mask}


def model_for(objective: Objective) -> Words:
    class Reads(Translator):  # its first text is not padded: that is the model's own affair
        def forward(self, input_ids: Any, labels: Any = None, **ignored: Any) -> Any:
            return super().forward(input_ids[:, :5], labels)

    return Reads() if isinstance(objective, Seq2SeqLM) else Words()


@every_objective
@pytest.mark.parametrize(
    "build",
    [
        lambda m, o: EWC(m, strength=1.0, fisher="empirical", objective=o),
        lambda m, o: MAS(m, strength=1.0, objective=o),
        lambda m, o: MAS(m, strength=1.0, form="norm", objective=o),
        lambda m, o: ANPyC(m, strength=1.0, objective=o),
        lambda m, o: ANPyC(m, strength=1.0, output="l2", reduction="batch", objective=o),
    ],
    ids=["ewc", "mas", "mas norm", "anpyc", "anpyc batch"],
)
def test_no_importance_notices(objective: Objective, build: Any) -> None:
    found = []
    for by in (0, 10):
        method = build(model_for(objective), objective)
        method.consolidate([padded(objective, by)])
        found.append({name: held["importance"] for name, held in method.state.items()})
    equal(found[1], found[0])


@every_objective
def test_no_teacher_notices(objective: Objective) -> None:
    values = []
    for by in (0, 10):
        model = model_for(objective)
        keep = LwF(model, strength=1.0, objective=objective)
        keep.consolidate()
        assert keep.penalty(padded(objective, by)).item() == 0.0
        move(model)
        values.append(keep.penalty(padded(objective, by)))
    torch.testing.assert_close(values[1], values[0], rtol=1e-12, atol=0)


def test_pruning_does_not_notice() -> None:
    objective, found = TokenClassification(), []
    for by in (0, 10):
        method = AnpycPruning(model_for(objective), strength=1.0, objective=objective)
        optimizer = torch.optim.SGD(method.model.parameters(), lr=0.1)
        method.attach(optimizer)
        assert method.next_round([padded(objective, by)])
        found.append({name: held["pruned"].double() for name, held in method.state.items()})
    equal(found[1], found[0])


def test_unlabelled_rows_of_pixels_are_as_good_as_none() -> None:
    """Images padded below to a common height: the padding has no label. The pixels of the image see none of it."""
    x, y = torch.randn(2, 2, 4, 4).double(), torch.randint(3, (2, 4, 4))
    pad = torch.nn.functional.pad
    taller = (pad(x, (0, 0, 0, 3)), pad(y, (0, 0, 0, 3), value=255))
    for build in (
        lambda m: EWC(m, strength=1.0, fisher="empirical", objective=Segmentation()),
        lambda m: EWC(m, strength=1.0, fisher="exact", objective=Segmentation()),
        lambda m: MAS(m, strength=1.0, objective=Segmentation()),
        lambda m: ANPyC(m, strength=1.0, objective=Segmentation()),
    ):
        found = []
        for data in ((x, y), taller):
            method = build(Pixels())
            method.consolidate([data])
            found.append({name: held["importance"] for name, held in method.state.items()})
        equal(found[1], found[0])
    values = []
    for data in ((x, y), taller):
        model = Pixels()
        keep = LwF(model, strength=1.0, objective=Segmentation())
        keep.consolidate()
        move(model)
        values.append(keep.penalty(data))
    torch.testing.assert_close(values[1], values[0], rtol=1e-12, atol=0)
