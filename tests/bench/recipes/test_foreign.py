"""The broken EWC baseline of the CLASSP release against a plain loop, and that it leaves no trace elsewhere."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast import EWC, ConfigurationError, DataError, NumericsError
from holdfast.bench.recipes.foreign import ForeignEWC, foreign, initialised_anew, learning_rates
from holdfast.travelling import without_memory
from tests.penalties.paths import DOUBLE, batches, close, network, sgd, task_loss, train


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def other_network(model: nn.Module) -> nn.Module:
    """The network that a seed makes of a model, by nothing but its modules' own initialisation."""
    other = copy.deepcopy(model)
    seed = int(torch.randint(2**63 - 1, (), generator=seeded()))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in other.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    return other


def by_hand(model: nn.Module, data, rate: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The release's loop: a step per batch, and the square of its mean gradient on the way."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for batch in data:
        optimizer.zero_grad()
        task_loss(model, batch).backward()
        optimizer.step()
        for name, p in model.named_parameters():
            sums[name] += p.grad * p.grad
    samples = sum(len(x) for x, _ in data)
    return {name: total / samples for name, total in sums.items()}, dict(model.named_parameters())


def uneven():
    """Three batches of 7 and one of 2: a mean over batches would not be a mean over samples."""
    *whole, (x, y) = batches(1, 4)
    return [*whole, (x[:2], y[:2])]


def attached(method, optimizer):
    """As a method is at the end of a task, of which it has seen a step."""
    method.attach(optimizer).count_step()
    return method


def test_fisher_and_anchor_are_those_of_another_network_s_training():
    model = network()
    method = attached(ForeignEWC(model, strength=2.0), torch.optim.Adam(model.parameters(), lr=0.05))
    method.consolidate(iter(uneven()), generator=seeded())
    importances, anchors = by_hand(other_network(model), uneven(), 0.05)
    for name, held in method.state.items():
        close(held["importance"], importances[name])
        close(held["anchor"], anchors[name].detach())
        assert not (held["anchor"] == dict(model.named_parameters())[name]).any()
    expected = sum((importances[name] * (p - anchors[name]) ** 2).sum() for name, p in model.named_parameters())
    close(method.value().detach(), expected.detach())


def test_one_seed_is_one_network_whatever_the_caller_draws():
    found = []
    for drawn in (1, 2):
        torch.manual_seed(drawn)
        method = ForeignEWC(network(), strength=1.0)
        attached(method, sgd(method.model)).consolidate(uneven(), generator=seeded())
        found.append(method.state)
    assert all(torch.equal(found[0][name][kind], found[1][name][kind]) for name in found[0] for kind in found[0][name])
    another = ForeignEWC(network(), strength=1.0)
    attached(another, sgd(another.model)).consolidate(uneven(), generator=seeded(4))
    assert not torch.equal(another.state["0.weight"]["anchor"], found[0]["0.weight"]["anchor"])


class Whole(nn.Module):
    """Statistics, dropout, a shared and a frozen weight, and one that nothing initialises."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.norm = nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.5)
        self.second, self.shared = nn.Linear(5, 5), nn.Linear(5, 5)
        self.shared.weight = self.second.weight
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.scale = nn.Parameter(torch.full((5,), 1.5))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.first(x))) * self.scale
        return self.head(self.frozen(self.shared(torch.tanh(self.second(x)))))


@pytest.mark.parametrize("generator", [None, 3])
def test_nothing_of_the_caller_s_is_touched(generator):
    model = Whole().double().eval()
    optimizer = sgd(model)
    method = attached(ForeignEWC(model, strength=1.0, select=["first", "second", "head"]), optimizer)
    train(model.train(), optimizer, batches(0, 2))
    model.eval()
    optimizer.zero_grad(set_to_none=False)

    def now() -> tuple[dict[str, Any], dict[str, Any]]:  # what the optimizer carries of the method is another matter
        return model.state_dict(), without_memory(optimizer.state_dict())

    before = copy.deepcopy(now()), torch.get_rng_state()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    with torch.no_grad():
        method.consolidate(uneven(), generator=None if generator is None else seeded(generator))
    assert torch.equal(torch.get_rng_state(), before[1])
    for old, new in zip(before[0], now(), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0)
    assert not any(module.training for module in model.modules())
    assert all(p.grad is gradients[name] for name, p in model.named_parameters())
    assert set(method.state) == {
        "first.weight",
        "first.bias",
        "second.weight",
        "second.bias",
        "head.weight",
        "head.bias",
    }


def test_what_is_frozen_or_unknown_stays_and_the_rest_is_drawn_anew():
    model = Whole()
    model.norm.running_mean.fill_(7.0)
    other = initialised_anew(nn.DataParallel(model), ["first.weight", "norm.weight"])
    assert torch.equal(other.frozen.weight, model.frozen.weight) and torch.equal(other.scale, model.scale)
    assert not (other.first.weight == model.first.weight).any() and other.shared.weight is other.second.weight
    assert (other.norm.running_mean == 0).all() and (model.norm.running_mean == 7).all()
    with pytest.raises(ConfigurationError, match=r"draws the parameter 'scale'.*select"):
        ForeignEWC(model, strength=1.0)


def test_only_the_first_task_is_remembered():
    model = network()
    optimizer = sgd(model)
    method = attached(ForeignEWC(model, strength=1.0), optimizer)
    method.consolidate(batches(1, 2), generator=seeded())
    held = copy.deepcopy(method.state)
    train(model, optimizer, batches(2, 2))
    method.consolidate(batches(2, 2), generator=seeded(9))
    assert method.num_tasks == 2 and not method.buffers
    torch.testing.assert_close(method.state, held, rtol=0, atol=0)


def test_the_state_goes_on_in_another_instance_and_keeps_its_precision():
    kept = {"importance_dtype": torch.bfloat16, "state_device": "cpu"}
    model = network().float()
    optimizer = sgd(model)
    data = [(x.float(), y) for x, y in uneven()]
    method = attached(ForeignEWC(model, strength=1.0, **kept), optimizer)
    method.consolidate(data, generator=seeded())
    assert {held["importance"].dtype for held in method.state.values()} == {torch.bfloat16}
    assert {held["anchor"].dtype for held in method.state.values()} == {torch.float32}
    again = attached(ForeignEWC(model, strength=1.0, **kept), optimizer)
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.value(), method.value()) and again.num_tasks == 1
    train(model, optimizer, data)
    again.consolidate(data)
    torch.testing.assert_close(again.state, method.state, rtol=0, atol=0)


def test_every_group_has_its_own_learning_rate_and_what_nobody_trains_stays():
    model = network()
    optimizer = torch.optim.SGD(
        [{"params": [model[0].weight], "lr": torch.tensor(0.25)}, {"params": model[2].parameters(), "lr": 0.5}], lr=1.0
    )
    rates = learning_rates(model, ["0.weight"], [optimizer])
    assert rates == {"0.weight": 0.25, "2.weight": 0.5, "2.bias": 0.5}
    _, anchors = foreign(
        model, uneven(), objective=EWC(model, strength=1.0).objective, names=["0.weight"], rates=rates,
        generator=seeded(),
    )  # fmt: skip
    other = other_network(model)
    bias = other[0].bias.detach().clone()
    steps = torch.optim.SGD([{"params": [getattr(other[int(n[0])], n[2:])], "lr": r} for n, r in rates.items()], lr=1.0)
    train(other, steps, uneven())
    close(anchors["0.weight"], other[0].weight.detach())
    assert torch.equal(other[0].bias, bias) and set(anchors) == {"0.weight"}


def test_what_is_not_finite_or_not_there_is_not_remembered():
    model = network()
    method = attached(ForeignEWC(model, strength=1.0), sgd(model))
    with pytest.raises(NumericsError, match="not finite"):
        method.consolidate([(x / 0, y) for x, y in uneven()], generator=seeded())
    assert method.num_tasks == 0 and not method.state
    with pytest.raises(DataError, match="no sample"):
        method.consolidate([(torch.zeros(0, 4, dtype=DOUBLE), torch.zeros(0, dtype=torch.int64))])


def test_wrong_use_is_one_sentence():
    with pytest.raises(TypeError, match="fisher"):
        ForeignEWC(network(), strength=1.0, fisher="exact")
    with pytest.raises(ConfigurationError, match=r"none for the parameter '0.weight': call attach\(optimizer\)"):
        ForeignEWC(network(), strength=1.0).consolidate(batches(1, 1))
    with pytest.raises(TypeError, match="variant"):
        EWC(network(), strength=1.0, variant="foreign")

    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies\nof me")

    with pytest.raises(ConfigurationError, match=r"needs a copy of the model, which refuses: no copies$"):
        ForeignEWC(Stubborn(3, 2), strength=1.0)
    with pytest.raises(ConfigurationError, match="draws the parameter 'in_proj_weight'"):
        ForeignEWC(nn.MultiheadAttention(4, 2), strength=1.0)
