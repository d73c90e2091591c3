"""Language models: which words are predicted, from what, and in which sequence."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast import MAS, CausalLM, ConfigurationError, DataError, LwF, Seq2SeqLM
from holdfast.importance import fisher, mas, taylor
from holdfast.objectives import count
from tests.objectives.plain import Words, change, equal, kl, mean_of, move, nll, size

LENGTHS = (5, 3, 4)


class Alone(Words):
    """Words that see nothing of each other, so that packing changes no output."""

    def forward(self, input_ids: Tensor, **ignored: Any) -> dict[str, Tensor]:
        return {"logits": self.head(torch.tanh(self.embedding(input_ids)))}


def texts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(1, 7, (length,), generator=generator) for length in LENGTHS]


def rows(pad: int = 0) -> dict[str, Tensor]:
    """One text per row, padded."""
    width = max(LENGTHS) + pad
    words, labels, mask = torch.zeros(3, width).long(), torch.full((3, width), -100), torch.zeros(3, width).long()
    for i, text in enumerate(texts()):
        words[i, : len(text)] = labels[i, : len(text)] = text
        mask[i, : len(text)] = 1
    return {"input_ids": words, "labels": labels, "attention_mask": mask}


def packed(key: str) -> dict[str, Tensor]:
    """All texts in one row, told apart by one of the keys that models know."""
    words = torch.cat(texts())[None]
    ends = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]
    how = {
        "position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None],
        "seq_idx": torch.repeat_interleave(torch.tensor([3, 1, 2]), torch.tensor(LENGTHS))[None],
        "cu_seq_lens_q": torch.tensor(ends, dtype=torch.int32),
    }
    return {"input_ids": words, "labels": words.clone(), key: how[key]}


def by_sample(values: list[list[Tensor]], per: str) -> list[Tensor]:
    return [v for of_text in values for v in of_text] if per == "token" else [sum(v) for v in values]


@pytest.mark.parametrize("per", ["token", "sequence"])
@pytest.mark.parametrize("data", [rows(), rows(2), *map(packed, ("position_ids", "seq_idx", "cu_seq_lens_q"))])
def test_every_importance_is_of_the_words_that_another_follows(per: Any, data: dict[str, Tensor]) -> None:
    model, objective = Alone(), CausalLM(per=per)
    logits = [model(text[None])["logits"][0] for text in texts()]
    losses = [
        [nll(f[t], int(text[t + 1])) for t in range(len(text) - 1)] for f, text in zip(logits, texts(), strict=True)
    ]
    equal(fisher(model, [data], objective=objective, kind="empirical"), mean_of(model, by_sample(losses, per)))
    norms = [[(f[t] ** 2).sum() for t in range(len(f) - 1)] for f in logits]
    equal(mas(model, [data], objective=objective), mean_of(model, by_sample(norms, per), size))
    p = [f.softmax(-1) for f in logits]
    spreads = [[(q[t] ** 2).sum() for t in range(len(q) - 1)] for q in p]
    equal(taylor(model, [data], objective=objective, output="l2"), mean_of(model, by_sample(spreads, per), change))
    assert count(objective, data) == (9 if per == "token" else 3)


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_sampled_words_stand_where_labels_do(per: Any) -> None:
    """Of many copies, the mean is the expectation over the model's own words."""
    model, data = Alone(), packed("position_ids")
    many = {name: value.repeat(2000, 1) for name, value in data.items()}
    draw = torch.Generator().manual_seed(0)
    found = fisher(model, [many], objective=CausalLM(per=per), kind="sampled", generator=draw)
    total: Any = None
    for text in texts():
        f = model(text[None])["logits"][0]
        for t in range(len(text) - 1):
            for y in range(7):
                weight = f[t].softmax(0)[y].detach()
                part = mean_of(model, [nll(f[t], y)], lambda g, w, weight=weight: weight * g**2)
                total = part if total is None else {name: total[name] + part[name] for name in total}
    expected = total["head.weight"] / (9 if per == "token" else 3)
    torch.testing.assert_close(found["head.weight"], expected, rtol=0.15, atol=2e-3)


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_a_teacher_is_a_mean_over_words_whatever_the_rows_are(per: Any) -> None:
    model = Alone()
    old = copy.deepcopy(model)
    keep = LwF(model, strength=1.0, temperature=1.0, objective=CausalLM(per=per))
    keep.consolidate()
    move(model)
    each = []
    for text in texts():
        f, g = model(text[None])["logits"][0], old(text[None])["logits"][0]
        each += [kl(f[t], g[t]) for t in range(len(text) - 1)]
    for data in (rows(), rows(3), packed("seq_idx")):
        torch.testing.assert_close(keep.penalty(data), torch.stack(each).mean(), rtol=1e-12, atol=0)


