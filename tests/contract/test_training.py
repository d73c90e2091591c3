"""What every method promises about the steps of training."""

from __future__ import annotations

import copy

import pytest
from torch import nn

from holdfast import L2SP, StateError, registry
from holdfast.testing import CHECKS, check_method
from tests.contract.cases import METHODS, adam, build, consolidate, network, same, sgd, task, train, weights

OPTIMIZERS = pytest.mark.parametrize("make", [sgd, adam], ids=["sgd", "adam"])
EVERY = pytest.mark.parametrize("name", METHODS)


@EVERY
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_promise(name, check):
    check(lambda model: build(name, model))


@EVERY
def test_protection_changes_training_after_consolidate(name):
    protected = network()
    second = sgd(protected)
    method = build(name, protected).attach(second)
    train(protected, second, task(1), method)
    consolidate(protected, second, task(1), method)
    plain = copy.deepcopy(protected)
    first = sgd(plain)
    first.load_state_dict(copy.deepcopy(second.state_dict()))
    train(plain, first, task(2))
    train(protected, second, task(2), method)
    if "between-tasks" in registry.lookup(name).promises:  # it lets training be, and changes what comes out of it
        assert same(weights(plain), weights(protected))
        consolidate(protected, second, task(2), method)
    assert not same(weights(plain), weights(protected))


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


class _Careless(L2SP):
    """Breaks one promise after the other."""

    broken = ""

    def add_gradient(self, step):
        if self.broken == "eager":
            self.params["head.weight"].grad.add_(1.0)
        elif self.broken != "idle":
            super().add_gradient(step)
        if self.broken == "grasping" and self.num_tasks:
            self.params["head.weight"].grad.add_(1.0)

    def _remember(self, batches, objective, generator):
        super()._remember(batches, objective, generator)
        if self.broken == "forgetful":
            self._held_elsewhere = {name: held["anchor"] for name, held in self.state.items()}

    def pull_weights(self, step):
        if self.broken == "forgetful" and hasattr(self, "_held_elsewhere"):
            for name in self.live(step):
                self.part(name).lerp_(self._held_elsewhere[name], 0.1)


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        ("eager", "nothing changes before the first consolidate"),
        ("idle", "after a consolidate, something changes"),
        ("forgetful", "a run that was resumed makes the same weights"),
        ("grasping", "new rows of a head are free"),
    ],
)
def test_a_broken_promise_is_named(broken, promise):
    kind = type("Mine", (_Careless,), {"broken": broken})
    with pytest.raises(AssertionError, match=f"broken promise: {promise}"):
        check_method(lambda model: kind(model, strength=0.3))
