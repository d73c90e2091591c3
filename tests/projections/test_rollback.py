"""OLOR: the reference runs, which layers have which level, and what a step may be that it follows."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from holdfast import ConfigurationError
from holdfast.names import owners
from holdfast.projections.rollback import OLOR, rollback, rollback_levels
from holdfast.testing.cases import Net, network, sgd, task, train

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "olor.npz")
LEVELS = {"level_max": 0.2, "level_min": 0.01, "power": 2.0}


def reference(name: str) -> Tensor:
    return torch.from_numpy(REFERENCE[name].copy())


class Tensors(nn.Module):
    """Four layers of one tensor each, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Module() for _ in range(4))
        for number, layer in enumerate(self.layers):
            layer.weight = nn.Parameter(reference(f"theta0_{number}"))
        self.head = nn.Parameter(reference("head0"))


def optimizer_of(kind: str, model: Tensors) -> torch.optim.Optimizer:
    if kind == "adam":
        return torch.optim.Adam(
            model.parameters(), lr=float(reference("lrs")[0]), betas=tuple(reference("betas").tolist())
        )
    beta = float(reference("beta"))
    found = torch.optim.SGD(model.parameters(), lr=0.1, momentum=beta, dampening=beta)
    for p in model.parameters():  # the released SGD damps the first gradient, too
        found.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return found


def test_the_levels_are_those_of_the_reference() -> None:
    found = rollback_levels(4, **LEVELS)
    assert (reference("iota1"), reference("iota2"), reference("gamma")) == tuple(LEVELS.values())
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), reference("lambdas"), rtol=1e-12, atol=0)
    assert rollback_levels(1, **LEVELS) == [0.2]
    assert rollback_levels(3, level_max=0.3, level_min=0.1, power=0.0) == pytest.approx([0.3] * 3)
    assert rollback_levels(0, **LEVELS) == []


@pytest.mark.parametrize(
    ("kind", "variant", "scaled", "key"),
    [
        ("sgd", "paper", False, "sgd_paper"),
        ("sgd", "released", False, "sgd_code"),
        ("adam", "paper", False, "adam_paper"),
        ("adam", "paper", True, "adam_code"),
    ],
)
def test_reference_trajectories_under_torchs_optimizers(kind, variant, scaled, key) -> None:
    model = Tensors()
    # The released Adam multiplies by the rate itself, and its training script divides the levels by the first one.
    first = float(reference("lrs")[0]) if scaled else 1.0
    levels = LEVELS | {key: LEVELS[key] * first for key in ("level_max", "level_min")}
    keep = OLOR(model, **levels, scale_with_lr=scaled, variant=variant, select="layers")
    keep.consolidate()
    optimizer = optimizer_of(kind, model)
    keep.attach(optimizer)
    for t, rate in enumerate(reference("lrs").tolist()):
        optimizer.param_groups[0]["lr"] = rate
        for number, layer in enumerate(model.layers):
            layer.weight.grad = reference(f"grad_{t}_{number}")
        model.head.grad = reference(f"grad_{t}_head")
        optimizer.step()
    for number, layer in enumerate(model.layers):
        torch.testing.assert_close(layer.weight.data, reference(f"{key}_theta_{number}"), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(model.head.data, reference(f"{key}_head"), rtol=1e-9, atol=1e-12)


def rates(schedule: str, model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    head, rest = list(model.head.parameters()), [p for n, p in model.named_parameters() if not n.startswith("head")]
    optimizer = torch.optim.SGD([{"params": rest, "lr": 0.02}, {"params": head, "lr": 0.1}], momentum=0.9)
    if schedule == "warm-up":  # from a small rate to the first one
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, [0.02, 0.1], total_steps=12)


@pytest.mark.parametrize("schedule", ["warm-up", "one cycle"])
@pytest.mark.parametrize("scaled", [False, True])
def test_groups_with_rates_of_their_own_and_a_schedule(schedule, scaled) -> None:
    model = network(dtype=torch.float64)
    keep = OLOR(model, level_max=0.3, level_min=0.1, scale_with_lr=scaled)
    keep.consolidate()
    optimizer, scheduler = rates(schedule, model)
    keep.attach(optimizer)
    twin = copy.deepcopy(model)
    other, following = rates(schedule, twin)
    start = {name: p.detach().clone() for name, p in twin.named_parameters()}
    for batch in task(2, torch.float64, batches=5):
        share = [group["lr"] / highest for group, highest in zip(other.param_groups, (0.02, 0.1), strict=True)]
        train(model, optimizer, [batch], keep)
        train(twin, other, [batch])
        scheduler.step()
        following.step()
        with torch.no_grad():
            for name, p in twin.named_parameters():
                if p.grad is not None:
                    level = keep.levels[name] * (share[name.startswith("head")] if scaled else 1.0)
                    p -= level * (p - start[name])
    for (name, p), (_, q) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14, msg=name)


