"""Norms that are fixed and bounded: the reference runs, who is followed by a normalisation, and what is refused."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast import EWC, L2SP, OLOR, ConfigurationError, FixNorm, Freeze, MaxNorm, NumericsError, ProtectionWarning
from holdfast.projections.norms import bounded_radius, cross_boundary_risk, fix_norm, max_norm, norms, row_norms

DATA = Path(__file__).parents[1] / "data"
FIX, BALANCE = np.load(DATA / "fixnorm.npz"), np.load(DATA / "weight_balancing.npz")


def fixed(name: str) -> Tensor:
    return torch.from_numpy(FIX[name].copy())


def balanced(name: str) -> Tensor:
    return torch.from_numpy(BALANCE[name].copy())


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach(), expected, rtol=1e-9, atol=1e-12)


class Conv(nn.Module):
    """What the reference has: a convolution, a normalisation, and a last layer without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(6, 5, bias=False)
        self.conv.weight, self.fc.weight = nn.Parameter(fixed("conv")), nn.Parameter(fixed("fc"))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).flatten(1)[:, :6])


@pytest.mark.parametrize("norm", ["initial", "sqrt_out"])
def test_the_reference_run_of_fixnorm(norm) -> None:
    model = Conv()
    keep = FixNorm(model, norm=norm, alpha=float(fixed("clip")))
    assert (keep.fixed, keep.clipped) == (("conv.weight",), ("fc.weight",))
    optimizer = torch.optim.SGD(model.parameters(), lr=float(fixed("lr")), momentum=float(fixed("momentum")))
    keep.attach(optimizer)
    for conv, fc in zip(fixed("grads_conv"), fixed("grads_fc"), strict=True):
        model.conv.weight.grad, model.fc.weight.grad = conv.clone(), fc.clone()
        optimizer.step()
    close(model.conv.weight, fixed(f"{norm}_conv"))
    close(model.fc.weight, fixed(f"{norm}_fc"))
    close(norms([model.conv.weight])[0], fixed(f"norm_{norm}"))
    close(float(fixed("lr")) / norms([model.conv.weight])[0] ** 2, fixed(f"{norm}_effective_lr"))


def test_the_reference_of_maxnorm() -> None:
    weight, delta, thresh = balanced("W"), float(balanced("delta")), float(balanced("thresh"))
    close(row_norms([weight])[0], balanced("norms"))
    found = weight.clone()
    max_norm(found, delta)
    close(found, balanced("maxnorm"))
    short = balanced("norms") <= delta
    assert short.any() and torch.equal(found[short], weight[short])
    close(bounded_radius(weight, thresh), balanced("delta_released"))
    found = weight.clone()
    max_norm(found, balanced("delta_released"))
    close(found, balanced("maxnorm_released"))
    conv = balanced("conv")
    max_norm(conv, balanced("conv_delta"))
    close(conv, balanced("conv_maxnorm"))


def test_a_step_then_the_projection() -> None:
    model = nn.Sequential(nn.Linear(5, 6, bias=False))
    model[0].weight = nn.Parameter(balanced("W"))
    optimizer = torch.optim.SGD(model.parameters(), lr=float(balanced("lr")), weight_decay=float(balanced("wd")))
    MaxNorm(model, delta=float(balanced("delta"))).attach(optimizer)
    model[0].weight.grad = balanced("grad")
    optimizer.step()
    close(model[0].weight, balanced("step_then_project"))


def test_a_relative_radius_is_that_of_the_first_consolidate_and_new_rows_are_bounded() -> None:
    model = nn.Sequential(nn.Linear(5, 6))
    model[0].weight = nn.Parameter(balanced("W"))
    model.double()
    keep = MaxNorm(model, threshold=float(balanced("thresh")))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    keep.attach(optimizer)
    for _ in range(2):
        model(torch.ones(2, 5).double()).sum().backward()
        optimizer.step()
    assert torch.equal(model[0].weight.detach(), balanced("W"))  # nothing is known of it yet
    keep.consolidate()
    more = nn.Linear(5, 7).double()
    more.weight.data[:6], more.weight.data[6] = model[0].weight.data, 10.0
    model[0] = more
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep.attach(optimizer)
    more.weight.grad = torch.zeros_like(more.weight)
    optimizer.step()
    close(more.weight[:6], balanced("maxnorm_released"))
    close(row_norms([more.weight])[0][6], balanced("delta_released"))
    keep.consolidate()
    close(keep.buffers["radius.0.weight"], balanced("delta_released"))  # or it would shrink from task to task


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(8, 3)).square().sum().backward()
    optimizer.step()


