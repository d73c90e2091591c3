"""Where a teacher is asked: on a memory, in which direction, by what it said before, within which budget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast import LwF
from holdfast.errors import ConfigurationError, DataError, StateError
from tests.distillation.texts import OBJECTIVE, WORDS, apart, gradients, network, taught, text


@pytest.mark.parametrize("kind", ["forward", "reverse", "non_target"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("on", ["batch", "memory", "both"])
def test_the_teacher_is_asked_where_one_says(kind: str, temperature: float, on: Any) -> None:
    memory, new = [text(1), text(2, 4), text(3)], text(9)
    way = {"non_target": True} if kind == "non_target" else {"direction": kind}
    model, keep, old = taught(memory=None if on == "batch" else memory, on=on, temperature=temperature, **way)
    for step in range(5):
        outputs = model(new["input_ids"])
        asked = ([new] if on != "memory" else []) + ([memory[step % 3]] if on != "batch" else [])
        wanted = sum(0.7 * temperature**2 * apart(model(b["input_ids"]), old(b), b, kind, temperature) for b in asked)
        found = keep.penalty(new, outputs)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)
        for one, other in zip(gradients(found, model), gradients(wanted, model), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


def test_a_memory_needs_no_new_batch_and_is_not_used_up_by_looking() -> None:
    memory = [text(1), text(2)]
    model, keep, old = taught(memory=memory)
    for wanted in memory:
        with torch.no_grad():
            looked = keep.penalty()
        assert keep.penalty().item() == looked.item()
        torch.testing.assert_close(looked, 0.7 * apart(model(wanted["input_ids"]), old(wanted), wanted, "forward"))


@pytest.mark.parametrize("cached", [None, 4])
@pytest.mark.parametrize("made", [False, True])
def test_a_run_goes_on_where_its_state_was(cached: int | None, made: bool, tmp_path: Path) -> None:
    texts = [text(1), (text(2)["input_ids"], text(2)["labels"]), text(3)]
    source: Any = (lambda model: (texts[i] for i in range(3))) if made else texts
    settings = {"memory": source, "cached": cached, "kl_budget": None if cached else 0.01}
    model, keep, _ = taught(**settings)
    new = text(9)
    for _ in range(4):
        keep.penalty(new, model(new["input_ids"]))
    holdfast.save_state(keep.state_dict(), tmp_path / "state")
    other = LwF(model, strength=0.7, temperature=1.0, objective=OBJECTIVE, **settings)
    if made:
        other = LwF(
            model, strength=0.7, temperature=1.0, objective=OBJECTIVE, **settings | {"memory": lambda m: [text(8)]}
        )
    other.load_state_dict(holdfast.load_state(tmp_path / "state"))
    for _ in range(4):
        one, two = (m.penalty(new, model(new["input_ids"])).item() for m in (keep, other))
        assert one == two
    assert keep.current_strength == other.current_strength
    assert (keep.current_strength > 0.7) == (cached is None)


def test_another_state_is_refused() -> None:
    _, keep, _ = taught(memory=[text(1)], cached=3)
    with pytest.raises(StateError, match="cached=3"):
        LwF(network(), strength=1.0, memory=[text(1)]).load_state_dict(keep.state_dict())
    other = LwF(network(), strength=1.0, memory=[text(1, 4)], cached=3, objective=OBJECTIVE)
    other.load_state_dict(keep.state_dict())
    with pytest.raises(StateError, match="batch 0 of the memory has 6 positions"):
        other.penalty()


def test_the_base_without_its_adapters_answers_and_is_asked() -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")

    def llama() -> nn.Module:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=WORDS, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, initializer_range=0.7,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config).double()

    model, base = peft.get_peft_model(llama(), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])), llama()
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.requires_grad):
            p += torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype)
    texts = holdfast.generations(model, 1, samples=4, length=5, base=True, generator=torch.Generator().manual_seed(0))
    for cached, direction in ((None, "forward"), (None, "reverse"), (WORDS - 1, "reverse")):
        keep = LwF(
            model, strength=1.0, temperature=1.0, teacher="base", memory=texts.batched(4), cached=cached,
            direction=direction, kl_budget=0.1,
        )  # fmt: skip
        keep.consolidate()
        (batch,) = texts.batched(4)
        new = text(9)
        outputs = model(input_ids=new["input_ids"])
        for _ in range(2):  # at the second the last layer is left out of the base's pass
            found = keep.penalty(new, outputs)
        old, now = (m(input_ids=batch["input_ids"]).logits for m in (base, model))
        raised = keep.buffers["budget.factor"].item()
        wanted = apart(now, old, batch, direction)
        d = apart(outputs.logits, base(input_ids=new["input_ids"]).logits, new, "forward").item()
        assert keep.divergence == pytest.approx(d, rel=1e-9)
        assert found.item() == pytest.approx(
            wanted.item() * raised**0.5, rel=1e-6
        )  # raised twice, of which the second counts from now on


def test_own_words_keep_what_a_language_model_knew() -> None:
    def loss_on(model: nn.Module, words: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(words)[:, :-1].flatten(0, 1), words[:, 1:].flatten())

    g = torch.Generator().manual_seed(0)
    old = torch.stack([(torch.arange(8) + s) % 5 for s in range(5)])
    new = torch.randint(5, WORDS, (5, 8), generator=g)
    model = network()

    def train(words: Tensor, keep: LwF | None) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        if keep is not None:
            keep.attach(optimizer)
        for _ in range(60):
            loss = loss_on(model, words) + (0 if keep is None else keep.penalty())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    train(old, None)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    before, after = loss_on(model, old).item(), {}
    texts = holdfast.generations(model, [[i] for i in range(5)], samples=20, length=7, generator=g)
    for kept in (False, True):
        model.load_state_dict(start)
        keep = LwF(model, strength=10.0, temperature=1.0, objective=OBJECTIVE, memory=texts) if kept else None
        if keep is not None:
            keep.consolidate()
        train(new, keep)
        after[kept] = loss_on(model, old).item(), loss_on(model, new).item()
    assert after[True][0] < before + 0.2 < after[False][0] - 1
    assert after[True][1] < after[False][1] + 0.5


def test_classes_have_two_directions_too_and_may_grow() -> None:
    model, x, y = nn.Linear(4, 3).double(), torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 4, 1, 2, 3])
    keep = LwF(model, strength=1.0, temperature=2.0, direction="reverse")
    keep.consolidate()
    q = (model(x) / 2).softmax(-1).detach()
    grown = nn.Linear(4, 5).double()
    model.weight, model.bias, model.out_features = grown.weight, grown.bias, 5
    p = (model(x)[:, :3] / 2).softmax(-1)
    wanted = 4 * (p * (p / q).log()).sum(-1).mean()
    found = keep.penalty((x, y), model(x))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)
    for one, other in zip(gradients(found, model), gradients(wanted, model), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


def once() -> Iterator[Any]:
    yield text(1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"memory": once()}, "memory is a generator; expected batches that can be gone through again"),
        ({"memory": 3}, "memory is a int"),
        ({"on": "memory"}, "asks about a memory; expected memory="),
        ({"on": "batch", "memory": [text(1)]}, "asks about no memory"),
        ({"on": "old"}, "on is 'old'"),
        ({"direction": "back"}, "direction is 'back'"),
        ({"non_target": 1}, "non_target is 1"),
        ({"kl_budget": 0}, "kl_budget is 0"),
        ({"kl_budget": 0.1, "strength": 0}, "expected strength > 0"),
        ({"cached": 3}, "expected memory="),
        ({"cached": 0, "memory": [text(1)]}, "cached is 0"),
        ({"cached": 3, "memory": [text(1)], "non_target": True}, "expected cached=None"),
        ({"cached": 3, "memory": [text(1)], "kl_budget": 0.1}, "or teacher='base'"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        LwF(network(), **{"strength": 1.0, "objective": OBJECTIVE} | settings)


def test_what_is_refused_later_changes_nothing() -> None:
    with pytest.raises(DataError, match="memory has no batch"):
        taught(memory=[])
    with pytest.raises(ConfigurationError, match="memory makes a int"):
        taught(memory=lambda model: 3)
    with pytest.raises(ConfigurationError, match="expected a pair or a dict of tensors"):
        taught(memory=lambda model: ["a"])
    with pytest.raises(ConfigurationError, match="fewer than the 11 outputs"):
        taught(memory=[text(1)], cached=WORDS)
    with pytest.raises(ConfigurationError, match="kl_budget is measured on the new batch"):
        taught(memory=[text(1)], kl_budget=0.1)[1].penalty()
    with pytest.raises(DataError, match="non_target=True leaves the labels out, but the batch has none"):
        taught(non_target=True)[1].penalty({"input_ids": text(1)["input_ids"]})
    for settings in ({"direction": "reverse"}, {"non_target": True}):
        keep = LwF(network(), strength=1.0, objective=holdfast.Regression(), **settings)
        with pytest.raises(ConfigurationError, match=r"which Regression has not"):
            keep.consolidate()
    keep = LwF(network(), strength=1.0, objective=holdfast.Classification(), non_target=True)
    with pytest.raises(ConfigurationError, match="expected an objective of words"):
        keep.consolidate()
    assert keep.num_tasks == 0 and not keep.buffers
