"""Add words to a language model's vocabulary, without the old text: L2-SP on the old block, under ten seconds.

The text is made on the spot: each word has one that usually follows it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import holdfast

OLD, NEW = 20, 24  # words before and after


def sentences(words: int, first: int, number: int, seed: int) -> Tensor:
    """``[number, 12]``: word w is followed by a word of its own, or one time in ten by any."""
    follows = first + torch.randperm(words - first, generator=torch.Generator().manual_seed(words))
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(first, words, (number,), generator=draw)]
    for _ in range(11):
        any_word = torch.randint(first, words, (number,), generator=draw)
        rows.append(torch.where(torch.rand(number, generator=draw) < 0.1, any_word, follows[rows[-1] - first]))
    return torch.stack(rows, 1)


def train(model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer, text: Tensor, epochs: int) -> None:
    model.train()
    for _ in range(epochs):
        for rows in text.split(32):
            optimizer.zero_grad()
            model(input_ids=rows, labels=rows).loss.backward()
            optimizer.step()


@torch.no_grad()
def loss(model: GPT2LMHeadModel, text: Tensor) -> float:
    return model.eval()(input_ids=text, labels=text).loss.item()


def run(protected: bool) -> tuple[float, float]:
    """Loss on text of old words, and on text of new ones."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=OLD, n_positions=16, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    train(model, torch.optim.AdamW(model.parameters(), lr=3e-3), sentences(OLD, 0, 512, seed=1), epochs=8)

    keep = holdfast.L2SP(model, strength=1.0)
    keep.consolidate()  # needs no data
    model.resize_token_embeddings(NEW, mean_resizing=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    if protected:
        keep.attach(optimizer)  # the old words are held where they are, the new ones are free
    train(model, optimizer, sentences(NEW, OLD, 256, seed=2), epochs=12)
    return loss(model, sentences(OLD, 0, 256, seed=3)), loss(model, sentences(NEW, OLD, 256, seed=4))


if __name__ == "__main__":
    (old, new), (kept, learned) = run(protected=False), run(protected=True)
    print(f"old task: loss {old:.3f} without protection, {kept:.3f} with")
    print(f"new task: loss {new:.3f} without protection, {learned:.3f} with")
