"""Layers that a sample meets at many positions: each way to the sum of its gradients gives the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.importance import engine, fisher, linear, mas
from holdfast.importance._reference import per_sample_sum_reference
from holdfast.importance.statistic import ABSOLUTE, PLAIN, SQUARE, Statistic
from holdfast.names import canonical_parameters
from holdfast.objectives import CausalLM, Classification, Objective
from tests.importance.cases import Apply


def expected(model: nn.Module, data: list[Any], objective: Objective) -> dict[str, Tensor]:
    """The empirical Fisher by one backward per sample."""

    def losses(outputs: Tensor, batch: Any) -> Any:
        yield objective.losses(outputs, batch)

    sums, samples = per_sample_sum_reference(
        model.eval(),
        data,
        objective=objective,
        terms=losses,
        statistic=lambda g, w: g**2,
        parameters=canonical_parameters(model),
    )
    return {name: total / samples for name, total in sums.items()}


def equals_one_backward_per_sample(model: nn.Module, data: list[Any], objective: Objective, **options: Any) -> None:
    found = fisher(model, data, objective=objective, kind="empirical", **options)
    truth = expected(model, data, objective)
    assert found.keys() == truth.keys()
    largest = max(float(value.max()) for value in truth.values())
    for name, value in truth.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12 * largest)


@pytest.fixture
def no_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(work: Any) -> None:
        raise AssertionError(f"{sorted(work.parameters)} went the slow way")

    for name in ("vectorized", "alone", "loop"):
        monkeypatch.setattr(engine, name, slow)


def ids(size: int, length: int, words: int = 11) -> Tensor:
    return torch.randint(1, words, (size, length))


class Positioned(nn.Module):
    """Words and positions, which all samples share: one row of them, or none."""

    def __init__(self, rows: bool, way: str = "plain") -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(11, 4), nn.Embedding(6, 4)
        self.head = nn.Linear(4, 3)
        self.rows, self.way = rows, way

    def forward(self, x: Tensor) -> Tensor:
        index = torch.arange(x.shape[1])
        p = self.positions(index[None] if self.rows else index)
        h = self.words(x)
        if self.way == "in place":
            h += p
        elif self.way == "doubled":
            h = torch.add(h, p, alpha=2)
        elif self.way == "twice":
            h = (h + p).tanh() + p
        elif self.way == "rolled":
            h = h.roll(1, 0) + p
        else:
            h = p + h
        return self.head(h.tanh().mean(1))


@pytest.mark.usefixtures("no_slow_way")
@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("way", ["plain", "in place"])
def test_positions_that_all_samples_share_have_a_rule(rows: bool, way: str) -> None:
    torch.manual_seed(0)
    model = Positioned(rows, way).double()
    # As many samples as positions, and a single one: the shapes alone do not say which is which.
    data = [(ids(size, 5), torch.randint(3, (size,))) for size in (4, 5, 1)]
    equals_one_backward_per_sample(model, data, Classification())


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("way", ["doubled", "twice", "rolled"])
def test_positions_that_are_not_just_added_are_right_all_the_same(rows: bool, way: str) -> None:
    torch.manual_seed(0)
    model = Positioned(rows, way).double()
    data = [(ids(size, 5), torch.randint(3, (size,))) for size in (4, 5, 1)]
    equals_one_backward_per_sample(model, data, Classification())


def tied(bias: bool, padding: int | None) -> nn.Module:
    embedding, head = nn.Embedding(11, 4, padding_idx=padding), nn.Linear(4, 11, bias=bias)
    head.weight = embedding.weight
    return Apply(
        lambda m, input_ids: m.head(torch.cumsum(m.embedding(input_ids), 1).tanh()), embedding=embedding, head=head
    ).double()


@pytest.mark.usefixtures("no_slow_way")
@pytest.mark.parametrize("sizes", [(2**16, 2**24, 2**20), (0, 100, 50), (0, 2**24, 0)], ids=["chunks", "pieces", "one"])
@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("max_bytes", [1, 1500, None])
def test_a_head_tied_to_its_embedding_has_a_rule(
    sizes: tuple[int, int, int], padding: int | None, max_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(("_ALONE", "WHOLE", "_PIECE"), sizes, strict=True):
        monkeypatch.setattr(linear, name, value)
    torch.manual_seed(0)
    batches = [ids(size, length) for size, length in ((4, 5), (3, 5), (1, 2))]
    data = [{"input_ids": each, "labels": each} for each in batches]
    equals_one_backward_per_sample(tied(True, padding), data, CausalLM(per="sequence"), max_bytes=max_bytes)


@pytest.mark.parametrize("sizes", [(0, 2**24, 2**20), (0, 100, 50), (0, 100, 1)], ids=["whole", "pieces", "rows"])
@pytest.mark.parametrize("estimate", [lambda *a: fisher(*a, kind="exact"), mas])
def test_one_sample_at_a_time_is_as_several(
    sizes: tuple[int, int, int], estimate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = Apply(lambda m, x: m.b(torch.tanh(m.a(x)).mean(1)), a=nn.Linear(6, 5), b=nn.Linear(5, 3)).double()
    data = [(torch.randn(size, 4, 6).double(), torch.randint(3, (size,))) for size in (4, 3)]
    several = estimate(model, data)
    for name, value in zip(("_ALONE", "WHOLE", "_PIECE"), sizes, strict=True):
        monkeypatch.setattr(linear, name, value)
    for name, value in estimate(model, data).items():
        torch.testing.assert_close(value, several[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("statistic", [SQUARE, ABSOLUTE, PLAIN, Statistic(lambda g, w: (g * w).clamp(min=0))])
def test_absorbing_a_gradient_is_adding_it(statistic: Statistic) -> None:
    gradient, weight, before = torch.randn(3, 4, 5, dtype=torch.float64)
    added, absorbed = before.clone(), before.clone()
    statistic.add(added, gradient[None], weight)
    statistic.absorb(absorbed, gradient.clone(), weight)
    torch.testing.assert_close(absorbed, added)


def test_large_gradients_are_formed_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    formed: list[tuple[int, ...]] = []
    true = torch.mm

    def spy(*args: Any, out: Tensor) -> Tensor:
        formed.append(tuple(out.shape))
        return true(*args, out=out)

    monkeypatch.setattr(torch, "mm", spy)
    monkeypatch.setattr(linear, "WHOLE", 400 * 200 * 4)
    monkeypatch.setattr(linear, "_PIECE", 100 * 200 * 4)
    model = Apply(
        lambda m, x: m.c(m.b(m.a(x).tanh()).mean(1)), a=nn.Linear(200, 400), b=nn.Linear(400, 500), c=nn.Linear(500, 3)
    )
    fisher(model, [(torch.randn(2, 4, 200), torch.tensor([0, 1]))], kind="empirical")
    assert formed.count((400, 200)) == 2  # as large as may be
    assert sum(shape[0] for shape in formed if shape[1] == 400) == 2 * 500
    assert max(rows for rows, width in formed if width == 400) <= 50


@pytest.mark.usefixtures("no_slow_way")
@pytest.mark.parametrize("kind", ["bert", "gpt2", "gpt2-lm"])
def test_transformers_take_no_slow_way(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "bert":
        config = transformers.BertConfig(
            vocab_size=11, hidden_size=4, num_hidden_layers=2, num_attention_heads=2, intermediate_size=6, num_labels=3
        )
        model = transformers.BertForSequenceClassification(config)
    else:
        config = transformers.GPT2Config(
            vocab_size=11, n_embd=4, n_layer=2, n_head=2, n_positions=6, num_labels=3,
            pad_token_id=0, bos_token_id=1, eos_token_id=1,
        )  # fmt: skip
        name = "GPT2LMHeadModel" if kind == "gpt2-lm" else "GPT2ForSequenceClassification"
        model = getattr(transformers, name)(config)
    data = []
    for size in (4, 3):
        index = ids(size, 5)
        labels = index if kind == "gpt2-lm" else torch.randint(3, (size,))
        data.append({"input_ids": index, "attention_mask": torch.ones_like(index), "labels": labels})
    objective = CausalLM(per="sequence") if kind == "gpt2-lm" else Classification()
    equals_one_backward_per_sample(model.double(), data, objective)