def test_a_weight_that_is_named_although_nothing_follows_it_is_said() -> None:
    model = small()
    keep = FixNorm(model, select=["0", "3"])
    with pytest.warns(ProtectionWarning, match=r"no normalisation follows parameter '3\.weight' \(1 in all\)"):
        keep.attach(torch.optim.SGD(model.parameters(), lr=0.1))


def test_weight_decay_is_said_and_changes_nothing_of_the_norm() -> None:
    model = small()
    before = [float(norm) for norm in norms([model[0].weight, model[5].weight])]
    groups = [{"params": model[0].parameters(), "weight_decay": 0.2}, {"params": model[3:].parameters()}]
    optimizer = torch.optim.SGD([*groups, {"params": model[1].parameters(), "weight_decay": 0.1}], lr=0.5)
    with pytest.warns(
        ProtectionWarning, match=r"norm of parameter '0\.weight' \(1 in all\), so what SGD's weight_decay=0\.2"
    ):
        FixNorm(model).attach(optimizer)
    for _ in range(3):
        step(model, optimizer)
        assert float(norms([model[0].weight])[0]) == pytest.approx(before[0], rel=1e-6)
        assert float(norms([model[5].weight])[0]) <= before[1] * (1 + 1e-6)


def test_other_methods_beside_it() -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    anchored = L2SP(model, strength=0.1)
    anchored.consolidate()
    rolled = OLOR(model, level_max=0.5, level_min=0.5)
    rolled.consolidate()
    for other in (anchored, rolled):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            other.attach(optimizer)
            FixNorm(model).attach(optimizer).detach()  # the anchors have the norms that it keeps
    before = norms([model[0].weight])[0]
    keep = FixNorm(model).attach(optimizer)
    step(model, optimizer)  # the pulls come before: the norm is exact
    torch.testing.assert_close(norms([model[0].weight])[0], before)
    for other in (anchored, rolled):
        other.detach()
    keep.detach()
    with pytest.warns(
        ProtectionWarning, match=r"L2SP pulls parameter '0\.weight' towards an anchor of norm .* to 2 in each"
    ):
        FixNorm(model, norm="sqrt_out").attach(optimizer)
        anchored.attach(optimizer)
    with pytest.raises(
        ConfigurationError, match=r"FixNorm and Freeze would both say .* parameter '0\.weight' \(1 in all\)"
    ):
        Freeze(model, select="0").attach(optimizer)
    with pytest.raises(ConfigurationError, match=r"'5\.weight'"):
        MaxNorm(model, delta=1.0, select="5").attach(optimizer)
    MaxNorm(model, delta=1.0, select="3").attach(optimizer)
    EWC(model, strength=1.0).attach(optimizer)


class Parts(nn.ModuleDict):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [self[name](self["body"](x)) for name in self if name != "body"]


def test_what_grew_has_a_new_norm_and_a_new_head_its_own() -> None:
    model = Parts({"body": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "head": nn.Linear(4, 2)})
    keep = FixNorm(model)
    keep.consolidate()
    small_norm, small_bound = keep.buffers["norm.body.0.weight"].clone(), keep.buffers["norm.head.weight"].clone()
    model["new"] = nn.Linear(4, 2)
    old = model["body"][0]
    model["body"] = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    model["body"][0].weight.data[:4] = old.weight.data
    keep.attach(torch.optim.SGD([p for n, p in model.named_parameters()], lr=0.1))
    assert keep.buffers["norm.body.0.weight"] > small_norm and keep.buffers["norm.head.weight"] == small_bound
    assert keep.clipped == ("head.weight",)
    keep.meta["steps"] = 1
    keep.consolidate()
    assert keep.clipped == ("head.weight", "new.weight")


