"""strength="auto": what is measured, when, and that it changes nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from holdfast import EWC, L2SP, MAS, SI, AutoStrength, ConfigurationError
from holdfast.errors import NumericsError
from holdfast.penalties.ewc import OnlineEWC
from holdfast.strength import UnprotectedWarning, matching_strength, steady_strength

STEPS = 4
RULE = AutoStrength(fraction=0.5, steps=STEPS)


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def batches(seed: int, number: int = 4 * STEPS, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(10, 5, generator=draw, dtype=dtype), torch.randint(3, (10,), generator=draw))
        for _ in range(number)
    ]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


class Scaled(torch.optim.Optimizer):
    """Is told of the gradients' scale as the fused optimizers are, and does not mind."""

    def __init__(self, params, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        skipped = getattr(self, "found_inf", None)
        for group in self.param_groups:
            for p in group["params"]:
                if not skipped:
                    p.sub_(p.grad, alpha=group["lr"])


def train(model, optimizer, data, method=None) -> None:
    for batch in data:
        total = loss(model, batch)
        if method is not None and method.needs_penalty:
            total = total + method.penalty(batch)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()


def protected(cls=EWC, *, strength=RULE, optimizer=torch.optim.SGD, **settings):
    """A model, its optimizer and a method that has consolidated one task."""
    model = network()
    opt = optimizer(model.parameters(), lr=0.1)
    method = cls(model, strength=strength, **settings).attach(opt)
    train(model, opt, batches(0), method)
    method.consolidate(batches(0))
    return model, opt, method


def plain_strength(model, opt_class, method, data, factor) -> float:
    """The rule written out: a copy of the model trains without a penalty, autograd gives both gradients."""
    twin = network()
    twin.load_state_dict(model.state_dict())
    opt = opt_class(twin.parameters(), lr=0.1)
    gradients = pulls = 0.0
    for batch in data:
        opt.zero_grad()
        loss(twin, batch).backward()
        gradients += sum(float(p.grad.square().sum()) for p in twin.parameters())
        penalty = torch.zeros((), dtype=torch.float64)
        for name, p in twin.named_parameters():
            held = method.state[name]
            weight = held.get("importance", torch.ones_like(p))
            penalty = penalty + factor * (weight * (p - held["anchor"]).square()).sum()
        pulls += sum(float(g.square().sum()) for g in torch.autograd.grad(penalty, list(twin.parameters())))
        opt.step()
    return RULE.fraction * math.sqrt(gradients / pulls)


@pytest.mark.parametrize("coupling", ["gradient", "loss", "proximal"])
@pytest.mark.parametrize("cls, factor", [(EWC, 0.5), (OnlineEWC, 0.5), (L2SP, 0.5), (MAS, 1.0), (SI, 1.0)])
def test_the_strength_is_that_of_the_rule_written_out(cls, factor, coupling):
    if cls is SI and coupling == "loss":
        pytest.skip("SI cannot be in the loss")
    model, opt, method = protected(cls, coupling=coupling)
    assert method.current_strength == 0.0
    expected = plain_strength(model, torch.optim.SGD, method, batches(1, STEPS), factor)
    train(model, opt, batches(1, STEPS), method)
    assert method.found_strengths == [pytest.approx(expected, rel=1e-9)]


def test_from_then_on_it_trains_as_with_that_number():
    """The penalty acts from the step at which the strength is known."""
    model, opt, method = protected()
    train(model, opt, batches(1, STEPS - 1), method)
    other, other_opt, fixed = protected(strength=0.0)
    train(other, other_opt, batches(1, STEPS - 1), fixed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    rest = batches(2, 5)
    train(model, opt, rest, method)
    fixed.strength = method.current_strength
    train(other, other_opt, rest, fixed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    free, free_opt, nothing = protected(strength=0.0)
    train(free, free_opt, batches(1, STEPS - 1) + rest, nothing)
    assert not all(torch.allclose(a, b) for a, b in zip(model.parameters(), free.parameters(), strict=True))


def test_each_task_has_its_own():
    model, opt, method = protected()
    for task in (1, 2, 3):
        train(model, opt, batches(task), method)
        assert len(method.found_strengths) == task
        method.consolidate(batches(task))
        assert method.current_strength == 0.0  # the next task's is not known yet
    assert len(set(method.found_strengths)) == 3


def test_a_state_saved_while_measuring_goes_on():
    model, opt, method = protected()
    first, rest = batches(1, STEPS)[:2], batches(1, STEPS)[2:]
    train(model, opt, first, method)
    twin = network()
    twin.load_state_dict(model.state_dict())
    twin_opt = torch.optim.SGD(twin.parameters(), lr=0.1)
    resumed = EWC(twin, strength=RULE).attach(twin_opt)
    resumed.load_state_dict(method.state_dict())
    train(model, opt, rest, method)
    train(twin, twin_opt, rest, resumed)
    assert method.current_strength == resumed.current_strength > 0
    assert not {"auto_gradients", "auto_pulls"} & method.buffers.keys()


def test_two_optimizers_are_measured_together():
    model, _, _ = protected()
    layers = [model[0], model[2]]
    one, opt, alone = protected()
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in layers]
    both = EWC(model, strength=RULE)
    both.load_state_dict(alone.state_dict())
    both.attach(*optimizers)
    for batch in batches(1, STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss(model, batch).backward()
        for optimizer in optimizers:
            optimizer.step()
    train(one, opt, batches(1, STEPS), alone)
    assert both.current_strength == pytest.approx(alone.current_strength, rel=1e-12)


def test_scaled_gradients_are_measured_unscaled():
    model, opt, method = protected()
    scaled_model, scaled_opt, scaled = protected(optimizer=Scaled)
    scaled_opt.grad_scale = torch.tensor(128.0, dtype=torch.float64)
    scaled_opt.found_inf = torch.tensor(0.0)
    batch = batches(1, 1)[0]
    opt.zero_grad()
    scaled_opt.zero_grad()
    loss(model, batch).backward()
    (loss(scaled_model, batch) * 128.0).backward()
    opt.step()
    scaled_opt.step()
    for name in ("auto_gradients", "auto_pulls"):
        assert float(scaled.buffers[name]) == pytest.approx(float(method.buffers[name]), rel=1e-12)
    before = float(scaled.buffers["auto_gradients"])
    scaled_opt.found_inf = torch.tensor(1.0)  # a step that is skipped for an overflow is not measured
    for p in scaled_model.parameters():
        p.grad.fill_(math.inf)
    scaled_opt.step()
    assert float(scaled.buffers["auto_gradients"]) == before


def stiffest(method) -> float:
    """The largest second derivative of the penalty at strength 1, by autograd."""
    params = list(method.params.values())
    fixed = type(method)(method.model, strength=1.0)
    fixed.load_state_dict(method.state_dict())
    first = torch.autograd.grad(fixed.value(), params, create_graph=True)
    return max(float(s.max()) for s in torch.autograd.grad(sum(g.sum() for g in first), params))


@pytest.mark.parametrize("cls", [EWC, L2SP, MAS, SI])
def test_under_sgd_the_strength_is_what_a_step_bears(cls):
    """A weight moves by D times its gradient: with λ = 1 / (D s) the stiffest is back in one step, none goes beyond."""
    model, opt, method = protected(cls, strength=AutoStrength(fraction=1e6, steps=STEPS))
    train(model, opt, batches(1, STEPS), method)
    bears = 1 / (0.1 * stiffest(method))
    assert method.current_strength == pytest.approx(bears, rel=1e-6) and method.found_strengths[-1] > 2 * bears
    for group in opt.param_groups:  # a warm-up makes the steps larger later on
        group.update(lr=0.2, momentum=0.5, dampening=0.25)
    assert method.current_strength == pytest.approx(bears * 0.1 / (0.2 * 0.75 / 0.5), rel=1e-6)


@pytest.mark.parametrize("settings", [{"coupling": "proximal"}, {"optimizer": torch.optim.Adam}])
def test_a_pull_and_an_adaptive_step_bear_any_strength(settings):
    model, opt, method = protected(strength=AutoStrength(fraction=1e6, steps=STEPS), **settings)
    train(model, opt, batches(1, STEPS), method)
    assert method.current_strength == method.found_strengths[-1] > 1 / (0.1 * stiffest(method))


def test_under_sgd_the_strength_that_was_found_would_have_diverged():
    """Why it is held back: fraction 3 is right where steps are adaptive, and too much for the stiffest weight here."""
    rule = AutoStrength(fraction=100.0, steps=STEPS)
    model, opt, method = protected(strength=rule)
    train(model, opt, batches(1, 60), method)
    assert float(loss(model, batches(1)[0]).detach()) < 10
    other, other_opt, fixed = protected(strength=method.found_strengths[-1])
    with pytest.raises(NumericsError, match="flown away"):
        train(other, other_opt, batches(1, 60), fixed)


def test_a_task_that_is_too_short_does_not_go_unprotected_in_silence():
    model, opt, method = protected()
    train(model, opt, batches(1, STEPS - 1), method)
    with pytest.warns(UnprotectedWarning, match="ended after 3 steps, .* unprotected; the next .* over 2 "):
        method.consolidate(batches(1))
    assert method.num_tasks == 2 and not {"auto_gradients", "auto_pulls"} & method.buffers.keys()
    train(model, opt, batches(2, 2), method)
    assert len(method.found_strengths) == 1 and method.current_strength > 0
    method.consolidate(batches(2))


def test_no_more_than_a_quarter_of_the_task_before_is_measured():
    model = network()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    method = EWC(model, strength="auto").attach(opt)
    assert method.measured_steps == 10
    for task, length in enumerate((12, 400 // 16, 8)):
        train(model, opt, batches(task, length), method)
        method.consolidate(batches(task))
        assert method.measured_steps == length // 4
    assert len(method.found_strengths) == 2
    resumed = EWC(network(), strength="auto")
    resumed.load_state_dict(method.state_dict())
    assert resumed.measured_steps == 2


def test_a_task_of_one_step_is_said_each_time():
    """Before the first step there is no pull: nothing can be measured."""
    model, opt, method = protected()
    for task in (1, 2):
        train(model, opt, batches(task, 1), method)
        with pytest.warns(UnprotectedWarning, match=f"task {task} .* after 1 step, .* measured over 2"):
            method.consolidate(batches(task))


def test_weights_that_do_not_move_are_refused():
    model, opt, method = protected(L2SP)
    for group in opt.param_groups:
        group["lr"] = 0.0
    with pytest.raises(NumericsError, match="did not move"):
        train(model, opt, batches(1, STEPS), method)


def test_the_word_is_the_default_rule():
    method = EWC(network(), strength="auto")
    assert method.strength == "auto" and method.current_strength == 0.0 and method.found_strengths == []
    assert EWC(network(), strength=2.5).current_strength == 2.5


def test_steady_strength():
    assert steady_strength(stiffest=4.0, step=0.5) == 0.5
    assert steady_strength(stiffest=4.0, step=0.0) == steady_strength(stiffest=0.0, step=0.5) == math.inf


def test_matching_strength():
    assert matching_strength(9.0, 1.0, 0.1) == pytest.approx(0.3)
    with pytest.raises(NumericsError):
        matching_strength(math.nan, 1.0, 1.0)
    with pytest.raises(NumericsError):
        matching_strength(1.0, 0.0, 1.0)


@pytest.mark.parametrize("settings", [{"fraction": 0.0}, {"fraction": math.inf}, {"fraction": "1"}, {"fraction": True},
                                      {"steps": 1}, {"steps": 2.0}, {"steps": True}])  # fmt: skip
def test_a_rule_out_of_range_is_refused(settings):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        AutoStrength(**settings)


@pytest.mark.parametrize("strength", ["Auto", "", "1e3", None, -1.0, math.nan])
def test_any_other_word_is_refused(strength):
    with pytest.raises(ConfigurationError, match="strength"):
        EWC(network(), strength=strength)
