"""Powerpropagation against the reference, a plain model, autograd away from 0, and what it must not take."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from holdfast import EWC, reparam
from holdfast.errors import ConfigurationError
from holdfast.importance import fisher
from holdfast.names import canonical_parameters
from holdfast.objectives import Classification
from holdfast.reparam.power import inverse_power, power
from holdfast.testing.cases import adam, network, sgd, task, train

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "powerprop.npz")
ALPHAS = pytest.mark.parametrize("alpha", [float(a) for a in REFERENCE["alphas"]])


def reference(name: str) -> Tensor:
    return torch.from_numpy(REFERENCE[name].copy())


def key(name: str, alpha: float) -> Tensor:
    return reference(f"{name}_{alpha}".replace(".", "p"))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def plain_values(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in canonical_parameters(model).items()}


@ALPHAS
def test_a_step_of_plain_gradient_descent_is_the_references(alpha: float) -> None:
    layer = nn.Linear(6, 5, bias=False, dtype=torch.float64)
    layer.weight = nn.Parameter(reference("u"))
    reparam.powerpropagate(layer, alpha)
    (phi,) = layer.parameters()
    close(phi.detach(), key("phi", alpha))
    close(layer.weight.detach(), reference("u"))
    close(inverse_power(reference("u"), alpha), key("phi", alpha))
    layer.weight.backward(key("grad_w", alpha))
    assert phi.grad is not None
    close(phi.grad, key("grad_phi", alpha))
    torch.optim.SGD([phi], lr=float(reference("lr"))).step()
    close(phi.detach(), key("phi_next", alpha))
    close(layer.weight.detach(), key("w_next", alpha))
    moved = reference("u") - float(reference("lr")) * alpha**2 * reference("u").abs().pow(2 - 2 / alpha) * key(
        "grad_w", alpha
    )
    close(moved, key("w_first_order", alpha))


@pytest.mark.parametrize("alpha", [1.0, 1.375, 2.0, 3.0])
def test_the_derivative_is_autograds_away_from_0_and_finite_at_0(alpha: float) -> None:
    phi = torch.tensor([-2.0, -0.3, 0.4, 1.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: power(p, alpha), [phi])
    assert torch.autograd.gradgradcheck(lambda p: power(p, alpha), [phi])
    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(power(zero, alpha).sum(), zero, create_graph=True)
    assert torch.equal(first.detach(), torch.full((3,), 1.0 if alpha == 1 else 0.0, dtype=torch.float64))
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), zero, allow_unused=True)
        assert bool(second.isfinite().all())
    each = torch.func.vmap(torch.func.grad(lambda p: power(p, alpha).sum()))(phi.detach())
    close(each, alpha * phi.detach().abs().pow(alpha - 1))


@pytest.mark.parametrize("make", [sgd, adam])
def test_with_1_it_is_the_plain_model_to_the_last_bit(make) -> None:
    plain, powered = network(), reparam.powerpropagate(network(), alpha=1.0)
    first, second = make(plain), make(powered)
    for seed in (1, 2):
        train(plain, first, task(seed))
        train(powered, second, task(seed))
    left, right = canonical_parameters(plain), canonical_parameters(powered)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    x = task(3)[0][0]
    assert torch.equal(plain(x), powered(x))


def test_an_optimizer_made_before_trains_the_same_parameters_and_a_shared_weight_stays_shared() -> None:
    model = network()
    x, before = task(3)[0][0], list(model.parameters())
    expected = copy.deepcopy(model)(x)
    optimizer = sgd(model)
    reparam.powerpropagate(model, 2.0)
    assert {id(p) for p in before} == {id(p) for p in model.parameters()}
    torch.testing.assert_close(copy.deepcopy(model)(x), expected)
    train(model, optimizer, task(1))
    assert torch.equal(model.middle.weight, model.shared.weight)
    trained = canonical_parameters(model)["middle.weight"]
    torch.testing.assert_close(model.middle.weight.detach(), trained.detach() * trained.detach().abs())


def test_the_way_back_and_plain_weights_in() -> None:
    plain, model = network(), reparam.powerpropagate(network(seed=3), 3.0)
    model.load_state_dict(plain.state_dict())
    x = task(3)[0][0]
    torch.testing.assert_close(model.eval()(x), plain.eval()(x))
    again = copy.deepcopy(model)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))
    answered = model(x)
    twin = copy.deepcopy(model)
    assert reparam.plain(model) is model
    assert torch.equal(twin(x), answered)  # a copy goes on as it is
    assert torch.equal(model(x), answered)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert not model.first._load_state_dict_pre_hooks
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(x), answered)
    assert reparam.plain(plain) is plain


def test_a_state_says_its_exponent_and_one_of_another_is_refused() -> None:
    model = reparam.powerpropagate(network(), 2.0)
    state = model.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    with pytest.raises(
        ConfigurationError, match=r"'first\.weight' as a power with alpha=2, .* with 3: expected the same"
    ):
        reparam.powerpropagate(network(seed=3), 3.0).load_state_dict(state)
    halved = {name: value.bfloat16() for name, value in state.items()}
    reparam.powerpropagate(network(seed=3), 2.0).load_state_dict(halved)
    older = reparam.powerpropagate(network(seed=3), 2.0)
    older.load_state_dict({name: value for name, value in state.items() if not name.endswith("_extra_state")})
    x = task(3)[0][0]
    assert torch.equal(older.eval()(x), model.eval()(x))


def test_convolutions_and_selected_weights() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(2, 1, 4, 4))
    reparam.powerpropagate(model, 2.0, select="0")
    assert parametrize.is_parametrized(model[0]) and not parametrize.is_parametrized(model[3])
    reparam.powerpropagate(model, 2.0, select="3.weight")
    assert not parametrize.is_parametrized(model[1])
    assert list(canonical_parameters(model)) == [
        "0.bias", "0.weight", "1.weight", "1.bias", "3.bias", "3.weight",
    ]  # fmt: skip


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.words.weight


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: reparam.powerpropagate(nn.Linear(2, 2), 0.5), "alpha is 0.5; expected a finite number >= 1"),
        (lambda: reparam.powerpropagate(nn.Linear(2, 2), True), "alpha is True"),
        (lambda: reparam.powerpropagate(reparam.powerpropagate(nn.Linear(2, 2)), 2.0), "'weight' is computed by Power"),
        (lambda: reparam.powerpropagate(weight_norm(nn.Linear(2, 2))), "'weight' is computed in another way"),
        (lambda: reparam.powerpropagate(nn.BatchNorm1d(2)), "no layer for powerpropagate"),
        (lambda: reparam.powerpropagate(nn.LazyLinear(2)), "'weight' is not yet initialised"),
        (lambda: reparam.powerpropagate(Tied()), r"shared with 'words' \(a Embedding\)"),
        (lambda: reparam.powerpropagate(Tied(), select="typo"), "select='typo' names"),
    ],
)
def test_what_is_refused(act, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        act()


def test_a_fisher_is_of_what_is_trained_as_one_backward_per_sample_gives_it() -> None:
    model = reparam.powerpropagate(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(), 1.375)
    with torch.no_grad():
        canonical_parameters(model)["0.weight"][0] = 0.0  # as pruning leaves it
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    found = fisher(model, [(x, y)], objective=Classification(), kind="empirical")
    expected = {name: torch.zeros_like(p) for name, p in canonical_parameters(model).items()}
    for i in range(6):
        loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        grads = torch.autograd.grad(loss, list(canonical_parameters(model).values()))
        for name, grad in zip(expected, grads, strict=True):
            expected[name] += grad.square() / 6
    for name in expected:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-9, atol=1e-12)


def test_a_penalty_pulls_what_is_trained() -> None:
    model = reparam.powerpropagate(network(), 2.0)
    optimizer = sgd(model)
    keep = EWC(model, strength=0.3).attach(optimizer)
    train(model, optimizer, task(1))
    keep.consolidate(task(1))
    anchor = plain_values(model)["first.weight"]
    assert torch.equal(keep.state["first.weight"]["anchor"], anchor)
    train(model, optimizer, task(2))
    assert keep.value() > 0
