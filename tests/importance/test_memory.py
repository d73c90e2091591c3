"""``max_bytes`` is a bound: counted where memory is taken, not measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.importance import engine, fallback, fisher, mas, rule, rules, taylor
from holdfast.objectives import MultiLabel
from tests.importance.cases import Apply, Doubled
from tests.importance.test_check import equals_one_backward_per_sample, real
from tests.live_bytes import LiveBytes


class Images(nn.Module):
    """Three convolutions, the patches of which are 8 * 9 * 36 * (1 + 2 + 2) numbers for eight samples."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Conv2d(i, 2, 3, padding=1) for i in (1, 2, 2)))
        self.head = nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)).flatten(2).mean(2))


FIRST = 8 * 9 * 36 * 8  # bytes of the patches of the first of them; the others have twice as many


def images() -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(0)
    return Images().double(), [(real(8, 1, 6, 6), torch.randint(2, (8, 4))) for _ in range(2)]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes all convolutions of a batch keep between terms, at the end of each batch."""
    found: list[int] = []
    true = engine._Engine.add

    def add(self: Any, *args: Any) -> None:
        made: list[Any] = []
        prepare = rules.ConvRule.prepare
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rules.ConvRule, "prepare", lambda rule, module: (made.append(rule), prepare(rule, module))[1])
            true(self, *args)
        found.append(sum(patches.nbytes for rule in made for patches in rule.held))

    monkeypatch.setattr(engine._Engine, "add", add)
    return found


@pytest.mark.parametrize(
    ("room", "kept"), [(5, 5), (4, 3), (3, 3), (2, 1), (1, 1), (0.9, 0)], ids=lambda value: f"{value:g}"
)
def test_convolutions_share_the_memory_for_what_they_keep(room: float, kept: int, held: list[int]) -> None:
    model, data = images()
    fisher(model, data, objective=MultiLabel(), kind="exact", max_bytes=int(room * FIRST))
    assert held == [kept * FIRST] * 2


@pytest.mark.parametrize(
    "estimate",
    [
        lambda *a: fisher(*a, objective=MultiLabel(), kind="sampled"),
        lambda *a: fisher(*a, objective=MultiLabel(), kind="empirical"),
        lambda *a: mas(*a, objective=MultiLabel()),
        lambda *a: taylor(*a, objective=MultiLabel()),
    ],
    ids=["sampled", "empirical", "mas", "taylor"],
)
def test_nothing_is_kept_for_a_single_term(estimate: Any, held: list[int]) -> None:
    estimate(*images())
    assert held == [0, 0]


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_kept_patches_come_back_in_their_places(chunk: int, held: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "_CACHED", chunk * 8 * (2 * 36 + 9 * 2 * 36))
    model, data = images()
    equals_one_backward_per_sample(model, data, MultiLabel())
    assert held == [5 * FIRST] * 2


def test_gradients_and_patches_are_formed_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sequences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 7)
            self.head = nn.Linear(7, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.layer(x)).mean(1))

    bound, sizes = 30_000, list[int]()
    patches, bmm = rules.unfolded, torch.bmm
    now = [0]

    def unfolded(*args: Any) -> Tensor:
        found = patches(*args)
        now[0] = found.nbytes
        return found

    def multiplied(*args: Any) -> Tensor:
        found = bmm(*args)
        sizes.append(now[0] + 2 * found.nbytes)  # the gradient and one temporary of the statistic
        return found

    monkeypatch.setattr(rules, "unfolded", unfolded)
    monkeypatch.setattr(torch, "bmm", multiplied)
    model, data = images()
    fisher(model, data, objective=MultiLabel(), kind="empirical", max_bytes=bound)
    assert bound / 2 < max(sizes) <= bound
    sizes.clear()
    now[0] = 0
    data = [(real(200, 5, 6), torch.randint(2, (200, 4)))]
    fisher(Sequences().double(), data, objective=MultiLabel(), kind="empirical", max_bytes=bound)
    assert bound / 2 < max(sizes) <= bound


def test_vmap_takes_as_many_samples_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    true = fallback.vmap

    def spy(function: Any) -> Any:
        def called(cotangents: list[Tensor], rows: list[Tensor]) -> Any:
            sizes.append(len(rows[0]))
            return true(function)(cotangents, rows)

        return called

    monkeypatch.setattr(fallback, "vmap", spy)
    model = Doubled(6, 4).double()
    one = 3 * (6 + 1) * 4 * 8  # the gradient, the statistic and the sum over terms
    fisher(model, [(real(8, 6), torch.randint(2, (8, 4)))], objective=MultiLabel(), max_bytes=3 * one)
    assert sizes == [3, 3, 2]


def test_terms_that_wait_for_the_slow_way_are_no_more_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    true = engine.vectorized

    def spy(work: Any) -> None:
        waited.append(len(work.cotangents))
        true(work)

    monkeypatch.setattr(engine, "vectorized", spy)
    torch.manual_seed(0)
    model = Apply(lambda m, x: m.a(x), a=Doubled(6, 10)).double()
    data = [(real(4, 6), torch.randint(2, (4, 10)))]
    fisher(model, data, objective=MultiLabel(), max_bytes=4 * 4 * 10 * 8)
    assert max(waited) <= 4
    assert sum(waited) == 10
    equals_one_backward_per_sample(model, data, MultiLabel())


@pytest.mark.parametrize("estimate", [fisher, mas, taylor])
def test_beyond_the_sums_there_is_one_layers_work(estimate: Any) -> None:
    torch.manual_seed(0)
    layers, width = 12, 64
    model = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(layers)))
    one = sum(p.nbytes for p in model[0].parameters())
    data = [(torch.randn(size, width), torch.randint(width, (size,))) for size in (2, 2, 3)]  # checked at both shapes
    live = LiveBytes()
    with live:
        found = estimate(model, data)
    assert sum(t.nbytes for t in found.values()) == layers * one
    # A rule's sum, autograd's gradient beside it, temporaries of both; autograd's of all layers would be twelve more.
    assert live.peak <= (layers + 9) * one
