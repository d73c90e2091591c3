"""SI against a loop written out by hand, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from holdfast import EWC, L2SP, SI, ConfigurationError, NumericsError, ProtectionError, RWalk
from holdfast.dispatch import Step
from tests.penalties.paths import DOUBLE, Walk, batches, close, network, sgd, task_loss, train

STRENGTH, DAMPING, TASKS = 0.8, 0.05, (6, 5, 4)


def by_hand():
    """Weights, importances and anchors after three tasks, and how many ω were < 0; without the package."""
    importance, anchor, omega, negative = {}, {}, {}, 0

    def pull(name, w):
        return 2 * STRENGTH * importance[name] * (w - anchor[name]) if name in anchor else torch.zeros_like(w)

    def each(name, before, gradient, after):
        omega[name] = omega[name] - gradient * (after - before)

    walk = Walk(pull)
    importance |= {name: torch.zeros_like(w) for name, w in walk.weights().items()}
    for seed, number in enumerate(TASKS):
        start = walk.weights()
        omega |= {name: torch.zeros_like(w) for name, w in start.items()}
        walk.go(batches(seed, number), each)
        anchor |= walk.weights()
        for name, w in anchor.items():
            negative += int((omega[name] < 0).sum())
            gain = torch.where(omega[name] > 0, omega[name], torch.zeros_like(w))
            importance[name] = importance[name] + gain / ((w - start[name]) ** 2 + DAMPING)
    return walk.weights(), importance, anchor, negative


def learned(tasks=TASKS, **options):
    model = network()
    optimizer = sgd(model)
    method = SI(model, strength=STRENGTH, damping=DAMPING, **options).attach(optimizer)
    for seed, number in enumerate(tasks):
        train(model, optimizer, batches(seed, number))
        method.consolidate()
    return model, optimizer, method


def test_three_tasks_are_those_written_out_by_hand():
    model, _, method = learned()
    weights, importance, anchor, negative = by_hand()
    assert negative > 0  # so the maximum is put to the test
    for name, p in model.named_parameters():
        close(p.detach(), weights[name])
        close(method.state[name]["importance"], importance[name])
        close(method.state[name]["anchor"], anchor[name])


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


@pytest.mark.parametrize("companion", [EWC, L2SP])
def test_a_companions_penalty_is_not_in_the_path(companion):
    model, optimizer, method = learned((3,))
    other = companion(model, strength=5.0)
    other.consolidate(batches(0, 2))
    other.attach(optimizer)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, optimizer, batches(4, 1))
    expected = {}
    moved = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p, w in zip(model.parameters(), before.values(), strict=True):
        p.data = w
    gradients = torch.autograd.grad(task_loss(model, batches(4, 1)[0]), list(model.parameters()))
    for (name, w), g in zip(before.items(), gradients, strict=True):
        expected[name] = -g * (moved[name] - w)
        close(method.state[name]["path"], expected[name])


@pytest.mark.parametrize("tasks", [(), (4,)])
@pytest.mark.parametrize("coupling", ["gradient", "proximal"])
def test_saved_in_mid_task_it_goes_on_bit_for_bit(tasks, coupling):
    model, optimizer, method = learned(tasks, coupling=coupling)
    train(model, optimizer, batches(7, 3))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), method.state_dict()))
    train(model, optimizer, batches(8, 3))
    method.consolidate()

    again = network()
    again.load_state_dict(saved[0])
    other = sgd(again)
    other.load_state_dict(saved[1])
    resumed = SI(again, strength=STRENGTH, damping=DAMPING, coupling=coupling)
    resumed.load_state_dict(saved[2])
    resumed.attach(other)
    train(again, other, batches(8, 3))
    resumed.consolidate()
    for name, held in method.state.items():
        assert held.keys() == resumed.state[name].keys() == {"anchor", "importance", "path"}
        assert all(torch.equal(held[kind], resumed.state[name][kind]) for kind in held)


def test_a_step_without_a_gradient_is_no_step_of_that_parameter():
    model = network()
    optimizer = sgd(model)
    method = SI(model, strength=1.0).attach(optimizer)
    train(model, optimizer, batches(0, 2))
    path = method.state["0.weight"]["path"].clone()
    optimizer.zero_grad()
    model[2](torch.ones(1, 5, dtype=DOUBLE)).sum().backward()
    other = method.state["2.weight"]["path"].clone()
    optimizer.step()
    assert torch.equal(method.state["0.weight"]["path"], path)
    assert not torch.equal(method.state["2.weight"]["path"], other)


class Grown(nn.Module):
    """A network that gets a second head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x):
        hidden = self.body[1](self.body[0](x))
        return self.body[2](hidden) if not hasattr(self, "new") else self.new(hidden)


