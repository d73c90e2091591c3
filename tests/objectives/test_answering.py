"""Where an answer begins and ends, against one backward per text."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast import DataError, LwF, QuestionAnswering
from holdfast.importance import fisher, mas, taylor
from holdfast.objectives import count
from tests.objectives.plain import Words, change, equal, kl, mean_of, move, nll, size


class Answers(Words):
    def __init__(self) -> None:
        super().__init__(outputs=2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        words = self.embedding(input_ids)
        words = words if attention_mask is None else words * attention_mask[..., None]  # none before a text are seen
        start, end = self.head(torch.tanh(words.cumsum(1))).unbind(-1)
        return {"start_logits": start, "end_logits": end}


START, END = [1, 0, 9], [2, 3, 1]  # 9 is outside the text: none


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    words = torch.randint(7, (3, 5), generator=generator)
    return {"input_ids": words, "start_positions": torch.tensor(START), "end_positions": torch.tensor(END)}


def parts(values: Any) -> list[Tensor]:
    """The mean of what start and end have, of the third text the end alone."""
    pairs = [[(0, START[i]), (1, END[i])] if i < 2 else [(1, END[i])] for i in range(3)]
    return [torch.stack([values(i, side, y) for side, y in pair]).mean() for i, pair in enumerate(pairs)]


def logits_of(model: Answers, words: Tensor) -> Tensor:
    raw = model(words)
    return torch.stack([raw["start_logits"], raw["end_logits"]], 1)


def test_empirical_fisher_is_of_the_mean_of_start_and_end() -> None:
    model, data = Answers(), batch()
    logits = logits_of(model, data["input_ids"])
    losses = parts(lambda i, side, y: nll(logits[i, side], y))
    equal(fisher(model, [data], objective=QuestionAnswering(), kind="empirical"), mean_of(model, losses))
    assert count(QuestionAnswering(), data) == 3


def test_exact_fisher_is_the_expectation_over_places() -> None:
    model, data = Answers(), batch()
    data["start_positions"][2] = 0
    logits = logits_of(model, data["input_ids"])
    total: Any = None
    for i in range(3):
        p = logits[i].softmax(-1).detach()
        for start in range(5):
            for end in range(5):
                loss = (nll(logits[i, 0], start) + nll(logits[i, 1], end)) / 2
                weight = p[0, start] * p[1, end]
                part = mean_of(model, [loss], lambda g, w, weight=weight: weight * g**2)
                total = part if total is None else {name: total[name] + part[name] for name in total}
    exact = fisher(model, [data], objective=QuestionAnswering())  # 10 outputs: exact
    # The scores themselves cancel in a mean of two independent answers: (s + e)²/4 is (s² + e²)/4 on average.
    equal(exact, {name: value / 3 for name, value in total.items()})
    many = {name: value.repeat(1500, *[1] * (value.dim() - 1)) for name, value in data.items()}
    draw = torch.Generator().manual_seed(0)
    sampled = fisher(model, [many], objective=QuestionAnswering(), kind="sampled", generator=draw)
    torch.testing.assert_close(sampled["head.weight"], exact["head.weight"], rtol=0.2, atol=1e-4)


def test_mas_taylor_and_a_teacher_see_no_padding() -> None:
    model, data = Answers(), batch()
    data["start_positions"][2] = 0
    padded = {**data, "input_ids": torch.cat([data["input_ids"], torch.full((3, 2), 6)], 1)}
    padded["attention_mask"] = torch.tensor([[1, 1, 1, 1, 1, 0, 0]] * 3)
    logits = logits_of(model, data["input_ids"])
    norms = list((logits**2).mean(1).sum(1))
    p = logits.softmax(-1)
    entropies = list(-(p * p.log()).sum(-1).mean(1))
    for each in (data, padded):
        equal(mas(model, [each], objective=QuestionAnswering()), mean_of(model, norms, size))
        equal(taylor(model, [each], objective=QuestionAnswering()), mean_of(model, entropies, change))
    old = copy.deepcopy(model)
    keep = LwF(model, strength=1.0, temperature=1.0, objective=QuestionAnswering())
    keep.consolidate()
    assert [keep.penalty(each).item() for each in (data, padded)] == [0.0, 0.0]
    move(model)
    f, g = (logits_of(which, data["input_ids"]) for which in (model, old))
    expected = torch.stack([kl(f[i, side], g[i, side]) for i in range(3) for side in range(2)]).mean()
    for each in (data, padded):
        value = keep.penalty(each)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(value, list(model.parameters())))


def padded(data: dict[str, Tensor], by: int, side: str) -> dict[str, Tensor]:
    """The same texts, with words about which no one asks."""
    where = (0, by) if side == "right" else (by, 0)
    found = {"input_ids": torch.nn.functional.pad(data["input_ids"], where, value=6)}
    found["attention_mask"] = torch.nn.functional.pad(torch.ones_like(data["input_ids"]), where)
    for key in ("start_positions", "end_positions"):
        found[key] = data[key] + (by if side == "left" else 0)
    return found


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["empirical", "exact"])
def test_no_fisher_sees_padding(kind: Any, side: str) -> None:
    """The models' own loss lets it compete, and is larger by -log(1 - q) for q of the probability on padding."""
    model, data = Answers(), batch()
    more = padded(data, 10, side)
    found = [fisher(model, [each], objective=QuestionAnswering(), kind=kind) for each in (data, more)]
    equal(found[1], found[0])
    objective = QuestionAnswering()
    outputs, places = objective.outputs(model, more).detach(), objective.targets(more)
    assert places is not None
    text = more["attention_mask"] > 0
    for i in range(2):
        own = torch.stack([nll(outputs[i, k], int(places[i, k])) for k in range(2)])
        mass = (outputs[i].softmax(-1) * ~text[i]).sum(-1)
        expected = (own + (1 - mass).log()).mean()
        torch.testing.assert_close(objective.losses(outputs, more)[i], expected)
        assert float(own.mean()) > float(expected) + 0.1


