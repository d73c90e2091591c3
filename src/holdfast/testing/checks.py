"""The promises, one function each: it takes what makes a method for a model, and raises what was broken."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from holdfast.dispatch import Dispatcher
from holdfast.errors import DataError, ProtectionError, StateError
from holdfast.method import Method
from holdfast.names import canonical_parameters
from holdfast.testing.cases import Net, adam, consolidate, network, same, same_state, sgd, step, task, train, weights
from holdfast.testing.promises import expect, refused

__all__ = ["CHECKS", "Make", "check_method"]

Make: TypeAlias = Callable[[nn.Module], Method]


def _learned(
    make: Make, optimizer_of: Callable[[nn.Module], torch.optim.Optimizer] = sgd
) -> tuple[Net, torch.optim.Optimizer, Method]:
    model = network()
    method = make(model)  # before the optimizer: a method may have the model compute its weights from others
    optimizer = optimizer_of(model)
    method.attach(optimizer)
    train(model, optimizer, task(1), method)
    consolidate(model, optimizer, task(1), method)
    return model, optimizer, method


def nothing_changes_before_the_first_consolidate(make: Make) -> None:
    """Until there is something to protect, training is left exactly as it is: but for what says that it is not."""
    method = make(network())
    if method.bounds or method.reparametrises:
        return
    for optimizer_of in (sgd, adam):
        plain, protected = network(), network()
        train(plain, optimizer_of(plain), task(1))
        optimizer = optimizer_of(protected)
        train(protected, optimizer, task(1), make(protected).attach(optimizer))
        expect(same(weights(plain), weights(protected)), "nothing changes before the first consolidate")


def something_changes_after_it(make: Make) -> None:
    """A method that does nothing protects nothing: after a task, a step or the next consolidate is another."""
    model, optimizer, method = _learned(make)
    plain = copy.deepcopy(model)
    other = sgd(plain)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(plain, other, task(2))
    train(model, optimizer, task(2), method)
    consolidate(model, optimizer, task(2), method)
    expect(not same(weights(plain), weights(model)), "after a consolidate, something changes")


def a_saved_state_goes_on_bit_for_bit(make: Make) -> None:
    """Saved in the middle of a task and loaded elsewhere, it goes on as if nothing had been."""
    for optimizer_of in (sgd, adam):
        batches = task(2, batches=6)
        model = network()
        method = make(model)
        optimizer = optimizer_of(model)
        method.attach(optimizer)
        train(model, optimizer, task(1), method)
        consolidate(model, optimizer, task(1), method)
        train(model, optimizer, batches[:3], method)
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), method.state_dict()))
        train(model, optimizer, batches[3:], method)
        consolidate(model, optimizer, batches, method)
        again = network(seed=5)
        resumed = make(again)
        again.load_state_dict(saved[0])
        other = optimizer_of(again)
        resumed.attach(other)
        other.load_state_dict(saved[1])
        resumed.load_state_dict(saved[2])
        train(again, other, batches[3:], resumed)
        consolidate(again, other, batches, resumed)
        expect(same(weights(model), weights(again)), "a run that was resumed makes the same weights")
        expect(same_state(method.state_dict(), resumed.state_dict()), "and remembers the same")


def the_memory_travels_with_the_optimizer(make: Make) -> None:
    """Model and optimizer saved in mid-task are enough."""
    for optimizer_of, stop in ((sgd, 1), (adam, 3)):  # while strength="auto" still measures, and after it
        batches = task(2, batches=5)
        model, optimizer, method = _learned(make, optimizer_of)
        train(model, optimizer, batches[:stop], method)
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        train(model, optimizer, batches[stop:], method)
        consolidate(model, optimizer, batches, method)
        again = network(seed=5)
        resumed = make(again)
        other = optimizer_of(again)
        resumed.attach(other)
        again.load_state_dict(saved[0])
        other.load_state_dict(saved[1])
        train(again, other, batches[stop:], resumed)
        consolidate(again, other, batches, resumed)
        expect(same(weights(model), weights(again)), "the optimizer's state carries what the method remembers")
        expect(same_state(method.state_dict(), resumed.state_dict()), "and all of it")


def a_loaded_state_is_a_copy(make: Make) -> None:
    """Two methods never share what they remember."""
    _, _, method = _learned(make)
    saved = copy.deepcopy(method.state_dict())
    other = make(network())
    other.load_state_dict(method.state_dict())
    for tensor in [t for held in other.state.values() for t in held.values()] + list(other.buffers.values()):
        tensor.zero_()
    expect(same_state(saved, method.state_dict()), "a loaded state is a copy")


def detaching_leaves_no_trace(make: Make) -> None:
    """After ``detach`` the optimizer steps as if there had never been a method."""
    model, optimizer, method = _learned(make)
    method.detach()
    expect(Dispatcher.find(optimizer) is None, "detach takes the hooks along")
    plain = copy.deepcopy(model)
    other = sgd(plain)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(plain, other, task(2))
    train(model, optimizer, task(2))
    expect(same(weights(plain), weights(model)), "after detach nothing is protected")


def a_step_with_a_closure_is_a_step(make: Make) -> None:
    """As Lightning calls it: the backward pass is in the optimizer's step."""
    found = []
    for closed in (False, True):
        model, optimizer, method = _learned(make)
        for batch in task(2):
            if not closed:
                step(model, optimizer, batch, [method])
                continue

            def closure(model: Net = model, batch: Any = batch, method: Method = method) -> Any:
                outputs = model(batch[0])
                loss = nn.functional.cross_entropy(outputs, batch[1])
                if method.needs_penalty:
                    loss = loss + method.penalty(batch, outputs)
                model.zero_grad()
                torch.autograd.backward(loss)
                return loss

            optimizer.step(closure)
        found.append(weights(model))
    expect(same(*found), "a step with a closure is the same as one without")


