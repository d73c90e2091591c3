"""MoFO: the reference's two steps, by hand with decay and SGD, what moves whole, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from holdfast import MoFO
from holdfast.errors import ConfigurationError
from holdfast.projections.momentum import largest_share
from holdfast.testing.cases import network, task

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "mofo.npz")


def protected(model: nn.Module, optimizer: torch.optim.Optimizer, fraction: float) -> MoFO:
    keep = MoFO(model, fraction=fraction)
    keep.consolidate()
    return keep.attach(optimizer)


def test_two_steps_equal_the_reference() -> None:
    model = nn.Linear(4, 3, bias=False).double()
    model.weight.data = torch.from_numpy(REFERENCE["w0"]).reshape(3, 4).clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=float(REFERENCE["lr"]))
    protected(model, optimizer, float(REFERENCE["fraction"]))
    for gradient, wanted in zip(REFERENCE["grads"], (REFERENCE["w1"], REFERENCE["w2"]), strict=True):
        model.weight.grad = torch.from_numpy(gradient).reshape(3, 4).clone()
        optimizer.step()
        torch.testing.assert_close(model.weight.detach().flatten(), torch.from_numpy(wanted), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "SGD without momentum"])
def test_steps_by_hand(kind: str) -> None:
    model = network().double()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    weights = {name: dict(model.named_parameters())[name].detach().clone() for name in names}
    m, v = ({name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    if kind == "AdamW":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.3)
    else:
        momentum = 0.9 if kind == "SGD" else 0.0
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=0.3)
    protected(model, optimizer, 0.15)
    for t, (x, y) in enumerate(task(2, torch.float64)[:3], 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        for name in names:
            g = dict(model.named_parameters())[name].grad
            if g is None:
                continue
            w = weights[name]
            if kind == "AdamW":
                m[name] = 0.9 * m[name] + 0.1 * g
                v[name] = 0.999 * v[name] + 0.001 * g**2
                new = w * (1 - 0.1 * 0.3) - 0.1 * (m[name] / (1 - 0.9**t)) / ((v[name] / (1 - 0.999**t)).sqrt() + 1e-8)
                by = m[name]
            else:
                m[name] = momentum * m[name] + g + 0.3 * w
                new, by = w - 0.1 * m[name], m[name] if momentum else g
            if w.dim() > 1:
                ranked = sorted(by.abs().flatten().tolist(), reverse=True)[: int(0.15 * w.numel())]
                new = torch.where(by.abs() >= ranked[-1], new, w)
            weights[name] = new
        optimizer.step()
        for name in names:
            torch.testing.assert_close(
                dict(model.named_parameters())[name].detach(), weights[name], rtol=1e-9, atol=1e-12
            )


def test_small_tensors_and_vectors_move_whole_and_shares_are_exact() -> None:
    model = nn.Sequential(nn.Linear(40, 50), nn.LayerNorm(50), nn.Linear(50, 1, bias=False)).double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
    protected(model, optimizer, 0.015)  # of 50 entries not one
    model(torch.randn(8, 40, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    moved = {name: int((p != before[name]).sum()) for name, p in model.named_parameters()}
    assert moved == {"0.weight": 30, "0.bias": 50, "1.weight": 50, "1.bias": 50, "2.weight": 50}


def test_nothing_is_filtered_before_the_first_consolidate() -> None:
    model, plain = network().double(), network().double()
    for each in (model, plain):
        optimizer = torch.optim.Adam(each.parameters(), lr=0.01)
        if each is model:
            MoFO(model).attach(optimizer)
        for x, y in task(1, torch.float64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(each(x), y).backward()
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))


def test_ties_are_all_taken_and_a_share_of_all_is_all() -> None:
    assert largest_share(torch.tensor([1.0, -1.0, 0.5, 1.0]), 0.5).tolist() == [True, True, False, True]
    assert bool(largest_share(torch.randn(7), 1.0).all()) and bool(largest_share(torch.randn(3), 0.1).all())


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, True, "0.1", float("nan")])
def test_a_share_is_a_share(fraction: float) -> None:
    with pytest.raises(ConfigurationError, match=r"fraction is .*; expected a share above 0"):
        MoFO(network(), fraction=fraction)


def test_an_optimizer_without_momentum_is_refused() -> None:
    model = network()
    optimizer = torch.optim.Adagrad(model.parameters())
    protected(model, optimizer, 0.1)
    x, y = task(1)[0]
    nn.functional.cross_entropy(model(x), y).backward()
    with pytest.raises(ConfigurationError, match="of which Adagrad keeps none"):
        optimizer.step()
