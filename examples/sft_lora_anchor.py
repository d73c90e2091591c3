"""TRL's SFTTrainer, LoRA and an anchor to the base model: it learns new text and still knows the old, under a minute.

The text is made on the spot: each word has one that usually follows it, another one in the new text.
"""

from __future__ import annotations

import copy
import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

import holdfast
from holdfast.integrations.transformers import protect

WORDS, LENGTH = 24, 12


def sentences(order: int, number: int, seed: int) -> Tensor:
    """``[number, 12]``: word w is followed by a word of its own, or one time in ten by any."""
    follows = 1 + torch.randperm(WORDS - 1, generator=torch.Generator().manual_seed(order))
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(1, WORDS, (number,), generator=draw)]
    for _ in range(LENGTH - 1):
        any_word = torch.randint(1, WORDS, (number,), generator=draw)
        rows.append(torch.where(torch.rand(number, generator=draw) < 0.1, any_word, follows[rows[-1] - 1]))
    return torch.stack(rows, 1)


def pretrained() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=WORDS, n_positions=16, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(6):
        for rows in sentences(0, 512, seed=1).split(32):
            optimizer.zero_grad()
            model(input_ids=rows, labels=rows).loss.backward()
            optimizer.step()
    return model


@torch.no_grad()
def loss(model: torch.nn.Module, text: Tensor) -> float:
    return model.eval()(input_ids=text, labels=text).loss.item()


def run(base: GPT2LMHeadModel, protected: bool, folder: str) -> tuple[float, float]:
    """Loss on old text, and on new."""
    words = {"<pad>": 0} | {f"w{word}": word for word in range(1, WORDS)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="<pad>"
    )
    settings = SFTConfig(
        folder, per_device_train_batch_size=32, num_train_epochs=6, learning_rate=2e-2, use_cpu=True, bf16=False,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        copy.deepcopy(base),
        args=settings,
        train_dataset=Dataset.from_dict({"input_ids": sentences(1, 256, seed=2).tolist()}),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=8, target_modules=["c_attn", "c_fc", "c_proj"], task_type="CAUSAL_LM", fan_in_fan_out=True
        ),
    )
    if protected:
        keep = holdfast.LwF(trainer.model, strength=0.5, temperature=1.0, teacher="base")
        keep.consolidate()  # the base is what is remembered: no data needed
        protect(trainer, keep)
    trainer.train()
    return loss(trainer.model, sentences(0, 256, seed=3)), loss(trainer.model, sentences(1, 256, seed=4))


if __name__ == "__main__":
    base = pretrained()
    with tempfile.TemporaryDirectory() as folder:
        (old, new), (kept, learned) = run(base, False, folder), run(base, True, folder)
    print(f"old task: loss {old:.3f} without protection, {kept:.3f} with")
    print(f"new task: loss {new:.3f} without protection, {learned:.3f} with")
