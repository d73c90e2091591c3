"""Optimizers of the package ``schedulefree``, which train at other weights than are evaluated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from holdfast import (
    EWC,
    GPM,
    L2SP,
    MAS,
    SI,
    AdamNSCL,
    AnpycPruning,
    ConfigurationError,
    Freeze,
    Method,
    PackNet,
    ProtectionError,
    RWalk,
)

schedulefree = pytest.importorskip("schedulefree")

KINDS: dict[str, Callable[[Any], Any]] = {
    "adamw": lambda p: schedulefree.AdamWScheduleFree(p, lr=0.05, weight_decay=0.01),
    "adamw one by one": lambda p: schedulefree.AdamWScheduleFree(p, lr=0.05, foreach=False),
    "radam": lambda p: schedulefree.RAdamScheduleFree(p, lr=0.05),
    "sgd": lambda p: schedulefree.SGDScheduleFree(p, lr=0.2),
    "adamw with closures": lambda p: schedulefree.AdamWScheduleFreeClosure(p, lr=0.05),
    "sgd with closures": lambda p: schedulefree.SGDScheduleFreeClosure(p, lr=0.2),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, generator=generator).double(), torch.randint(3, (8,), generator=generator)


def train(
    model: nn.Module, optimizer: Any, seed: int, steps: int = 6, more: Callable[[], Tensor | float] = lambda: 0.0
) -> None:
    """Some steps, in training mode, on the loss and more; then evaluation mode, where the optimizer has such modes."""
    x, y = batch(seed)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = cross_entropy(model(x), y) + more()
        loss.backward()
        return loss

    modes = hasattr(optimizer, "train")
    if modes:
        optimizer.train()
    for _ in range(steps):
        if modes:
            closure()
            optimizer.step()
        else:
            optimizer.step(closure)
    if modes:
        optimizer.eval()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@every_kind
@pytest.mark.parametrize("coupling", ["gradient", "loss"])
@pytest.mark.parametrize("method", [EWC, L2SP, MAS])
def test_protected_training_is_that_with_the_penalty_in_the_loss(kind: str, coupling: Any, method: Any) -> None:
    model, twin = net(), net()
    optimizers = [KINDS[kind](which.parameters()) for which in (model, twin)]
    keep = method(model, strength=0.5, coupling=coupling).attach(optimizers[0])
    train(model, optimizers[0], seed=1)
    keep.consolidate([batch(1)])
    train(twin, optimizers[1], seed=1)
    for name, anchor in weights(twin).items():  # what is remembered is what is evaluated
        assert torch.equal(keep.state[name]["anchor"], anchor)
    train(model, optimizers[0], seed=2, more=keep.penalty if coupling == "loss" else lambda: 0.0)

    factor = 0.5 if method is MAS else 0.25  # strength, halved where the paper halves it

    def penalty() -> Tensor:
        held = keep.state
        terms = [
            (held[name].get("importance", torch.ones(())) * (p - held[name]["anchor"]) ** 2).sum()
            for name, p in twin.named_parameters()
        ]
        return factor * torch.stack(terms).sum()

    before = weights(twin)
    train(twin, optimizers[1], seed=2, more=penalty)
    for name, expected in weights(twin).items():
        torch.testing.assert_close(weights(model)[name], expected, rtol=1e-9, atol=1e-12)
        assert not torch.allclose(expected, before[name], rtol=1e-3)


@pytest.mark.parametrize("method", [EWC, SI, L2SP, MAS, RWalk])
def test_training_mode_is_refused_by_consolidate(method: Any) -> None:
    model = net()
    optimizer = KINDS["adamw"](model.parameters())
    keep = method(model, strength=1.0).attach(optimizer)
    train(model, optimizer, seed=1)
    optimizer.train()
    with pytest.raises(ProtectionError, match=r"AdamWScheduleFree is in training mode.*optimizer\.eval\(\)"):
        keep.consolidate([batch(1)])
    assert keep.num_tasks == 0
    optimizer.eval()
    keep.consolidate([batch(1)])
    assert keep.num_tasks == 1


@pytest.mark.parametrize("kind", ["adamw", "radam", "sgd"])
def test_si_follows_the_weights_at_which_gradients_are_taken(kind: str) -> None:
    """Neither what the optimizer makes of a gradient, in place, nor its change of modes is part of the path."""
    model, twin = net(), net()
    optimizer, other = (KINDS[kind](which.parameters()) for which in (model, twin))
    keep = SI(model, strength=1.0).attach(optimizer)
    train(model, optimizer, seed=1, steps=3)
    train(model, optimizer, seed=1, steps=3)  # evaluated in between
    found = {name: held["path"].clone() for name, held in keep.state.items()}
    expected = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    x, y = batch(1)
    for step in range(6):
        if step == 3:
            other.eval()
        other.train()
        loss = cross_entropy(twin(x), y)
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        start = weights(twin)
        for p, gradient in zip(twin.parameters(), gradients, strict=True):
            p.grad = gradient.clone()
        other.step()
        for (name, p), gradient in zip(twin.named_parameters(), gradients, strict=True):
            expected[name] -= gradient * (p.detach() - start[name])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", ["adamw with closures", "sgd with closures"])
@pytest.mark.parametrize("method", [SI, RWalk])
def test_a_path_is_refused_that_jumps_within_a_step(kind: str, method: Any) -> None:
    model = net()
    with pytest.raises(ConfigurationError, match=r"ScheduleFreeClosure moves them.*expected (AdamW|SGD)ScheduleFree,"):
        method(model, strength=1.0).attach(KINDS[kind](model.parameters()))


@every_kind
@pytest.mark.parametrize(
    "build",
    [
        lambda m: Freeze(m, select="0"),
        PackNet,
        lambda m: AnpycPruning(m, strength=1.0),
        GPM,
        AdamNSCL,
    ],
    ids=["freeze", "packnet", "anpyc-prune", "gpm", "adam-nscl"],
)
def test_what_puts_weights_back_is_refused(kind: str, build: Callable[[nn.Module], Method]) -> None:
    model = net()
    with pytest.raises(ConfigurationError, match=r"puts weights back after each step, and .*ScheduleFree"):
        build(model).attach(KINDS[kind](model.parameters()))


def test_what_cannot_be_known_of_such_a_step_is_refused() -> None:
    model = net()
    with pytest.raises(ConfigurationError, match="needs to know how far AdamWScheduleFree steps"):
        EWC(model, strength=1.0, coupling="proximal").attach(KINDS["adamw"](model.parameters()))
    wrapped = schedulefree.ScheduleFreeWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ConfigurationError, match=r"a ScheduleFreeWrapper, whose optimizer.*AdamWScheduleFree"):
        EWC(model, strength=1.0).attach(wrapped)
