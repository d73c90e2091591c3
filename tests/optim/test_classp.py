"""The numbers of CLASSP: against the reference runs, the plain twin, AdaGrad, and between its own fast paths."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast import pieces
from holdfast.optim import CLASSP, _kernels, effective_step_size
from holdfast.optim._reference import paper_step, released_step

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "classp.npz")
CASES = sorted({name.split("/")[0] for name in REFERENCE.files if name.endswith("scaling")})
STEPS = range(12)


@pytest.fixture(params=["lists", "sweep"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Send tiny tensors through each way of the step; pieces of 4 numbers leave a shorter last piece."""
    if request.param == "sweep":
        monkeypatch.setattr(_kernels, "LARGE", 1)
        monkeypatch.setattr(pieces, "PIECE", 4)
    return str(request.param)


def reference(name: str) -> Tensor:
    return torch.from_numpy(REFERENCE[name].copy())


def hyperparameters(case: str) -> dict[str, float | bool]:
    lr, threshold, eps, power, scaling = REFERENCE[f"{case}/lr_threshold_eps_p_scaling"].tolist()
    return {"lr": lr, "threshold": threshold, "eps": eps, "power": power, "scaling": bool(scaling)}


def with_gradients(optimizer: CLASSP, gradients: list[Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g.clone()
    optimizer.step()


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("case", CASES)
def test_every_step_of_the_reference_run(case: str, variant: str, path: str) -> None:
    params = [nn.Parameter(reference(f"w0/{i}")) for i in (0, 1)]
    optimizer = CLASSP(params, variant=variant, **hyperparameters(case))
    for t in STEPS:
        with_gradients(optimizer, [reference(f"grad/{t}/{i}") for i in (0, 1)])
        for i, p in enumerate(params):
            torch.testing.assert_close(p.data, reference(f"{case}/{variant}/w/{t}/{i}"), rtol=1e-9, atol=1e-14)
    for i, p in enumerate(params):
        expected = reference(f"{case}/{variant}/sum/{i}")
        torch.testing.assert_close(optimizer.state[p]["sum"], expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
@pytest.mark.parametrize("scaling", [True, False])
def test_the_fast_step_equals_its_plain_twin(
    variant: str, power: float, threshold: float, scaling: bool, path: str
) -> None:
    generator = torch.Generator().manual_seed(3)
    values = {"lr": 0.1, "threshold": threshold, "eps": 1e-3, "power": power, "scaling": scaling}
    p = nn.Parameter(torch.randn(3, 5, generator=generator, dtype=torch.float64))
    weights, sums = p.flatten().tolist(), [0.0] * 15
    optimizer = CLASSP([p], variant=variant, **values)
    twin = paper_step if variant == "paper" else released_step
    for _ in range(4):
        gradient = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        with_gradients(optimizer, [gradient])
        twin(weights, gradient.flatten().tolist(), sums, **values)
    expected = torch.tensor([weights, sums], dtype=torch.float64)
    actual = torch.stack([p.detach().flatten(), optimizer.state[p]["sum"].flatten()])
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_squared_zero_threshold_is_adagrad_with_eps_inside_the_root(path: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    classp = CLASSP([ours], lr=0.05, eps=1e-4, power=2, threshold=0)
    adagrad = torch.optim.Adagrad([theirs], lr=0.05, initial_accumulator_value=1e-4, eps=0)
    for _ in range(5):
        gradient = torch.randn(7, 3, generator=generator, dtype=torch.float64)
        theirs.grad = gradient.clone()
        adagrad.step()
        with_gradients(classp, [gradient])
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_a_gradient_on_the_threshold_does_not_move_its_weight(path: str) -> None:
    p = nn.Parameter(torch.zeros(5))
    optimizer = CLASSP([p], threshold=0.25, lr=1.0, scaling=False)
    with_gradients(optimizer, [torch.tensor([0.5, -0.5, 0.25, 0.51, -0.51])])
    assert p.tolist() == pytest.approx([0.0, 0.0, 0.0, -0.51, 0.51])
    assert optimizer.state[p]["sum"].tolist() == pytest.approx([0.0, 0.0, 0.0, 0.51, 0.51])


@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_seen_and_not_gated_away(threshold: float, bad: float, path: str) -> None:
    p = nn.Parameter(torch.zeros(9))
    gradient = torch.zeros(9)
    gradient[6] = bad
    with_gradients(CLASSP([p], threshold=threshold), [gradient])
    assert p.isfinite().tolist() == [i != 6 for i in range(9)]


def layouts() -> Iterator[tuple[str, Tensor, Tensor]]:
    image = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    last = image.to(memory_format=torch.channels_last)
    yield "channels_last", last, last * 0.7
    yield "channels_last weight, contiguous gradient", last, image * 0.7
    yield "transposed", torch.randn(6, 7).t(), torch.randn(6, 7).t()
    yield "expanded gradient", torch.randn(6, 7), torch.randn(1, 7).expand(6, 7)
    yield "scalar", torch.randn(()), torch.randn(())
    yield "empty", torch.zeros(0, 3), torch.zeros(0, 3)


@pytest.mark.parametrize(("weight", "gradient"), [pytest.param(w, g, id=name) for name, w, g in layouts()])
def test_memory_layout_changes_nothing(weight: Tensor, gradient: Tensor, path: str) -> None:
    p = nn.Parameter(weight.clone())
    optimizer = CLASSP([p], threshold=0.1)
    p.grad = gradient
    optimizer.step()
    weights, sums = weight.flatten().tolist(), [0.0] * weight.numel()
    values = {"lr": 0.2, "threshold": 0.1, "eps": 1e-5, "power": 1.0, "scaling": True}
    paper_step(weights, gradient.flatten().tolist(), sums, **values)
    torch.testing.assert_close(p.detach().flatten(), torch.tensor(weights), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(optimizer.state[p]["sum"].flatten(), torch.tensor(sums), rtol=1e-5, atol=1e-6)
    assert p.stride() == nn.Parameter(weight.clone()).stride()


def test_a_model_may_change_its_memory_format_between_steps(path: str) -> None:
    generator = torch.Generator().manual_seed(8)
    start, gradient = (torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        p = nn.Parameter(start.clone())
        optimizer = CLASSP([p], threshold=0.1)
        with_gradients(optimizer, [gradient])
        p.data = p.data.to(memory_format=memory_format)
        p.grad = gradient.to(memory_format=memory_format)
        optimizer.step()
        saved = optimizer.state_dict()
        optimizer.load_state_dict(saved)
        assert optimizer.state[p]["sum"].stride() == p.stride()
        optimizer.step()
        results.append(torch.stack([p.detach(), optimizer.state[p]["sum"]]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=0.0)


def test_pieces_of_the_real_size_meet_at_their_seams() -> None:
    generator = torch.Generator().manual_seed(5)
    piece = pieces.PIECE
    size = 3 * piece + 3
    p = nn.Parameter(torch.zeros(size))
    gradient = torch.randn(size, generator=generator)
    gradient[: 2 * piece] *= 1e-3  # the first piece has nothing above the threshold, the second one weight far inside
    gradient[piece + 100_000] = 1.0
    optimizer = CLASSP([p], threshold=0.25, lr=0.5, eps=1e-2)
    with_gradients(optimizer, [gradient])
    moved = gradient.double() ** 2 > 0.25
    expected = torch.where(moved, -0.5 * gradient.double() / (1e-2 + gradient.double().abs()), 0.0)
    assert not moved[:piece].any() and moved[piece : 2 * piece].sum() == 1 and moved[-3:].any()
    torch.testing.assert_close(p.detach(), expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_keep_a_float32_accumulator(dtype: torch.dtype, path: str) -> None:
    p = nn.Parameter(torch.ones(6, dtype=dtype))
    optimizer = CLASSP([p], lr=0.1, threshold=0.0)
    gradient = torch.tensor([0.5, -0.25, 1e-3, 2.0, 0.0, -1.0], dtype=dtype)
    total, weights = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=dtype)
    for _ in range(600):  # a bfloat16 sum of equal terms stops growing after 256 of them
        with_gradients(optimizer, [gradient])
        total += gradient.double().abs()
        step = 0.1 * gradient.double() / (1e-5 + total)
        weights = (weights.double() - step).to(dtype)
    assert optimizer.state[p]["sum"].dtype == torch.float32
    torch.testing.assert_close(optimizer.state[p]["sum"].double(), total, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(p.detach(), weights, rtol=2e-2, atol=0.0)


@pytest.mark.parametrize("scaling", [True, False])
@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_effective_step_size_is_the_step_made_per_unit_of_gradient(power: float, scaling: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    gradient = torch.rand(8, generator=generator, dtype=torch.float64) + 0.1
    p = nn.Parameter(torch.zeros(8, dtype=torch.float64))
    optimizer = CLASSP([p], lr=0.3, threshold=0.0, power=power, scaling=scaling, eps=1e-2)
    with_gradients(optimizer, [gradient])
    state_sum = optimizer.state[p]["sum"]
    before = state_sum.clone()
    size = effective_step_size(state_sum, lr=0.3, eps=1e-2, power=power, scaling=scaling)
    torch.testing.assert_close(size, -p.detach() / gradient, rtol=1e-12, atol=0.0)
    assert torch.equal(state_sum, before)
