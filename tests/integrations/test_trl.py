"""TRL's SFTTrainer, the real one, which computes its loss without ever making the logits."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from holdfast import EWC, LwF
from holdfast.integrations.transformers import HoldfastCallback, protect
from tests.integrations.trainers import apart, arguments, batch_of, causal, rows, weights

DATA = Dataset.from_dict({"input_ids": [row["input_ids"].tolist() for row in rows(2)]})
LORA = {"r": 2, "target_modules": ["c_attn"], "task_type": "CAUSAL_LM", "fan_in_fan_out": True}


# Transformers 5 renamed it.
CHECKPOINTING = min({f.name for f in fields(SFTConfig)} & {"activation_checkpointing", "gradient_checkpointing"})


def tokenizer():
    words = {"<pad>": 0} | {f"w{word}": word for word in range(1, 20)}
    made = Tokenizer(WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<pad>")


def sft(folder, model, lora=True, callbacks=None, **settings):
    usual = {CHECKPOINTING: False, "bf16": False, "optim": "sgd", "max_grad_norm": 0.0}
    return SFTTrainer(
        model, args=arguments(folder, SFTConfig, **{**usual, "learning_rate": 0.3, **settings}), train_dataset=DATA,
        processing_class=tokenizer(), callbacks=callbacks, peft_config=LoraConfig(**LORA) if lora else None,
    )  # fmt: skip


def test_lora_with_an_anchor_to_the_base(tmp_path):
    found = {}
    for name, micro in (("plain", 1), ("kept", 1), ("in four", 4)):
        shape = {"per_device_train_batch_size": 8 // micro, "gradient_accumulation_steps": micro}
        log = {"logging_strategy": "steps", "logging_steps": 4}
        trainer = sft(tmp_path, causal(spread=0.3), max_steps=12, **shape, **log)
        if name != "plain":
            keep = LwF(trainer.model, strength=4.0, temperature=1.0, teacher="base")
            keep.consolidate()
            protect(trainer, keep)
        trainer.train()
        trainer.model.eval()
        with torch.no_grad():
            ids = batch_of(rows(2))["input_ids"]
            now = trainer.model(ids).logits.log_softmax(-1)
            with trainer.model.disable_adapter():
                base = trainer.model(ids).logits.log_softmax(-1)
        found[name] = (base.exp() * (base - now)).sum(-1).mean().item(), weights(trainer.model)
        logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
        assert ("holdfast/penalty" in logged) is (name != "plain")
    assert found["kept"][0] < 0.8 * found["plain"][0]
    assert apart(found["kept"][1], found["in four"][1]) < 1e-6


@pytest.mark.parametrize("make", [lambda m: LwF(m, strength=20.0), lambda m: EWC(m, strength=30.0)])
def test_two_tasks_by_callback_alone(tmp_path, make):
    model = causal()
    keep = make(model)
    for _ in range(2):
        callback = HoldfastCallback(keep, consolidate=True)
        sft(tmp_path, model, lora=False, callbacks=[callback], learning_rate=0.1).train()
    other = causal()
    for _ in range(2):
        sft(tmp_path, other, lora=False, learning_rate=0.1).train()
    assert keep.num_tasks == 2 and apart(weights(model), weights(other)) > 1e-4


def test_a_penalty_on_effective_weights_resumes_to_the_bit_and_is_remembered_at_the_end(tmp_path):
    found = []
    for checkpoint in (None, str(tmp_path / "checkpoint-2")):
        model = causal(spread=0.3)
        keep = EWC(model, strength=10.0, fisher="empirical")
        if checkpoint is None:
            keep.consolidate([batch_of(rows(1))])
        torch.manual_seed(5)  # of A
        saving = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "learning_rate": 1e-2}
        trainer = sft(tmp_path, model, **saving)
        protect(trainer, keep.rebind(trainer.model, on="effective"), consolidate=True)
        trainer.train(resume_from_checkpoint=checkpoint)
        assert keep.num_tasks == 2 and any("base_layer" in name for name in keep.state)
        held = {f"{name} {kind}": t for name, tensors in keep.state.items() for kind, t in tensors.items()}
        found.append((weights(trainer.model), held))
    (through, known), (taken_up, again) = found
    assert apart(through, taken_up) == apart(known, again) == 0