def test_resumed_it_keeps_the_norms_that_it_found() -> None:
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    keep = FixNorm(model).attach(optimizer)
    step(model, optimizer)
    saved = copy.deepcopy((model.state_dict(), keep.state_dict()))
    again = small()
    other = FixNorm(again)
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    other.attach(torch.optim.Adam(again.parameters(), lr=0.05))
    assert other.buffers["norm.5.weight"] == keep.buffers["norm.5.weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_skipped_step_and_a_weight_of_zeros_are_left_alone(dtype) -> None:
    weight = torch.randn(3, 4, dtype=dtype)
    before = weight.clone()
    for found_inf in (torch.ones(()), torch.zeros(())):
        fix_norm(weight, 2.0, found_inf=found_inf)
        max_norm(weight, 0.1, found_inf=found_inf)
        assert torch.equal(weight, before) is bool(found_inf)
    torch.testing.assert_close(row_norms([weight])[0], torch.full((3,), 0.1), rtol=1e-2, atol=0)
    nothing = torch.zeros(3, 4, dtype=dtype)
    fix_norm(nothing, 2.0)
    max_norm(nothing, 0.1)
    assert not nothing.any()


def test_a_norm_of_zero_is_refused() -> None:
    model = small()
    with torch.no_grad():
        model[0].weight.zero_()
    with pytest.raises(ConfigurationError, match=r"parameter '0\.weight' has norm 0"):
        FixNorm(model).attach(torch.optim.SGD(model.parameters(), lr=0.1))
    FixNorm(model, norm="sqrt_out").attach(torch.optim.SGD(model.parameters(), lr=0.1))
    with torch.no_grad():
        model[5].weight[0, 0] = torch.nan
    with pytest.raises(NumericsError, match=r"'5\.weight'"):
        MaxNorm(model, delta=1.0).consolidate()


def test_what_maxnorm_cannot_bound_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="delta is -1"):
        MaxNorm(small(), delta=-1)
    with pytest.raises(ConfigurationError, match=r"threshold is 1\.5; expected a share"):
        MaxNorm(small(), threshold=1.5)
    with pytest.raises(ConfigurationError, match="names no weight"):
        MaxNorm(small(), select="*.bias")
    model = nn.Sequential(nn.ConvTranspose1d(2, 3, 2))
    with pytest.raises(ConfigurationError, match=r"'0\.weight' belongs to a ConvTranspose1d"):
        MaxNorm(model, delta=1.0).attach(torch.optim.SGD(model.parameters(), lr=0.1))


def test_cross_boundary_risk_is_what_the_worst_move_does() -> None:
    torch.manual_seed(3)
    features, weight, bias = torch.randn(40, 3).double(), torch.randn(4, 3).double(), torch.randn(4).double()
    answers = F.linear(features, weight, bias).argmax(1)
    for epsilon in (0.05, 0.2, 0.6):
        crossed = 0
        for z, y in zip(features, answers, strict=True):
            directions = [F.normalize(weight[j] - weight[y], dim=0) for j in range(4) if j != y]
            moved = [z + epsilon * z.norm() * d for d in directions]
            crossed += any(int((weight @ m + bias).argmax()) != int(y) for m in moved)
        assert float(cross_boundary_risk(features, weight, bias, epsilon=epsilon)) == pytest.approx(crossed / 40)
    with pytest.raises(ConfigurationError, match=r"features are \(40, 3\) and weight \(4, 2\)"):
        cross_boundary_risk(features, weight[:, :2], epsilon=0.1)


def test_the_gradient_of_a_followed_weight_is_orthogonal_and_falls_with_its_norm() -> None:
    grad, scaled, scale = fixed("inv_grad"), fixed("inv_grad_scaled"), float(fixed("inv_scale"))
    assert abs(float(grad @ fixed("inv_w"))) < 1e-12
    close(grad / scale, scaled)
    direction = fixed("inv_w") - 0.1 * grad
    fix_norm(direction, 1.0)
    close(direction, fixed("inv_direction"))
