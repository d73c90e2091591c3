"""LoRA and EWC on effective weights: adapters learn new text, what the base knew stays, in a plain loop.

The text is made on the spot: each word has one that usually follows it, another one in the new text.
"""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import holdfast

WORDS, LENGTH = 24, 12


def sentences(order: int, number: int, seed: int) -> Tensor:
    """``[number, 12]``: word w is followed by a word of its own, or one time in ten by any."""
    follows = torch.randperm(WORDS, generator=torch.Generator().manual_seed(order))
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(WORDS, (number,), generator=draw)]
    for _ in range(LENGTH - 1):
        any_word = torch.randint(WORDS, (number,), generator=draw)
        rows.append(torch.where(torch.rand(number, generator=draw) < 0.1, any_word, follows[rows[-1]]))
    return torch.stack(rows, 1)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, text: Tensor, epochs: int) -> None:
    model.train()
    for _ in range(epochs):
        for rows in text.split(32):
            optimizer.zero_grad()
            model(input_ids=rows, labels=rows).loss.backward()
            optimizer.step()


@torch.no_grad()
def loss(model: nn.Module, text: Tensor) -> float:
    return model.eval()(input_ids=text, labels=text).loss.item()


def run(base: GPT2LMHeadModel, protected: bool) -> tuple[float, float]:
    """Loss on old text, and on new."""
    torch.manual_seed(1)
    base = copy.deepcopy(base)
    keep = holdfast.EWC(base, strength=100.0)
    if protected:
        old = sentences(0, 256, seed=1)
        keep.consolidate({"input_ids": rows, "labels": rows} for rows in old.split(32))  # before the adapters
    lora = get_peft_model(
        base, LoraConfig(r=8, target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True)
    )  # the base is frozen; A and B are trained
    optimizer = torch.optim.AdamW([p for p in lora.parameters() if p.requires_grad], lr=1e-2)
    if protected:
        keep.rebind(lora, on="effective").attach(optimizer)  # the penalty is on W + sBA
    train(lora, optimizer, sentences(1, 256, seed=2), epochs=12)
    return loss(lora, sentences(0, 256, seed=3)), loss(lora, sentences(1, 256, seed=4))


if __name__ == "__main__":
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=WORDS, n_positions=16, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    base = GPT2LMHeadModel(config)
    train(base, torch.optim.AdamW(base.parameters(), lr=5e-3), sentences(0, 512, seed=1), epochs=6)
    (old, new), (kept, learned) = run(base, False), run(base, True)
    print(f"old task: loss {old:.3f} without protection, {kept:.3f} with")
    print(f"new task: loss {new:.3f} without protection, {learned:.3f} with")
