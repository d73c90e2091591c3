"""The other direction and the other answers: against a reference file, a plain twin, and autograd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.objectives import directed, walked
from holdfast.objectives.directed import Direction, directed_divergence, reverse_divergence, without_targets
from holdfast.objectives.distributions import softmax_divergence
from holdfast.objectives.walked import Unfinished, walked_divergence

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "kl_to_base.npz")
G = torch.Generator().manual_seed(0)


def later(outputs: Tensor) -> Tensor:
    return outputs[:, :-1]


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("targets", [True, False], ids=["without targets", "all"])
@pytest.mark.parametrize("held", [2**24, 0], ids=["held", "made anew"])
@pytest.mark.parametrize("size", [2**20, 70, 3], ids=["whole", "pieces", "single positions"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equals_its_twin(
    monkeypatch: pytest.MonkeyPatch, direction: Direction, targets: bool, held: int, size: int, temperature: float
) -> None:
    monkeypatch.setattr(walked, "_HELD", held)
    monkeypatch.setattr(directed, "_PIECE", size)
    student = torch.randn(3, 5, 11, generator=G, dtype=torch.float64, requires_grad=True)
    hidden, weight = (torch.randn(*s, generator=G, dtype=torch.float64) for s in ((3, 5, 4), (9, 4)))
    valid = torch.rand(3, 4, generator=G) > 0.3
    left_out = torch.randint(0, 9, (3, 4), generator=G).masked_fill(torch.rand(3, 4, generator=G) > 0.8, -100)
    left_out = left_out if targets else None
    rule = softmax_divergence if direction == "forward" else reverse_divergence
    new, old = (without_targets(later(f), left_out) for f in (student[..., :9], hidden @ weight.T))
    expected = 0.7 * rule(new, old, temperature)[valid].sum() / valid.sum()
    (gradient,) = torch.autograd.grad(3 * expected, student)
    for given in (hidden @ weight.T, Unfinished(hidden, weight, None)):
        found = directed_divergence(
            student, given, valid, temperature, later, direction=direction, targets=left_out, weight=0.7
        )
        (of_found,) = torch.autograd.grad(3 * found, student)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(of_found, gradient, rtol=1e-12, atol=1e-14)


def test_forward_over_all_answers_is_the_walked_one() -> None:
    student, teacher = (torch.randn(2, 3, 7, generator=G, dtype=torch.float64) for _ in range(2))
    teacher[..., 2] = -torch.inf
    valid = torch.tensor([[True, False, True], [True, True, True]])
    expected = walked_divergence(student, teacher, valid, 1.5)
    torch.testing.assert_close(directed_divergence(student, teacher, valid, 1.5), expected, rtol=1e-12, atol=1e-14)


def test_answers_that_are_ruled_out_play_no_part() -> None:
    student = torch.randn(2, 3, 7, generator=G, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 7, generator=G, dtype=torch.float64)
    valid = torch.ones(2, 3, dtype=torch.bool)
    closed = teacher.clone()
    closed[..., 5:] = -torch.inf
    found = directed_divergence(student, closed, valid, 1.0, direction="reverse")
    (gradient,) = torch.autograd.grad(found, student)
    expected = directed_divergence(student[..., :5], teacher[..., :5], valid, 1.0, direction="reverse")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, student)[0])


def test_what_does_not_count_may_be_anything() -> None:
    student, teacher = (torch.randn(2, 3, 4, generator=G, dtype=torch.float64) for _ in range(2))
    valid = torch.tensor([[True, False, True], [False, False, False]])
    expected = reverse_divergence(student, teacher, 1.0)[valid].mean()
    student[~valid], teacher[~valid] = torch.nan, torch.inf
    student.requires_grad_()
    found = directed_divergence(student, teacher, valid, 1.0, direction="reverse")
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, student)
    assert bool(gradient.isfinite().all()) and not bool(gradient[~valid].any())


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("forward_{}", {}),
        ("forward_{}_T", {"temperature": 2.0, "weight": 4.0}),
        ("reverse_{}", {"direction": "reverse"}),
        ("non_target_{}", {"targets": torch.from_numpy(REFERENCE["tokens"])}),
    ],
)
def test_equals_the_reference(kind: str, settings: dict[str, Any]) -> None:
    student, base, mask = (torch.from_numpy(REFERENCE[name]) for name in ("logits", "base_logits", "mask"))
    student.requires_grad_()
    found = directed_divergence(student, base, mask, **{"temperature": 1.0, **settings})
    assert found.item() == pytest.approx(float(REFERENCE[kind.format("kl")]), rel=1e-9)
    (gradient,) = torch.autograd.grad(found, student)
    torch.testing.assert_close(gradient, torch.from_numpy(REFERENCE[kind.format("grad")]), rtol=1e-9, atol=1e-12)
