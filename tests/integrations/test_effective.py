"""Penalties on what a layer with adapters computes: against autograd, and with what PEFT does to names."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from holdfast import (
    EWC,
    L2SP,
    MAS,
    SI,
    Anastrophic,
    ConfigurationError,
    LwF,
    OnlineEWC,
    StateError,
)
from tests.integrations.effective_cases import X, Y, adapted, effective_penalty, network, remembered

peft = pytest.importorskip("peft")


@pytest.mark.parametrize("kind", [EWC, OnlineEWC, MAS, L2SP])
@pytest.mark.parametrize("rslora", [False, True])
def test_the_gradient_is_that_of_the_penalty_on_effective_weights(kind, rslora):
    keep, model = remembered(kind)
    lora = adapted(model, use_rslora=rslora)
    optimizer = torch.optim.SGD([p for p in lora.parameters() if p.requires_grad], lr=1e-9)
    keep.rebind(lora, on="effective").attach(optimizer)
    trained = {name: p for name, p in lora.named_parameters() if p.requires_grad}
    wanted = torch.autograd.grad(effective_penalty(keep, lora), list(trained.values()), allow_unused=True)
    for p in trained.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert sum(g is not None and g.abs().max() > 1e-6 for g in wanted) >= 7
    for (name, p), grad in zip(trained.items(), wanted, strict=True):
        expected = torch.ones_like(p) if grad is None else 1 + grad
        torch.testing.assert_close(p.grad, expected, rtol=1e-9, atol=1e-12, msg=name)
    torch.testing.assert_close(keep.value(), effective_penalty(keep, lora), rtol=1e-6, atol=0)


def test_in_the_loss_it_is_the_same():
    keep, model = remembered(coupling="loss")
    lora = adapted(model)
    keep.rebind(lora, on="effective")
    keep.attach(torch.optim.SGD([p for p in lora.parameters() if p.requires_grad], lr=0.1))
    trained = [p for p in lora.parameters() if p.requires_grad]
    ours = torch.autograd.grad(keep.penalty((X, Y), lora(X)), trained, allow_unused=True)
    theirs = torch.autograd.grad(effective_penalty(keep, lora), trained, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_what_leaves_the_function_as_it_is_costs_nothing():
    keep, model = remembered(L2SP)
    lora = adapted(model)
    keep.rebind(lora, on="effective")
    before = keep.value()
    with torch.no_grad():
        for name, p in lora.named_parameters():
            if "lora_A" in name:
                p.mul_(-2)
            elif "lora_B" in name:
                p.div_(-2)
    torch.testing.assert_close(keep.value(), before)


def train(lora, keep, steps=60, rate=5e-3, labels=None):
    optimizer = torch.optim.Adam([p for p in lora.parameters() if p.requires_grad], rate)
    if keep is not None:
        keep.attach(optimizer)
    target = (X[:, 1] > 0).long() if labels is None else labels
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(lora(X), target).backward()
        optimizer.step()


def test_it_protects_what_was_known():
    losses = {}
    for protected in (False, True):
        model = network()
        train(model, None, 150, 1e-2, labels=Y)
        keep = EWC(model, strength=1000.0)
        keep.consolidate([(X, Y)])
        lora = adapted(model)
        with torch.no_grad():
            for name, p in lora.named_parameters():
                if "lora_B" in name or "lora_embedding_A" in name:
                    p.zero_()
        train(lora, keep.rebind(lora, on="effective") if protected else None, 200)
        losses[protected] = nn.functional.cross_entropy(lora(X), Y).item()
    assert losses[True] < losses[False] / 1.5 and losses[True] < 0.8


def test_a_strength_that_is_found_is_found_here_too():
    keep, model = remembered(strength="auto")
    lora = adapted(model)
    train(lora, keep.rebind(lora, on="effective"), 20)
    assert keep.found_strengths and keep.found_strengths[0] > 0


def test_a_second_adapter_is_protected_by_the_same_memory():
    keep, model = remembered()
    lora = adapted(model)
    keep.rebind(lora, on="effective")
    lora.add_adapter("second", peft.LoraConfig(r=1, target_modules=["first", "conv", "words"]))
    lora.set_adapter("second")
    trained = [p for p in lora.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in trained:
            p.add_(0.2)
    optimizer = torch.optim.SGD(trained, lr=1e-9)
    keep.attach(optimizer)
    wanted = torch.autograd.grad(effective_penalty(keep, lora), trained, allow_unused=True)
    for p in trained:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert any(g is not None and g.abs().max() > 1e-6 for g in wanted)
    for p, grad in zip(trained, wanted, strict=True):
        if grad is not None:
            torch.testing.assert_close(p.grad, 1 + grad)


def test_names_go_there_and_back():
    keep, model = remembered()
    plain = set(keep.state)
    lora = adapted(model)
    keep.rebind(lora, on="effective")
    assert "base_model.model.first.base_layer.weight" in keep.state
    assert "base_model.model.head.modules_to_save.default.weight" in keep.state
    merged = lora.merge_and_unload()
    keep.rebind(merged)
    assert set(keep.state) == plain
    optimizer = torch.optim.SGD(merged.parameters(), lr=0.1)
    for p in merged.parameters():
        p.requires_grad_(True)
    keep.attach(optimizer)
    train(merged, keep, 2)
    keep.consolidate([(X, Y)])
    assert keep.num_tasks == 2
    fresh = EWC(copy.deepcopy(merged), strength=2.0)
    fresh.load_state_dict(keep.state_dict())


def test_rename_and_drop():
    keep, model = remembered()
    keep.rename({"first.weight": "renamed.weight"})
    assert "renamed.weight" in keep.state and "first.weight" not in keep.state
    keep.rename({"renamed.weight": "first.weight"}).drop(["conv.weight", "conv.bias"])
    assert not [name for name in keep.state if name.startswith("conv")]
    keep.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ConfigurationError, match=r"nothing is remembered of 'fist.weight'; there are first.weight"):
        keep.drop("fist.weight")
    with pytest.raises(ConfigurationError, match=r"two things the name 'first.bias'"):
        keep.rename({"first.weight": "first.bias"})


def test_what_cannot_be_is_a_sentence():
    keep, model = remembered()
    with pytest.raises(ConfigurationError, match="with adapters of PEFT, and this one has none"):
        keep.rebind(model, on="effective")
    with pytest.raises(ConfigurationError, match="on is 'adapters'"):
        keep.rebind(model, on="adapters")
    with pytest.raises(StateError, match=r"no parameter 'first.weight', which is remembered; the nearest is"):
        keep.rebind(nn.Linear(2, 2))
    lora = adapted(copy.deepcopy(model), target_modules=["first"], use_dora=True)
    with pytest.raises(ConfigurationError, match="DoRA"):
        keep.rebind(lora, on="effective")
    assert keep.model is model and "first.weight" in keep.state  # nothing has changed
    phases = Anastrophic(network())
    phases.consolidate()
    with pytest.raises(ConfigurationError, match=r"coherence is 1.0, .* expected coherence=0 for"):
        phases.rebind(adapted(network()), on="effective")
    proximal, again = remembered(coupling="proximal")
    with pytest.raises(ConfigurationError, match="no proximal step"):
        proximal.rebind(adapted(again), on="effective")
    teacher, third = LwF(network(), strength=1.0), network()
    with pytest.raises(ConfigurationError, match="LwF has no penalty on weights"):
        teacher.rebind(adapted(third), on="effective")
    path = SI(network(), strength=1.0)
    with pytest.raises(ConfigurationError, match="SI measures importance along the way"):
        path.rebind(adapted(network()), on="effective")


@pytest.mark.parametrize("make", ["gpt2", "llama"])
def test_language_models(make):
    import transformers

    torch.manual_seed(0)
    if make == "gpt2":
        config = transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8)
        model, targets = transformers.GPT2LMHeadModel(config), ["c_attn", "c_fc"]
    else:
        config = transformers.LlamaConfig(
            vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1,
        )  # fmt: skip
        model, targets = transformers.LlamaForCausalLM(config), ["q_proj", "v_proj"]
    keep = L2SP(model.double(), strength=1.0)
    keep.consolidate()
    lora = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, fan_in_fan_out=make == "gpt2"))
    keep.rebind(lora, on="effective")
    assert keep.value().item() == 0.0
    trained = [p for p in lora.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in trained:
            p.add_(0.1)
    merged = copy.deepcopy(lora).merge_and_unload()
    before = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): h["anchor"] for name, h in keep.state.items()
    }
    now = dict(merged.named_parameters())
    wanted = sum(float((now[name] - anchor).square().sum()) for name, anchor in before.items()) / 2
    assert keep.value().item() == pytest.approx(wanted, rel=1e-9) and wanted > 0
