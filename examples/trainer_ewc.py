"""Transformers' Trainer and EWC: a classifier learns one task and then another, under a minute.

The texts are made on the spot: each class has words of its own, and in the second those of the first are turned around.
"""

from __future__ import annotations

import tempfile

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import holdfast
from holdfast.integrations.transformers import protect

Row = dict[str, Tensor]
OLD, NEW = 10, 30  # the first of the words that say which class it is


def texts(first_word: int, number: int, seed: int) -> list[Row]:
    """Eight words, three of which say which class it is: ten words to each class, from ``first_word`` on."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for label in torch.randint(2, (number,), generator=draw):
        words = torch.randint(1, 10, (8,), generator=draw)
        words[:3] = torch.randint(0, 10, (3,), generator=draw) + first_word + 10 * int(label)
        if first_word == NEW:  # two words of the other old class are in it
            words[3:5] = torch.randint(0, 10, (2,), generator=draw) + OLD + 10 * int(1 - label)
        rows.append({"input_ids": words[torch.randperm(8, generator=draw)], "labels": label})
    return rows


@torch.no_grad()
def accuracy(model: BertForSequenceClassification, rows: list[Row]) -> float:
    ids, labels = torch.stack([row["input_ids"] for row in rows]), torch.stack([row["labels"] for row in rows])
    return (model.eval()(input_ids=ids).logits.argmax(1) == labels).float().mean().item()


def run(protected: bool, folder: str) -> tuple[float, float]:
    """Accuracy on the old task and on the new one."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=70, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=8, num_labels=2,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    keep = holdfast.EWC(model, strength=1e8)  # a model that is sure of its answers has a very small Fisher
    settings = TrainingArguments(
        folder, per_device_train_batch_size=32, num_train_epochs=6, learning_rate=3e-3, use_cpu=True, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=0,
    )  # fmt: skip
    for task, first_word in enumerate([OLD, NEW]):
        trainer = Trainer(model, settings, train_dataset=texts(first_word, 512, seed=task))
        if protected:
            protect(trainer, keep, consolidate=True, samples=256)
        trainer.train()
    return accuracy(model, texts(OLD, 256, seed=5)), accuracy(model, texts(NEW, 256, seed=6))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        (old, new), (kept, learned) = run(False, folder), run(True, folder)
    print(f"old task: accuracy {old:.3f} without protection, {kept:.3f} with")
    print(f"new task: accuracy {new:.3f} without protection, {learned:.3f} with")
