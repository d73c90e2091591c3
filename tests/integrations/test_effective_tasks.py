"""Task after task with adapters in: what is remembered is of the weights that layers compute with."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from holdfast import EWC, L2SP, MAS, ANPyC, ConfigurationError, OnlineEWC, load_state, save_state
from holdfast.rebinding import bare_name
from tests.integrations.effective_cases import X, adapted, effective_penalty, network, remembered

peft = pytest.importorskip("peft")

NEW = (X[:, 1] > 0).long()


def trained(model, keep, steps=5):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    keep.attach(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), NEW).backward()
        optimizer.step()


def merged(lora):
    return copy.deepcopy(lora).merge_and_unload()


def test_the_importance_is_that_of_effective_weights_by_one_backward_per_sample():
    keep, model = remembered(fisher="empirical")
    first = {name: held["importance"].clone() for name, held in keep.state.items()}
    anchors = {name: held["anchor"].clone() for name, held in keep.state.items()}
    lora = adapted(model)
    trained(lora, keep.rebind(lora, on="effective"))
    whole = merged(lora)
    params = {name: p.requires_grad_(True) for name, p in whole.named_parameters()}
    fisher = {name: torch.zeros_like(p) for name, p in params.items()}
    for x, y in zip(X, NEW, strict=True):
        loss = nn.functional.cross_entropy(whole(x[None]), y[None])
        for name, g in zip(params, torch.autograd.grad(loss, list(params.values())), strict=True):
            fisher[name] += g.square() / len(X)
    before = {name: p.detach().clone() for name, p in lora.named_parameters()}
    keep.consolidate([(X, NEW)])
    assert {bare_name(name) for name in keep.state} == set(params)
    for name, held in keep.state.items():
        bare, now = bare_name(name), params[bare_name(name)].detach()
        F, total = first[bare], first[bare] + fisher[bare]
        torch.testing.assert_close(held["importance"], total, rtol=1e-9, atol=1e-15)
        expected = torch.where(total > 0, (F * anchors[bare] + fisher[bare] * now) / total, now)
        torch.testing.assert_close(held["anchor"], expected, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(before[name], p) for name, p in lora.named_parameters())  # nothing is left of the merging
    layer = lora.base_model.model.first
    assert layer.merged_adapters == [] and lora.base_model.model.conv.active_adapters == ["default"]


KINDS = [EWC, OnlineEWC, MAS, ANPyC, lambda m, **o: L2SP(m, anchors="all", **o)]


@pytest.mark.parametrize("kind", KINDS, ids=["ewc", "online-ewc", "mas", "anpyc", "l2sp, all"])
def test_it_is_what_merging_and_binding_again_would_remember(kind):
    keep, model = remembered(kind)
    lora = adapted(model)
    trained(lora, keep.rebind(lora, on="effective"))
    other, whole = copy.deepcopy(keep), merged(lora)
    other.rebind(whole.requires_grad_(True))
    keep.consolidate([(X, NEW)])
    trained(whole, other, steps=1)
    whole.load_state_dict(merged(lora).state_dict())  # a step was asked for, not its effect
    other.consolidate([(X, NEW)])
    assert keep.num_tasks == other.num_tasks == 2
    here = {bare_name(name): held for name, held in keep.state.items()}
    assert here.keys() == other.state.keys()
    for name, held in other.state.items():
        for key, tensor in held.items():
            torch.testing.assert_close(here[name][key], tensor, rtol=1e-9, atol=1e-14, msg=f"{name} {key}")
    torch.testing.assert_close(keep.buffers.get("constant"), other.buffers.get("constant"))


def test_two_tasks_are_protected_and_go_on(tmp_path):
    keep, model = remembered()
    lora = adapted(model)
    trained(lora, keep.rebind(lora, on="effective"))
    keep.consolidate([(X, NEW)])
    trained(lora, keep)
    assert keep.value() > 0
    step = torch.optim.SGD([p for p in lora.parameters() if p.requires_grad], lr=1e-9)
    keep.attach(step)
    params = [p for p in lora.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(effective_penalty(keep, lora), params, allow_unused=True)
    for p in params:
        p.grad = torch.zeros_like(p)
    step.step()
    for p, grad in zip(params, wanted, strict=True):
        torch.testing.assert_close(p.grad, torch.zeros_like(p) if grad is None else grad, rtol=1e-9, atol=1e-12)
    save_state(keep.state_dict(), tmp_path / "state")
    fresh = EWC(network(), strength=2.0)
    fresh.rebind(copy.deepcopy(lora), on="effective").load_state_dict(load_state(tmp_path / "state"))
    assert fresh.num_tasks == 2 and torch.equal(fresh.value(), keep.value())


def test_one_adapter_for_each_task():
    keep, model = remembered(L2SP)
    lora = adapted(model)
    trained(lora, keep.rebind(lora, on="effective"))
    keep.consolidate()
    assert keep.value() == 0
    lora.add_adapter("second", peft.LoraConfig(r=1, target_modules=["first", "conv", "words"]))
    lora.base_model.set_adapter(["default", "second"])
    assert keep.value() == 0  # the second gives nothing yet
    lora.set_adapter("second")
    assert keep.value() > 1e-2  # without the first what was learned is gone


def test_a_layer_that_was_not_remembered_is_from_then_on():
    keep, model = remembered(select=["first.*", "head.*"])
    lora = adapted(model)
    trained(lora, keep.rebind(lora, on="effective"))
    assert not [name for name in keep.state if "conv" in name]
    keep.consolidate([(X, NEW)])
    now = {bare_name(name) for name in keep.state}
    assert now == {"first.weight", "first.bias", "head.weight", "head.bias", "conv.weight", "words.weight"}
    assert keep.value() >= 0
    trained(lora, keep, steps=1)
    assert "base_model.model.conv.base_layer.weight" in keep._sites


def test_what_fails_on_the_way_leaves_everything_as_it_was():
    keep, model = remembered()
    lora = adapted(model)
    trained(lora, keep.rebind(lora, on="effective"))
    before = {name: p.detach().clone() for name, p in lora.named_parameters()}
    known, params = {name: dict(held) for name, held in keep.state.items()}, set(keep.params)

    def batches():
        yield X, NEW
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        keep.consolidate(batches())
    assert all(torch.equal(before[name], p) for name, p in lora.named_parameters())
    assert keep.num_tasks == 1 and set(keep.params) == params and lora.base_model.model.first.merged_adapters == []
    assert all(keep.state[name][key] is t for name, held in known.items() for key, t in held.items())
    trained(lora, keep, steps=1)


def test_a_weight_that_is_tied_to_one_without_an_adapter_is_refused():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    )
    keep = L2SP(model, strength=1.0)
    keep.consolidate()
    lora = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["wte"]))
    keep.rebind(lora, on="effective")
    keep.attach(optimizer := torch.optim.SGD([p for p in lora.parameters() if p.requires_grad], lr=0.1))
    ids = torch.randint(0, 20, (2, 6))
    lora(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    with pytest.raises(ConfigurationError, match=r"wte.base_layer.weight' has an adapter, .*lm_head.weight' is the"):
        keep.consolidate()
