"""What would go wrong in silence: copies, frozen bodies, penalties that train nothing, steps that are none."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from holdfast import (
    EWC,
    L2SP,
    SI,
    ConfigurationError,
    Freeze,
    LwF,
    PackNet,
    ProtectionError,
    ProtectionWarning,
)
from holdfast.guards import is_no_step


def batch(seed=0, size=8):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, 4, generator=draw), torch.randint(0, 2, (size,), generator=draw)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


def step(model, optimizer, *methods):
    x, y = batch()
    outputs = model(x)
    loss = nn.functional.cross_entropy(outputs, y)
    loss = loss + sum(method.penalty((x, y), outputs) for method in methods)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def learned(method, optimizer):
    method.consolidate([batch()])
    return method.attach(optimizer)


# A consolidate without a step


@pytest.mark.parametrize("make", [lambda m: EWC(m, strength=1.0), lambda m: L2SP(m, strength=1.0), LwF])
def test_a_first_task_of_which_no_step_was_seen_is_refused(make):
    model = net()
    method = make(model) if make is not LwF else LwF(model, strength=1.0)
    method.attach(sgd(model))
    trained = copy.deepcopy(model)
    step(trained, sgd(trained))
    with pytest.raises(ProtectionError, match=r"saw no optimizer step.*consolidate first, attach then"):
        method.consolidate([batch()])
    assert method.num_tasks == 0
    method.detach()
    method.consolidate([batch()])  # a model that is trained already
    assert method.num_tasks == 1


# A step that trains nothing that is remembered


def test_a_step_on_something_new_alone_is_said_once_a_task():
    model = net()
    optimizer = sgd(model)
    method = learned(EWC(model, strength=1.0), optimizer)
    model.add_module("head", nn.Linear(2, 2))
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith("head"))
    optimizer.add_param_group({"params": list(model.head.parameters())})
    with pytest.warns(ProtectionWarning, match=r"EWC protects nothing in a step .*\(such as '0\.weight'"):
        step(model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, optimizer)
    method.consolidate([batch()])
    step(model, optimizer)  # the head is remembered now, and has a gradient


def test_a_part_that_rests_is_no_cause():
    """Another task's head, and what is frozen on purpose."""
    model = net()
    optimizer = sgd(model)
    learned(EWC(model, strength=1.0), optimizer)
    learned(Freeze(model, select="0"), optimizer)
    model[0].requires_grad_(False)
    step(model, optimizer)


def test_each_of_two_optimizers_has_its_own_part():
    model = net()
    first, second = sgd(model[0]), sgd(model[2])
    method = L2SP(model, strength=1.0)
    method.consolidate()
    method.attach(first, second)
    nn.functional.cross_entropy(model(batch()[0]), batch()[1]).backward()
    first.step()
    first.zero_grad()
    second.step()


def test_a_parameter_that_an_optimizer_gets_later_is_found_at_its_first_step():
    model = net()
    optimizer = sgd(model)
    method = learned(L2SP(model, strength=2.0), optimizer)
    old = model[2]
    model[2] = copy.deepcopy(old)
    optimizer.add_param_group({"params": list(model[2].parameters())})
    with torch.no_grad():
        model[2].weight += 1.0
    step(model, optimizer)
    assert method.params["2.weight"] is model[2].weight
    plain = copy.deepcopy(model)
    plain.zero_grad()
    with torch.no_grad():
        gap = model[2].weight - method.state["2.weight"]["anchor"]
        assert gap.mean() < 0.9  # pulled by 0.1 * 2.0


# Penalties that train nothing


@pytest.mark.parametrize("kind", ["ewc", "lwf"])
def test_a_penalty_without_a_gradient_is_none(kind):
    model = net()
    optimizer = sgd(model)
    method = LwF(model, strength=1.0) if kind == "lwf" else EWC(model, strength=1.0, coupling="loss")
    learned(method, optimizer)
    x, y = batch()
    with torch.no_grad():
        method.penalty((x, y))
    nn.functional.cross_entropy(model(x), y).backward()
    with pytest.raises(ProtectionError, match=r"had no penalty\(\) \(one under no_grad is none\)"):
        optimizer.step()


@pytest.mark.parametrize("kind", ["ewc", "lwf"])
def test_a_penalty_that_no_backward_pass_went_through_is_none(kind):
    model = net()
    optimizer = sgd(model)
    method = LwF(model, strength=1.0) if kind == "lwf" else EWC(model, strength=1.0, coupling="loss")
    learned(method, optimizer)
    x, y = batch()
    logged = float(method.penalty((x, y)).detach())
    assert logged == pytest.approx(0, abs=1e-6)
    nn.functional.cross_entropy(model(x), y).backward()
    with pytest.raises(ProtectionError, match="no backward pass of this step went through it"):
        optimizer.step()


def accumulated(model, optimizer, method, times):
    x, y = batch()
    optimizer.zero_grad()
    for part in range(4):
        loss = nn.functional.cross_entropy(model(x), y) / 4
        if part < times:
            loss = loss + method.penalty((x, y)) / 4
        loss.backward()
    optimizer.step()


