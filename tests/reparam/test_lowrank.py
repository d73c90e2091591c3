"""InRank against the reference, dense singular values, and a plain model before and after."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast import EWC, reparam
from holdfast.errors import ConfigurationError, NumericsError
from holdfast.importance import fisher
from holdfast.names import canonical_parameters
from holdfast.objectives import Classification
from holdfast.reparam.lowrank import LowRank, product
from holdfast.reparam.spectra import dense_spectrum, explained, next_rank, spectrum, truncated
from holdfast.reparam.weights import reparametrised
from holdfast.testing.cases import adam, network, same_state, sgd, task, train

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "inrank.npz")
MODES = pytest.mark.parametrize("mode", ["cumulative", "efficient"])
DOUBLE = torch.float64


def reference(name: str) -> Tensor:
    return torch.from_numpy(REFERENCE[name].copy())


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def referred(mode: str) -> nn.Linear:
    """The reference's layer: rank 1, buffer 2."""
    layer = nn.Linear(12, 10, dtype=DOUBLE)
    with torch.no_grad():
        layer.weight.copy_(reference("W0"))
        layer.bias.copy_(reference("bias"))
    reparam.inrank(layer, mode=mode, rank=int(REFERENCE["rank"]), buffer=int(REFERENCE["buffer"]))
    *_, up, down = layer.parametrizations["weight"].parameters()
    assert up.shape == (10, 5) and down.shape == (5, 12)
    with torch.no_grad():
        up.copy_(reference("B"))
        down.copy_(reference("A"))
    return layer


@MODES
def test_a_layer_answers_as_the_references(mode: str) -> None:
    close(referred(mode)(reference("x")), reference(f"y_{mode}"))


def test_spectrum_and_what_it_explains_are_the_references() -> None:
    up, down = reference("B")[:, :3], reference("A")[:3]
    close(spectrum(up, down), reference("svals"))
    close(dense_spectrum(up, down), reference("svals"))
    close(explained(reference("svals")), reference("ratios"))
    close(explained(reference("spectrum")), reference("spectrum_ratio"))
    assert torch.equal(explained(torch.zeros(3)), torch.ones(4))
    wide = torch.randn(3, 7, dtype=DOUBLE), torch.randn(7, 4, dtype=DOUBLE)
    close(spectrum(*wide), dense_spectrum(*wide))


@pytest.mark.parametrize("number", range(4))
def test_the_next_rank_is_the_references(number: int) -> None:
    rank, buffer, threshold = REFERENCE["decide_args"][number]
    cap = int(REFERENCE["cap"])
    values = reference("spectrum")
    found = next_rank(values, int(rank), buffer=int(buffer), threshold=float(threshold), max_rank=cap)
    assert found == int(REFERENCE["decide_rank"][number])
    close(explained(values)[found], reference("decide_ratio")[number])
    assert next_rank(values, cap - int(buffer), buffer=int(buffer), threshold=0.9, max_rank=cap) == cap - int(buffer)


def test_what_is_finalised_is_the_truncated_svd() -> None:
    kept = int(REFERENCE["kept"])
    up, down = truncated(reference("B")[:, :3], reference("A")[:3], kept)
    close(up @ down, reference("product_kept").T)
    close(up.T @ up, down @ down.T)  # each factor has half of the spectrum
    for mode in ("cumulative", "efficient"):
        layer = referred(mode)
        by = reparametrised(layer)
        assert isinstance(by, LowRank)
        by.rank = kept
        rest = reference("W0") if mode == "cumulative" else 0
        dense = layer.weight.detach() - rest if mode == "cumulative" else reference("B")[:, :4] @ reference("A")[:4]
        left, values, right = np.linalg.svd((reference("B")[:, : by.used] @ reference("A")[: by.used]).numpy())
        close(dense, torch.from_numpy(left[:, :4] * values[:4] @ right[:4]))
        assert reparam.finalize(layer) is layer
        close(layer.weight.detach(), rest + torch.from_numpy(left[:, :kept] * values[:kept] @ right[:kept]))
        *_, up, down = layer.parametrizations["weight"].parameters()
        assert up.shape == (10, kept) and down.shape == (kept, 12)
        assert reparam.grow(layer, threshold=1.0) == {"weight": kept}


