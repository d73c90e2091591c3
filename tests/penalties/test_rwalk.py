"""RWalk against a loop written out by hand, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch

from holdfast import L2SP, ConfigurationError, ProtectionError, RWalk
from holdfast.dispatch import Step
from holdfast.penalties.rwalk import normalised
from tests.penalties.paths import Walk, batches, close, network, sgd, train

STRENGTH, ALPHA, INTERVAL, DAMPING = 0.6, 0.7, 3, 0.02
TASKS = (7, 6, 4)  # the last interval is cut short, is not, is cut short
OPTIONS = {"strength": STRENGTH, "fisher_decay": ALPHA, "interval": INTERVAL, "damping": DAMPING}


def by_hand():
    """Weights, importances and anchors after three tasks; without the package."""
    importance, anchor, fisher, old, track = {}, {}, {}, {}, {}

    def pull(name, w):
        return 2 * STRENGTH * importance[name] * (w - anchor[name]) if name in anchor else torch.zeros_like(w)

    def each(name, before, gradient, after):
        fisher[name] = ALPHA * gradient**2 + (1 - ALPHA) * fisher[name]
        track[name].append((before, gradient, after, fisher[name]))

    walk = Walk(pull)
    fisher |= {name: torch.zeros_like(w) for name, w in walk.weights().items()}
    for seed, number in enumerate(TASKS):
        track |= {name: [] for name in fisher}
        walk.go(batches(seed, number), each)
        anchor |= walk.weights()
        for name, steps in track.items():
            new = torch.zeros_like(anchor[name])
            for k in range(0, number, INTERVAL):
                stretch = steps[k : k + INTERVAL]
                gain = -sum(g * (after - before) for before, g, after, _ in stretch)
                moved = stretch[-1][2] - stretch[0][0]
                share = gain / (0.5 * stretch[-1][3] * moved**2 + DAMPING)
                new = new + torch.where(share > 0, share, torch.zeros_like(share))
            old[name] = 0.5 * (old[name] + new) if name in old else new
        top_f = max(f.max() for f in fisher.values())
        top_s = max(s.max() for s in old.values())
        importance |= {name: fisher[name] / top_f + old[name] / top_s for name in fisher}
    return walk.weights(), importance, anchor, fisher


def learned(tasks=TASKS, **options):
    model = network()
    optimizer = sgd(model)
    method = RWalk(model, **{**OPTIONS, **options}).attach(optimizer)
    for seed, number in enumerate(tasks):
        train(model, optimizer, batches(seed, number))
        method.consolidate()
    return model, optimizer, method


def test_three_tasks_are_those_written_out_by_hand():
    model, _, method = learned()
    weights, importance, anchor, fisher = by_hand()
    for name, p in model.named_parameters():
        close(p.detach(), weights[name])
        close(method.state[name]["importance"], importance[name])
        close(method.state[name]["anchor"], anchor[name])
        close(method.state[name]["fisher"], fisher[name])


def test_closed_form_gradient_is_autograds():
    model, optimizer, method = learned()
    train(model, optimizer, batches(9, 3))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    method.add_gradient(Step(optimizer))
    expected = torch.autograd.grad(method.value(), list(model.parameters()))
    for p, g in zip(model.parameters(), expected, strict=True):
        assert g.any()
        close(p.grad, g)


@pytest.mark.parametrize("tasks", [(), (4,)])
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_saved_in_mid_interval_it_goes_on_bit_for_bit(tasks, steps):
    model, optimizer, method = learned(tasks)
    train(model, optimizer, batches(7, steps))
    state = method.state_dict()
    meta = copy.deepcopy(state["meta"])
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), state))
    train(model, optimizer, batches(8, 4))
    assert state["meta"] == meta  # a state taken does not change under its holder's hands
    method.consolidate()

    again = network()
    again.load_state_dict(saved[0])
    other = sgd(again)
    other.load_state_dict(saved[1])
    resumed = RWalk(again, **OPTIONS)
    resumed.load_state_dict(saved[2])
    resumed.attach(other)
    train(again, other, batches(8, 4))
    resumed.consolidate()
    for name, held in method.state.items():
        assert held.keys() == resumed.state[name].keys()
        assert all(torch.equal(held[kind], resumed.state[name][kind]) for kind in held)


def test_training_mode_is_left_alone():
    model = network()
    model.train()
    model[1].eval()
    optimizer = sgd(model)
    method = RWalk(model, **OPTIONS).attach(optimizer)
    train(model, optimizer, batches(0, 4))
    method.consolidate()
    assert [m.training for m in model] == [True, False, True]


def test_normalised_by_the_one_largest():
    found = list(normalised([torch.tensor([1.0, 4.0]), torch.tensor([2.0]), torch.tensor([])]))
    assert torch.equal(found[0], torch.tensor([0.25, 1.0]))
    assert torch.equal(found[1], torch.tensor([0.5]))
    assert not next(normalised([torch.zeros(2)])).any()


def test_a_model_that_it_never_watched_cannot_be_protected():
    with pytest.raises(ProtectionError, match="measures importance while training"):
        RWalk(network(), strength=1.0).consolidate()


@pytest.mark.parametrize("first", [True, False])
def test_losses_that_hold_a_penalty_are_refused(first):
    model = network()
    with pytest.raises(ConfigurationError, match="coupling is 'loss'"):
        RWalk(model, strength=1.0, coupling="loss")
    optimizer = sgd(model)
    methods = [RWalk(model, strength=1.0), L2SP(model, strength=1.0, coupling="loss")]
    one, two = methods if first else reversed(methods)
    one.attach(optimizer)
    with pytest.raises(ConfigurationError, match=r"L2SP\(coupling='loss'\).*RWalk"):
        two.attach(optimizer)


@pytest.mark.parametrize("wrong", [{"fisher_decay": 0}, {"fisher_decay": 1.5}, {"interval": 0}, {"damping": -1}])
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        RWalk(network(), **{"strength": 1.0, **wrong})
