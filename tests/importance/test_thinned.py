"""A Fisher of many samples from some of them: which ones, with what weights, and what that makes of the estimate."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor, nn

from holdfast.importance import fisher
from holdfast.importance.thinned import ENOUGH, Thinned
from holdfast.objectives.batches import joined, some


def numbered(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    """Batches whose samples are their own numbers."""
    numbers = torch.arange(sum(sizes)).split(list(sizes))
    return [(each[:, None].double(), each % 3) for each in numbers]


def taken(sizes: list[int], enough: int, *, costly: bool = True) -> tuple[dict[int, int], list[int]]:
    """The weight of every sample that is taken, and the sizes of the batches that come out."""
    thinned = Thinned(numbered(*sizes), enough)
    found, out = {}, []
    for inputs, _ in thinned:
        thinned.costly = costly  # as the first terms say
        out.append(len(inputs))
        found |= {int(row): thinned.weight(batch) for row in inputs for batch in [thinned._latest[-1][0]]}
    return found, out


def test_of_every_group_one_sample_is_taken_with_its_weight() -> None:
    found, out = taken([5] * 12, 10)
    assert [found.get(k) for k in range(10)] == [1] * 10
    # Ten more at a spacing of two: 10 to 29; ten more of four: 30 to 69, of which the data have 30.
    for low, high, spacing in ((10, 30, 2), (30, 58, 4)):
        for start in range(low, high, spacing):
            inside = [k for k in found if start <= k < start + spacing]
            assert len(inside) == 1
            assert found[inside[0]] == spacing
    assert max(out) <= 5  # no batch is larger than those that were given


def test_what_costs_little_is_not_thinned() -> None:
    found, out = taken([10] * 13, 20, costly=False)
    assert set(found.values()) == {1}
    assert out == [10] * 13


def test_weights_add_up_to_all_samples_but_for_the_last_group() -> None:
    sizes = [7, 1, 4, 12, 3, 3, 9, 1, 1, 2, 30, 2, 5, 5, 8, 4]
    found, _ = taken(sizes, 8)
    assert len(found) < sum(sizes) // 2
    assert abs(sum(found.values()) - sum(sizes)) < max(found.values())


def test_auto_is_exact_of_as_many_samples_as_are_all_taken() -> None:
    model = nn.Linear(1, 3).double()
    batches = numbered(*[ENOUGH // 8] * 8)
    auto, exact = (fisher(model, batches, kind=kind) for kind in ("auto", "exact"))
    assert all(torch.equal(auto[name], exact[name]) for name in exact)


def by_hand(model: nn.Module, inputs: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """One backward pass per sample and class."""
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, weight in zip(inputs, weights.tolist(), strict=True):
        for log in model(x[None]).log_softmax(1)[0] if weight else ():
            gradients = torch.autograd.grad(log, list(model.parameters()), retain_graph=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total += weight * log.detach().exp() * gradient.square()
    return {name: total / weights.sum() for name, total in sums.items()}


def test_auto_of_more_is_the_weighted_mean_over_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("holdfast.importance.fisher")
    monkeypatch.setattr(module, "Thinned", lambda batches: Thinned(batches, 12))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    batches = [(inputs / 50, targets) for inputs, targets in numbered(*[6] * 12)]
    weights, _ = taken([6] * 12, 12)
    chosen = torch.tensor([weights.get(k, 0) for k in range(72)], dtype=torch.float64)
    assert chosen.max() == 4
    expected = by_hand(model, torch.cat([inputs for inputs, _ in batches]), chosen)
    found = fisher(model, iter(batches), kind="auto")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=0)


@pytest.mark.parametrize("order", ["class by class", "by turns"])
def test_all_classes_are_heard_in_any_order(order: str) -> None:
    """Had one class of three been left out, or all after the first 256 samples, a third or more would be missing."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    labels = torch.arange(3).repeat_interleave(2048) if order == "class by class" else torch.arange(3 * 2048) % 3
    inputs = torch.randn(len(labels), 4, dtype=torch.float64) * torch.tensor([0.1, 1.0, 3.0])[labels][:, None]
    batches = list(zip(inputs.split(64), labels.split(64), strict=True))
    whole, some_of_it = (fisher(model, batches, kind=kind) for kind in ("exact", "auto"))
    for name in whole:
        assert (some_of_it[name] - whole[name]).norm() < 0.15 * whole[name].norm()


def test_it_looks_at_few_of_many() -> None:
    seen = 0

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 3).double()

        def forward(self, inputs: Tensor) -> Tensor:
            nonlocal seen
            seen += len(inputs)
            return self.layer(inputs / 1e4)

    fisher(Counting(), iter(numbered(*[100] * 200)), kind="auto")
    assert seen < 1.3 * ENOUGH * math.log2(1 + 20_000 / ENOUGH)


def test_some_samples_of_a_batch_and_batches_joined() -> None:
    batch = {
        "x": torch.arange(12).view(4, 3),
        "boxes": ["a", "b", "c", "d"],
        "scale": torch.tensor(2.0),
        "n": 7,
        "no": None,
    }
    part = some(batch, torch.tensor([1, 3]), 4)
    assert part["x"].tolist() == [[3, 4, 5], [9, 10, 11]]
    assert (part["boxes"], part["scale"], part["n"]) == (["b", "d"], batch["scale"], 7)
    whole = joined([part, some(batch, slice(0, 1), 4)], [2, 1])
    assert whole is not None
    assert whole["x"].tolist() == [[3, 4, 5], [9, 10, 11], [0, 1, 2]]
    assert (whole["boxes"], whole["n"], whole["no"], float(whole["scale"])) == (["b", "d", "a"], 7, None, 2.0)


OTHERS = {
    "longer": {"x": torch.zeros(1, 4)},
    "another dtype": {"x": torch.zeros(1, 3, dtype=torch.float64)},
    "another key": {"y": torch.zeros(1, 3)},
    "another kind": (torch.zeros(1, 3),),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_batches_that_do_not_fit_are_not_joined(other: object) -> None:
    assert joined([{"x": torch.zeros(2, 3)}, other], [2, 1]) is None
