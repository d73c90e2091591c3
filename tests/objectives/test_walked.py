"""The walk over a large vocabulary against its plain twin, value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holdfast.objectives import CausalLM, TokenClassification, walked
from holdfast.objectives.distributions import softmax_divergence
from holdfast.objectives.walked import Unfinished, walked_divergence

G = torch.Generator().manual_seed(0)


def later(outputs: Tensor) -> Tensor:
    return outputs[:, :-1]


def plain(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float) -> Tensor:
    each = softmax_divergence(student[..., : teacher.shape[-1]], teacher, temperature)
    return each[valid].sum() / valid.sum()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("held", [2**24, 0], ids=["held", "made anew"])
@pytest.mark.parametrize("sizes", [(2**21, 2**18), (90, 31), (7, 3)], ids=["whole", "pieces", "single positions"])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_its_twin(
    monkeypatch: pytest.MonkeyPatch, temperature: float, held: int, sizes: tuple[int, int], bias: bool
) -> None:
    monkeypatch.setattr(walked, "_HELD", held)
    monkeypatch.setattr(walked, "_BLOCK", sizes[0])
    monkeypatch.setattr(walked, "_PIECE", sizes[1])
    student = torch.randn(3, 5, 11, generator=G, dtype=torch.float64, requires_grad=True)
    hidden, weight = (torch.randn(*s, generator=G, dtype=torch.float64) for s in ((3, 5, 4), (9, 4)))
    b = torch.randn(9, generator=G, dtype=torch.float64) if bias else None
    valid = torch.rand(3, 4, generator=G) > 0.4
    teacher = hidden @ weight.T + (0 if b is None else b)
    expected = plain(later(student), later(teacher), valid, temperature)
    (gradient,) = torch.autograd.grad(3 * expected, student)
    for given in (teacher, Unfinished(hidden, weight, b)):
        found = walked_divergence(student, given, valid, temperature, later)
        (of_found,) = torch.autograd.grad(3 * found, student, retain_graph=True)
        (again,) = torch.autograd.grad(3 * found, student)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(of_found, gradient, rtol=1e-12, atol=1e-14)
        assert torch.equal(of_found, again)


def test_what_does_not_count_may_be_anything() -> None:
    student = torch.randn(2, 3, 4, generator=G, dtype=torch.float64)
    teacher = torch.randn(2, 3, 4, generator=G, dtype=torch.float64)
    valid = torch.tensor([[True, False, True], [False, False, False]])
    expected = plain(student, teacher, valid, 1.0)
    student[~valid], teacher[~valid] = torch.nan, torch.inf
    student.requires_grad_()
    found = walked_divergence(student, teacher, valid, 1.0)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, student)
    assert (gradient[~valid] == 0).all() and gradient[valid].isfinite().all()


def test_answers_that_are_ruled_out_play_no_part() -> None:
    student = torch.randn(1, 2, 4, generator=G, dtype=torch.float64)
    teacher = torch.randn(1, 2, 4, generator=G, dtype=torch.float64)
    valid = torch.ones(1, 2, dtype=torch.bool)
    teacher[..., 3] = -torch.inf
    for ruled_out in (student[..., 3].clone(), torch.tensor(-torch.inf, dtype=torch.float64)):
        student[..., 3] = ruled_out
        expected = plain(student, teacher, valid, 1.0)
        torch.testing.assert_close(walked_divergence(student, teacher, valid, 1.0), expected)
    teacher[..., 3] = 0.0  # the teacher gives it, the student never would
    assert walked_divergence(student, teacher, valid, 1.0) == torch.inf


def test_far_outputs_are_no_trouble() -> None:
    student = torch.tensor([[[1e4, 0.0, -1e4]]], dtype=torch.float64)
    valid = torch.ones(1, 1, dtype=torch.bool)
    assert walked_divergence(student, student + 5, valid, 1.0) == 0
    assert walked_divergence(student, -student, valid, 1.0) == pytest.approx(2e4)


def test_half_precision_is_reckoned_in_single() -> None:
    student = torch.randn(2, 3, 50, generator=G).bfloat16().requires_grad_()
    teacher = torch.randn(2, 3, 50, generator=G).bfloat16()
    valid = torch.ones(2, 3, dtype=torch.bool)
    found = walked_divergence(student, teacher, valid, 1.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(student.float(), teacher.float(), valid, 1.0))
    (gradient,) = torch.autograd.grad(found, student)
    (expected,) = torch.autograd.grad(plain(student.float(), teacher.float(), valid, 1.0), student)
    torch.testing.assert_close(gradient, expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("objective", [CausalLM(per="token"), CausalLM(per="sequence"), TokenClassification()])
def test_nothing_to_compare_is_a_distance_of_zero(objective: CausalLM | TokenClassification) -> None:
    student = torch.randn(2, 3, 4, generator=G, requires_grad=True)
    batch = {"labels": torch.full((2, 3), -100)}
    found = objective.distance(student, student.detach() + 1, batch, temperature=1.0, factor=1.0)
    found.backward()
    assert found == 0 and student.grad is not None and not student.grad.any()


class Reversed(TokenClassification):
    """An objective of one's own whose positions are no view."""

    def positions(self, outputs: Tensor) -> Tensor:
        return outputs.flip(1)


def test_positions_that_are_no_view_are_not_lost() -> None:
    student = torch.randn(2, 3, 4, generator=G, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 4, generator=G, dtype=torch.float64)
    batch = {"attention_mask": torch.ones(2, 3)}
    both = [
        kind().distance(student, teacher, batch, temperature=2.0, factor=4.0)
        for kind in (Reversed, TokenClassification)
    ]
    gradients = [torch.autograd.grad(each, student)[0] for each in both]
    torch.testing.assert_close(both[0], both[1])
    torch.testing.assert_close(gradients[0], gradients[1])