def test_what_is_drawn_is_a_place_in_the_text() -> None:
    objective, model = QuestionAnswering(), Answers()
    data = padded({key: value.repeat(100, *[1] * (value.dim() - 1)) for key, value in batch().items()}, 10, "left")
    outputs = objective.outputs(model, data).detach()
    outputs[..., 3] = 50.0  # padding that would win
    drawn = objective.targets(objective.draw(outputs, data, torch.Generator().manual_seed(0)))
    assert drawn is not None
    inside = drawn[drawn >= 0]
    assert len(inside) == 500  # of every third text the end alone
    assert int(inside.min()) == 10
    assert int(inside.max()) == 14


def test_a_place_in_padding_and_a_row_of_padding_are_none() -> None:
    model, data = Answers(), padded(batch(), 4, "right")
    data["start_positions"][0] = 6
    losses = parts(lambda i, side, y: nll(logits_of(model, data["input_ids"][:, :5])[i, side], y))
    losses[0] = nll(logits_of(model, data["input_ids"][:, :5])[0, 1], END[0])
    expected = mean_of(model, losses)
    equal(fisher(model, [data], objective=QuestionAnswering(), kind="empirical"), expected)
    more = {key: torch.cat([value, torch.zeros_like(value[:1])]) for key, value in data.items()}
    assert count(QuestionAnswering(), more) == 3
    equal(fisher(model, [more], objective=QuestionAnswering(), kind="empirical"), expected)
    for estimate in (mas, taylor):
        equal(
            estimate(model, [more], objective=QuestionAnswering()),
            estimate(model, [data], objective=QuestionAnswering()),
        )


def test_a_tensor_with_two_columns_is_as_good() -> None:
    torch.manual_seed(0)
    words, answers = torch.randn(3, 5, 2, dtype=torch.float64), torch.tensor([[1, 2], [0, 3], [4, 4]])
    objective = QuestionAnswering(forward=lambda model, batch: batch[0])
    outputs = objective.outputs(torch.nn.Identity(), (words, answers))
    assert torch.equal(outputs, words.transpose(1, 2))
    each = [[nll(words[i, :, side], int(answers[i, side])) for side in range(2)] for i in range(3)]
    expected = torch.stack([(start + end) / 2 for start, end in each])
    torch.testing.assert_close(objective.losses(outputs, (words, answers)), expected)


def test_what_does_not_fit_is_refused() -> None:
    objective, data = QuestionAnswering(), batch()
    with pytest.raises(DataError, match="expects 'start_logits' and 'end_logits'"):
        objective.select({"logits": torch.zeros(2, 3)})
    with pytest.raises(DataError, match=r"QuestionAnswering expects \[B, T, 2\].*TokenClassification"):
        objective.select(torch.zeros(2, 3, 4))
    with pytest.raises(DataError, match="has no answers"):
        objective.losses(torch.zeros(3, 2, 5), {"input_ids": data["input_ids"]})
    with pytest.raises(DataError, match=r"expects integers \(3, 2\)"):
        objective.losses(torch.zeros(3, 2, 5), (None, torch.zeros(3, dtype=torch.long)))
    with pytest.raises(DataError, match="use QuestionAnswering"):
        from holdfast import Classification

        Classification().outputs(Answers(), {"input_ids": data["input_ids"]})
