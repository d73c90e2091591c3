"""A Fisher of many samples from some of them: which ones, with what weights, and what that makes of the estimate."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor, nn

from holdfast.importance import fisher
from holdfast.importance.thinned import ENOUGH, Thinned


def batches_of(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 4, generator=draw, dtype=torch.float64), torch.randint(3, (size,), generator=draw))
        for size in sizes
    ]


def taken(sizes: list[int], enough: int, *, costly: bool = True) -> list[tuple[int, float]]:
    """Place and weight of every batch that is taken."""
    batches = batches_of(*sizes)
    thinned = Thinned(batches, enough)
    found = []
    for batch in thinned:
        thinned.costly = costly  # as the first terms say
        place = next(k for k, each in enumerate(batches) if each is batch)
        found.append((place, thinned.weight(batch)))
    return found


def test_every_second_then_every_fourth_batch_is_taken_with_the_weight_of_its_group() -> None:
    # Two batches of 10 are enough: 0, 1; then of (2, 3), (4, 5) the first; then of (6..9), (10..12), which ends early.
    assert taken([10] * 13, 20) == [(0, 1), (1, 1), (2, 2), (4, 2), (6, 4), (10, 3)]


def test_what_costs_little_is_not_thinned() -> None:
    assert taken([10] * 13, 20, costly=False) == [(k, 1) for k in range(13)]


def test_weights_add_up_to_all_samples_whatever_the_sizes() -> None:
    sizes = [7, 1, 0, 12, 3, 3, 9, 1, 1, 0, 30, 2, 5, 5, 8, 4]
    found = taken(sizes, 8)
    assert sum(sizes[place] * weight for place, weight in found) == pytest.approx(sum(sizes))
    assert len(found) < len([size for size in sizes if size])


def test_auto_is_exact_of_as_many_samples_as_are_all_taken() -> None:
    model = nn.Linear(4, 3).double()
    batches = batches_of(*[ENOUGH // 8] * 8)
    assert all(torch.equal(a, b) for a, b in zip(
        fisher(model, batches, kind="auto").values(), fisher(model, batches, kind="exact").values(), strict=True
    ))  # fmt: skip


def by_hand(model: nn.Module, batches: list[tuple[Tensor, Tensor]], weights: list[float]) -> dict[str, Tensor]:
    """One backward pass per sample and class."""
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for (inputs, _), weight in zip(batches, weights, strict=True):
        for x in inputs if weight else ():
            logs = model(x[None]).log_softmax(1)[0]
            for log in logs:
                gradients = torch.autograd.grad(log, list(model.parameters()), retain_graph=True)
                for total, gradient in zip(sums.values(), gradients, strict=True):
                    total += weight * log.detach().exp() * gradient.square()
    number = sum(weight * len(inputs) for (inputs, _), weight in zip(batches, weights, strict=True))
    return {name: total / number for name, total in sums.items()}


def test_auto_of_more_is_the_weighted_mean_over_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("holdfast.importance.fisher")
    monkeypatch.setattr(module, "Thinned", lambda batches: Thinned(batches, 12))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    batches = batches_of(*[6] * 9)
    found = fisher(model, iter(batches), kind="auto")
    # 0, 1; of (2, 3), (4, 5) the first; of (6, 7, 8) the first.
    expected = by_hand(model, batches, [1, 1, 2, 0, 2, 0, 3, 0, 0])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=0)


def test_data_that_arrive_class_by_class_are_all_heard() -> None:
    """All of the first 256 samples are of class 0: had the others been left out, its outputs alone would count."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    draw = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(64, 4, generator=draw, dtype=torch.float64) * scale, torch.full((64,), label))
        for label, scale in ((0, 0.1), (1, 1.0), (2, 3.0))
        for _ in range(32)
    ]
    whole = fisher(model, batches, kind="exact")
    some = fisher(model, batches, kind="auto")
    first = fisher(model, batches[:32], kind="exact")
    for name in whole:
        assert (some[name] - whole[name]).norm() < 0.1 * whole[name].norm()
        if name == "weight":
            assert (first[name] - whole[name]).norm() > 0.9 * whole[name].norm()


def test_it_looks_at_few_of_many() -> None:
    seen = 0

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3).double()

        def forward(self, inputs: Tensor) -> Tensor:
            nonlocal seen
            seen += len(inputs)
            return self.layer(inputs)

    number = 20_000
    fisher(Counting(), ((x, y) for x, y in batches_of(*[100] * (number // 100))), kind="auto")
    assert seen < 1.2 * ENOUGH * math.log2(1 + number / ENOUGH)