def test_a_penalty_for_one_of_four_micro_batches_is_said():
    model = net()
    optimizer = sgd(model)
    method = learned(LwF(model, strength=1.0), optimizer)
    with pytest.warns(ProtectionWarning, match=r"of the 4 backward passes of this step 1 went through a penalty"):
        accumulated(model, optimizer, method, 1)
    accumulated(model, optimizer, method, 4)
    step(model, optimizer, method)


def test_what_is_asked_for_before_anything_is_remembered_does_not_count_afterwards():
    model = net()
    optimizer = sgd(model)
    method = LwF(model, strength=1.0).attach(optimizer)
    step(model, optimizer, method)
    step(model, optimizer)
    method.consolidate()
    with pytest.raises(ProtectionError, match="had no penalty"):
        step(model, optimizer)


def test_a_penalty_under_a_scaler_and_with_a_graph_that_is_kept():
    model = net()
    optimizer = sgd(model)
    method = learned(LwF(model, strength=1.0), optimizer)
    scaler = torch.amp.GradScaler("cpu")
    x, y = batch()
    scaler.scale(nn.functional.cross_entropy(model(x), y) + method.penalty((x, y))).backward(retain_graph=True)
    scaler.step(optimizer)
    assert method.meta["steps"] == 1


# Steps that are none


@pytest.mark.parametrize("kind", ["sgd", "adamw", "tensor"])
def test_the_step_by_which_a_distributed_checkpoint_makes_state_is_none(kind):
    model = net()
    options = {"lr": torch.tensor(0.1)} if kind == "tensor" else {"lr": 0.1}
    make = torch.optim.SGD if kind == "sgd" else torch.optim.AdamW
    optimizer = make(model.parameters(), **options)
    methods = [LwF(model, strength=1.0), EWC(model, strength="auto"), PackNet(net())]
    for method in methods[:2]:
        learned(method, optimizer)
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    get_optimizer_state_dict(model, optimizer)
    assert bool(optimizer.state) is (kind != "sgd")
    assert [method.meta["steps"] for method in methods[:2]] == [0, 0]
    assert "auto_gradients" not in methods[1].buffers
    step(model, optimizer, methods[0])
    assert [method.meta["steps"] for method in methods[:2]] == [1, 1]


def test_a_rate_of_0_with_a_gradient_is_a_step():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    assert is_no_step(optimizer)
    model[0].weight.grad = torch.zeros_like(model[0].weight)
    assert is_no_step(optimizer)
    model[0].weight.grad[0, 0] = 1e-30
    assert not is_no_step(optimizer)
    optimizer.step()
    optimizer.zero_grad()
    assert not is_no_step(optimizer)


# What is attached


def test_none_is_answered_by_what_to_call():
    with pytest.raises(ConfigurationError, match=r"trainer\.create_optimizer\(\) first"):
        EWC(net(), strength=1.0).attach(None)


@pytest.mark.parametrize("kind", ["ewc", "lwf"])
def test_lbfgs_is_for_a_penalty_in_its_closure(kind):
    model = net().double()
    x, y = batch()
    x = x.double()
    method = LwF(model, strength=1.0) if kind == "lwf" else EWC(model, strength=3.0, coupling="loss")
    method.consolidate([(x, y)])
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=60, line_search_fn="strong_wolfe")
    method.attach(optimizer)

    def closure():
        optimizer.zero_grad()
        outputs = model(x)
        loss = nn.functional.cross_entropy(outputs, 1 - y) + method.penalty((x, y), outputs)
        loss.backward()
        return loss

    before = float(closure().detach())
    for _ in range(8):
        optimizer.step(closure)
    assert method.meta["steps"] == 8
    assert float(closure().detach()) < before
    assert max(float(p.grad.abs().max()) for p in model.parameters()) < 5e-2  # at rest, penalty included
    method.consolidate([(x, y)])
    optimizer.step(closure)  # which also used up what was asked for outside of any

    def forgetful():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    with pytest.raises(ProtectionError, match="had no penalty"):
        optimizer.step(forgetful)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: EWC(m, strength=1.0),
        lambda m: EWC(m, strength=1.0, coupling="proximal"),
        lambda m: EWC(m, strength="auto", coupling="loss"),
        lambda m: SI(m, strength=1.0),
        lambda m: Freeze(m, select="0"),
        PackNet,
    ],
)
def test_lbfgs_is_for_nothing_else(make):
    model = net()
    with pytest.raises(ConfigurationError, match=r"LBFGS evaluates its closure several times a step.*coupling='loss'"):
        make(model).attach(torch.optim.LBFGS(model.parameters()))


def test_an_average_of_the_model_is_known():
    model = net()
    average = AveragedModel(model)
    with pytest.raises(ProtectionError, match="AveragedModel, whose weights no optimizer trains"):
        EWC(average, strength=1.0).attach(sgd(model))
    method = EWC(average, strength=1.0)
    method.consolidate([batch()])
    other = EWC(model, strength=1.0)
    other.load_state_dict(method.state_dict())
    assert other.num_tasks == 1
