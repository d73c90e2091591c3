"""LwF that keeps no second set of weights: the base without its adapters, and a frozen base that is shared."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast import LwF
from holdfast.distillation.base import without_adapters
from holdfast.errors import ConfigurationError, StateError
from holdfast.objectives import CausalLM
from holdfast.objectives.walked import Unfinished

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

OBJECTIVE = CausalLM(per="token")


def language_model(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=16, attention_dropout=0.2, initializer_range=0.5,
        **settings,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).double()


def adapted(**settings: Any) -> nn.Module:
    options = {"r": 2, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.3} | settings
    model = peft.get_peft_model(language_model(), peft.LoraConfig(**options))
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():  # adapters that do something
        for p in (p for p in model.parameters() if p.requires_grad):
            p += 0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    return model.train()


def batch() -> dict[str, Tensor]:
    ids = torch.randint(0, 40, (3, 7), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": ids.clone()}


def plain(model: nn.Module, base: nn.Module, temperature: float) -> Tensor:
    """KL(base ‖ model), token by token."""
    with torch.no_grad():
        old = base.eval()(input_ids=batch()["input_ids"]).logits[:, :-1] / temperature
    new = model(input_ids=batch()["input_ids"]).logits[:, :-1] / temperature
    return F.kl_div(new.log_softmax(-1), old.log_softmax(-1), log_target=True, reduction="none").sum(-1).mean()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_base_without_adapters_is_the_teacher(temperature: float) -> None:
    model = adapted(lora_dropout=0.0)
    for module in model.modules():
        if isinstance(module, nn.Module):
            module.training = False  # the student, too: no dropout in the comparison
    keep = LwF(model, strength=3.0, temperature=temperature, teacher="base", objective=OBJECTIVE)
    keep.consolidate()
    assert keep.state_dict()["buffers"] == {}
    expected = 3.0 * temperature**2 * plain(model, language_model(), temperature)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    live = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(expected, live)
    for _ in range(2):  # the first pass finds the last layer, the second leaves it out
        out = model(**batch())
        found = keep.penalty(batch(), out)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        for name, one, other in zip(names, torch.autograd.grad(found, live), gradient, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=name)


def test_the_last_layer_is_left_out_of_the_second_pass() -> None:
    model = adapted()
    keep = LwF(model, strength=1.0, teacher="base", objective=OBJECTIVE)
    keep.consolidate()
    with torch.no_grad(), without_adapters(model):
        first, second = (keep._last_layer.outputs(OBJECTIVE, model, batch()) for _ in range(2))
    assert isinstance(first, Tensor) and isinstance(second, Unfinished)
    torch.testing.assert_close(second.hidden @ second.weight.T, first)


class Capped(nn.Module):
    """A model that does something to what its last layer returns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.last = nn.Embedding(40, 8), nn.Linear(8, 40)

    def forward(self, ids: Tensor) -> Tensor:
        return 3 * torch.tanh(self.last(self.words(ids)) / 3)


def test_a_model_that_caps_its_outputs_is_asked_for_the_whole() -> None:
    model = Capped().double()
    keep = LwF(model, strength=1.0, temperature=1.0, objective=OBJECTIVE)
    keep.consolidate()
    old = copy.deepcopy(model)
    with torch.no_grad():
        model.last.weight.mul_(1.5)
    ids = batch()["input_ids"]
    for _ in range(3):
        p, q = (m(ids)[:, :-1].log_softmax(-1) for m in (old, model))
        expected = (p.exp() * (p - q)).sum(-1).mean()
        torch.testing.assert_close(keep.penalty((ids, ids)), expected)


def test_nothing_of_the_model_is_changed_by_being_asked() -> None:
    model = adapted(modules_to_save=["lm_head"])
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["q_proj"]))
    keep = LwF(model, strength=1.0, teacher="base", objective=OBJECTIVE)
    keep.consolidate()
    frozen = next(p for name, p in model.named_parameters() if "lora_B" in name and "default" in name)
    frozen.requires_grad_(False)  # by hand: it has to stay so
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    random = torch.get_rng_state()
    torch.manual_seed(5)
    logits = model(**batch()).logits
    torch.manual_seed(5)
    out = model(**batch())
    keep.penalty(batch(), out).backward()
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert {name: module.training for name, module in model.named_modules()} == modes
    torch.manual_seed(5)
    assert torch.equal(model(**batch()).logits, logits)  # the adapters are on again
    torch.set_rng_state(random)


