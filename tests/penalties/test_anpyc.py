"""ANPyC's consolidation against the reference numbers and against plain autograd, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, NumericsError
from holdfast.penalties.anpyc import ANPyC
from holdfast.penalties.quadratic import QuadraticPenalty

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "importance.npz")
NAMES = [key.removeprefix("param/") for key in REFERENCE.files if key.startswith("param/")]


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 4)).double()
    model.load_state_dict({name: torch.from_numpy(REFERENCE[f"param/{name}"]) for name in NAMES})
    return model


def batches(size: int) -> list[tuple[Tensor, Tensor]]:
    x, y = torch.from_numpy(REFERENCE["x"]), torch.from_numpy(REFERENCE["y"])
    return list(zip(x.split(size), y.split(size), strict=True))


def consolidated_twice(model: nn.Module, **options) -> tuple[QuadraticPenalty, list[dict[str, Tensor]]]:
    """Two tasks with a move between them; the plain importances of each, sample by sample."""
    keep = ANPyC(model, strength=0.7, **options)
    plain = []
    for task in range(2):
        data = [(x[:6] + task, y[:6]) for x, y in batches(16)]
        plain.append(plain_importance(model, data))
        keep.consolidate(data)
        keep.meta["steps"] = 1
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1)
    return keep, plain


def plain_importance(model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    samples = 0
    for x, _ in data:
        for row in x:
            p = model(row[None]).softmax(1)
            gradients = torch.autograd.grad(-(p * p.log()).sum(), list(model.parameters()))
            samples += 1
            for (name, weight), g in zip(model.named_parameters(), gradients, strict=True):
                u = g * weight.detach()
                total[name] += torch.maximum(u + u * u / 2, torch.zeros_like(u))
    return {name: t / samples for name, t in total.items()}


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({}, "anpyc_entropy_per_sample"),
        ({"output": "l2"}, "anpyc_l2_per_sample"),
        ({"reduction": "batch"}, "anpyc_entropy_batchsum_b16"),
        ({"output": "l2", "reduction": "batch"}, "anpyc_l2_batchsum_b16"),
    ],
)
def test_importance_equals_the_reference(options, key) -> None:
    keep = ANPyC(network(), strength=1.0, **options)
    keep.consolidate(batches(16))
    for name in NAMES:
        expected = torch.from_numpy(REFERENCE[f"{key}/{name}"])
        torch.testing.assert_close(keep.state[name]["importance"], expected, rtol=1e-9, atol=1e-18)


def test_the_sign_of_removal_mirrors_the_first_order_part() -> None:
    data = batches(1)[:1]  # of a single sample u + u²/2 can be solved for u, up to where the maximum cuts
    model = network()
    found = {}
    for sign in ("released", "removal"):
        keep = ANPyC(model, strength=1.0, sign=sign)
        keep.consolidate(data)
        found[sign] = keep.state["2.weight"]["importance"]
    p = model(data[0][0]).softmax(1)
    (g,) = torch.autograd.grad(-(p * p.log()).sum(), [model[2].weight])
    u = g * model[2].weight.detach()
    torch.testing.assert_close(found["released"], (u + u * u / 2).clamp(min=0), rtol=1e-12, atol=1e-18)
    torch.testing.assert_close(found["removal"], (-u + u * u / 2).clamp(min=0), rtol=1e-12, atol=1e-18)
    assert not torch.equal(found["released"], found["removal"])


def test_the_maximum_and_the_latest_anchor_are_the_default_and_there_is_no_half() -> None:
    model = network()
    keep, (first, second) = consolidated_twice(model)
    for name in NAMES:
        expected = torch.maximum(first[name], second[name])
        torch.testing.assert_close(keep.state[name]["importance"], expected, rtol=1e-9, atol=1e-18)
    # The move after the latest anchor was 0.1 everywhere.
    total = sum(torch.maximum(first[n], second[n]).sum() for n in NAMES)
    torch.testing.assert_close(keep.value(), 0.7 * total * 0.1**2)


@pytest.mark.parametrize("accumulate", ["max", "sum"])
def test_sum_and_sharpening(accumulate: str) -> None:
    for beta in (0.0, 0.3):
        keep, (first, second) = consolidated_twice(network(), accumulate=accumulate, sharpening=beta)
        for name in NAMES:
            both = torch.maximum(first[name], second[name]) if accumulate == "max" else first[name] + second[name]
            expected = torch.exp(beta * both) if beta else both
            torch.testing.assert_close(keep.state[name]["importance"], expected, rtol=1e-9, atol=1e-18)


def test_only_the_selected_layers_are_held() -> None:
    model = network()
    keep = ANPyC(model, strength=1.0, select=["0", "2"])
    keep.consolidate(batches(16))
    assert set(keep.state) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_refusals_name_what_is_wrong() -> None:
    for option in ("output", "reduction", "sign", "accumulate"):
        with pytest.raises(ConfigurationError, match=f"{option} is 'x'"):
            ANPyC(network(), strength=1.0, **{option: "x"})
    with pytest.raises(ConfigurationError, match="sharpening is -1"):
        ANPyC(network(), strength=1.0, sharpening=-1)
    keep = ANPyC(network(), strength=1.0, sharpening=1e9)
    with pytest.raises(NumericsError, match="sharpening=1000000000"):
        keep.consolidate(batches(16))
    assert keep.num_tasks == 0 and not keep.state
