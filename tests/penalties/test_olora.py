"""O-LoRA: the reference's overlap, a step by autograd, adapters one after the other, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.errors import ConfigurationError, ProtectionError
from holdfast.penalties.olora import OLoRA, overlap, overlap_gradient

peft = pytest.importorskip("peft")

R = {
    name: torch.from_numpy(array)
    for name, array in np.load(Path(__file__).parents[1] / "data" / "lora_starts.npz").items()
}


@pytest.mark.parametrize(
    ("form", "value", "gradient"),
    [
        ("released", "olora_l1_as_in_code", "olora_l1_grad"),
        ("paper", "olora_squared_as_in_paper", "olora_squared_grad"),
    ],
)
def test_overlap_equals_the_reference(form: Any, value: str, gradient: str) -> None:
    old, new = R["olora_A_old"], R["olora_A_new"]
    torch.testing.assert_close(overlap(old, new, form), R[value], rtol=1e-9, atol=0)
    torch.testing.assert_close(overlap_gradient(old, new, form), R[gradient], rtol=1e-9, atol=1e-12)


CONFIG = peft.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights="gaussian")


def adapted() -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    return peft.get_peft_model(net, CONFIG).double()


def another(model: Any) -> None:
    """A second adapter beside the first, which stands still."""
    torch.manual_seed(1)
    model.add_adapter("second", CONFIG)
    model.base_model.set_adapter(["default", "second"])
    model.double()
    for name, p in model.named_parameters():
        p.requires_grad_(".second." in name)


def trained(model: Any) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def step(model: Any, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    (model(x) - x.roll(1, 1)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize("shrink", [0.0, 0.3])
def test_a_step_is_that_of_the_loss_and_the_penalty(form: Any, shrink: float) -> None:
    model = adapted()
    keep = OLoRA(model, strength=0.7, shrink=shrink, form=form)
    keep.consolidate()
    old = {name: p.detach().clone() for name, p in trained(model).items() if "lora_A" in name}
    another(model)
    with torch.no_grad():
        for name, p in trained(model).items():
            p += 0.1 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(len(name)))
    optimizer = torch.optim.SGD(trained(model).values(), lr=0.1)
    keep.attach(optimizer)
    before = {name: p.detach().clone() for name, p in trained(model).items()}
    x = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    loss = (model(x) - x.roll(1, 1)).square().mean()
    term = torch.zeros((), dtype=torch.float64)
    for name, p in trained(model).items():
        if "lora_A" in name:
            products = old[name.replace("second", "default")] @ p.T
            term = term + 0.7 * (products.abs() if form == "released" else products**2).sum()
        term = term + shrink * p.norm()
    torch.testing.assert_close(keep.value(), term.detach(), rtol=1e-9, atol=0)
    wanted = dict(zip(before, torch.autograd.grad(loss + term, list(trained(model).values())), strict=True))
    step(model, optimizer, 4)
    for name, p in trained(model).items():
        torch.testing.assert_close(p.detach(), before[name] - 0.1 * wanted[name], rtol=1e-9, atol=1e-12)


def test_the_second_adapter_learns_beside_the_first_and_both_are_remembered(tmp_path: Path) -> None:
    overlaps = {}
    for strength in (0.0, 0.5):
        model = adapted()
        optimizer = torch.optim.Adam(trained(model).values(), lr=0.02)
        keep = holdfast.OLoRA(model, strength=strength).attach(optimizer)
        for seed in range(5):
            step(model, optimizer, seed)
        keep.consolidate()
        another(model)
        optimizer = torch.optim.Adam(trained(model).values(), lr=0.02)
        keep.attach(optimizer)
        for seed in range(60):
            step(model, optimizer, seed)
        overlaps[strength] = (
            OLoRA.value(keep).item()
            if strength
            else sum(
                0.5 * overlap(keep.buffers["old." + name.partition(".lora_A.")[0]], p.detach(), "released").item()
                for name, p in trained(model).items()
                if "lora_A" in name
            )
        )
        holdfast.save_state(keep.state_dict(), tmp_path / "state")
        keep.consolidate()
        assert {len(rows) for rows in keep.buffers.values()} == {4}
    assert overlaps[0.5] < 0.2 * overlaps[0.0]
    again = OLoRA(model, strength=0.5)
    again.load_state_dict(holdfast.load_state(tmp_path / "state"))
    assert {len(rows) for rows in again.buffers.values()} == {2}


def test_what_is_refused() -> None:
    for settings, says in (
        ({"strength": -1.0}, "strength is -1"),
        ({"shrink": -1.0}, "shrink is -1"),
        ({"form": "l1"}, "form is 'l1'"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            OLoRA(adapted(), **settings)
    with pytest.raises(ConfigurationError, match="the model has none"):
        OLoRA(nn.Linear(2, 2)).consolidate()
    model = adapted()
    keep = OLoRA(model)
    keep.consolidate()
    optimizer = torch.optim.Adam(trained(model).values())
    keep.attach(optimizer)
    with pytest.raises(ProtectionError, match="it would be held against itself"):
        step(model, optimizer, 0)
