"""A model's own texts: drawn as a plain loop draws them, whatever the batch, and good for every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import holdfast
from holdfast.errors import ConfigurationError, NumericsError, StateError
from holdfast.generating import Generations, drawn, generations
from holdfast.objectives import CausalLM

transformers = pytest.importorskip("transformers")

WORDS = 20


def gpt(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=8, n_layer=2, n_head=2, n_positions=16, vocab_size=WORDS, bos_token_id=1, eos_token_id=2,
        initializer_range=0.7, **settings,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).double().train()


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16, initializer_range=0.7,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).double()


class Recurrent(nn.Module):
    """A model of one's own, called with the words and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.net, self.out = nn.Embedding(WORDS, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, WORDS)
        self.drop = nn.Dropout(0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.out(self.drop(self.net(3 * self.words(tokens))[0])) * 4
        return found


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(model: nn.Module, prompts: list[list[int]], length: int, temperature: float) -> list[list[int]]:
    """One text after the other, the whole of it read again for each word."""
    uniform = torch.rand((len(prompts), length), generator=seeded(), dtype=torch.float64).tolist()
    model.eval()
    texts = []
    for prompt, numbers in zip(prompts, uniform, strict=True):
        text = list(prompt)
        for number in numbers:
            raw = model(torch.tensor([text]))
            logits = (raw if isinstance(raw, Tensor) else raw.logits)[0, -1].double() / temperature
            p = (logits.exp() / logits.exp().sum()).tolist()
            word = 0
            while number >= sum(p[: word + 1]):
                word += 1
            text.append(word)
        texts.append(text)
    return texts


@pytest.mark.parametrize("make", [gpt, llama, Recurrent])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_texts_are_those_of_a_plain_loop(make: Any, temperature: float) -> None:
    model = make()
    found = generations(model, 1, samples=5, length=7, temperature=temperature, generator=seeded(), batch_size=2)
    assert found.tokens.tolist() == by_hand(model, [[1]] * 5, 7, temperature)
    assert len({tuple(row) for row in found.tokens.tolist()}) > 1


@pytest.mark.parametrize("make", [gpt, Recurrent])
def test_the_batch_plays_no_part_and_prompts_may_differ_in_length(make: Any) -> None:
    model, prompts = make(), [[1], [3, 4, 5], [6]]
    wanted = by_hand(model, [prompts[i % 3] for i in range(7)], 4, 1.0)
    for size in (1, 3, 7):
        found = generations(model, prompts, samples=7, length=4, generator=seeded(), batch_size=size)
        assert [row[:n] for row, n in zip(found.tokens.tolist(), found.lengths.tolist(), strict=True)] == wanted
        assert found.given.tolist() == [1, 3, 1, 1, 3, 1, 1]


def test_each_answer_is_drawn_as_often_as_its_probability_says() -> None:
    logits = torch.tensor([1.0, -torch.inf, 0.0, 2.0])
    uniform = torch.rand(100_000, generator=seeded(), dtype=torch.float64)
    shares = torch.bincount(drawn(logits.expand(100_000, 4), uniform, 2.0), minlength=4) / 100_000
    torch.testing.assert_close(shares, (logits / 2).softmax(-1), atol=5e-3, rtol=0)
    assert shares[1] == 0
    assert drawn(logits[None], torch.zeros(1)).item() == 0


@pytest.mark.parametrize("make", [gpt, Recurrent])
def test_a_text_ends_at_its_end_and_labels_are_the_models_words_alone(make: Any) -> None:
    model, free = make(), generations(make(), [[3, 4]], samples=40, length=6, generator=seeded())
    stop = int(free.tokens[0, 4])
    found = generations(model, [[3, 4]], samples=40, length=6, generator=seeded(), stop=stop).batched(3)
    batches = list(found)
    assert len(batches) == len(found) == 14
    for i, (row, length) in enumerate(zip(found.tokens.tolist(), found.lengths.tolist(), strict=True)):
        text = free.tokens[i].tolist()
        wanted = text[: text.index(stop, 2) + 1] if stop in text[2:] else text
        assert (row[:length], length) == (wanted, len(wanted))
        batch = batches[i // 3]
        words, labels = batch if found.pairs else (batch["input_ids"], batch["labels"])
        padding = words.shape[1] - length
        assert words[i % 3].tolist() == wanted + [stop] * padding
        assert labels[i % 3].tolist() == [-100, -100, *wanted[2:], *[-100] * padding]
        if not found.pairs:
            assert batch["attention_mask"][i % 3].tolist() == [1] * length + [0] * padding
    assert found.pairs == (make is Recurrent)
    assert 3 in found.lengths.tolist() or found.lengths.min() < 8  # some ended


def test_a_tokenizer_says_where_texts_begin_and_end() -> None:
    class Tokenizer:
        bos_token_id: int | None = 1
        eos_token_id: int | None = 2

    model, asked = gpt(), {"samples": 6, "length": 8}
    found = generations(model, Tokenizer(), **asked, generator=seeded())
    assert torch.equal(found.tokens, generations(model, 1, **asked, generator=seeded(), stop=2).tokens)
    Tokenizer.bos_token_id = None
    assert generations(model, Tokenizer(), **asked).tokens[:, 0].tolist() == [2] * 6
    Tokenizer.eos_token_id = None
    with pytest.raises(ConfigurationError, match="neither a begin-of-text nor an end-of-text"):
        generations(model, Tokenizer(), **asked)


def test_the_model_is_left_as_it_was() -> None:
    model = gpt(resid_pdrop=0.5, embd_pdrop=0.5)
    model.transformer.h[0].eval()
    before, state = [m.training for m in model.modules()], torch.get_rng_state()
    one = generations(model, 1, samples=3, length=5, generator=seeded())
    assert [m.training for m in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.tokens, generations(model, 1, samples=3, length=5, generator=seeded()).tokens)
    torch.manual_seed(3)
    hidden = [generations(model, 1, samples=3, length=5).tokens for _ in range(2)]
    torch.manual_seed(3)
    assert torch.equal(hidden[0], generations(model, 1, samples=3, length=5).tokens)
    assert not torch.equal(hidden[0], hidden[1])


def test_texts_are_kept_on_disk_for_these_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = gpt(), {"samples": 4, "length": 5, "cache": tmp_path}
    fresh, kept = seeded(), seeded()
    first = generations(model, 1, **asked, generator=fresh)
    calls: list[Any] = []
    monkeypatch.setattr("holdfast.generating._Writer.write", lambda *_: calls.append(0))
    again = generations(model, 1, **asked, generator=kept, batch_size=3)
    assert not calls and torch.equal(first.tokens, again.tokens) and again.batch_size == 3
    assert torch.equal(fresh.get_state(), kept.get_state())  # what is drawn next does not depend on the disk
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    generations(model, 1, **asked, generator=kept)
    generations(model, 2, **asked, generator=seeded())
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-9
    generations(model, 1, **asked, generator=seeded())
    files = list(tmp_path.iterdir())
    assert len(files) == 4
    for file in files:
        file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(StateError, match="truncated"):
        generations(model, 1, **asked, generator=seeded())


def test_adapters_are_asked_or_left_out() -> None:
    peft = pytest.importorskip("peft")
    plain = generations(llama(), 1, samples=6, length=8, generator=seeded())
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.requires_grad):
            p += torch.randn(p.shape, generator=seeded(), dtype=p.dtype)
    base = generations(model, 1, samples=6, length=8, generator=seeded(), base=True)
    adapted = generations(model, 1, samples=6, length=8, generator=seeded())
    assert torch.equal(base.tokens, plain.tokens) and not torch.equal(adapted.tokens, plain.tokens)
    assert not base.pairs
    with pytest.raises(ConfigurationError, match="has none of PEFT's"):
        generations(llama(), 1, samples=1, length=1, base=True)


def test_prompts_of_adapters_come_first() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    model = peft.get_peft_model(
        llama(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, token_dim=8)
    ).double()
    found = generations(model, 1, samples=3, length=5, generator=seeded())
    model.eval()
    text = found.tokens[2:3, :1]
    for number in torch.rand((3, 5), generator=seeded(), dtype=torch.float64)[2]:
        total = model(input_ids=text).logits[0, -1].softmax(-1).cumsum(-1)
        text = torch.cat([text, (total > number).long().argmax()[None, None]], 1)
    assert found.tokens[2].tolist() == text[0].tolist()


def test_the_fisher_of_own_texts_is_the_mean_of_their_squared_gradients() -> None:
    model = Recurrent().double().eval()
    texts = generations(model, [[1], [3, 4]], samples=4, length=3, generator=seeded(), stop=7).batched(3)
    keep = holdfast.EWC(model, strength=1.0, fisher="empirical", objective=CausalLM(per="sequence"))
    keep.consolidate(texts)
    wanted = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row, length, given in zip(texts.tokens, texts.lengths.tolist(), texts.given.tolist(), strict=True):
        loss = F.cross_entropy(model(row[None, :length])[0, given - 1 : -1], row[given:length], reduction="sum")
        for (name, _), g in zip(
            model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            wanted[name] += g.square() / 4
    for name, held in keep.state.items():
        torch.testing.assert_close(held["importance"], wanted[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["EWC", "OnlineEWC", "MAS", "ANPyC", "CoFiMA", "GPM", "LwF"])
@pytest.mark.parametrize("make", [gpt, Recurrent])
def test_every_method_takes_them_in_place_of_old_data(name: str, make: Any) -> None:
    model = make().eval()
    texts = generations(model, [[1], [3, 4]], samples=5, length=4, generator=seeded(), stop=7).batched(2)
    settings = {} if name in ("GPM", "CoFiMA") else {"strength": 1.0}
    keep = getattr(holdfast, name)(model, objective=CausalLM(per="sequence"), **settings)
    keep.consolidate(texts, generator=seeded())
    assert keep.num_tasks == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"length": None}, "length is None"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"generator": 3}, "generator is 3"),
        ({"start": []}, r"start holds \[\]"),
        ({"start": torch.empty(0, 2)}, "start is empty"),
        ({"start": [[1], []]}, r"start holds \[\]"),
        ({"start": torch.tensor([0.5])}, r"start holds \[0.5\]"),
        ({"start": [[1], ["a"]]}, "start is no list of words"),
        ({"start": -1}, r"start holds \[-1\]"),
        ({"length": 16}, "longer than the 16 that GPT2LMHeadModel takes"),
    ],
)
def test_what_is_refused(wrong: dict[str, Any], says: str) -> None:
    settings: dict[str, Any] = {"samples": 2, "length": 3, "start": 1} | wrong
    with pytest.raises(ConfigurationError, match=says):
        generations(gpt(), settings.pop("start"), **settings)


def test_models_that_write_no_text_are_refused() -> None:
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=WORDS)
    with pytest.raises(ConfigurationError, match="BertForSequenceClassification is a model for Classification"):
        generations(transformers.BertForSequenceClassification(config), 1, samples=1, length=1)
    with pytest.raises(ConfigurationError, match=r"outputs of shape \(1, 8\).*expected logits \[B, T, V\]"):
        generations(nn.Sequential(nn.Embedding(4, 8), nn.Flatten()), 1, samples=1, length=1)
    broken = Recurrent()
    nn.init.constant_(broken.out.bias, float("nan"))
    with pytest.raises(NumericsError, match="not finite"):
        generations(broken, 1, samples=1, length=1)


def test_they_can_be_moved_and_remain_what_they_are() -> None:
    found = generations(Recurrent(), 1, samples=3, length=2, generator=seeded())
    moved = found.to("meta")
    assert isinstance(moved, Generations) and moved.tokens.device.type == "meta" and moved.pairs
    with pytest.raises(ConfigurationError, match="size is 0"):
        found.batched(0)
