"""Importances agree with numbers that were computed independently of this project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.importance import fisher, mas, taylor

DATA = Path(__file__).parents[1] / "data" / "importance.npz"

CASES: dict[str, Callable[..., dict[str, Tensor]]] = {
    "fisher_exact": lambda *a: fisher(*a, kind="exact"),
    "fisher_empirical": lambda *a: fisher(*a, kind="empirical"),
    "fisher_batched_b16": lambda *a: fisher(*a, kind="batched"),
    "mas_squared_norm": lambda *a: mas(*a),
    "mas_norm": lambda *a: mas(*a, form="norm"),
    "anpyc_entropy_per_sample": lambda *a: taylor(*a),
    "anpyc_entropy_first_order_per_sample": lambda *a: taylor(*a, order=1),
    "anpyc_entropy_batchsum_b16": lambda *a: taylor(*a, reduction="batch"),
    "anpyc_l2_per_sample": lambda *a: taylor(*a, output="l2"),
    "anpyc_l2_first_order_per_sample": lambda *a: taylor(*a, output="l2", order=1),
    "anpyc_l2_batchsum_b16": lambda *a: taylor(*a, output="l2", reduction="batch"),
}


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(DATA) as arrays:
        return {name: torch.tensor(arrays[name]) for name in arrays}


@pytest.fixture
def setting(reference: dict[str, Tensor]) -> tuple[nn.Module, list[Any]]:
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 4)).double()
    model.load_state_dict({k.removeprefix("param/"): v for k, v in reference.items() if k.startswith("param/")})
    x, y = reference["x"], reference["y"]
    return model, list(zip(x.split(16), y.split(16), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_reference(case: str, setting: Any, reference: dict[str, Tensor]) -> None:
    found = CASES[case](*setting)
    assert len(found) == 6
    for name, value in found.items():
        torch.testing.assert_close(value, reference[f"{case}/{name}"], rtol=1e-9, atol=0)


def test_every_array_of_the_reference_is_tested(reference: dict[str, Tensor]) -> None:
    assert {name.split("/")[0] for name in reference} - {"x", "y", "param"} == CASES.keys()


@pytest.mark.parametrize("case", [name for name in CASES if "_b16" not in name])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_batch_size_does_not_matter(case: str, size: int, setting: Any, reference: dict[str, Tensor]) -> None:
    batches = list(zip(reference["x"].split(size), reference["y"].split(size), strict=True))
    for name, value in CASES[case](setting[0], batches).items():
        torch.testing.assert_close(value, reference[f"{case}/{name}"], rtol=1e-9, atol=0)


def dense(model: nn.Module, x: Tensor, sign: float) -> tuple[dict[str, Tensor], float]:
    """ANPyC's importance sample by sample, and the least of all relative changes that it met."""
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    least = 0.0
    for row in x:
        p = model(row[None]).softmax(-1)
        gradients = torch.autograd.grad(-(p * p.log()).sum(), list(model.parameters()))
        for (name, w), g in zip(model.named_parameters(), gradients, strict=True):
            u = sign * g * w.detach()
            least = min(least, float(u.min()))
            sums[name] += torch.where(u + u**2 / 2 > 0, u + u**2 / 2, 0.0)
    return {name: total / len(x) for name, total in sums.items()}, least


@pytest.mark.parametrize(("sign", "factor"), [("released", 1.0), ("removal", -1.0)])
@pytest.mark.parametrize("shift", [0.0, 50.0])
def test_taylor_on_both_sides_of_the_parabola(sign: Any, factor: float, shift: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).double()
    model[1].weight.data += shift  # the same for each output: the softmax does not see it
    x = torch.randn(20, 4, dtype=torch.float64)
    expected, least = dense(model, x, factor)
    assert (least < -2) == (shift > 0)  # below -2 the change is positive again, and matrix products do not do
    found = taylor(model, [(x, None)], sign=sign)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-14)


def test_the_removal_sign_is_another_importance(setting: Any) -> None:
    released, removal = taylor(*setting), taylor(*setting, sign="removal")
    assert not torch.allclose(released["0.weight"], removal["0.weight"], rtol=0.1)
