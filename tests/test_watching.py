"""What a method does to a step, measured; and that what is final stays so."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from holdfast import EWC, L2SP, ConfigurationError, Freeze, LwF, Method, PackNet, StateError
from holdfast.method import _FINAL
from holdfast.optim import CLASSP, Consolidating
from holdfast.state import anchor_of


class Rollback(Method):
    """Pulls weights back by a share of the way after each step."""

    needs_data = False

    def __init__(self, model, by=0.5, **options):
        super().__init__(model, **options)
        self.by = by

    def pull_weights(self, step):
        for name in self.live(step):
            self.params[name].lerp_(self.state[name]["anchor"], self.by)

    def _remember(self, batches, objective, generator):
        self.state = {name: {"anchor": anchor_of(p)} for name, p in self.params.items()}


class Idle(Method):
    """Takes no part in steps."""

    needs_data = False
    trains = False

    def _remember(self, batches, objective, generator):
        pass


def model() -> nn.Linear:
    return nn.Linear(2, 1, bias=False).double()


def step(net, optimizer, *methods) -> None:
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    outputs = net(x)
    loss = (outputs * torch.arange(1.0, 1 + outputs.shape[1])).sum() + sum(
        m.penalty((x, None), outputs) for m in methods if m.needs_penalty
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def watched(method, net, optimizer, steps=1):
    method.consolidate()
    method.attach(optimizer)
    for _ in range(steps):
        with method.watch():
            step(net, optimizer, method)
    return method.watched()


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1)


@pytest.mark.parametrize("coupling", ["gradient", "loss"])
def test_a_gradients_share_is_its_norms(coupling):
    net = model()
    method = L2SP(net, strength=3.0, coupling=coupling)
    optimizer = sgd(net)
    seen = watched(method, net, optimizer, steps=2)
    # The loss's gradient is (1, 2). One step of 0.1 away, the penalty's is 3 * 0.1 of it, the other way.
    assert seen.share == pytest.approx(0.3 / 1.3)
    assert seen.strength == 3.0 and seen.strengths == () and seen.unprotected_steps == 0
    assert seen.distance["weight"] == pytest.approx(0.1 * 5**0.5 * (1 + 0.7))
    assert float(method.value().detach()) == pytest.approx(1.5 * seen.distance["weight"] ** 2)


def test_a_part_of_the_loss_counts_as_it_was_weighed():
    net = model()
    method, optimizer = L2SP(net, strength=3.0, coupling="loss"), sgd(net)
    watched(method, net, optimizer)
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    optimizer.zero_grad()
    with method.watch():
        for _ in range(4):
            ((net(x).sum() + method.penalty()) / 4).backward()
        optimizer.step()
    assert method.watched().share == pytest.approx(0.3 / 1.3)


@pytest.mark.parametrize(("by", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_weights_that_are_pulled_back_are_seen(by, share):
    net = model()
    seen = watched(Rollback(net, by), net, sgd(net))
    assert seen.share == pytest.approx(share)  # half of a step undone is half of it undone; the norms say a third
    assert seen.strength is None


def test_a_proximal_pull_has_the_share_of_its_gradient_form_at_first_order():
    found = []
    for coupling in ("gradient", "proximal"):
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-5)
        found.append(watched(L2SP(net, strength=3e4, coupling=coupling), net, optimizer, steps=2).share)
    assert found[0] == pytest.approx(0.3 / 1.3)
    assert found[1] == pytest.approx(found[0] * 1.7, rel=0.5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_what_is_held_is_seen(momentum):
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    for select, share in (("*", 1.0), ("0", None)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=momentum)
        step(net, optimizer)
        method = Freeze(net, select=select)
        seen = watched(method, net, optimizer)
        method.detach()
        assert seen.share == pytest.approx(share) if share else 0 < seen.share < 1
        assert set(seen.distance.values()) == {0.0}


def test_what_is_owned_is_seen():
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    optimizer = sgd(net)
    method = PackNet(net).attach(optimizer)
    step(net, optimizer)
    while method.next_round():
        step(net, optimizer)
    method.consolidate()
    with method.watch():
        step(net, optimizer)
    assert 0 < method.watched().share < 1
    assert method.watched().distance["0.weight"] == 0


def test_a_teacher_is_seen_and_its_penalty_has_a_value():
    net = nn.Linear(2, 3).double()
    optimizer = sgd(net)
    method = LwF(net, strength=2.0)
    seen = watched(method, net, optimizer, steps=3)
    assert 0 < seen.share < 1 and seen.strength == 2.0
    assert float(method.value()) > 0


def test_watching_changes_nothing_and_is_over_when_the_step_is():
    found = []
    for watch in (False, True):
        torch.manual_seed(0)
        net = model()
        optimizer = torch.optim.Adam(net.parameters())
        methods = [L2SP(net, strength=3.0), Rollback(net, 0.25), L2SP(net, strength=1.0, coupling="loss")]
        for method in methods:
            method.consolidate()
            method.attach(optimizer)
        for _ in range(3):
            if watch:
                with methods[0].watch(), methods[1].watch(), methods[2].watch():
                    step(net, optimizer, *methods)
            else:
                step(net, optimizer, *methods)
        found.append(net.weight.detach())
        assert not any(method.watching for method in methods)
        assert (methods[0].watched().share is None) is not watch
    assert torch.equal(*found)


def test_what_takes_no_part_in_steps_has_no_share_and_is_not_asked_for_any():
    net = model()
    method = Idle(net)
    assert watched(method, net, sgd(net)).share is None
    method.detach()
    method.consolidate()
    method.consolidate()
    assert method.num_tasks == 3 and float(method.value()) == 0


@pytest.mark.parametrize("name", sorted(_FINAL))
def test_what_is_final_cannot_be_overridden(name):
    with pytest.raises(ConfigurationError, match=f"Mine overrides {name}, which is final in Method; fill "):
        type("Mine", (EWC,), {name: lambda self: None})


def test_what_is_marked_as_final_is_what_is_refused():
    if sys.version_info >= (3, 11):
        marked = {
            name
            for kind in Method.__mro__
            for name, found in vars(kind).items()
            if getattr(found.fget if isinstance(found, property) else found, "__final__", False)
        }
        assert marked == set(_FINAL)


def test_objectives_are_for_methods_that_keep_some():
    method = L2SP(model(), strength=1.0)
    with pytest.raises(StateError, match="L2SP keeps none"):
        method.load_state_dict(method.state_dict(), objectives=[method.objective])


def test_an_optimizer_that_is_the_memory_can_be_told_of_a_tasks_end():
    assert isinstance(CLASSP(model().parameters()), Consolidating)
    assert not isinstance(sgd(model()), Consolidating)
