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
    NumericsError,
    OnlineEWC,
    ProtectionWarning,
    StateError,
)

peft = pytest.importorskip("peft")

X = torch.randn(24, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


class Net(nn.Module):
    """A linear layer, a convolution, an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.conv = nn.Conv1d(1, 2, 3, padding=1)
        self.words = nn.Embedding(5, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(x))
        h = torch.tanh(self.conv(h[:, None])).flatten(1)
        return self.head(h + self.words((x[:, 0] > 0).long()))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Net().double()


def adapted(model: nn.Module, **options):
    config = peft.LoraConfig(
        **{
            "r": 2,
            "lora_alpha": 6,
            "target_modules": ["first", "conv", "words"],
            "modules_to_save": ["head"],
            **options,
        }
    )
    found = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in found.parameters():
            if p.requires_grad:  # B begins at 0, where half of the gradients are
                p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return found


def remembered(kind=EWC, **options):
    model = network()
    keep = kind(model, **{"strength": 2.0, **options})
    keep.consolidate([(X, Y)])
    return keep, model


def effective_penalty(keep, model) -> torch.Tensor:
    """The penalty as its equation reads, over weights composed by hand."""
    total = torch.zeros((), dtype=torch.float64)
    layers = dict(model.named_modules())
    for name, held in keep.state.items():
        if name.endswith(".base_layer.weight"):
            layer = layers[name.removesuffix(".base_layer.weight")]
            weight = layer.base_layer.weight.detach()
            for adapter in layer.active_adapters:
                scale = layer.scaling[adapter]
                if adapter in layer.lora_embedding_A:
                    delta = (layer.lora_embedding_B[adapter] @ layer.lora_embedding_A[adapter]).T
                elif isinstance(layer.base_layer, nn.Conv1d):
                    a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                    delta = torch.einsum("or,rik->oik", b[:, :, 0], a)
                else:
                    delta = layer.lora_B[adapter].weight @ layer.lora_A[adapter].weight
                weight = weight + scale * delta
        else:
            weight = dict(model.named_parameters())[name]
        importance = held.get("importance", torch.ones(()))
        total = total + (importance * (weight - held["anchor"]).square()).sum()
    return keep.factor * total


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


def test_consolidating_while_bound_says_what_to_do():
    keep, model = remembered()
    lora = adapted(model)
    train(lora, keep.rebind(lora, on="effective"), 2)
    with pytest.raises(ConfigurationError, match=r"merge them .* rebind\(model\), then consolidate"):
        keep.consolidate([(X, Y)])


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
