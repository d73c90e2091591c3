"""The dispatcher: phases, closures, what it refuses; and the facts of PyTorch that it leans on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from holdfast import L2SP, ConfigurationError, Method, ProtectionError
from holdfast.dispatch import PHASES_AFTER, PHASES_BEFORE, Dispatcher


class Spy(Method):
    """Writes down every phase."""

    needs_data = False

    def __init__(self, model, log, name):
        super().__init__(model)
        self.log, self.name = log, name

    def _remember(self, batches, objective, generator):
        pass


def _noted(phase):
    def method(self, step):
        self.log.append((phase, self.name, self.params["weight"].detach().clone()))

    return method


for _phase in PHASES_BEFORE + PHASES_AFTER:
    setattr(Spy, _phase, _noted(_phase))


def _model() -> nn.Linear:
    return nn.Linear(2, 1, bias=False)


def _step(model, optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def test_each_phase_runs_over_all_methods_before_the_next_begins():
    model, log = _model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for name in ("b", "a"):
        Spy(model, log, name).attach(optimizer)
    start = model.weight.detach().clone()
    _step(model, optimizer)
    assert [(phase, name) for phase, name, _ in log] == [
        (phase, name) for phase in PHASES_BEFORE + PHASES_AFTER for name in ("a", "b")
    ]
    assert all(torch.equal(w, start) == (phase in PHASES_BEFORE) for phase, _, w in log)


def test_attach_replaces_and_never_doubles():
    model, log = _model(), []
    first, second = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    spy = Spy(model, log, "a")
    spy.attach(first)
    spy.attach(first)
    _step(model, first)
    assert len(log) == 6
    spy.attach(second)
    _step(model, first)
    assert len(log) == 6


def test_a_failed_attach_leaves_the_old_one():
    model, log = _model(), []
    good = torch.optim.SGD(model.parameters(), lr=0.1)
    spy = Spy(model, log, "a").attach(good)
    with pytest.raises(ProtectionError):
        spy.attach(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1))
    _step(model, good)
    assert len(log) == 6


@pytest.mark.parametrize("positional", [True, False])
def test_with_a_closure_the_gradient_phases_come_after_backward(positional):
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []

    class Seer(Spy):
        def observe_gradient(self, step):
            seen.append(self.params["weight"].grad.clone())

    Seer(model, [], "a").attach(optimizer)

    def closure():
        optimizer.zero_grad()
        loss = (3 * model(torch.ones(1, 2))).sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure) if positional else optimizer.step(closure=closure)
    assert torch.equal(seen[0], torch.full((1, 2), 3.0))
    assert loss is not None


def test_an_optimizer_that_calls_its_closure_twice_is_refused():
    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            closure()
            closure()

    model = _model()
    optimizer = Twice(model.parameters(), lr=0.1)
    Spy(model, [], "a").attach(optimizer)
    with pytest.raises(ProtectionError, match="twice"):
        optimizer.step(lambda: model(torch.ones(1, 2)).sum())


def test_an_optimizer_that_never_calls_its_closure_is_noticed():
    class Never(torch.optim.SGD):
        def step(self, closure=None):
            pass

    model = _model()
    optimizer = Never(model.parameters(), lr=0.1)
    Spy(model, [], "a").attach(optimizer)
    with pytest.raises(ProtectionError, match="never"):
        optimizer.step(lambda: model(torch.ones(1, 2)).sum())


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda p: torch.optim.LBFGS(p), "LBFGS"),
        (lambda p: torch.optim.SGD(p, lr=0.1, maximize=True), "maximize"),
        (lambda p: object(), "object"),
    ],
)
def test_what_cannot_be_protected_is_refused(make, names):
    model = _model()
    with pytest.raises(ConfigurationError, match=names):
        Spy(model, [], "a").attach(make(list(model.parameters())))


def test_attach_needs_an_optimizer():
    with pytest.raises(ConfigurationError, match="at least one"):
        Spy(_model(), [], "a").attach()


def test_accelerates_wrapper_is_looked_through():
    accelerate = pytest.importorskip("accelerate")
    model = _model()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    accelerator = accelerate.Accelerator(cpu=True)
    wrapped_model, wrapped = accelerator.prepare(model, inner)
    log = []
    Spy(wrapped_model, log, "a").attach(wrapped)
    wrapped.zero_grad()
    accelerator.backward(wrapped_model(torch.ones(1, 2)).sum())
    wrapped.step()
    assert len(log) == 6


def test_pytorch_a_deep_copied_optimizer_loses_its_hooks():
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Spy(model, [], "a").attach(optimizer)
    assert Dispatcher.find(copy.deepcopy(optimizer)) is None


def test_pytorch_masking_a_gradient_does_not_freeze_a_weight():
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    _step(model, optimizer)
    before = model.weight.detach().clone()
    model.weight.grad.zero_()
    optimizer.step()
    assert not torch.equal(before, model.weight)


def test_two_optimizers_share_one_method():
    model = nn.Sequential(_model(), nn.Linear(1, 1))
    one = torch.optim.SGD(model[0].parameters(), lr=0.1)
    two = torch.optim.Adam(model[1].parameters(), lr=0.1)
    method = L2SP(model, strength=1e3)
    method.consolidate()
    method.attach(one, two)
    anchors = {n: p.detach().clone() for n, p in model.named_parameters()}
    model(torch.ones(1, 2)).sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            p += 1
    one.step()
    two.step()
    # a pull of 1000 per unit of distance outweighs any gradient of this loss
    assert all((p < anchors[n] + 1).all() for n, p in model.named_parameters())


class _Wrapper:
    """As Lightning's: it shares the hooks of the optimizer that it holds, and passes for one of its kind."""

    def __init__(self, optimizer):
        self.__dict__ = {**optimizer.__dict__}
        self.optimizer = optimizer
        self.__class__ = type("Wrapped", (type(self), type(optimizer)), {"step": lambda self: self.optimizer.step()})


