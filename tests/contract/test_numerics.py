"""What every penalty promises about its numbers, and every method about scaled gradients."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

from holdfast import ConfigurationError, registry
from holdfast.dispatch import Step
from holdfast.registry import Range
from tests.contract.cases import METHODS, QUADRATIC, build, consolidate, network, same, same_state, task, train, weights

DOUBLE = torch.float64


def _couples_through_loss(name: str) -> bool:
    try:
        build(name, network(), coupling="loss")
    except ConfigurationError:
        return False
    return True


THROUGH_LOSS = [name for name in QUADRATIC if _couples_through_loss(name)]


def test_only_path_integrals_refuse_the_loss():
    assert all("path-integral" in registry.lookup(name).promises for name in set(QUADRATIC) - set(THROUGH_LOSS))


@pytest.mark.parametrize("name", THROUGH_LOSS)
def test_closed_form_gradient_is_autograds(name):
    model = network(dtype=DOUBLE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    method = build(name, model, coupling="gradient").attach(optimizer)
    for seed in (1, 2):
        train(model, optimizer, task(seed, DOUBLE), method)
        consolidate(model, optimizer, task(seed, DOUBLE), method)
    train(model, optimizer, task(3, DOUBLE), method)
    twin = build(name, model, coupling="loss")
    twin.load_state_dict(method.state_dict())
    held = [n for n in method.params if n in method.state]
    for name_ in held:
        method.params[name_].grad = torch.zeros_like(method.params[name_])
    method.add_gradient(Step(optimizer))
    expected = torch.autograd.grad(twin.penalty(), [twin.params[n] for n in held], allow_unused=True)
    largest = 0.0
    for name_, gradient in zip(held, expected, strict=True):
        wanted = torch.zeros_like(method.params[name_]) if gradient is None else gradient
        torch.testing.assert_close(method.params[name_].grad, wanted, rtol=1e-9, atol=1e-12)
        largest = max(largest, float(wanted.abs().max()))
    assert largest > 1e-6  # the comparison is of something


@pytest.mark.parametrize("name", QUADRATIC)
def test_closed_form_is_scaled_with_the_gradients(name):
    model = network(dtype=DOUBLE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    method = build(name, model).attach(optimizer)
    train(model, optimizer, task(1, DOUBLE), method)
    consolidate(model, optimizer, task(1, DOUBLE), method)
    train(model, optimizer, task(2, DOUBLE), method)
    found = []
    for scale in (None, torch.tensor(64.0, dtype=DOUBLE)):
        for p in method.params.values():
            p.grad = torch.zeros_like(p)
        method.add_gradient(Step(optimizer, grad_scale=scale, found_inf=None if scale is None else torch.tensor(0.0)))
        found.append({n: p.grad.clone() for n, p in method.params.items()})
    for n in found[0]:
        torch.testing.assert_close(found[0][n] * 64, found[1][n], rtol=1e-12, atol=1e-12)


class _Bowl(nn.Module):
    """A model whose task loss has its minimum wherever the batch says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE))


@functools.cache
def _weighs(name: str) -> bool:
    """Whether it remembers an importance of each weight."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    method = build(name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    consolidate(model, optimizer, task(1), method)
    return any("importance" in held for held in method.state.values())


def _rest(name: str, coupling: str, kind: str) -> torch.Tensor:
    model = _Bowl()
    target = torch.tensor([2.0, 1.0, -1.0], dtype=DOUBLE)
    steepness = torch.tensor([1.0, 2.0, 0.5], dtype=DOUBLE)
    others = {key: 0.0 for key, where in registry.lookup(name).search.items() if isinstance(where, Range)}
    values = {key: value for key, value in others.items() if key != "strength"}  # the weights of further terms
    method = build(name, model, coupling=coupling, strength=1.0, **values)
    # The state that the method itself would have: an anchor, and importances where it keeps any.
    anchor = torch.tensor([0.0, -1.0, 1.0], dtype=DOUBLE)
    importance = torch.tensor([0.5, 1.5, 0.0], dtype=DOUBLE)
    kept = {"anchor": anchor, "importance": importance} if _weighs(name) else {"anchor": anchor}
    method.state["weight"] = kept
    method.meta["num_tasks"] = 1
    makers = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
        "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    }
    optimizer = makers[kind](model.parameters())
    method.attach(optimizer)
    rate = optimizer.param_groups[0]["lr"]
    for t in range(600):
        if kind == "adam":
            optimizer.param_groups[0]["lr"] = rate * (1 - t / 600) ** 2
        loss = 0.5 * (steepness * (model.weight - target).square()).sum()
        if method.needs_penalty:
            loss = loss + method.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.weight.detach()


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("name", QUADRATIC)
def test_couplings_rest_at_the_same_point(name, kind):
    method = build(name, _Bowl(), strength=1.0)
    pull = 2 * method.factor * torch.tensor([0.5, 1.5, 0.0], dtype=DOUBLE)
    if not _weighs(name):
        pull = torch.full((3,), 2 * method.factor, dtype=DOUBLE)
    steepness = torch.tensor([1.0, 2.0, 0.5], dtype=DOUBLE)
    target, anchor = torch.tensor([2.0, 1.0, -1.0], dtype=DOUBLE), torch.tensor([0.0, -1.0, 1.0], dtype=DOUBLE)
    expected = (steepness * target + pull * anchor) / (steepness + pull)
    couplings = ["gradient", "proximal"] + (["loss"] if name in THROUGH_LOSS else [])
    for coupling in couplings:
        torch.testing.assert_close(_rest(name, coupling, kind), expected, rtol=2e-3, atol=2e-3, msg=coupling)


def _fused(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01, fused=True)


def _scaled_step(model, optimizer, scaler, batch, method, *, overflow=False):
    outputs = model(batch[0])
    loss = nn.functional.cross_entropy(outputs, batch[1])
    if method.needs_penalty:
        loss = loss + method.penalty(batch, outputs)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    if overflow:
        model.head.weight.grad[0, 0] = float("inf")
    scaler.step(optimizer)
    scaler.update()


def _learned(name: str):
    model = network()
    optimizer = _fused(model)
    method = build(name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    consolidate(model, optimizer, task(1), method)
    return model, optimizer, method


@pytest.mark.parametrize("name", METHODS)
def test_scaled_gradients_of_a_fused_optimizer(name):
    model, optimizer, method = _learned(name)
    train(model, optimizer, task(2), method)
    scaled, other, protected = _learned(name)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for batch in task(2):
        _scaled_step(scaled, other, scaler, batch, protected)
    for (n, p), q in zip(model.named_parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-4, msg=n)


@pytest.mark.parametrize("name", METHODS)
def test_a_skipped_step_changes_nothing(name):
    model, optimizer, method = _learned(name)
    train(model, optimizer, task(2), method)
    before, held = weights(model), copy.deepcopy(method.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    _scaled_step(model, optimizer, scaler, task(3)[0], method, overflow=True)
    after = method.state_dict()
    assert same(before, weights(model))
    assert same_state(held["state"], after["state"])
    assert same_state(held["buffers"], after["buffers"])
