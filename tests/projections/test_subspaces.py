"""Steps that earlier inputs do not see, whatever the optimizer; exact inputs of every kind of layer."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast import ConfigurationError, NumericsError, ProtectionError
from holdfast.objectives import Classification
from holdfast.projections.inputs import as_matrix, collect
from holdfast.projections.subspaces import GPM, SGP, AdamNSCL

DATA = Path(__file__).parents[1] / "data" / "subspaces.npz"
OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
}
METHODS = {
    "gpm": lambda m: GPM(m, threshold=1.0),
    "nscl": lambda m: AdamNSCL(m, threshold=1.0),
    "sgp": lambda m: SGP(m, threshold=1.0, alpha=1e12),
}


def low_rank(seed: int, dtype: torch.dtype = torch.float32, number: int = 16) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(number, 3, generator=draw) @ torch.randn(3, 12, generator=draw)
    return x.to(dtype), torch.randint(4, (number,), generator=draw)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int = 20) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_no_leak_under_momentum_adaptive_rates_and_weight_decay(kind, method):
    model = nn.Linear(12, 4, bias=False)
    optimizer = OPTIMIZERS[kind](model.parameters())
    keep = METHODS[method](model).attach(optimizer)
    old, labels = low_rank(1)
    train(model, optimizer, old, labels)
    keep.consolidate([(old, labels)])
    before = model.weight.detach().clone()
    train(model, optimizer, *low_rank(2), steps=100)
    change = (model.weight - before).detach()
    basis = keep.buffers["basis.weight"].float()
    assert change.norm() > 0.1
    assert (change @ basis).norm() < 1e-6 * change.norm()
    # Projecting gradients instead, with the same optimizer, leaks.
    plain = nn.Linear(12, 4, bias=False)
    plain.load_state_dict({"weight": before})
    other = OPTIMIZERS[kind](plain.parameters())
    for _ in range(100):
        other.zero_grad()
        x, y = low_rank(2)
        F.cross_entropy(plain(x), y).backward()
        plain.weight.grad -= (plain.weight.grad @ basis) @ basis.T
        other.step()
    leak = (plain.weight - before).detach()
    assert (leak @ basis).norm() > 0.05 * leak.norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["convolution", "transposed", "attention", "embedding"])
def test_no_leak_on_any_kind_of_layer_under_adamw_with_decay(kind, method):
    """Inputs of low rank, so that each layer has room, and moves much."""
    torch.manual_seed(0)
    if kind == "convolution":
        model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(36, 4, bias=False)).double()
        old = torch.randn(6, 2).double() @ torch.randn(2, 75).double()
        old, new = old.view(6, 3, 5, 5), torch.randn(6, 3, 5, 5).double()
        old[:, 1:] = 0
    elif kind == "transposed":
        model = nn.Sequential(
            nn.ConvTranspose1d(6, 3, 2, bias=False), nn.Flatten(), nn.Linear(15, 4, bias=False)
        ).double()
        old = torch.einsum("bkl,ki->bil", torch.randn(6, 2, 4).double(), torch.randn(2, 6).double())
        old[3:] = 0
        new = torch.randn(6, 6, 4).double()
    elif kind == "attention":
        model = Attending().double()
        old = torch.randn(6, 4, 2).double() @ torch.randn(2, 8).double()
        new = torch.randn(6, 4, 8).double()
    else:
        model = nn.Sequential(nn.Embedding(9, 5), nn.Flatten(), nn.Linear(10, 4, bias=False)).double()
        old, new = torch.randint(4, (6, 2)), torch.randint(9, (6, 2))
    y = torch.randint(4, (6,))
    keep = METHODS[method](model)
    keep.consolidate([(old, y)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.3)
    keep.attach(optimizer)
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, new, y, steps=60)
    for name in keep.state:
        change = model.state_dict()[name] - before[name]
        basis, rows = keep.buffers.get(f"basis.{name}"), keep.buffers.get(f"rows.{name}")
        seen = change[rows > 0] if basis is None else as_matrix(change, name in keep.meta["first"]) @ basis
        assert seen.norm() < 1e-6 * change.norm() and change.norm() > 0.1, name
    assert all(0 < full < 1 for full in keep.fullness.values())


def test_the_papers_step():
    with np.load(DATA) as arrays:
        known = {name.partition("/")[2]: torch.tensor(arrays[name]) for name in arrays if name.startswith("null_space")}
    model = nn.Linear(9, 5, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(known["W0"])
    # ε outside of the root, as Adam has it.
    optimizer = torch.optim.Adam(model.parameters(), lr=float(known["lr"]))
    keep = AdamNSCL(model, multiple=float(known["a"]))
    values, vectors = torch.linalg.eigh(known["covariance"])  # of these inputs and of others: any with the same will do
    keep.consolidate([((vectors * values.clamp_min(0).sqrt()).T, torch.zeros(9, dtype=torch.int64))])
    keep.attach(optimizer)
    basis = keep.buffers["basis.weight"]
    free = torch.eye(9, dtype=torch.float64) - basis @ basis.T
    for gradient in known["grads"]:
        model.weight.grad = gradient.clone()
        optimizer.step()
    outputs = known["old_inputs"] @ (model.weight - known["W0"]).T
    assert outputs.abs().max() < 1e-7 < 1e-3 < float(known["max_output_change_gradient_projected"])
    torch.testing.assert_close(free, known["projector"], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model.weight.detach(), known["W3_step_projected"], rtol=1e-8, atol=1e-8)
    assert (model.weight - known["W3_gradient_projected"]).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_the_outputs_of_the_old_task_stay(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.LayerNorm(20), nn.Tanh(), nn.Linear(20, 4)).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    keep = METHODS[method](model).attach(optimizer)
    old, labels = low_rank(1, torch.float64, number=6)
    train(model, optimizer, old, labels)
    keep.consolidate([(old, labels)])
    before = model(old).detach()
    new, more = low_rank(2, torch.float64, number=6)
    loss = F.cross_entropy(model(new), more)
    train(model, optimizer, new, more, steps=40)
    assert F.cross_entropy(model(new), more) < 0.8 * loss
    torch.testing.assert_close(model(old), before, rtol=1e-6, atol=1e-6)  # a covariance has half the digits
    keep.consolidate([(new, more)])
    both = model(torch.cat([old, new])).detach()
    train(model, optimizer, *low_rank(3, torch.float64))
    torch.testing.assert_close(model(torch.cat([old, new])), both, rtol=1e-6, atol=1e-6)
    full = keep.fullness
    assert full["0.weight"] == pytest.approx(6 / 12) and full["1.weight"] == full["0.bias"] == 1.0
    assert 0 < full["3.weight"] <= 12 / 20


class Everything(nn.Module):
    """Every layer whose inputs are known, a shared weight, and one that is not known."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(8, 2, batch_first=True, kdim=5, vdim=5)
        self.convolution = nn.Conv1d(8, 8, 3, stride=2, padding=1, groups=2)
        self.up = nn.ConvTranspose1d(8, 6, 2)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.words.weight
        self.recurrent = nn.GRU(6, 8, batch_first=True)
        self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.words(x)
        h = h + self.attention(h, h, h, need_weights=False)[0]
        h = h + self.cross(h, h[..., :5], h[..., 1:6])[0]
        h = torch.tanh(self.convolution(h.transpose(1, 2)))
        h, _ = self.recurrent(self.up(h).transpose(1, 2))
        return self.out(h[:, -1])


