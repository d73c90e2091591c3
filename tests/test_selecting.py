"""Labels that a model finds unlikely are left out: the reference's mask, and a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import holdfast
from holdfast.errors import ConfigurationError, DataError
from holdfast.selecting import low_perplexity, token_perplexity
from tests.distillation.texts import network, text

REFERENCE = np.load(Path(__file__).parent / "data" / "kl_to_base.npz")


def test_perplexity_and_mask_equal_the_reference() -> None:
    found = token_perplexity(torch.from_numpy(REFERENCE["base_logits"]), torch.from_numpy(REFERENCE["tokens"]))
    torch.testing.assert_close(found, torch.from_numpy(REFERENCE["base_token_perplexity"]), rtol=1e-9, atol=0)
    kept = (found <= float(REFERENCE["stm_threshold"])) & torch.from_numpy(REFERENCE["mask"])
    assert kept.equal(torch.from_numpy(REFERENCE["stm_keep"]))


@pytest.mark.parametrize("pairs", [False, True])
def test_words_that_are_dear_are_no_labels(pairs: bool) -> None:
    model = network().train()
    batches: list[Any] = [text(1), text(2, 4)]
    given = [(b["input_ids"], b["labels"]) for b in batches] if pairs else batches
    found = low_perplexity(model, given, threshold=8.0)
    assert model.training and len(found) == 2
    left = 0
    for old, new in zip(batches, found, strict=True):
        words, labels = new if pairs else (new["input_ids"], new["labels"])
        assert words.equal(old["input_ids"])
        p = model(old["input_ids"]).softmax(-1)
        for row, place in np.ndindex(*labels.shape):
            label = old["labels"][row, place].item()
            keeps = place > 0 and label != -100 and 1 / p[row, place - 1, label].item() <= 8.0
            assert labels[row, place].item() == (label if keeps else -100)
            left += keeps
    assert 0 < left < 16
    outputs = model(found[0][0] if pairs else found[0]["input_ids"])
    assert bool(holdfast.CausalLM(per="token").losses(outputs, found[0]).isfinite().all())


def test_the_base_is_asked_without_its_adapters() -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=8, vocab_size=11, initializer_range=0.9)
    plain = transformers.GPT2LMHeadModel(config)
    wanted = low_perplexity(plain, [text(1)], threshold=8.0)[0]["labels"]
    model = peft.get_peft_model(plain, peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.requires_grad):
            p += torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    assert low_perplexity(model, [text(1)], threshold=8.0, base=True)[0]["labels"].equal(wanted)
    assert not low_perplexity(model, [text(1)], threshold=8.0)[0]["labels"].equal(wanted)


def test_what_is_refused() -> None:
    model, batches = network(), [text(1)]
    with pytest.raises(ConfigurationError, match="threshold is 0"):
        low_perplexity(model, batches, threshold=0)
    with pytest.raises(ConfigurationError, match=r"expected one of words"):
        low_perplexity(model, batches, objective=holdfast.Classification())
    with pytest.raises(ConfigurationError, match="has none of PEFT's"):
        low_perplexity(model, batches, base=True)
    with pytest.raises(DataError, match=r"no word has a perplexity of at most 1\.0001"):
        low_perplexity(model, batches, threshold=1.0001)
    with pytest.raises(DataError, match="has no labels"):
        low_perplexity(model, [{"input_ids": text(1)["input_ids"]}])
