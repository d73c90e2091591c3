"""Low-rank adapters: merged, they give what was trained, and a kill changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from holdfast.adapt.adapters import merged, with_adapters
from holdfast.adapt.asked import Asked
from holdfast.adapt.opening import open_model
from holdfast.adapt.running import Watcher, adapt
from holdfast.adapt.training import Settings
from tests.adapt.conftest import reviews, table

TRAIN = Settings(epochs=2, batch_size=8, lr=1e-2)


def test_adapters_are_merged(sentiment: Path, tmp_path: Path) -> None:
    new = table(tmp_path / "new.csv", [*reviews(40, 0), *[("film scene actor", "maybe")] * 8])
    asked = Asked(
        model=str(sentiment), data=str(new), methods=("finetune", "l2sp"), lora=2, out=str(tmp_path / "better"),
        train=TRAIN, settings={"l2sp": {"strength": 1e3}},
    )  # fmt: skip
    outcome = adapt(asked)
    free, held = outcome.points
    assert held.method == "l2sp" and held.learned <= free.learned  # on the effective weights, which it hardly lets go
    before, after = open_model(str(sentiment)), open_model(str(tmp_path / "better"))
    assert after.classes == ("no", "yes", "maybe")
    names = dict(after.model.named_parameters())
    assert set(names) == set(dict(before.model.named_parameters()))
    base = before.model.get_parameter("bert.encoder.layer.0.attention.self.query.weight")
    change = after.model.get_parameter("bert.encoder.layer.0.attention.self.query.weight") - base
    assert torch.linalg.matrix_rank(change.detach().double(), rtol=1e-4) <= 2 and change.abs().max() > 0
    frozen = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(names[frozen], before.model.get_parameter(frozen))


def test_merging_gives_what_was_trained_where_layers_share_a_weight(writer: Path) -> None:
    """GPT-2's last layer is its embedding: an adapter in the one would, merged, be in the other, too."""
    opened = open_model(str(writer))
    with_adapters(opened, 2)
    for name, parameter in opened.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    inputs = opened.inputs(["good film", "bad actor price"])
    with torch.no_grad():
        trained = opened.model.eval()(**inputs).logits
        merged(opened)
        torch.testing.assert_close(opened.model.eval()(**inputs).logits, trained)
    assert opened.model.lm_head.weight is opened.model.transformer.wte.weight
    assert torch.equal(opened.model.lm_head.weight, open_model(str(writer)).model.lm_head.weight)


def test_the_last_layer_alone_is_trained_as_a_whole(tmp_path: Path, tokenizer) -> None:
    """And not every layer that is called as it is: here each attention has an out_proj, too."""
    from transformers import BartConfig, BartForSequenceClassification

    config = BartConfig(
        vocab_size=14, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=8, num_labels=2,
        pad_token_id=0, eos_token_id=1, id2label={0: "no", 1: "yes"},
    )  # fmt: skip
    BartForSequenceClassification(config).save_pretrained(tmp_path / "bart")
    tokenizer.save_pretrained(tmp_path / "bart")
    opened = open_model(str(tmp_path / "bart"))
    with_adapters(opened, 2)
    trained = {name.removeprefix("base_model.model.") for name, p in opened.model.named_parameters() if p.requires_grad}
    whole = {name for name in trained if "lora_" not in name}
    assert whole == {"classification_head.out_proj.weight", "classification_head.out_proj.bias"}
    assert any("self_attn.out_proj.lora_A" in name for name in trained)


def test_a_kill_before_the_first_checkpoint_changes_nothing(sentiment: Path, tmp_path: Path) -> None:
    """How adapters begin does not depend on what was trained before them."""
    new = table(tmp_path / "new.csv", reviews(40, 0))
    asked = Asked(
        model=str(sentiment), data=str(new), methods=("finetune", "l2sp"), lora=2, out=str(tmp_path / "whole"),
        train=TRAIN,
    )  # fmt: skip
    adapt(asked)

    class Killed(BaseException):
        pass

    def die(name: str, *step: object) -> None:
        if name == "l2sp":
            raise Killed

    again = replace(asked, out=str(tmp_path / "again"))
    with pytest.raises(Killed):
        adapt(again, Watcher(step=die))
    adapt(again)
    whole, parts = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "again"))
    assert whole == parts
