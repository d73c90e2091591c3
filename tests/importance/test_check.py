"""A rule that is wrong is found: whichever term, and whichever shape of the batch, shows it first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.importance import engine, fisher
from holdfast.importance._reference import per_sample_sum_reference
from holdfast.names import canonical_parameters
from holdfast.objectives import Classification, MultiLabel, Objective, Regression
from tests.importance.cases import Doubled


def equals_one_backward_per_sample(model: nn.Module, data: list[Any], objective: Objective) -> None:
    def factors(outputs: Tensor, batch: Any) -> Iterator[Tensor]:
        yield from objective.factors(outputs)

    sums, samples = per_sample_sum_reference(
        model,
        data,
        objective=objective,
        terms=factors,
        statistic=lambda g, w: g**2,
        parameters=canonical_parameters(model),
    )
    found = fisher(model, data, objective=objective, kind="exact")
    for name, total in sums.items():
        torch.testing.assert_close(found[name], total / samples, rtol=1e-9, atol=0)


def frames_first(layer: nn.Module, x: Tensor) -> Tensor:
    """What no rule gets right, and no structure shows when there are as many frames as samples."""
    return torch.tanh(layer(x.transpose(0, 1).contiguous())).mean(0)


class Branches(nn.Module):
    """One output per branch; the first may have a very small part of the last, which then has no output of its own."""

    def __init__(self, leak: float = 0.0) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(3, 1) for _ in range(3))
        self.leak = leak

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = (frames_first(branch, x)[:, 0] for branch in self.branches)
        return torch.stack([x.mean((1, 2)) * 0 + a + self.leak * c, b, 0 * c if self.leak else c], 1)


class Grouped(nn.Module):
    """Its first output is separable, so that its layer is trusted at once; the second alone is not."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(3, 1)
        self.other = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.tanh(self.plain(x)).mean(1)[:, 0], frames_first(self.other, x)[:, 0]], 1)


class Masked(nn.Module):
    """Its first class is closed, so that the first of the exact factors is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        closed = torch.tensor([True, False, False, False])
        return self.head(frames_first(self.layer, x)).masked_fill(closed, -torch.inf)


class SquareOnly(nn.Module):
    """Frames come first only where there are as many as samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == x.shape[1]:
            return self.head(frames_first(self.layer, x))
        return self.head(torch.tanh(self.layer(x)).mean(1))


class SeesMany(nn.Module):
    """In large batches samples see each other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        return self.head(torch.tanh(z - z.mean(0) if len(x) > 5 else z))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def real(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("objective", [Regression(), MultiLabel()], ids=["regression", "multilabel"])
@pytest.mark.parametrize("build", [Branches, Grouped, lambda: Branches(leak=1e-12)], ids=["own", "last", "leak"])
def test_a_layer_that_only_a_later_term_reaches_is_checked(build: Any, objective: Objective) -> None:
    model = build().double()
    outputs = 2 if isinstance(model, Grouped) else 3
    data = [(real(4, 4, 3), torch.zeros(4, outputs)) for _ in range(2)]
    equals_one_backward_per_sample(model, data, objective)


@pytest.mark.parametrize("batches", [1, 3])
def test_a_first_term_of_zero_proves_nothing(batches: int) -> None:
    data = [(real(4, 4, 3), torch.full((4,), 2)) for _ in range(batches)]
    equals_one_backward_per_sample(Masked().double(), data, Classification())


@pytest.mark.parametrize(
    ("build", "shapes"), [(SquareOnly, [(4, 6, 3), (4, 4, 3)]), (SeesMany, [(4, 3), (8, 3)])], ids=["square", "many"]
)
def test_every_shape_of_a_batch_is_checked(build: Any, shapes: list[tuple[int, ...]]) -> None:
    data = [(real(*shape), torch.randint(4, shape[:1])) for shape in shapes]
    equals_one_backward_per_sample(build().double(), data, Classification())


def test_what_a_rule_was_given_before_it_failed_is_kept() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            silent = (x == 0).all(1)  # where only the bias has a gradient, so that the weight is not yet checked
            h = self.layer(x)
            return torch.stack([h[:, 0] * silent, h[:, 1] * ~silent], 1)

    model = Halves().double()
    model.layer.weight.register_hook(lambda g: 3 * g)  # of which the rule knows nothing
    x = real(4, 3)
    x[:2] = 0
    found = fisher(model, [(x, torch.zeros(4, 2))], objective=Regression(), kind="exact")
    torch.testing.assert_close(found["layer.bias"], torch.full((2,), 0.5, dtype=torch.float64))


def test_equal_shapes_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    true = torch.autograd.grad

    def spy(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        return true(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", spy)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    counts = []
    for sizes in ([4], [4, 4, 4], [4, 4, 4, 3, 3]):
        asked.clear()
        fisher(model, [(real(n, 3), torch.randint(4, (n,))) for n in sizes], kind="empirical")
        counts.append(len(asked))
    first, more, other = counts
    assert more - first == 2 * 2  # two of each batch: down to the outputs, and from there to the layers
    assert other - more == first + 2


@pytest.mark.parametrize("build", [nn.Linear, Doubled])
def test_losses_that_see_each_other_are_found_when_the_first_are_zero(build: type[nn.Linear]) -> None:
    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return outputs.square().sum(1) * outputs.mean() * batch[1]

    model = build(3, 2).double()
    data = [(real(4, 3), torch.full((4,), weight)) for weight in (0.0, 1.0)]
    found = fisher(model, data, objective=loss)["weight"]
    expected = torch.zeros_like(found)
    for x, y in data:
        for value in loss(model(x), (x, y)):
            expected += torch.autograd.grad(value, model.weight, retain_graph=True)[0] ** 2 / 8
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def by_sign(x: Tensor) -> bool:
    return bool(x[0, 0] > 0)


def signed() -> list[Any]:
    """Two batches of one shape, of which the second makes a model do what it did not do in the first."""
    x = real(4, 3)
    x[0, 0] = -1
    return [(x, torch.randint(4, (4,))), (-x, torch.randint(4, (4,)))]


def test_a_weight_used_once_more_in_a_later_batch_is_found() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            found = self.layer(x)
            return found + F.linear(x.tanh(), self.layer.weight) if by_sign(x) else found

    equals_one_backward_per_sample(Again().double(), signed(), Classification())


def test_an_input_changed_in_place_in_a_later_batch_is_an_error_as_it_is_in_training() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            given = x.clone()
            found = self.layer(given)
            if by_sign(x):
                given.mul_(2)
            return found

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        fisher(InPlace().double(), signed())


def test_a_user_s_hook_on_a_layer_s_output_costs_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "vectorized", lambda work: pytest.fail("the rule was given up"))
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    model[0].register_forward_hook(lambda module, args, output: 3 * output)
    equals_one_backward_per_sample(model, signed(), Classification())
