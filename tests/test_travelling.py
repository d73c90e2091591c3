"""The memory travels with the optimizer: several methods, several optimizers, and what does not fit."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from holdfast import EWC, L2SP, SI, Classification, LwF, OnlineEWC, ProtectionWarning, StateError
from holdfast.testing.cases import adam, consolidate, network, same_state, sgd, step, task, train
from holdfast.testing.checks import the_memory_travels_with_the_optimizer
from holdfast.travelling import MEMORY, without_memory
from tests.contract.cases import METHODS, build

TASK, NEXT = task(1), task(2)


def _learned(*makes, optimizer_of=adam):
    model = network()
    optimizer = optimizer_of(model)
    methods = [make(model).attach(optimizer) for make in makes]
    train(model, optimizer, TASK, *methods)
    consolidate(model, optimizer, TASK, *methods)
    return model, optimizer, methods


def _ewc(model, **options):
    return EWC(model, strength=0.3, **options)


def _si(model):
    return SI(model, strength=0.3)


def test_several_methods_come_back_whatever_the_order_of_attaching():
    makes = [_si, lambda m: _ewc(m, select="head"), lambda m: EWC(m, strength=0.1, select="first")]
    _, optimizer, methods = _learned(*makes)
    saved = copy.deepcopy(optimizer.state_dict())
    again = network(seed=3)
    other = adam(again)
    # The strengths are changed too, which turns the order of the two EWC within a phase.
    makes[1], makes[2] = (lambda m: EWC(m, strength=0.1, select="head")), (lambda m: _ewc(m, select="first"))
    resumed = [make(again).attach(other) for make in reversed(makes)][::-1]
    other.load_state_dict(saved)
    for one, two in zip(methods, resumed, strict=True):
        assert same_state(one.state_dict(), two.state_dict()) and two.num_tasks == 1


def _two_optimizers(model):
    head = list(model.head.parameters())
    ids = {id(p) for p in head}
    rest = [p for p in model.parameters() if id(p) not in ids]
    return torch.optim.Adam(rest, lr=0.01), torch.optim.SGD(head, lr=0.05, momentum=0.9)


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_optimizers_the_first_carries_it(turned):
    model = network()
    first, second = _two_optimizers(model)
    method = _ewc(model)
    method.consolidate(TASK)
    method.attach(first, second)
    assert MEMORY in first.state_dict() and MEMORY not in second.state_dict()
    again = network(seed=3)
    optimizers = _two_optimizers(again)
    resumed = _ewc(again).attach(*(optimizers[::-1] if turned else optimizers))
    for optimizer, saved in zip(optimizers, (first.state_dict(), second.state_dict()), strict=True):
        optimizer.load_state_dict(saved)
    assert same_state(method.state_dict(), resumed.state_dict())
    again.zero_grad()
    nn.functional.cross_entropy(again(NEXT[0][0]), NEXT[0][1]).backward()
    for optimizer in optimizers:
        optimizer.step()  # no warning


def test_nothing_but_pytorchs_own_keys_after_loading():
    _, optimizer, _ = _learned(_ewc)
    saved = optimizer.state_dict()
    assert set(saved) == {"state", "param_groups", MEMORY}
    assert set(without_memory(saved)) == {"state", "param_groups"}
    optimizer.load_state_dict(saved)
    assert MEMORY in saved and MEMORY not in optimizer.__dict__
    plain = adam(network())
    plain.load_state_dict(saved)  # whoever protects nothing is not disturbed
    assert set(plain.state_dict()) == {"state", "param_groups"}


def test_detached_it_travels_no_more():
    _, optimizer, (method,) = _learned(_ewc)
    method.detach()
    assert MEMORY not in optimizer.state_dict()


def test_what_the_state_carries_is_the_memory_itself_and_a_copy_once_loaded():
    _, optimizer, (method,) = _learned(_ewc)
    (held,) = optimizer.state_dict()[MEMORY]
    assert held["state"]["head.weight"]["anchor"].data_ptr() == method.state["head.weight"]["anchor"].data_ptr()
    optimizer.load_state_dict(optimizer.state_dict())
    assert held["state"]["head.weight"]["anchor"].data_ptr() != method.state["head.weight"]["anchor"].data_ptr()


def test_a_memory_that_nobody_takes_is_said():
    _, optimizer, _ = _learned(_ewc, _si)
    again = network()
    other = adam(again)
    _ewc(again).attach(other)
    with pytest.warns(ProtectionWarning, match=r"carries the memory of SI, which is not attached to it"):
        other.load_state_dict(optimizer.state_dict())


def test_another_number_of_the_same_class_is_refused():
    _, optimizer, _ = _learned(lambda m: _ewc(m, select="head"), lambda m: _ewc(m, select="first"))
    again = network()
    other = adam(again)
    _ewc(again).attach(other)
    with pytest.raises(StateError, match=r"memory of 2 EWC, but 1 are attached"):
        other.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("optimizer_of", [adam, lambda m: torch.optim.SGD(m.parameters(), lr=0.05)])
def test_a_checkpoint_without_a_memory_is_said_at_the_next_step(optimizer_of):
    _, optimizer, _ = _learned(_ewc, optimizer_of=optimizer_of)
    saved = without_memory(optimizer.state_dict())
    again = network()
    other = optimizer_of(again)
    method = OnlineEWC(again, strength=0.3).attach(other)
    other.load_state_dict(saved)
    with pytest.warns(ProtectionWarning, match="loaded without a memory of OnlineEWC"):
        step(again, other, NEXT[0], [method])
    step(again, other, NEXT[0], [method])  # once


@pytest.mark.parametrize("early", [False, True])
def test_whoever_saves_the_method_elsewhere_is_not_warned(early):
    _, optimizer, (method,) = _learned(_ewc)
    again = network()
    other = adam(again)
    resumed = _ewc(again).attach(other)
    if early:
        resumed.load_state_dict(method.state_dict())
    other.load_state_dict(without_memory(optimizer.state_dict()))
    if not early:
        resumed.load_state_dict(method.state_dict())
    train(again, other, NEXT, resumed)
    assert resumed.num_tasks == 1


class _OwnWay(torch.optim.SGD):
    """Loads without PyTorch's hooks, as optimizers of 8 bits do."""

    def load_state_dict(self, state_dict):
        own = torch.optim.SGD([p for group in self.param_groups for p in group["params"]])
        own.load_state_dict(state_dict)
        self.__setstate__({"state": own.state, "param_groups": own.param_groups})