def test_a_rank_grows_with_what_is_learned_and_never_falls() -> None:
    rule = torch.linalg.qr(torch.randn(16, 16, dtype=DOUBLE)).Q * torch.cat([torch.ones(5), torch.zeros(11)])
    layer = nn.Linear(16, 16, bias=False, dtype=DOUBLE)
    start = layer.weight.detach().clone()
    reparam.inrank(layer, rank=1, buffer=4, max_rank=12)
    optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=0.02, momentum=0.9)
    found = [1]
    for number in range(600):
        x = torch.randn(64, 16, dtype=DOUBLE)
        loss = (layer(x) - x @ (start + rule).T).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if number % 20 == 19:
            found.append(reparam.grow(layer, threshold=0.99)["weight"])
    assert found == sorted(found) and found[-1] == 5
    assert all(b - a <= 3 for a, b in itertools.pairwise(found))
    torch.testing.assert_close(layer.weight.detach(), start + rule, atol=1e-3, rtol=0)


@pytest.mark.parametrize("make", [sgd, adam])
def test_directions_that_are_not_in_use_have_no_part(make) -> None:
    model = reparam.inrank(network(), rank=1, buffer=1)
    held = model.first.parametrizations["weight"]
    optimizer = make(model)
    for seed in (1, 2):
        train(model, optimizer, task(seed))
    assert not bool(held.original1[:, 2:].any()) and bool(held.original1[:, :2].any())
    assert not bool(held.original2.grad[2:].any())
    weight = model.first.weight.detach() - held.original0
    assert int(torch.linalg.matrix_rank(weight.double(), rtol=1e-5)) == 2
    assert torch.equal(weight + held.original0, held.original0 + product(held.original1, held.original2, 2))


@MODES
def test_a_run_that_was_saved_goes_on_bit_for_bit(mode: str) -> None:
    model = reparam.inrank(network(), mode=mode, rank=1, buffer=2, max_rank=6)
    optimizer = adam(model)
    train(model, optimizer, task(1))
    reparam.grow(model, threshold=0.999)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    assert all(isinstance(value, Tensor) for value in saved[0].values())
    again = reparam.inrank(network(seed=5), mode=mode, rank=1, buffer=2, max_rank=6)
    again.load_state_dict(saved[0])
    other = adam(again)
    other.load_state_dict(saved[1])
    for each, stepping in ((model, optimizer), (again, other)):
        train(each, stepping, task(2))
        reparam.grow(each, threshold=0.999)
        train(each, stepping, task(3))
    assert reparam.ranks(model) == reparam.ranks(again) != dict.fromkeys(reparam.ranks(model), 1)
    assert same_state(dict(model.state_dict()), dict(again.state_dict()))


@MODES
def test_a_finalised_model_loads_into_one_of_inrank(mode: str) -> None:
    model = reparam.inrank(network(), mode=mode, rank=1, buffer=2, max_rank=6)
    train(model, adam(model), task(1))
    reparam.grow(model, threshold=0.999)
    reparam.finalize(model)
    again = reparam.inrank(network(seed=5), mode=mode, rank=1, buffer=2, max_rank=4)
    optimizer = sgd(again)
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    x = task(3)[0][0]
    assert reparam.ranks(again) == reparam.ranks(model)
    assert torch.equal(again.eval()(x), model.eval()(x))
    assert torch.equal(again.middle.weight, again.shared.weight)
    other = sgd(model)
    train(model, other, task(2))
    train(again, optimizer, task(2))  # made before the state was loaded, it still trains the same parameters
    assert same_state(dict(model.state_dict()), dict(again.state_dict()))
    assert torch.equal(again.middle.weight, again.shared.weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        reparam.inrank(nn.Linear(3, 5), mode=mode).load_state_dict(
            reparam.inrank(nn.Linear(4, 5), mode=mode).state_dict()
        )


def test_a_plain_model_before_and_after() -> None:
    plain = network()
    x = task(3)[0][0]
    model = reparam.inrank(copy.deepcopy(plain), rank=1, buffer=2)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    assert not canonical_parameters(model)["first.weight.original0"].requires_grad
    train(model, sgd(model), task(1))
    assert torch.equal(model.middle.weight, model.shared.weight)
    other = reparam.inrank(network(seed=3), rank=1, buffer=2)
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other.eval()(x), plain.eval()(x))
    answered = model.eval()(x)
    twin = copy.deepcopy(model)
    reparam.plain(model)
    assert torch.equal(model(x), answered) and torch.equal(twin(x), answered)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert model.middle.weight is model.shared.weight and model.middle.weight.requires_grad
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(x), answered)
    train(model, sgd(model), task(2))