def test_a_layer_that_is_saved_whole_is_the_base_s_too() -> None:
    model = adapted(modules_to_save=["lm_head"], lora_dropout=0.0).eval()
    keep = LwF(model, strength=1.0, temperature=1.0, teacher="base", objective=OBJECTIVE)
    keep.consolidate()
    for _ in range(2):
        found = keep.penalty(batch(), model(**batch()))
        torch.testing.assert_close(found, plain(model, language_model(), 1.0), rtol=1e-10, atol=1e-12)


def test_adapters_that_transformers_put_there_are_known() -> None:
    model = language_model()
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.requires_grad):
            p += 0.5
    model.eval()
    keep = LwF(model, strength=1.0, temperature=1.0, teacher="base", objective=OBJECTIVE)
    keep.consolidate()
    found = keep.penalty(batch(), model(**batch()))
    assert found > 1e-4
    torch.testing.assert_close(found, plain(model, language_model(), 1.0), rtol=1e-10, atol=1e-12)


def test_prompts_are_taken_off_too() -> None:
    options = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 2}
    model = peft.get_peft_model(language_model(), peft.PromptTuningConfig(**options)).double().eval()
    keep = LwF(model, strength=1.0, temperature=1.0, teacher="base", objective=OBJECTIVE)
    keep.consolidate()
    with torch.no_grad(), without_adapters(model):
        old = model(input_ids=batch()["input_ids"]).logits
    torch.testing.assert_close(old, language_model().eval()(input_ids=batch()["input_ids"]).logits)


def test_what_else_is_trained_is_refused_by_name() -> None:
    model = adapted()
    next(p for name, p in model.named_parameters() if "embed_tokens" in name).requires_grad_()
    keep = LwF(model, strength=1.0, teacher="base", objective=OBJECTIVE)
    with pytest.raises(ConfigurationError, match=r"embed_tokens.*no adapter's"):
        keep.consolidate()


def test_adapters_that_are_gone_are_missed() -> None:
    model = adapted()
    keep = LwF(model, strength=1.0, teacher="base", objective=OBJECTIVE)
    keep.consolidate()
    model.unload()
    with pytest.raises(ConfigurationError, match="adapters are gone"):
        keep.penalty(batch())


def test_a_model_of_which_all_is_trained_has_no_base() -> None:
    with pytest.raises(ConfigurationError, match="neither: expected adapters"):
        LwF(nn.Linear(2, 2), strength=1.0, teacher="base").consolidate()
    with pytest.raises(ConfigurationError, match="'copy' or 'base'"):
        LwF(nn.Linear(2, 2), strength=1.0, teacher="disk")  # type: ignore[arg-type]  # what is tested


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    model[0].requires_grad_(False)
    return model


def test_a_frozen_base_is_shared_and_the_rest_is_copied() -> None:
    model, twin = two_layers(), two_layers()
    keep = LwF(model, strength=1.0, teacher="base")
    copying = LwF(twin, strength=1.0)
    keep.consolidate(), copying.consolidate()
    assert sorted(keep.state_dict()["buffers"]) == ["teacher.2.bias", "teacher.2.weight"]
    for each in (model, twin):
        with torch.no_grad():
            each[2].weight += 0.5
    x = torch.randn(5, 4, dtype=torch.float64)
    assert torch.equal(keep.penalty((x, torch.zeros(5))), copying.penalty((x, torch.zeros(5))))

    loaded = LwF(model, strength=1.0, teacher="base")
    loaded.load_state_dict(keep.state_dict())
    assert torch.equal(loaded.penalty((x, torch.zeros(5))), keep.penalty((x, torch.zeros(5))))
    with pytest.raises(StateError, match="teacher='base'"):
        LwF(model, strength=1.0).load_state_dict(keep.state_dict())

    model[0].requires_grad_(True)
    with pytest.raises(ConfigurationError, match=r"'0.weight' was frozen.*trained now"):
        keep.attach(torch.optim.SGD(model.parameters(), lr=0.1))


def test_the_base_stays_the_teacher_after_the_next_task_and_a_load() -> None:
    model = adapted(lora_dropout=0.0).eval()
    keep = LwF(model, strength=1.0, temperature=1.0, teacher="base", objective=OBJECTIVE)
    keep.attach(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))
    keep.detach()
    keep.consolidate()
    loaded = LwF(model, strength=1.0, temperature=1.0, teacher="base", objective=OBJECTIVE)
    loaded.load_state_dict(keep.state_dict())
    expected = plain(model, language_model(), 1.0)
    torch.testing.assert_close(loaded.penalty(batch(), model(**batch())), expected, rtol=1e-10, atol=1e-12)