def test_places_that_start_again_in_padding_alone_are_no_packing() -> None:
    model, data = Alone(), rows()
    flipped = {name: value.flip(1) for name, value in data.items()}  # padding on the left
    flipped["position_ids"] = (flipped["attention_mask"].cumsum(1) - 1).masked_fill(flipped["attention_mask"] == 0, 1)
    plain = {name: value for name, value in flipped.items() if name != "position_ids"}
    objective = CausalLM(per="sequence")
    losses = objective.losses(objective.outputs(model, flipped), flipped)
    assert losses.shape == (3,)
    assert torch.equal(losses, objective.losses(objective.outputs(model, plain), plain))


def test_ends_of_sequences_beyond_the_words_are_refused() -> None:
    wrong = {**packed("cu_seq_lens_q"), "cu_seq_lens_q": torch.tensor([0, 5, 9])}
    with pytest.raises(DataError, match=r"cu_seq_lens_q is \[0, 5, 9\]; expected ends of sequences up to 12 tokens"):
        fisher(Alone(), [wrong], objective=CausalLM(per="sequence"), kind="empirical")


def test_without_labels_padding_is_read_from_the_mask() -> None:
    model = Alone()
    silent = {name: value for name, value in rows(2).items() if name != "labels"}
    for objective in (CausalLM(per="sequence"), CausalLM(per="token")):
        equal(mas(model, [silent], objective=objective), mas(model, [rows()], objective=objective))
    MAS(model, strength=1.0, objective=CausalLM(per="token")).consolidate([silent])


def test_labels_that_are_not_the_words_are_refused_everywhere() -> None:
    """Labels aligned with tokens, or shifted already: shifted once more, each would stand at the wrong token."""
    model = Words()
    data = {**rows(), "labels": torch.randint(0, 2, (3, 5))}
    shifted = {**rows(), "labels": rows()["labels"].roll(-1, 1)}
    keep = LwF(model, strength=1.0, objective=CausalLM(per="token"))
    keep.consolidate()
    for wrong in (data, shifted):
        for kind in ("empirical", "sampled"):
            with pytest.raises(DataError, match=r"labels are not the words.*TokenClassification"):
                fisher(model, [wrong], objective=CausalLM(per="sequence"), kind=kind)
        with pytest.raises(DataError, match=r"labels are not the words.*TokenClassification"):
            keep.penalty(wrong, model(**wrong))
    pair = (data["input_ids"], data["labels"])
    with pytest.raises(DataError, match="labels are not the words"):
        CausalLM(per="token").losses(model(pair[0])["logits"], pair)


class Translator(Words):
    """The decoder's inputs are made of the labels, as in the models of Transformers."""

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **ignored: Any) -> dict[str, Tensor]:
        assert labels is not None, "an encoder-decoder model needs the labels"
        before = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1].clamp(min=0)], 1)
        read = self.embedding(input_ids).mean(1, keepdim=True)
        return {"logits": self.head(torch.tanh(read + self.embedding(before).cumsum(1)))}


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_a_second_text_is_made_from_the_first(per: Any) -> None:
    model, objective = Translator(), Seq2SeqLM(per=per)
    target = torch.tensor([[1, 2, 3], [4, 5, -100]])
    data = {"input_ids": torch.randint(7, (2, 4)), "labels": target}
    seen = [[0, 1, 2], [0, 1]]
    logits = model(**data)["logits"]
    losses = [[nll(logits[i, t], int(target[i, t])) for t in seen[i]] for i in range(2)]
    equal(fisher(model, [data], objective=objective, kind="empirical"), mean_of(model, by_sample(losses, per)))
    norms = [[(logits[i, t] ** 2).sum() for t in seen[i]] for i in range(2)]
    equal(mas(model, [data], objective=objective), mean_of(model, by_sample(norms, per), size))
    assert bool(fisher(model, [data], objective=objective)["head.weight"].any())  # sampled
    old = copy.deepcopy(model)
    keep = LwF(model, strength=1.0, temperature=1.0, objective=objective)
    keep.consolidate()
    move(model)
    f, g = model(**data)["logits"], old(**data)["logits"]
    each = [kl(f[i, t], g[i, t]) for i in range(2) for t in seen[i]]
    torch.testing.assert_close(keep.penalty(data), torch.stack(each).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [CausalLM, Seq2SeqLM])
def test_what_a_sample_is_must_be_said(kind: Any) -> None:
    with pytest.raises(TypeError, match="per"):
        kind()
    with pytest.raises(ConfigurationError, match="per is 'word'"):
        kind(per="word")
    with pytest.raises(ConfigurationError, match="no exact Fisher"):
        kind(per="token").factors(torch.zeros(2, 3, 4))