def test_frozen_weights_are_left_alone_unless_they_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    model[0].weight.requires_grad_(False)
    expected = model(torch.ones(2, 1, 4, 4))
    reparam.inrank(model)
    assert list(reparam.ranks(model)) == ["2.weight"]
    reparam.inrank(model, select="0")
    assert list(reparam.ranks(model)) == ["0.weight", "2.weight"]
    assert torch.equal(model(torch.ones(2, 1, 4, 4)), expected)
    assert canonical_parameters(model)["0.weight.original1"].requires_grad
    model(torch.ones(2, 1, 4, 4)).sum().backward()
    assert canonical_parameters(model)["0.weight.original0"].grad is None
    assert reparam.finalize(model)[0].weight.shape == (4, 1, 3, 3)


def test_a_fisher_is_of_the_factors_as_one_backward_per_sample_gives_it_and_a_penalty_pulls_them() -> None:
    model = reparam.inrank(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)).double(), mode="efficient")
    x, y = torch.randn(6, 4, dtype=DOUBLE), torch.tensor([0, 1, 2, 0, 1, 2])
    live = canonical_parameters(model)
    found = fisher(model, [(x, y)], objective=Classification(), kind="empirical")
    expected = {name: torch.zeros_like(p) for name, p in live.items()}
    for i in range(6):
        grads = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(live.values()))
        for name, grad in zip(expected, grads, strict=True):
            expected[name] += grad.square() / 6
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-9, atol=1e-12)
    keep = EWC(model, strength=1.0)
    keep.consolidate([(x, y)])
    with torch.no_grad():
        live["0.weight.original0"].add_(0.1)
    assert keep.value() > 0


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: reparam.inrank(nn.Linear(4, 4), mode="fast"), "mode is 'fast'"),
        (lambda: reparam.inrank(nn.Linear(4, 4), rank=0), "rank is 0; expected a whole number >= 1"),
        (lambda: reparam.inrank(nn.Linear(4, 4), buffer=-1), "buffer is -1; expected a whole number >= 0"),
        (lambda: reparam.inrank(nn.Linear(4, 4), max_rank=2.5), r"max_rank is 2\.5"),
        (lambda: reparam.inrank(nn.Linear(4, 4).requires_grad_(False)), "no trainable weight for inrank"),
        (lambda: reparam.inrank(nn.BatchNorm1d(4)), "no layer for inrank"),
        (lambda: reparam.inrank(reparam.powerpropagate(nn.Linear(4, 4))), "'weight' is computed by Power already"),
        (lambda: reparam.inrank(reparam.inrank(nn.Linear(4, 4))), "'weight' is computed by LowRank already"),
        (lambda: reparam.grow(nn.Linear(4, 4)), r"no weight of the model is of low rank; expected a model of reparam"),
        (lambda: reparam.finalize(nn.Linear(4, 4)), "no weight of the model is of low rank"),
        (lambda: reparam.grow(reparam.inrank(nn.Linear(4, 4)), threshold=2), "threshold is 2; expected a share"),
        (
            lambda: reparam.inrank(nn.Linear(4, 4), mode="efficient").load_state_dict(nn.Linear(4, 4).state_dict()),
            "has a plain weight 'weight'",
        ),
    ],
)
def test_what_is_refused(act, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        act()


def test_factors_that_are_not_finite_are_named() -> None:
    layer = reparam.inrank(nn.Linear(40, 40))
    layer.parametrizations["weight"].original1.data[0, 0] = torch.nan
    with pytest.raises(NumericsError, match="the factors of 'weight' are not finite"):
        reparam.grow(layer)


def test_a_generator_draws_the_factors() -> None:
    made = [
        reparam.inrank(network(), mode="efficient", generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    first, second, third = ([t for k, t in m.state_dict().items() if ".original" in k] for m in made)
    assert all(map(torch.equal, first, second)) and not all(map(torch.equal, first, third))
