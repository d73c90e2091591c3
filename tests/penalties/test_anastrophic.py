"""The Anastrophic penalty against the released regularizer's numbers, and against autograd."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast import L2SP, Anastrophic, ConfigurationError
from holdfast.dispatch import Step
from holdfast.penalties import spectral
from holdfast.penalties.spectral import spectral_coherence, spectral_coherence_gradient

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "anastrophic.npz")
DOUBLE = torch.float64


class Bag(nn.Module):
    """Parameters by name."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor.clone()))


def reference(case: str, kind: str) -> dict[str, Tensor]:
    prefix = f"{case}/{kind}/"
    return {k.removeprefix(prefix): torch.from_numpy(REFERENCE[k]) for k in REFERENCE.files if k.startswith(prefix)}


def learned(case: str, **options) -> tuple[Bag, Anastrophic, torch.optim.Optimizer]:
    """A model that remembers ``prev`` and stands at ``w``, with zero gradients."""
    coherence, strength = REFERENCE[f"{case}/lambda_eta"]
    model = Bag(reference(case, "prev"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    method = Anastrophic(model, strength=float(strength), coherence=float(coherence), **options)
    method.consolidate()
    method.attach(optimizer)
    for name, w in reference(case, "w").items():
        getattr(model, name).data.copy_(w)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    return model, method, optimizer


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", "abcd")
def test_gradient_is_the_released_one(case, packed, monkeypatch):
    monkeypatch.setattr(spectral, "_LARGE", 2 if packed else 1 << 40)
    model, method, optimizer = learned(case)
    method.add_gradient(Step(optimizer))
    for name, expected in reference(case, "grad").items():
        if "weight" in name:
            close(getattr(model, name).grad, expected)
        else:
            assert not getattr(model, name).grad.any()


def test_value_is_the_released_one():
    _, method, _ = learned("a")
    close(method.value().detach(), torch.from_numpy(REFERENCE["a/penalty"]))


@pytest.mark.parametrize("case", "abcd")
def test_each_term_is_the_released_one(case):
    w, prev = reference(case, "w"), reference(case, "prev")
    for name, expected in reference(case, "phi").items():
        close(spectral_coherence(w[name]), expected)
        close(spectral_coherence_gradient(w[name])[0], expected)
    for name, expected in reference(case, "beta").items():
        close(0.5 * (w[name] - prev[name]).square().sum(), expected)  # Parseval


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 7, 8, 10, 12, 98, 101, 1024])
def test_closed_form_is_autograds(size, generator):
    w = torch.randn(size, dtype=DOUBLE, generator=generator).requires_grad_()
    phi = spectral_coherence(w)
    (expected,) = torch.autograd.grad(phi, w)
    found, gradient = spectral_coherence_gradient(w.detach())
    torch.testing.assert_close(found, phi.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [2, 4, 6, 8, 10, 12, 98, 1024, 20_002])
@pytest.mark.parametrize("offset", [0, 1])
def test_half_transforms_are_the_real_ones(size, offset, generator):
    x = torch.randn(size + 1, dtype=DOUBLE, generator=generator)[offset : offset + size]
    found, y, unit = spectral._by_half_transforms(x)
    expected, whole, one = spectral._by_real_transforms(x)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11 * float(x.square().sum()) * size)
    torch.testing.assert_close(unit * y, one * whole, rtol=1e-11, atol=1e-11 * float(whole.abs().max()))


