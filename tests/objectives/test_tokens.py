"""A target at every token, against one backward per token or sequence."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast import DataError, LwF, MaskedLM, TokenClassification
from holdfast.importance import fisher, mas, taylor
from holdfast.objectives import count
from tests.objectives.plain import Words, change, equal, kl, mean_of, move, nll, size

LABELS = torch.tensor([[2, 0, 1, -100], [1, -100, -100, -100], [0, 0, 2, 1]])
SEEN = [(i, t) for i in range(3) for t in range(4) if LABELS[i, t] >= 0]


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {"input_ids": torch.randint(7, (3, 4), generator=generator), "labels": LABELS}


def by_sample(values: dict[tuple[int, int], Tensor], per: str) -> list[Tensor]:
    """Values of labelled tokens: each for itself, or added up over its sequence."""
    if per == "token":
        return list(values.values())
    return [sum(v for (row, _), v in values.items() if row == i) for i in range(3)]


@pytest.fixture(params=["token", "sequence"])
def per(request: Any) -> Any:
    return request.param


@pytest.fixture(params=[TokenClassification, MaskedLM])
def kind(request: Any) -> Any:
    return request.param


def test_empirical_fisher(kind: Any, per: Any) -> None:
    model, data = Words(outputs=3), batch()
    logits = model(**data)["logits"]
    each = {(i, t): nll(logits[i, t], int(LABELS[i, t])) for i, t in SEEN}
    found = fisher(model, [data], objective=kind(per=per), kind="empirical")
    equal(found, mean_of(model, by_sample(each, per)))
    assert count(kind(per=per), data) == (8 if per == "token" else 3)


def test_exact_fisher_is_the_expectation_over_all_labellings(per: Any) -> None:
    """Every labelling of every sequence, weighed by how likely the model thinks it."""
    model, data = Words(outputs=3), batch()
    logits = model(**data)["logits"]
    p = logits.softmax(-1).detach()
    total: Any = None
    for i in range(3):
        places = [t for row, t in SEEN if row == i]
        labellings: Any = itertools.product(range(3), repeat=len(places))
        if per == "token":
            labellings = [((t, y),) for t in places for y in range(3)]
        else:
            labellings = [tuple(zip(places, labels, strict=True)) for labels in labellings]
        for labelling in labellings:
            weight = torch.stack([p[i, t, y] for t, y in labelling]).prod()
            value = torch.stack([nll(logits[i, t], y) for t, y in labelling]).sum()
            part = mean_of(model, [value], lambda g, w, weight=weight: weight * g**2)
            total = part if total is None else {name: total[name] + part[name] for name in total}
    expected = {name: value / (8 if per == "token" else 3) for name, value in total.items()}
    equal(fisher(model, [data], objective=TokenClassification(per=per), kind="exact"), expected)


def test_sampled_fisher_tends_to_the_exact_one_and_draws_no_padding(per: Any) -> None:
    model, data = Words(outputs=3), batch()
    many = {name: value.repeat(1500, 1) for name, value in data.items()}
    objective = TokenClassification(per=per)
    exact = fisher(model, [data], objective=objective, kind="exact")
    sampled = fisher(model, [many], objective=objective, kind="sampled", generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sampled["head.weight"], exact["head.weight"], rtol=0.15, atol=1e-3)


def test_auto_is_exact_up_to_twenty_outputs_of_all_tokens_together() -> None:
    model, data = Words(outputs=3), batch()
    found = fisher(model, [data], objective=TokenClassification())  # 4 tokens of 3 classes
    equal(found, fisher(model, [data], objective=TokenClassification(), kind="exact"))
    longer = {name: value.repeat(1, 2) for name, value in data.items()}
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    found = fisher(model, [longer], objective=TokenClassification(), generator=draws[0])
    equal(found, fisher(model, [longer], objective=TokenClassification(), kind="sampled", generator=draws[1]))


def test_masked_words_have_no_exact_fisher() -> None:
    with pytest.raises(ValueError, match=r"MaskedLM has no exact Fisher .*: choose fisher='sampled'"):
        fisher(Words(), [batch()], objective=MaskedLM(), kind="exact")


@pytest.mark.parametrize("form", ["squared_norm", "norm"])
def test_mas_is_of_labelled_tokens(per: Any, form: Any) -> None:
    model, data = Words(outputs=3), batch()
    logits = model(**data)["logits"]
    values = by_sample({(i, t): (logits[i, t] ** 2).sum() for i, t in SEEN}, per)
    values = values if form == "squared_norm" else [value.sqrt() for value in values]
    equal(mas(model, [data], objective=TokenClassification(per=per), form=form), mean_of(model, values, size))


@pytest.mark.parametrize("output", ["entropy", "l2"])
def test_taylor_is_of_labelled_tokens(per: Any, output: Any) -> None:
    model, data = Words(outputs=3), batch()
    p = model(**data)["logits"].softmax(-1)
    measure = (lambda row: -(row * row.log()).sum()) if output == "entropy" else (lambda row: (row**2).sum())
    values = by_sample({(i, t): measure(p[i, t]) for i, t in SEEN}, per)
    equal(taylor(model, [data], objective=TokenClassification(per=per), output=output), mean_of(model, values, change))


def test_a_teacher_is_compared_where_there_are_labels_whatever_a_sample_is(kind: Any, per: Any) -> None:
    model, data = Words(outputs=3), batch()
    old = copy.deepcopy(model)
    keep = LwF(model, strength=2.0, temperature=1.0, objective=kind(per=per))
    keep.consolidate()
    assert keep.penalty(data, model(**data)).item() == 0.0
    move(model)
    new = model(**data)
    f, g = new["logits"], old(**data)["logits"]
    expected = 2 * torch.stack([kl(f[i, t], g[i, t]) for i, t in SEEN]).sum() / len(SEEN)
    torch.testing.assert_close(keep.penalty(data, new), expected, rtol=1e-12, atol=0)


def test_without_labels_all_but_padding_counts(per: Any) -> None:
    model, data = Words(outputs=3), batch()
    mask = (LABELS >= 0).long()
    silent = {"input_ids": data["input_ids"], "attention_mask": mask}
    objective = TokenClassification(per=per)
    equal(mas(model, [silent], objective=objective), mas(model, [data], objective=objective))
    exact = fisher(model, [data], objective=objective, kind="exact")
    equal(fisher(model, [silent], objective=objective, kind="exact"), exact)


def test_a_sequence_without_labels_is_no_sample() -> None:
    model, data = Words(outputs=3), batch()
    more = {
        "input_ids": torch.cat([data["input_ids"], data["input_ids"][:1]]),
        "labels": torch.cat([LABELS, torch.full((1, 4), -100)]),
    }
    for estimate in (mas, taylor, lambda *a, **k: fisher(*a, kind="empirical", **k)):
        equal(
            estimate(model, [more], objective=TokenClassification()),
            estimate(model, [data], objective=TokenClassification()),
        )


def test_sequences_packed_in_a_row_are_samples_of_their_own() -> None:
    """Tokens that see nothing of each other: two sequences in one row are the two in rows of their own."""

    class Alone(Words):
        def forward(self, input_ids: Tensor, **ignored: Any) -> Tensor:
            return self.head(torch.tanh(self.embedding(input_ids)))

    model, data = Alone(outputs=3), batch()
    packed = {name: value.reshape(1, -1) for name, value in data.items()}
    for key, value in {
        "position_ids": torch.arange(4).repeat(3)[None],
        "seq_idx": torch.tensor([[4, 4, 4, 4, 5, 5, 5, 5, 0, 0, 0, 0]]),
        "cu_seq_lens_q": torch.tensor([0, 4, 8, 12], dtype=torch.int32),
    }.items():
        for estimate in (mas, taylor, lambda *a, **k: fisher(*a, kind="empirical", **k)):
            whole = {**packed, key: value}
            equal(
                estimate(model, [whole], objective=TokenClassification()),
                estimate(model, [data], objective=TokenClassification()),
            )


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (torch.zeros(3, dtype=torch.long), "TokenClassification expects integers"),
        (torch.zeros(3, 5, dtype=torch.long), "TokenClassification expects integers"),
        (torch.zeros(3, 4, 3), "Regression"),
        (torch.full((3, 4), 3), "target 3 is not among the model's 3 outputs"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Tensor, named: str) -> None:
    with pytest.raises(DataError, match=named):
        fisher(Words(outputs=3), [{**batch(), "labels": labels}], objective=TokenClassification(), kind="empirical")


def test_labels_of_another_length_are_refused_by_every_consumer() -> None:
    model = Words(outputs=3)
    wrong = {**batch(), "labels": torch.zeros(3, 5, dtype=torch.long)}
    for estimate in (mas, taylor, fisher):
        with pytest.raises(DataError, match="labels have shape"):
            estimate(model, [wrong], objective=TokenClassification())
    keep = LwF(model, strength=1.0, objective=TokenClassification())
    keep.consolidate()
    with pytest.raises(DataError, match="labels have shape"):
        keep.penalty(wrong, model(**wrong))