def test_a_wrapper_that_shares_the_hooks_is_noticed():
    model = _model()
    optimizer = _Wrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    L2SP(model, strength=1.0).attach(optimizer)
    with pytest.raises(ProtectionError, match="inside the wrapper"):
        _step(model, optimizer)


def test_lightnings_wrapper_is_looked_through():
    lightnings = type("LightningOptimizer", (_Wrapper,), {"__module__": "lightning.pytorch.core.optimizer"})
    model = _model()
    optimizer = lightnings(torch.optim.SGD(model.parameters(), lr=0.1))
    method = L2SP(model, strength=1.0)
    method.consolidate()
    method.attach(optimizer)
    model.weight.data += 1.0
    _step(model, optimizer)
    torch.testing.assert_close(model.weight.grad, torch.full((1, 2), 2.0))  # 1 of the loss, 1 of the penalty


def _two(method, model):
    optimizers = [torch.optim.SGD([p], lr=0.1) for p in model.parameters()]
    method.consolidate()
    method.attach(*optimizers)
    return optimizers


def test_one_penalty_covers_one_step_of_each_optimizer():
    model = nn.Linear(2, 1)
    method = L2SP(model, strength=1.0, coupling="loss")
    first, second = _two(method, model)
    for _ in range(2):
        (model(torch.ones(1, 2)).sum() + method.penalty()).backward()
        first.step()
        second.step()
    with pytest.raises(ProtectionError, match="penalty"):
        second.step()
    method.penalty().backward()
    first.step()
    fresh = [torch.optim.SGD([p], lr=0.1) for p in model.parameters()]
    method.attach(*fresh)
    with pytest.raises(ProtectionError, match="penalty"):
        fresh[0].step()


def test_what_is_frozen_for_a_task_is_protected_when_it_moves_again():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = L2SP(model, strength=1.0)
    method.consolidate()
    method.attach(optimizer)
    model.weight.requires_grad_(False)
    _step(model, optimizer)
    method.consolidate()
    saved = method.state_dict()
    for load in (False, True):
        model.weight.requires_grad_(False)
        method.attach(optimizer)
        if load:
            method.load_state_dict(saved)
        model.weight.requires_grad_(True)
        model.weight.data += 1.0
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert (model.weight.grad > 1.5).all()  # 1 of the loss, the rest of the penalty