def test_phi_of_a_definition_written_out(generator):
    w = torch.randn(15, dtype=DOUBLE, generator=generator)
    j = torch.arange(15, dtype=DOUBLE)
    spectrum = torch.exp(-2j * torch.pi * j[:, None] * j / 15) @ w.to(torch.complex128)
    power = spectrum.abs().square()
    phases = torch.exp(1j * spectrum.angle())
    expected = (power / (power.sum() + 1e-8) * phases).sum().abs()
    torch.testing.assert_close(spectral_coherence(w.view(3, 5)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("packed", [False, True])
def test_a_zero_tensor_has_a_zero_gradient(packed, monkeypatch):
    monkeypatch.setattr(spectral, "_LARGE", 2 if packed else 1 << 40)
    phi, gradient = spectral_coherence_gradient(torch.zeros(4, 6))
    assert phi == 0
    assert not gradient.any()


def test_one_entry():
    w = torch.tensor([[0.3]], dtype=DOUBLE)
    phi, gradient = spectral_coherence_gradient(w)
    assert abs(float(phi) - 0.09 / (0.09 + 1e-8)) < 1e-12
    assert abs(float(gradient) - 2 * 0.3 * 1e-8 / (0.09 + 1e-8) ** 2) < 1e-12


def train(model: nn.Module, optimizer: torch.optim.Optimizer, method, steps: int, seed: int = 0) -> None:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(8, 6, generator=draw)
        loss = (model(x) - x[:, :2]).square().mean()
        if method.needs_penalty:
            loss = loss + method.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def run(make, coupling: str) -> dict[str, Tensor]:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    method = make(model, coupling).attach(optimizer)
    for seed in (1, 2):
        train(model, optimizer, method, 4, seed)
        method.consolidate()
    train(model, optimizer, method, 4, 3)
    return model.state_dict()


@pytest.mark.parametrize("coupling", ["gradient", "loss", "proximal"])
def test_without_coherence_it_is_l2sp_on_the_weights(coupling, monkeypatch):
    for name in ("fft", "ifft", "rfft", "irfft"):
        monkeypatch.setattr(torch.fft, name, None)  # nothing may transform
    left = run(lambda m, c: Anastrophic(m, strength=0.7, coherence=0, coupling=c), coupling)
    right = run(lambda m, c: L2SP(m, strength=0.7, coupling=c, select=lambda n, p: "weight" in n), coupling)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_couplings_rest_at_the_same_point():
    target = torch.tensor([[2.0, 1.0, -1.0], [0.5, 0.3, 1.5]], dtype=DOUBLE)
    found = []
    for coupling in ("gradient", "loss", "proximal"):
        model = Bag({"weight": torch.tensor([[0.5, -1.0, 1.0], [0.2, 0.9, -0.4]], dtype=DOUBLE)})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
        method = Anastrophic(model, strength=1.0, coherence=0.3, coupling=coupling)
        method.consolidate()
        method.attach(optimizer)
        for _ in range(300):
            loss = 0.5 * (model.weight - target).square().sum() + method.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        (slope,) = torch.autograd.grad(0.5 * (model.weight - target).square().sum() + method.value(), model.weight)
        assert slope.abs().max() < 1e-9
        found.append(model.weight.detach())
    plain = (target + torch.tensor([[0.5, -1.0, 1.0], [0.2, 0.9, -0.4]], dtype=DOUBLE)) / 2
    assert (found[0] - plain).abs().max() > 1e-3  # Φ has moved it
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-8, atol=1e-8)


def test_phi_every_adds_up_to_the_same():
    model, full, optimizer = learned("a")
    full.add_gradient(Step(optimizer))
    whole = {n: p.grad.clone() for n, p in model.named_parameters()}
    _, quadratic, other = learned("a")
    quadratic.coherence = 0.0
    quadratic.add_gradient(Step(other))
    model, thinned, optimizer = learned("a", phi_every=3)
    found = []
    for _ in range(6):
        for p in model.parameters():
            p.grad.zero_()
        thinned.add_gradient(Step(optimizer))
        found.append({n: p.grad.clone() for n, p in model.named_parameters()})
    for name, expected in whole.items():
        torch.testing.assert_close(sum(f[name] for f in found), 6 * expected, rtol=1e-10, atol=1e-10)
        for t in (1, 2, 4, 5):
            assert torch.equal(
                found[t][name], quadratic.params[name].grad if name in quadratic.params else 0 * expected
            )


def test_phi_every_counts_for_each_optimizer():
    tensors = {"left_weight": torch.tensor([1.0, 2.0, 4.0]), "right_weight": torch.tensor([3.0, -1.0, 0.5])}
    model = Bag(tensors)
    optimizers = [torch.optim.SGD([p], lr=0.1) for p in model.parameters()]
    method = Anastrophic(model, strength=0.0, coherence=1.0, phi_every=2)
    method.consolidate()
    method.attach(*optimizers)
    for _ in range(2):
        for p, optimizer in zip(model.parameters(), optimizers, strict=True):
            p.grad = torch.zeros_like(p)
            optimizer.step()
    assert all(not torch.equal(getattr(model, name), tensor) for name, tensor in tensors.items())


def test_phi_every_goes_on_where_it_was_saved():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    method = Anastrophic(model, phi_every=3).attach(optimizer)
    train(model, optimizer, method, 2)
    method.consolidate()
    train(model, optimizer, method, 2)
    saved = copy.deepcopy((model.state_dict(), method.state_dict()))
    train(model, optimizer, method, 3, 9)

    again = small()
    again.load_state_dict(saved[0])
    other = torch.optim.SGD(again.parameters(), lr=0.05)
    resumed = Anastrophic(again, phi_every=3).attach(other)
    resumed.load_state_dict(saved[1])
    train(again, other, resumed, 3, 9)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.bfloat16])
def test_scale_layout_and_precision(layout, dtype, generator):
    w = torch.randn(4, 6, 3, 3, dtype=DOUBLE, generator=generator).to(dtype)
    prev = torch.randn(4, 6, 3, 3, dtype=DOUBLE, generator=generator).to(dtype)
    model = Bag({"weight": prev})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = Anastrophic(model, coherence=50.0)
    method.consolidate()
    method.attach(optimizer)
    model.weight.data = w.to(memory_format=layout)
    model.weight.grad = torch.zeros_like(model.weight)
    method.add_gradient(Step(optimizer, grad_scale=torch.tensor(8.0)))
    exact = w.double().requires_grad_()
    truth = 50 * (1 - spectral_coherence(exact)) + 1.5 * (exact - prev.double()).square().sum()
    (expected,) = torch.autograd.grad(truth, exact)
    tolerance = 1e-10 if dtype == DOUBLE else 1e-2
    torch.testing.assert_close(model.weight.grad.double() / 8, expected, rtol=tolerance, atol=tolerance)


def test_other_parameters_may_be_selected():
    model = small()
    assert set(Anastrophic(model).params) == {"0.weight", "2.weight"}
    assert set(Anastrophic(model, select=None).params) == set(dict(model.named_parameters()))


@pytest.mark.parametrize(
    "wrong", [{"strength": -1}, {"coherence": float("nan")}, {"phi_every": 0}, {"phi_every": 1.5}, {"coupling": "soft"}]
)
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Anastrophic(small(), **wrong)


def test_phi_in_the_loss_cannot_be_thinned():
    with pytest.raises(ConfigurationError, match="phi_every"):
        Anastrophic(small(), phi_every=2, coupling="loss")