def test_an_optimizer_that_loads_in_a_way_of_its_own_is_noticed():
    def own(model):
        return _OwnWay(model.parameters(), lr=0.05, momentum=0.9)

    _, optimizer, (method,) = _learned(_ewc, optimizer_of=own)
    again = network()
    other = own(again)
    resumed = _ewc(again).attach(other)
    other.load_state_dict(optimizer.state_dict())
    with pytest.warns(ProtectionWarning, match="in a way of the optimizer's own"):
        step(again, other, NEXT[0], [resumed])
    resumed.load_state_dict(optimizer.state_dict()[MEMORY][0])
    assert same_state(resumed.state_dict(), method.state_dict())


def _forward(model, batch):
    return model(batch[0])


def test_objectives_that_cannot_be_saved_are_those_at_hand():
    def distilling(objective):
        return lambda model: LwF(model, strength=1.0, objective=objective)

    model, optimizer, (method,) = _learned()[0], None, (None,)
    optimizer = adam(model)
    method = distilling(Classification(forward=_forward))(model).attach(optimizer)
    train(model, optimizer, TASK, method)
    method.consolidate()
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)  # its own, as Accelerate does when it wraps
    again = network()
    other = adam(again)
    resumed = distilling(Classification(forward=_forward))(again).attach(other)
    other.load_state_dict(saved)
    assert len(resumed.objectives) == 1 and same_state(resumed.state_dict(), method.state_dict())
    third = adam(again)
    LwF(again, strength=1.0).attach(third)
    with pytest.raises(StateError, match=r"LwF refuses the memory .* pass them as objectives="):
        third.load_state_dict(saved)


def test_what_a_method_refuses_names_the_method():
    _, optimizer, _ = _learned(_ewc)
    saved = copy.deepcopy(optimizer.state_dict())
    saved[MEMORY][0]["version"] = 7
    with pytest.raises(StateError, match=r"EWC refuses .* version 7"):
        optimizer.load_state_dict(saved)
    with pytest.raises(StateError, match=r"holds 3 under 'holdfast'"):
        optimizer.load_state_dict({**without_memory(saved), MEMORY: 3})


def test_accelerate_saves_and_loads_it_with_its_own_functions(tmp_path):
    from accelerate import Accelerator

    def prepared(late):
        accelerator = Accelerator(cpu=True)
        model = network()
        method, optimizer = L2SP(model, strength=0.3), adam(model)
        if not late:
            method.attach(optimizer)
        wrapped, stepper = accelerator.prepare(model, optimizer)
        return accelerator, wrapped, stepper, method.attach(stepper)

    accelerator, model, optimizer, method = prepared(late=True)
    train(model, optimizer, TASK, method)
    method.consolidate()
    train(model, optimizer, NEXT[:2], method)
    accelerator.save_state(str(tmp_path))
    train(model, optimizer, NEXT[2:], method)
    again, other_model, other, resumed = prepared(late=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=ProtectionWarning)
        again.load_state(str(tmp_path))
    train(other_model, other, NEXT[2:], resumed)
    assert same_state(dict(model.state_dict()), dict(other_model.state_dict()))
    assert same_state(resumed.state_dict(), method.state_dict())


def test_sgd_has_no_say_in_it():
    _, optimizer, (method,) = _learned(_si, optimizer_of=sgd)
    assert same_state(optimizer.state_dict()[MEMORY][0], method.state_dict())


@pytest.mark.parametrize("make", [EWC, LwF, SI])
def test_a_strength_that_is_being_measured_and_a_teacher_travel(make):
    options = {"strength": 1.0} if make is LwF else {"strength": "auto"}
    the_memory_travels_with_the_optimizer(lambda model: make(model, **options))


@pytest.mark.parametrize("name", METHODS)
def test_it_is_read_back_without_unpickling_anything(name, tmp_path):
    _, optimizer, (method,) = _learned(lambda model: build(name, model), optimizer_of=sgd)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    (held,) = torch.load(tmp_path / "state.pt", weights_only=True)[MEMORY]
    assert same_state(held, method.state_dict())