class Attending(nn.Module):
    """Attention whose projections have no biases, each on inputs of low rank."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, bias=False)
        self.out = nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))


@pytest.fixture
def setting() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = Everything().double()
    return model, [(torch.randint(4, (5, 6)), torch.randint(11, (5,))) for _ in range(2)]


def test_every_kind_of_layer_is_protected(setting):
    model, batches = setting
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    keep = GPM(model, threshold=1.0)
    keep.consolidate(batches)
    keep.attach(optimizer)
    before, idle = [model(x).detach() for x, _ in batches], model.idle.weight.detach().clone()
    start = copy.deepcopy(model.state_dict())
    draw = torch.Generator().manual_seed(5)
    for _ in range(10):
        optimizer.zero_grad()
        x = torch.randint(11, (5, 6), generator=draw)
        (F.cross_entropy(model(x), x[:, 0]) + model.idle.weight.square().sum()).backward()
        optimizer.step()
    for (x, _), outputs in zip(batches, before, strict=True):
        torch.testing.assert_close(model(x), outputs, rtol=1e-8, atol=1e-9)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, start[name])}
    assert {"words.weight", "up.weight", "idle.weight"} <= moved
    assert not any(name.startswith("recurrent") for name in moved)
    assert not torch.equal(model.words.weight[4:], start["words.weight"][4:])  # words that were never seen
    assert torch.equal(idle, start["idle.weight"]) and "idle.weight" not in keep.state


def test_inputs_are_exact_and_free_of_order(setting):
    model, batches = setting
    params = dict(model.named_parameters())
    found, part = collect(model, batches, Classification(), params)
    single = [(x[i : i + 1], y[i : i + 1]) for x, y in batches for i in range(5)]
    again, _ = collect(model, single[::-1], Classification(), params)
    for name, inputs in found.items():
        for one, other in zip(inputs.tensors(), again[name].tensors(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert part == {name for name in params if not name.startswith("idle")}
    x = torch.cat([x for x, _ in batches])
    assert torch.equal(found["words.weight"].rows, x.flatten().bincount(minlength=11).double())
    h = model.words(x).detach()
    flat = h.reshape(-1, 8)
    torch.testing.assert_close(found["attention.in_proj_weight"].columns, flat.T @ flat)
    # What the output projection is given, from what it makes of it.
    with torch.no_grad():
        mixed = model.attention(h, h, h)[0] - model.attention.out_proj.bias
        given = torch.linalg.solve(model.attention.out_proj.weight, mixed.reshape(-1, 8).T)
    torch.testing.assert_close(found["attention.out_proj.weight"].columns, given @ given.T, rtol=1e-6, atol=1e-8)
    assert found["up.weight"].first and as_matrix(model.up.weight, True).shape == (12, 8)
    assert model.training and all(p.requires_grad for p in model.parameters())


def test_convolutions_see_their_patches():
    torch.manual_seed(0)
    for layer, x in (
        (
            nn.Conv2d(3, 4, (3, 2), stride=2, padding=1, dilation=(1, 2), padding_mode="reflect"),
            torch.randn(5, 3, 7, 8),
        ),
        (nn.Conv1d(2, 3, 3, padding="same"), torch.randn(4, 2, 9)),
    ):
        model = nn.Sequential(layer, nn.Flatten()).double()
        x = x.double()
        found, _ = collect(model, [(x, torch.zeros(len(x)).long())], Classification(), dict(model.named_parameters()))
        # A weight that no patch sees changes nothing; one along a direction that is seen does.
        values, vectors = torch.linalg.eigh(found["0.weight"].columns)
        before = model(x)
        for column in (0, -1):
            with torch.no_grad():
                layer.weight += vectors[:, column].view(1, *layer.weight.shape[1:])
            moved = (model(x) - before)[:, : before.shape[1]].square().sum() / layer.out_channels
            torch.testing.assert_close(moved, values[column], rtol=1e-9, atol=1e-9)
            with torch.no_grad():
                layer.weight -= vectors[:, column].view(1, *layer.weight.shape[1:])


def test_sgp_takes_a_part_of_the_step():
    model = nn.Linear(12, 4, bias=False, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    keep = SGP(model, threshold=0.9, alpha=2.0)
    x, y = low_rank(1, torch.float64)
    keep.consolidate([(x, y)])
    keep.attach(optimizer)
    basis, importance = keep.buffers["basis.weight"], keep.buffers["importance.weight"]
    assert importance[0] == 1 and (importance[1:] < 1).all()
    for _ in range(3):
        before = model.weight.detach().clone()
        model.weight.grad = torch.randn(4, 12, dtype=torch.float64)
        wanted = -model.weight.grad + (model.weight.grad @ basis * importance) @ basis.T
        optimizer.step()
        torch.testing.assert_close(model.weight - before, wanted, rtol=1e-10, atol=1e-10)


def test_more_tasks_fill_the_layers_and_bases_are_orthonormal():
    for make in (lambda m: GPM(m, threshold=0.9, growth=0.05), lambda m: AdamNSCL(m, threshold=0.9), SGP):
        model = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        keep = make(model).attach(optimizer)
        full = []
        for seed in range(3):
            train(model, optimizer, *low_rank(seed))
            keep.consolidate([low_rank(seed)])
            full.append(keep.fullness["0.weight"])
            basis = keep.buffers["basis.0.weight"]
            torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64))
        assert 0 < full[0] < full[-1] <= 1 and full == sorted(full)


def test_running_statistics_are_held_with_their_normalisation():
    model = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    keep = GPM(model).attach(optimizer)
    train(model, optimizer, *low_rank(1))
    keep.consolidate([low_rank(1)])
    before = copy.deepcopy(model[1].state_dict())
    train(model, optimizer, *low_rank(2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model[1].state_dict().items())


def test_refusals():
    model = nn.Linear(12, 4)
    for make, text in (
        (lambda: GPM(model, threshold=0), "threshold is 0"),
        (lambda: GPM(model, threshold=1.5), "threshold is 1.5"),
        (lambda: GPM(model, growth=-1), "growth is -1"),
        (lambda: SGP(model, alpha=-1), "alpha is -1"),
        (lambda: AdamNSCL(model, multiple=0.5), "multiple is 0.5"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            make()
    x, y = low_rank(1)
    with pytest.raises(ProtectionError, match="no layer with an input that is not 0"):
        GPM(model).consolidate([(0 * x, y)])
    with pytest.raises(NumericsError, match="an input of the weight 'weight'"):
        GPM(model).consolidate([(x / 0, y)])
    keep = GPM(model)
    assert not keep.state and not keep.buffers and keep.fullness == {}
