"""What every method promises about the steps of training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from holdfast import Classification, ProtectionError, StateError, registry
from holdfast.dispatch import Dispatcher
from tests.contract.cases import METHODS, adam, build, consolidate, network, same, same_state, sgd, task, train, weights

OPTIMIZERS = pytest.mark.parametrize("make", [sgd, adam], ids=["sgd", "adam"])
EVERY = pytest.mark.parametrize("name", METHODS)


@EVERY
@OPTIMIZERS
def test_nothing_changes_before_the_first_consolidate(name, make):
    plain, protected = network(), network()
    train(plain, optimizer := make(plain), task(1))
    assert len(optimizer.state) > 0
    optimizer = make(protected)
    train(protected, optimizer, task(1), build(name, protected).attach(optimizer))
    assert same(weights(plain), weights(protected))


@EVERY
def test_protection_changes_training_after_consolidate(name):
    plain, protected = network(), network()
    first, second = sgd(plain), sgd(protected)
    method = build(name, protected).attach(second)
    train(protected, second, task(1), method)
    consolidate(protected, second, task(1), method)
    plain.load_state_dict(protected.state_dict())
    first.load_state_dict(copy.deepcopy(second.state_dict()))
    train(plain, first, task(2))
    train(protected, second, task(2), method)
    if "merges" in registry.lookup(name).promises:  # it lets training be, and changes what comes out of it
        assert same(weights(plain), weights(protected))
        consolidate(protected, second, task(2), method)
    assert not same(weights(plain), weights(protected))


@EVERY
@OPTIMIZERS
def test_save_and_load_in_mid_task_goes_on_bit_for_bit(name, make):
    batches = task(2, batches=6)
    model = network()
    optimizer = make(model)
    method = build(name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    consolidate(model, optimizer, task(1), method)
    train(model, optimizer, batches[:3], method)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), method.state_dict()))
    train(model, optimizer, batches[3:], method)
    consolidate(model, optimizer, batches, method)

    again = network(seed=5)
    resumed = build(name, again)
    again.load_state_dict(saved[0])
    other = make(again)
    resumed.attach(other)
    other.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    train(again, other, batches[3:], resumed)
    consolidate(again, other, batches, resumed)
    assert same(weights(model), weights(again))
    assert same_state(method.state_dict(), resumed.state_dict())


@EVERY
def test_loaded_state_is_a_copy(name):
    model = network()
    optimizer = sgd(model)
    method = build(name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    consolidate(model, optimizer, task(1), method)
    saved = copy.deepcopy(method.state_dict())
    other = build(name, network())
    other.load_state_dict(method.state_dict())
    for held in other.state.values():
        for tensor in held.values():
            tensor.zero_()
    for tensor in other.buffers.values():
        tensor.zero_()
    assert same_state(saved, method.state_dict())


@EVERY
def test_order_of_attaching_does_not_matter(name):
    found = []
    for turned in (False, True):
        model = network()
        optimizer = adam(model)
        methods = [build(name, model), build("ewc", model, strength=2.0)]
        for method in reversed(methods) if turned else methods:
            method.attach(optimizer)
        for seed in (1, 2):
            train(model, optimizer, task(seed), *methods)
            consolidate(model, optimizer, task(seed), *methods)
        found.append(weights(model))
    assert same(*found)


@EVERY
def test_detach_leaves_no_trace(name):
    model = network()
    optimizer = sgd(model)
    method = build(name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    consolidate(model, optimizer, task(1), method)
    method.detach()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert Dispatcher.find(optimizer) is None
    plain = copy.deepcopy(model)
    other = sgd(plain)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(plain, other, task(2))
    train(model, optimizer, task(2))
    assert same(weights(plain), weights(model))


@EVERY
def test_closure_is_the_same_as_no_closure(name):
    found = []
    for positional in (None, True, False):
        model = network()
        optimizer = sgd(model)
        method = build(name, model).attach(optimizer)
        train(model, optimizer, task(1), method)
        consolidate(model, optimizer, task(1), method)
        if positional is None:
            train(model, optimizer, task(2), method)
        for x, y in task(2) if positional is not None else ():

            def closure(x=x, y=y, model=model, method=method, optimizer=optimizer):
                outputs = model(x)
                loss = nn.functional.cross_entropy(outputs, y)
                if method.needs_penalty:
                    loss = loss + method.penalty((x, y), outputs)
                optimizer.zero_grad()
                loss.backward()
                return loss

            if positional:
                optimizer.step(closure)
            else:
                optimizer.step(closure=closure)
        found.append(weights(model))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


@EVERY
def test_bfloat16_weights_and_dropout(name):
    model = network(dtype=torch.bfloat16, dropout=0.3)
    optimizer = sgd(model)
    method = build(name, model).attach(optimizer)
    for seed in (1, 2):
        train(model, optimizer, task(seed, torch.bfloat16), method)
        consolidate(model, optimizer, task(seed, torch.bfloat16), method)
    assert all(p.isfinite().all() for p in model.parameters())
    for held in method.state.values():
        assert "anchor" not in held or held["anchor"].dtype == torch.float32


@EVERY
def test_a_new_head_between_tasks(name):
    model = network()
    optimizer = sgd(model)
    method = build(name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    consolidate(model, optimizer, task(1), method)
    model.extra = nn.Linear(8, 4)
    optimizer.add_param_group({"params": list(model.extra.parameters())})
    train(model, optimizer, task(2), method)
    consolidate(model, optimizer, task(2), method)
    train(model, optimizer, task(3), method)
    assert method.num_tasks == 2


@EVERY
def test_a_head_that_vanished_is_named(name):
    model = network()
    optimizer = sgd(model)
    method = build(name, model, **({"select": "head"} if name == "freeze" else {})).attach(optimizer)
    train(model, optimizer, task(1), method)
    consolidate(model, optimizer, task(1), method)
    if not method.state:
        pytest.skip("this method keeps nothing per parameter")
    del model.head
    model.head = nn.Linear(8, 1)
    with pytest.raises(StateError, match=r"head\.weight"):
        method.attach(sgd(model))


@EVERY
def test_a_forgotten_attach_is_noticed(name):
    model = network()
    optimizer = sgd(model)
    method = build(name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    consolidate(model, optimizer, task(1), method)
    copied = copy.deepcopy(optimizer)
    train(model, copied, task(2))
    saved = copy.deepcopy(method.state_dict())
    with pytest.raises(ProtectionError, match="attach"):
        method.consolidate(task(2), objective=Classification())
    assert same_state(saved, method.state_dict())


@EVERY
def test_a_parameter_in_no_optimizer_is_named(name):
    model = network()
    method = build(name, model)
    missing = dict(model.named_parameters())["middle.weight"]
    with pytest.raises(ProtectionError, match=r"middle\.weight"):
        method.attach(torch.optim.SGD([p for p in model.parameters() if p is not missing], lr=0.1))
