"""What every method promises about consolidate: what it needs, what it leaves alone, where its state fits."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from holdfast import ConfigurationError, DataError, NumericsError, ProtectionError, StateError, registry
from tests.contract.cases import (
    METHODS,
    NEED_DATA,
    QUADRATIC,
    build,
    consolidate,
    network,
    same,
    same_state,
    sgd,
    task,
    train,
    weights,
)

EVERY = pytest.mark.parametrize("name", METHODS)


@pytest.mark.parametrize("name", NEED_DATA)
def test_an_empty_iterator_is_refused_and_nothing_changes(name):
    model = network()
    optimizer = sgd(model)
    method = build(name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    consolidate(model, optimizer, task(1), method)
    train(model, optimizer, task(2), method)
    saved = copy.deepcopy(method.state_dict())
    with pytest.raises(DataError):
        method.consolidate(iter(()))
    assert same_state(saved, method.state_dict())


@EVERY
def test_a_weight_that_is_not_finite_is_refused_and_nothing_changes(name):
    if name == "freeze":
        pytest.skip("it does not look again at what it has frozen")
    model = network()
    optimizer = sgd(model)
    method = build(name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    consolidate(model, optimizer, task(1), method)
    train(model, optimizer, task(2), method)
    while method.next_round(task(2)):
        train(model, optimizer, task(2), method)
    saved = copy.deepcopy(method.state_dict())
    batch = task(3)[0]
    model.eval()
    weight = method.params.get("middle.weight", next(iter(method.params.values())))
    before, pull = weight.detach().clone(), float(method.penalty(batch).detach())
    with torch.no_grad():
        weight[0, 0] = float("nan")
    with pytest.raises((NumericsError, ProtectionError)):
        method.consolidate(task(2), generator=torch.Generator().manual_seed(1))
    assert same_state(saved, method.state_dict())
    with torch.no_grad():
        weight.copy_(before)
    assert float(method.penalty(batch).detach()) == pull


@EVERY
def test_estimating_leaves_no_trace(name):
    model = network(dropout=0.2)
    optimizer = sgd(model)
    method = build(name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    while method.next_round(task(1)):
        train(model, optimizer, task(1), method)
    model.train()
    model.middle.eval()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    modes = {n: m.training for n, m in model.named_modules()}
    held = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    method.consolidate(task(1), generator=torch.Generator().manual_seed(1))
    assert {n: m.training for n, m in model.named_modules()} == modes
    matrices = {key for key, value in held.items() if value.dim() == 2}  # what no task owns is drawn anew
    changed = {"weight-balancing": {"head.weight"}, "efficient-packnet": matrices}.get(name, set())
    assert all(same_state(held[key], value) for key, value in model.state_dict().items() if key not in changed)
    assert all(torch.equal(p.grad, gradients[n]) for n, p in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.frozen.requires_grad


def _wrapped(kind: str, model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager") if kind == "compiled" else DistributedDataParallel(model)


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@EVERY
@pytest.mark.parametrize("kind", ["compiled", "ddp"])
def test_a_plain_models_state_fits_a_wrapped_one(name, kind, one_process):
    model = network()
    model.unused.requires_grad_(False)  # DDP asks for a gradient of everything that is trainable
    optimizer = sgd(model)
    method = build(name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    consolidate(model, optimizer, task(1), method)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), method.state_dict()))
    train(model, optimizer, task(2), method)
    consolidate(model, optimizer, task(2), method)

    inner = network(seed=3)
    inner.unused.requires_grad_(False)
    inner.load_state_dict(saved[0])
    outer = _wrapped(kind, inner)
    other = sgd(outer)
    other.load_state_dict(saved[1])
    resumed = build(name, outer)
    resumed.load_state_dict(saved[2])
    resumed.attach(other)
    train(outer, other, task(2), resumed)
    consolidate(outer, other, task(2), resumed)
    assert same_state(method.state_dict(), resumed.state_dict()) or _close(method, resumed)
    assert same(weights(model), weights(inner)) or all(
        torch.allclose(p, q, rtol=1e-5, atol=1e-6) for p, q in zip(model.parameters(), inner.parameters(), strict=True)
    )


def _close(left, right) -> bool:
    """The same names, and numbers that differ by no more than the order of a sum."""
    return left.state.keys() == right.state.keys() and all(
        torch.allclose(left.state[n][k].float(), right.state[n][k].float(), rtol=1e-4, atol=1e-6)
        for n in left.state
        for k in left.state[n]
    )


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries() if "path-integral" in entry.promises])
def test_importance_0_everywhere_is_refused(name):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = build(name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    fisher_alone = name == "rwalk"  # a gradient counts there, moved or not
    if fisher_alone:
        for held in method.state.values():
            held["fisher"].zero_()
    with pytest.raises(ProtectionError, match="importance 0 for every weight"):
        method.consolidate()
    assert method.num_tasks == 0 and "anchor" not in method.state["first.weight"]


@pytest.mark.parametrize("name", [name for name in NEED_DATA if name in QUADRATIC])
def test_outputs_that_do_not_depend_on_the_weights_are_refused(name):
    model = network()
    method = build(name, model)
    while method.next_round(task(1), last=True):
        pass
    model.forward = torch.no_grad()(model.forward)
    with pytest.raises(ProtectionError, match="importance 0 for every weight"):
        method.consolidate(task(1))
    assert method.num_tasks == 0 and not method.state


@pytest.mark.parametrize("name", NEED_DATA)
def test_what_are_no_batches_is_refused(name):
    method = build(name, network())
    with pytest.raises(DataError, match="NoneType"):
        method.consolidate(None)
    with pytest.raises(ConfigurationError, match="generator is 3"):
        method.consolidate(task(1), generator=3)


@pytest.mark.parametrize(
    "broken",
    [None, [], {"state": None}, {"meta": 3}, {"buffers": {"constant": 1.0}}, {"state": {"head.weight": {"anchor": 3}}}],
    ids=str,
)
@EVERY
def test_what_is_no_state_is_refused(name, broken):
    method = build(name, network())
    state = {**method.state_dict(), **broken} if isinstance(broken, dict) else broken
    with pytest.raises(StateError, match="the state"):
        method.load_state_dict(state)
