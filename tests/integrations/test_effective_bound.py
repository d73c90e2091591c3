"""Penalties on effective weights at work: resumed, beside other adapters, scaled, watched; and what they refuse."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from holdfast import EWC, L2SP, ConfigurationError, LwF, NumericsError, ProtectionWarning, StateError
from tests.integrations.effective_cases import X, Y, adapted, effective_penalty, network, remembered

peft = pytest.importorskip("peft")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            peft.IA3Config(target_modules=["first"], feedforward_modules=[]),
            "first has an adapter of the kind .*ia3",
        ),
        (peft.OFTConfig(target_modules=["first"], oft_block_size=2, r=0), "knows the weight that LoRA gives"),
        (peft.VeraConfig(target_modules=["first"], r=2), "knows the weight that LoRA gives"),
        (peft.AdaLoraConfig(target_modules=["first"], total_step=10), "knows the weight that LoRA gives"),
        (peft.LoraConfig(target_modules=["first"], lora_bias=True), "lora_bias=True, which also moves its bias"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_adapters_that_do_more_than_add_are_refused(config, sentence):
    keep, model = remembered(L2SP)
    with pytest.raises(ConfigurationError, match=sentence):
        keep.rebind(peft.get_peft_model(model, config), on="effective")


def test_a_state_goes_on_where_it_is_bound_alike_and_nowhere_else():
    keep, model = remembered()
    lora = adapted(model)
    keep.rebind(lora, on="effective")
    fresh = EWC(copy.deepcopy(model), strength=2.0)
    with pytest.raises(StateError, match="effective weights of adapters, and this one on those that are trained"):
        EWC(lora, strength=2.0).load_state_dict(keep.state_dict())
    fresh.rebind(lora, on="effective")
    optimizer = torch.optim.SGD([p for p in lora.parameters() if p.requires_grad], lr=0.1)
    fresh.attach(optimizer)
    fresh.load_state_dict(keep.state_dict())  # as a trainer resumes: attached first
    torch.testing.assert_close(fresh.value(), effective_penalty(keep, lora), rtol=1e-6, atol=0)
    before = lora.base_model.model.first.lora_A.default.weight.detach().clone()
    for p in lora.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    assert (lora.base_model.model.first.lora_A.default.weight - before).abs().max() > 1e-6
    fresh.rebind(lora.merge_and_unload())
    assert "effective" not in fresh.state_dict()["meta"]


@pytest.mark.parametrize("when", ["before attach", "while attached"])
def test_a_second_copy_of_a_layer_is_protected_as_the_layer(when):
    keep, model = remembered()
    lora = adapted(model)
    keep.rebind(lora, on="effective")
    lora.add_adapter("second", peft.LoraConfig(r=1, target_modules=["first"], modules_to_save=["head"]))
    optimizer = torch.optim.SGD(lora.parameters(), lr=1e-9)
    if when == "while attached":
        keep.attach(optimizer)
        nn.functional.cross_entropy(lora(X), Y).backward()
        optimizer.step()
        optimizer.zero_grad()
    lora.set_adapter("second")
    copied = lora.base_model.model.head.modules_to_save["second"].weight
    with torch.no_grad():
        copied.add_(0.5)
    if when == "before attach":
        keep.attach(optimizer)
    for p in lora.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    held = keep.state["base_model.model.head.modules_to_save.second.weight"]
    torch.testing.assert_close(copied.grad, 2.0 * held["importance"] * (copied.detach() - held["anchor"]))
    assert copied.grad.abs().max() > 1e-6


@pytest.mark.parametrize("when", ["before attach", "while attached"])
def test_coordinates_of_one_adapter_do_not_protect_another_and_that_is_said(when):
    lora = adapted(network(), modules_to_save=None)
    keep = L2SP(lora, strength=2.0)
    keep.consolidate()
    lora.add_adapter("second", peft.LoraConfig(r=1, target_modules=["first"]))
    optimizer = torch.optim.SGD(lora.parameters(), lr=1e-9)
    sentence = r"L2SP remembers the adapter 'default', and nothing of 'second', .* rebind\(model, on='effective'\)"
    if when == "while attached":
        keep.attach(optimizer)
    lora.base_model.set_adapter(["default", "second"])
    with pytest.warns(ProtectionWarning, match=sentence):
        if when == "before attach":
            keep.attach(optimizer)
        nn.functional.cross_entropy(lora(X), Y).backward()
        optimizer.step()


def test_a_scaler_clipping_and_accumulation_meet_it_as_any_penalty():
    keep, model = remembered(strength=10.0)
    moved = []
    for scaled in (False, True):
        own = copy.deepcopy(keep)
        torch.manual_seed(1)  # A begins anywhere
        lora = adapted(copy.deepcopy(model))
        trained = [p for p in lora.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.01)
        own.rebind(lora, on="effective").attach(optimizer)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=64.0)
        for _ in range(3):
            optimizer.zero_grad()
            for x, y in zip(X.split(12), Y.split(12), strict=True):
                scaler.scale(nn.functional.cross_entropy(lora(x), y) / 2).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(trained, 0.5)
            scaler.step(optimizer)
            scaler.update()
        before = [p.detach().clone() for p in trained]
        if scaled:  # an overflow changes nothing
            optimizer.zero_grad()
            scaler.scale(nn.functional.cross_entropy(lora(X), Y) * float("inf")).backward()
            scaler.step(optimizer)
            scaler.update()
            assert all(torch.equal(a, b) for a, b in zip(before, trained, strict=True))
        moved.append(before)
    for plain, scaled in zip(*moved, strict=True):
        torch.testing.assert_close(plain, scaled)


def test_what_is_watched_is_the_distance_of_effective_weights():
    keep, model = remembered(L2SP)
    lora = adapted(model)
    keep.rebind(lora, on="effective")
    layer = lora.base_model.model.first
    wanted = 3.0 * (layer.lora_B.default.weight @ layer.lora_A.default.weight).norm().item()
    found = keep.watched().distance["base_model.model.first.base_layer.weight"]
    assert found == pytest.approx(wanted)


def test_weights_that_fly_away_are_noticed():
    keep, model = remembered(L2SP, strength=1e6)
    lora = adapted(model)
    optimizer = torch.optim.SGD([p for p in lora.parameters() if p.requires_grad], lr=1.0)
    keep.rebind(lora, on="effective").attach(optimizer)
    with pytest.raises(NumericsError, match="L2SP protects weights that have flown away"):
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(lora(X), Y).backward()
            optimizer.step()


def test_adapters_that_were_put_in_since_are_said():
    keep, model = remembered()
    adapted(model)  # in place: the model that the method has is another one now
    with pytest.raises(
        StateError, match=r"'first.weight' is remembered, and adapters .* rebind\(model, on='effective'\)"
    ):
        keep.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    teacher = LwF(network(), strength=1.0)
    teacher.consolidate()
    state = teacher.state_dict()
    adapted(teacher.model)
    with pytest.raises(StateError, match=r"has no '.*': adapters were put in since; consolidate with them in, or use"):
        teacher.load_state_dict(state)