def a_skipped_step_changes_nothing(make: Make) -> None:
    """Where a ``GradScaler`` finds an overflow, a fused optimizer's hooks run, and its step does not."""
    model = network()
    method = make(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    method.attach(optimizer)
    train(model, optimizer, task(1), method)
    consolidate(model, optimizer, task(1), method)
    train(model, optimizer, task(2), method)
    before, held = weights(model), copy.deepcopy(method.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    (batch,) = task(3, batches=1)
    outputs = model(batch[0])
    loss = nn.functional.cross_entropy(outputs, batch[1])
    if method.needs_penalty:
        loss = loss + method.penalty(batch, outputs)
    optimizer.zero_grad()
    torch.autograd.backward(scaler.scale(loss))
    grad = canonical_parameters(model)["head.weight"].grad
    assert grad is not None
    grad[0, 0] = torch.inf
    scaler.step(optimizer)
    after = method.state_dict()
    expect(same(before, weights(model)), "a step that is skipped moves no weight")
    kept = all(same_state(held[kind], after[kind]) for kind in ("state", "buffers"))
    expect(kept, "a step that is skipped leaves what is remembered")


def half_precision_stays_finite(make: Make) -> None:
    """bfloat16 weights and dropout; what is held on to is float32."""
    model = network(dtype=torch.bfloat16, dropout=0.3)
    method = make(model)
    optimizer = sgd(model)
    method.attach(optimizer)
    for seed in (1, 2):
        train(model, optimizer, task(seed, torch.bfloat16), method)
        consolidate(model, optimizer, task(seed, torch.bfloat16), method)
    expect(all(bool(p.isfinite().all()) for p in model.parameters()), "bfloat16 weights stay finite")
    anchors = [held["anchor"].dtype for held in method.state.values() if "anchor" in held]
    expect(set(anchors) <= {torch.float32}, "anchors of bfloat16 weights are float32")


def a_new_head_is_learned_and_remembered(make: Make) -> None:
    """Parameters that are new between two tasks are free until the next consolidate."""
    model, optimizer, method = _learned(make)
    model.extra = nn.Linear(8, 4)
    optimizer.add_param_group({"params": list(model.extra.parameters())})
    train(model, optimizer, task(2), method)
    consolidate(model, optimizer, task(2), method)
    train(model, optimizer, task(3), method)
    expect(method.num_tasks == 2, "a new head between tasks is no obstacle")


def a_head_that_grows_is_protected_in_its_old_rows(make: Make) -> None:
    """New rows step exactly as they would alone, and are remembered at the next consolidate."""
    model, _, method = _learned(make)
    if method.bounds or method.reparametrises:  # and new rows are bounded, or computed, like old ones
        return
    old, model.head = model.head, nn.Linear(8, 6)
    with torch.no_grad():
        model.head.weight[:4], model.head.bias[:4] = old.weight, old.bias
    plain = copy.deepcopy(model)
    (batch,) = task(2, batches=1)
    step(plain, torch.optim.SGD(plain.parameters(), lr=0.05), batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    method.attach(optimizer)
    step(model, optimizer, batch, [method])
    expect(torch.equal(model.head.weight[4:], plain.head.weight[4:]), "new rows of a head are free")
    consolidate(model, optimizer, [batch], method)
    shapes = {held.shape for held in method.state.get("head.weight", {}).values()}
    expect(shapes <= {model.head.weight.shape}, "what grew is remembered whole at the next consolidate")


def a_forgotten_attach_is_noticed(make: Make) -> None:
    """A copied optimizer has lost its hooks: consolidate says so, and nothing has changed."""
    model, optimizer, method = _learned(make)
    if not method.trains:
        return
    train(model, copy.deepcopy(optimizer), task(2))
    saved = copy.deepcopy(method.state_dict())
    refused(ProtectionError, lambda: method.consolidate(task(2)), "a task of which no step was seen")
    expect(same_state(saved, method.state_dict()), "what is refused changes nothing")


def a_parameter_in_no_optimizer_is_named(make: Make) -> None:
    """``attach`` finds what nobody would train."""
    model = network()
    method = make(model)
    name = next(iter(method.params))
    left = [p for p in model.parameters() if p is not method.params[name]]
    refused(ProtectionError, lambda: method.attach(torch.optim.SGD(left, lr=0.1)), f"an optimizer without {name!r}")


def an_empty_task_is_refused(make: Make) -> None:
    """Where data are needed and there are none, nothing changes."""
    model, optimizer, method = _learned(make)
    if not method.needs_data:
        return
    train(model, optimizer, task(2), method)
    saved = copy.deepcopy(method.state_dict())
    refused(DataError, lambda: method.consolidate(iter(())), "an empty task")
    expect(same_state(saved, method.state_dict()), "what is refused changes nothing")


def a_foreign_state_is_refused(make: Make) -> None:
    """What is no state, and another method's, in one sentence."""
    method = make(network())
    states: list[Any] = [None, [], {**method.state_dict(), "meta": 3}, {**method.state_dict(), "method": "Another"}]
    for state in states:
        load = functools.partial(method.load_state_dict, state)
        refused(StateError, load, "what is no state of this method")


def a_compiled_model_is_the_same(make: Make) -> None:
    """A plain model's state loads into one that is wrapped."""
    _, _, method = _learned(make)
    wrapped = torch.compile(network(), backend="eager")
    assert isinstance(wrapped, nn.Module)
    other = make(wrapped)
    other.load_state_dict(method.state_dict())
    expect(same_state(method.state_dict(), other.state_dict()), "a state fits the same model in a wrapper")


CHECKS: tuple[Callable[[Make], None], ...] = (
    nothing_changes_before_the_first_consolidate,
    something_changes_after_it,
    a_saved_state_goes_on_bit_for_bit,
    the_memory_travels_with_the_optimizer,
    a_loaded_state_is_a_copy,
    detaching_leaves_no_trace,
    a_step_with_a_closure_is_a_step,
    a_skipped_step_changes_nothing,
    half_precision_stays_finite,
    a_new_head_is_learned_and_remembered,
    a_head_that_grows_is_protected_in_its_old_rows,
    a_forgotten_attach_is_noticed,
    a_parameter_in_no_optimizer_is_named,
    an_empty_task_is_refused,
    a_foreign_state_is_refused,
    a_compiled_model_is_the_same,
)
"""Every promise, in the order in which :func:`check_method` asks for them."""


def check_method(make: Make) -> None:
    """Hold a method to every promise that all methods keep.

    Args:
        make: makes it for a model: ``lambda model: Mine(model, strength=0.1)``; weak enough that a few steps at a rate
            of 0.05 stay finite.

    Raises:
        AssertionError: naming the first promise that is broken.
    """
    for check in CHECKS:
        check(make)