def test_a_new_heads_first_task_counts():
    model = Grown()
    optimizer = sgd(model)
    method = SI(model, strength=1.0).attach(optimizer)
    train(model, optimizer, batches(0, 3))
    method.consolidate()
    model.new = nn.Linear(5, 3, dtype=DOUBLE)
    optimizer.add_param_group({"params": list(model.new.parameters())})
    start = model.new.weight.detach().clone()
    train(model, optimizer, batches(1, 3))
    held = method.state["new.weight"]
    assert torch.equal(held["start"], start)
    assert not method.holds("new.weight")
    method.consolidate()
    assert method.state["new.weight"]["importance"].max() > 0
    assert "start" not in method.state["new.weight"]


def test_what_is_thawed_without_a_new_attach_is_watched_from_then_on():
    model = network()
    model[2].requires_grad_(False)
    optimizer = sgd(model)
    method = SI(model, strength=1.0).attach(optimizer)
    train(model, optimizer, batches(0, 3))
    method.consolidate()
    model[2].requires_grad_(True)
    train(model, optimizer, batches(1, 3))
    method.consolidate()
    assert method.state["2.weight"]["importance"].max() > 0


def test_a_model_that_it_never_watched_cannot_be_protected():
    method = SI(network(), strength=1.0)
    with pytest.raises(ProtectionError, match="measures importance while training"):
        method.consolidate()
    assert method.num_tasks == 0


def test_a_gradient_that_is_not_finite_is_named():
    model = network()
    optimizer = sgd(model)
    method = SI(model, strength=1.0).attach(optimizer)
    train(model, optimizer, batches(0, 1))
    model[2].bias.grad[0] = float("nan")
    optimizer.step()
    with pytest.raises(NumericsError, match=r"'2\.bias'"):
        method.consolidate()
    assert method.num_tasks == 0


def test_low_precision_weights_are_followed_in_float32():
    model = network().to(torch.bfloat16)
    optimizer = sgd(model)
    method = SI(model, strength=1.0).attach(optimizer)
    expected = torch.zeros(3)
    for x, y in batches(0, 3):
        before = model[2].bias.detach().clone()
        train(model, optimizer, [(x.bfloat16(), y)])
        expected -= model[2].bias.grad.float() * (model[2].bias.detach().float() - before.float())
    assert method.state["2.bias"]["path"].dtype == torch.float32
    torch.testing.assert_close(method.state["2.bias"]["path"], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", [SI, RWalk])
@pytest.mark.parametrize("skipped", [False, True])
def test_a_fused_optimizers_scaled_gradients_make_the_same_path(kind, skipped):
    """As under a GradScaler: the hooks see scaled gradients, and the optimizer unscales them or skips the step."""

    class Fused(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                if not self.found_inf:
                    p.sub_(p.grad / self.grad_scale, alpha=0.1)

    ends = []
    for scale in (1.0, 1024.0):
        model = network()
        fused = Fused(model.parameters(), {})
        fused.grad_scale, fused.found_inf = torch.tensor(scale, dtype=DOUBLE), torch.tensor(0.0)
        method = kind(model, strength=STRENGTH).attach(fused)
        for seed in range(2):
            for index, batch in enumerate(batches(seed, 4)):
                fused.zero_grad()
                (task_loss(model, batch) * scale).backward()
                fused.found_inf.fill_(float(skipped and index == 2))
                if fused.found_inf:
                    model[0].weight.grad.fill_(torch.inf)
                fused.step()
            method.consolidate()
        ends.append((model.state_dict(), method.state))
    for name, weight in ends[0][0].items():
        close(ends[1][0][name], weight)
        for tensor_kind, tensor in ends[0][1][name].items():
            close(ends[1][1][name][tensor_kind], tensor)


def test_loss_coupling_is_refused():
    with pytest.raises(ConfigurationError, match="coupling is 'loss'"):
        SI(network(), strength=1.0, coupling="loss")


@pytest.mark.parametrize("si_first", [True, False])
def test_a_companion_in_the_loss_is_refused_in_either_order(si_first):
    model = network()
    optimizer = sgd(model)
    methods = [SI(model, strength=1.0), L2SP(model, strength=1.0, coupling="loss")]
    first, second = methods if si_first else reversed(methods)
    first.attach(optimizer)
    with pytest.raises(ConfigurationError, match=r"L2SP\(coupling='loss'\).*SI"):
        second.attach(optimizer)
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    train(model, optimizer, batches(0, 1))
    assert second.meta["steps"] == 0


@pytest.mark.parametrize("wrong", [{"damping": 0}, {"damping": True}, {"strength": -1.0}, {"coupling": "soft"}])
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        SI(network(), **{"strength": 1.0, **wrong})
