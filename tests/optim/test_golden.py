"""The preset against the reference run, and what cross-entropy is the sum of."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast import L2SP, DataError, GoldenSGD, registry
from holdfast.optim import kl_and_entropy
from holdfast.optim.golden import GOLDEN_LR, GOLDEN_MOMENTUM

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "golden.npz")


def reference(name: str) -> Tensor:
    return torch.from_numpy(REFERENCE[name].copy())


def test_the_constants_are_the_closed_forms() -> None:
    assert pytest.approx(float(reference("alpha")), rel=1e-14) == GOLDEN_MOMENTUM
    assert pytest.approx(float(reference("eta")), rel=1e-12) == GOLDEN_LR
    assert pytest.approx(math.sqrt(3 - math.sqrt(5)), rel=1e-14) == GOLDEN_MOMENTUM
    assert pytest.approx(4 - math.sqrt(5) - math.sqrt(10) + math.sqrt(2), rel=1e-12) == GOLDEN_LR
    assert registry.lookup("golden-sgd").defaults == {"lr": GOLDEN_LR, "momentum": GOLDEN_MOMENTUM}


def test_every_step_of_the_reference_run() -> None:
    weight = nn.Parameter(reference("w"))
    optimizer = GoldenSGD([weight])
    for gradient, expected in zip(reference("grads"), reference("trajectory"), strict=True):
        weight.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close(weight.data, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_however_it_is_computed(how) -> None:
    weight = nn.Parameter(reference("w").float())
    optimizer = GoldenSGD([weight], **how)
    for gradient in reference("grads"):
        weight.grad = gradient.float()
        optimizer.step()
    torch.testing.assert_close(weight.detach(), reference("trajectory")[-1].float())


def test_groups_may_differ_and_a_method_protects_its_steps() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    optimizer = GoldenSGD([{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.1}])
    assert [group["lr"] for group in optimizer.param_groups] == [GOLDEN_LR, 0.1]
    keep = L2SP(model, strength=1e9, coupling="proximal")  # which has to know how far it steps
    keep.consolidate()
    keep.attach(optimizer)
    before = model[0].weight.detach().clone()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), before, rtol=0, atol=1e-6)


def test_cross_entropy_is_the_divergence_and_the_entropy() -> None:
    found = kl_and_entropy(reference("logits"), reference("targets"))
    for name, key in (
        ("cross_entropy", "cross_entropy"),
        ("kl", "kl"),
        ("target_entropy", "entropy_target"),
        ("output_entropy", "entropy_output"),
    ):
        torch.testing.assert_close(getattr(found, name), reference(key), rtol=1e-9, atol=1e-12)


def test_of_labels_all_is_divergence_also_where_an_output_rules_out_a_class() -> None:
    outputs = torch.tensor([[0.3, -1.0, 2.0], [0.0, -math.inf, 1.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0])
    found = kl_and_entropy(outputs, labels)
    expected = F.cross_entropy(outputs, labels, reduction="none")
    torch.testing.assert_close(found.kl, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.cross_entropy, expected, rtol=1e-12, atol=0)
    assert not found.target_entropy.any() and bool((found.output_entropy > 0).all())


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), r"outputs are \(2, 3\) and targets \(3,\)"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "the classes 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([0, -100]), "the classes 0 to 2"),
        (torch.zeros(2, 3), torch.zeros(2), "the classes 0 to 2"),
        (torch.zeros(2, 3), torch.ones(2, 3), "no distributions"),
        (torch.zeros(2, 3), torch.tensor([[2.0, -1.0, 0.0], [1.0, 0.0, 0.0]]), "no distributions"),
    ],
)
def test_what_is_no_target_is_refused(outputs, targets, message) -> None:
    with pytest.raises(DataError, match=message):
        kl_and_entropy(outputs, targets)