def test_the_first_rate_is_remembered_where_no_scheduler_says_it() -> None:
    found = []
    for resumed in (False, True):
        model = network(dtype=torch.float64)
        keep = OLOR(model, level_min=0.01, scale_with_lr=True)
        keep.consolidate()
        optimizer = sgd(model)
        keep.attach(optimizer)
        train(model, optimizer, task(2, torch.float64), keep)
        if resumed:
            saved = copy.deepcopy((optimizer.state_dict(), keep.state_dict()))
            keep = OLOR(model, level_min=0.01, scale_with_lr=True)
            keep.load_state_dict(saved[1])
            optimizer = sgd(model)
            optimizer.load_state_dict(saved[0])
            keep.attach(optimizer)
        assert keep.meta["rates"] == {"0.0": 0.05}
        optimizer.param_groups[0]["lr"] = torch.tensor(0.01)
        train(model, optimizer, task(3, torch.float64), keep)
        found.append(model.head.weight.detach().clone())
    assert torch.equal(*found)
    keep.consolidate()
    assert keep.meta["rates"] == {}


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_layers_are_modules_that_own_what_is_protected() -> None:
    model = network()
    parametrize.register_parametrization(model.middle, "weight", Doubled())
    parametrize.register_parametrization(model.head, "weight", nn.Identity(), unsafe=True)
    assert owners(model) == {
        "frozen": "",
        "unused": "",
        "first.weight": "first",
        "first.bias": "first",
        "norm.weight": "norm",
        "norm.bias": "norm",
        "middle.bias": "middle",
        "middle.weight": "middle",
        "shared.bias": "shared",
        "head.bias": "head",
        "head.weight": "head",
    }
    keep = OLOR(model, level_max=0.3, level_min=0.1, select=["first", "norm.bias", "middle"])
    assert keep.levels == {}
    keep.consolidate()
    assert keep.levels == pytest.approx(
        {"first.weight": 0.3, "first.bias": 0.3, "norm.bias": 0.2, "middle.weight": 0.1, "middle.bias": 0.1}
    )


def test_a_head_that_is_new_is_free_and_counts_from_the_next_task_on() -> None:
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    keep = OLOR(model, level_max=0.4)
    keep.consolidate()
    model.append(nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep.attach(optimizer)
    before = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p += 1.0
            p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = [float((layer.weight - old.weight).detach().mean()) for layer, old in zip(model, before, strict=True)]
    assert moved == pytest.approx([0.6, 1.0, 1.0])  # the last one that is protected has level_min
    keep.consolidate()
    assert [keep.levels[f"{i}.weight"] for i in range(3)] == pytest.approx([0.4, 0.2, 0.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("released", [False, True])
def test_a_skipped_step_rolls_nothing_back(dtype, released) -> None:
    param, anchor = torch.ones(3, dtype=dtype), torch.zeros(3)
    before = torch.full_like(param, 0.5) if released else None
    rollback(param, anchor, 0.5, before=before, found_inf=torch.ones(()))
    assert torch.equal(param, torch.ones(3, dtype=dtype))
    rollback(param, anchor, 0.5, before=before, found_inf=torch.zeros(()))
    assert torch.equal(param, torch.full((3,), 0.75 if released else 0.5, dtype=dtype))
    rollback(param, anchor, torch.tensor(1.0))
    assert not param.any()


@pytest.mark.parametrize("kind", ["RMSprop", "Rprop", "NAdam", "AdamW", "Adagrad", "Adadelta"])
def test_it_acts_behind_any_optimizer(kind) -> None:
    draw = torch.Generator().manual_seed(0)
    model, twin = (nn.Linear(3, 2).double() for _ in range(2))
    twin.load_state_dict(model.state_dict())
    keep = OLOR(model, level_max=0.3, level_min=0.3)
    keep.consolidate()
    start = copy.deepcopy(twin)
    optimizer, other = (getattr(torch.optim, kind)(each.parameters(), lr=0.01) for each in (model, twin))
    keep.attach(optimizer)
    for _ in range(5):
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=draw, dtype=torch.float64)
            q.grad = p.grad.clone()
        optimizer.step()
        other.step()
        with torch.no_grad():
            for q, anchor in zip(twin.parameters(), start.parameters(), strict=True):
                q.copy_(anchor + 0.7 * (q - anchor))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"level_max": 1.5}, "level_max is 1.5; expected a share, from 0 to 1"),
        ({"level_min": 0.5}, "level_min is 0.5; expected a share, from 0 to 0.01"),
        ({"level_max": float("nan")}, "level_max is nan"),
        ({"power": -1.0}, "power is -1.0"),
        ({"scale_with_lr": 1}, "scale_with_lr is 1; expected True or False"),
        ({"variant": "code"}, "variant is 'code'; expected 'paper' or 'released'"),
    ],
)
def test_wrong_arguments_are_named(values, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        OLOR(Net(), **values)


def test_an_optimizer_that_does_not_suit_is_refused() -> None:
    model = Net()
    adam = torch.optim.Adam(model.parameters())
    with pytest.raises(ConfigurationError, match=r"'released', which .* Adam; expected torch\.optim\.SGD"):
        OLOR(model, variant="released").attach(adam)
    adam.param_groups[0]["lr"] = None
    with pytest.raises(ConfigurationError, match="Adam has groups without a learning rate of their own"):
        OLOR(model, scale_with_lr=True).attach(adam)
    OLOR(model).attach(adam)
