"""What a model answered in somebody else's code stands for a method's own question only where that is the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast import CausalLM, LwF
from holdfast.integrations.hearing import Hearing
from holdfast.objectives import Seq2SeqLM
from tests.integrations.trainers import batch_of, causal, rows, seq2seq

BATCH = {**batch_of(rows(1)), "attention_mask": torch.ones(16, 6, dtype=torch.long)}


def heard(keep, batch, *calls, around=None):
    with Hearing(keep, keep.model if around is None else around) as hearing:
        given = [call(keep.model) for call in calls]
    answer = hearing.answer(batch)
    return next((i for i, each in enumerate(given) if each is answer), None)


SAME = {
    "as the objective asks": lambda m: m(input_ids=BATCH["input_ids"], attention_mask=BATCH["attention_mask"]),
    "with labels": lambda m: m(**BATCH),
    "with what counts them": lambda m: m(**BATCH, num_items_in_batch=torch.tensor(7), use_cache=False),
}
OTHER = {
    "other words": lambda m: m(**{**BATCH, "input_ids": BATCH["input_ids"].clone()}),
    "without the mask": lambda m: m(input_ids=BATCH["input_ids"]),
    "by position": lambda m: m(BATCH["input_ids"], attention_mask=BATCH["attention_mask"]),
    "with an input more": lambda m: m(**BATCH, position_ids=torch.arange(6)[None]),
    "some of the logits": lambda m: m(**{k: BATCH[k] for k in BATCH if k != "labels"}, logits_to_keep=2),
}


@pytest.mark.parametrize("name", [*SAME, *OTHER])
def test_the_same_question_has_the_same_answer(name):
    keep = LwF(causal(), strength=1.0, objective=CausalLM(per="token"))
    call = (SAME | OTHER)[name]
    assert heard(keep, BATCH, call) == (0 if name in SAME else None)
    if name in SAME:
        asked = keep.objective.outputs(keep.model, BATCH)
        torch.testing.assert_close(call(keep.model).logits, asked)
        assert heard(keep, BATCH, OTHER["without the mask"], call) == 1
        with torch.no_grad():
            assert heard(keep, BATCH, call) is None  # nothing can be learned from it


def test_labels_that_the_model_makes_its_inputs_of_belong_to_the_question():
    keep = LwF(seq2seq(), strength=1.0, objective=Seq2SeqLM(per="token"))
    words = {key: BATCH[key] for key in ("input_ids", "labels")}
    assert heard(keep, words, lambda m: m(**words)) == 0
    assert heard(keep, words, lambda m: m(**{**words, "labels": words["labels"] + 0})) is None


def test_a_pair_is_heard_and_a_compiled_model_or_a_way_of_ones_own_is_not():
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    keep = LwF(model, strength=1.0)
    assert heard(keep, (x, None), lambda m: m(x)) == 0
    assert heard(keep, (x, None), lambda m: m(x), around=torch.compile(model, backend="eager")) is None
    own = LwF(model, strength=1.0, objective=CausalLM(per="token", forward=lambda m, b: m(b[0])))
    assert heard(own, (x, None), lambda m: m(x)) is None
