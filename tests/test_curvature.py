"""The Hessian's norms against the reference and dense Hessians, the step size, and the draw."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import holdfast
from holdfast import reparam
from holdfast.curvature import frobenius, hessian_norm, spectral
from holdfast.drawing import hessian_init, hessian_std
from holdfast.errors import ConfigurationError, DataError, NumericsError

REFERENCE = np.load(Path(__file__).parent / "data" / "hessinit.npz")
NAMES = [f"{i}.weight" for i in (0, 2, 4)]
ACTIVATIONS = pytest.mark.parametrize("kind", ["relu", "tanh"])


def reference(name: str) -> Tensor:
    return torch.from_numpy(np.array(REFERENCE[name]))


def network(kind: str) -> nn.Sequential:
    act = {"relu": nn.ReLU, "tanh": nn.Tanh}[kind]
    model = nn.Sequential(
        nn.Linear(5, 4, bias=False), act(), nn.Linear(4, 4, bias=False), act(), nn.Linear(4, 3, bias=False)
    ).double()
    for i, layer in enumerate((model[0], model[2], model[4])):
        layer.weight.data.copy_(reference(f"W{i}"))
    return model


BATCH = reference("x"), reference("y")


def dense(model: nn.Module, names: list[str]) -> Tensor:
    """The Hessian itself, by autograd."""
    params = {name: p.detach() for name, p in model.named_parameters()}
    sizes = [params[name].numel() for name in names]

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split(sizes)
        mine = {name: part.view(params[name].shape) for name, part in zip(names, parts, strict=True)}
        return F.cross_entropy(functional_call(model, {**params, **mine}, (BATCH[0],)), BATCH[1])

    found = torch.autograd.functional.hessian(loss, torch.cat([params[name].flatten() for name in names]))
    assert isinstance(found, Tensor)
    return found


@ACTIVATIONS
def test_the_norms_of_each_tensor_are_the_references(kind: str) -> None:
    model = network(kind)
    quad = hessian_norm(model, BATCH)
    assert list(quad.tensors) == NAMES
    assert list(quad.tensors.values()) == pytest.approx(reference(f"{kind}_quad_exact").tolist(), rel=1e-9)
    spec = hessian_norm(model, BATCH, kind="spectral", iterations=3000)
    assert list(spec.tensors.values()) == pytest.approx(reference(f"{kind}_exact_spec").tolist(), rel=1e-3)
    many = hessian_norm(model, BATCH, kind="frobenius", probes=4000)
    assert list(many.tensors.values()) == pytest.approx(reference(f"{kind}_exact_fro").tolist(), rel=0.05)


@ACTIVATIONS
def test_hutchinsons_estimate_of_the_same_probes_is_the_references(kind: str) -> None:
    model = network(kind)
    for i, name in enumerate(NAMES):
        block = dense(model, [name])
        probes = [[probe] for probe in reference(f"{kind}_probe_{i}")]
        found = frobenius(lambda v, block=block: [block @ v[0]], probes)
        assert found == pytest.approx(float(reference(f"{kind}_hutchinson16")[i]), rel=1e-9)
        top = spectral(lambda v, block=block: [block @ v[0]], probes[0], iterations=5000, tolerance=1e-13)
        assert top == pytest.approx(float(reference(f"{kind}_exact_spec")[i]), rel=1e-9)


def test_the_whole_is_that_of_the_dense_hessian_and_gives_the_step() -> None:
    model = network("tanh")
    matrix = dense(model, NAMES)
    loss = F.cross_entropy(model(BATCH[0]), BATCH[1])
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    along = float(gradient @ matrix @ gradient / gradient.square().sum())
    found = hessian_norm(model, BATCH)
    assert found.whole == pytest.approx(along, rel=1e-9)
    assert found.step == pytest.approx(1 / along, rel=1e-9)
    assert (found.loss, found.gradient) == pytest.approx((float(loss.detach()), float(gradient.norm())), rel=1e-9)
    top = hessian_norm(model, BATCH, kind="spectral", iterations=3000)
    assert top.whole == pytest.approx(float(torch.linalg.eigvalsh(matrix).abs().max()), rel=1e-3)
    assert top.step == found.step


@ACTIVATIONS
def test_the_step_of_one_tensor_is_the_references(kind: str) -> None:
    steps = reference(f"{kind}_step")
    for i, name in enumerate(NAMES):
        assert hessian_norm(network(kind), BATCH, select=name).step == pytest.approx(float(steps[i, 0]), rel=1e-9)


def test_nothing_in_the_model_changes() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 3)).double()
    model[0].weight.requires_grad_(False)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = hessian_norm(model, BATCH, kind="frobenius")
    assert "0.weight" not in found.tensors
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert model.training and all(p.grad is None for p in model.parameters())
    assert found == hessian_norm(model, BATCH, kind="frobenius")


def test_attention_and_a_loss_without_curvature() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double()
    inputs = torch.randn(2, 3, 4, dtype=torch.float64), torch.zeros(2)
    found = hessian_norm(model, inputs, lambda out, batch: out.square().mean((1, 2)))
    assert math.isfinite(found.whole) and found.whole != 0
    flat = hessian_norm(nn.Linear(4, 1).double(), inputs, lambda out, batch: out.mean((1, 2)), kind="spectral")
    assert flat.whole == 0 and flat.step == math.inf


def test_the_rules_are_the_references() -> None:
    columns = [reference(f"std_{k}").tolist() for k in ("smooth", "relu", "smooth_keep08_inverted")]
    for (inputs, outputs), *expected in zip(reference("fans").tolist(), *columns, strict=True):
        found = [
            hessian_std(inputs, outputs, relu=relu, dropout=p) for relu, p in ((False, 0), (True, 0), (False, 0.2))
        ]
        assert found == pytest.approx(expected, rel=1e-9)


def test_a_draw_has_curvatures_nearer_to_1_than_its_start() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    first = copy.deepcopy(model)
    found = hessian_init(model, BATCH, generator=torch.Generator().manual_seed(0))
    assert found == pytest.approx({name: h for name, h in hessian_norm(model, BATCH).tensors.items() if name in found})
    ruled = copy.deepcopy(first)  # the draw alone, without the search
    for layer in (ruled[0], ruled[2], ruled[4]):
        layer.bias.data.zero_()
    draw = torch.Generator().manual_seed(0)
    for layer in (ruled[0], ruled[2], ruled[4]):
        std = hessian_std(layer.in_features, layer.out_features, relu=True)
        layer.weight.data.copy_(torch.randn(layer.weight.shape, generator=draw) * std)
    start = hessian_norm(ruled, BATCH).tensors
    assert sum(abs(math.log(found[name])) for name in found) < sum(abs(math.log(start[name])) for name in found)
    assert all(bool((layer.bias == 0).all()) for layer in (model[0], model[2], model[4]))
    again = copy.deepcopy(first)
    hessian_init(again, BATCH, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_a_draw_that_is_refused_leaves_the_model_as_it_was_and_frozen_biases_stay() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    before = copy.deepcopy(model.state_dict())
    for x, y, error in ((BATCH[0], BATCH[1] + 7, DataError), (BATCH[0] * math.nan, BATCH[1], NumericsError)):
        with pytest.raises(error):
            hessian_init(model, (x, y))
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model[0].bias.requires_grad_(False)
    hessian_init(model, BATCH)
    assert torch.equal(model[0].bias, before["0.bias"]) and bool((model[2].bias == 0).all())


def powers() -> nn.Module:
    return reparam.powerpropagate(network("relu"), 2.0)


@pytest.mark.parametrize(
    ("act", "error", "said"),
    [
        (lambda: hessian_norm(network("relu"), BATCH, kind="nuclear"), ConfigurationError, "kind is 'nuclear'"),
        (lambda: hessian_norm(network("relu"), BATCH, probes=0), ConfigurationError, "probes is 0"),
        (lambda: hessian_norm(network("relu"), (BATCH[0] * math.nan, BATCH[1])), NumericsError, "the loss is nan"),
        (lambda: hessian_norm(network("relu"), (BATCH[0][:0], BATCH[1][:0])), DataError, "no sample"),
        (lambda: hessian_init(nn.BatchNorm1d(5), BATCH), ConfigurationError, "no linear layer or convolution"),
        (lambda: hessian_init(network("relu"), BATCH, dropout=1.0), ConfigurationError, "dropout is 1.0"),
        (lambda: hessian_init(reparam.inrank(network("relu")), BATCH), ConfigurationError, "'0.weight' is computed"),
        (lambda: hessian_init(powers(), BATCH, select="2"), ConfigurationError, "'2.weight' is computed"),
        (lambda: hessian_std(0, 3), ConfigurationError, "inputs is 0"),
        (lambda: hessian_std(3, 3, dropout=-0.1), ConfigurationError, "dropout is -0.1"),
    ],
)
def test_what_is_refused(act, error, said: str) -> None:
    with pytest.raises(error, match=said):
        act()


def test_it_is_at_the_door() -> None:
    assert holdfast.hessian_norm is hessian_norm and holdfast.hessian_init is hessian_init
