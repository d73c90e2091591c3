"""Tiny models and data for a real ``Trainer``."""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from holdfast.names import canonical_parameters
from tests.objectives.tiny import ENCODER, GPT2, T5


def causal(dropout: float = 0.0, spread: float = 0.02) -> Any:
    torch.manual_seed(0)
    drops = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, **drops, initializer_range=spread))


def classifier() -> Any:
    torch.manual_seed(0)
    drops = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return transformers.BertForSequenceClassification(transformers.BertConfig(**ENCODER, **drops, num_labels=3))


def seq2seq() -> Any:
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, dropout_rate=0.0))


def rows(seed: int, number: int = 16, *, uneven: bool = False) -> list[dict[str, Tensor]]:
    """Texts; uneven ones have between two and six labelled words."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for index in range(number):
        ids = torch.randint(3, 20, (6,), generator=draw)
        labels = ids.clone()
        if uneven:
            labels[: index % 5] = -100
        found.append({"input_ids": ids, "labels": labels})
    return found


def classes(seed: int, number: int = 16) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 20, (number, 6), generator=draw)
    return [{"input_ids": row, "labels": row[0] % 3} for row in ids]


def arguments(folder: Any, kind: Any = transformers.TrainingArguments, **settings: Any) -> Any:
    usual = {
        "output_dir": str(folder), "per_device_train_batch_size": 8, "max_steps": 4, "learning_rate": 1e-2,
        "report_to": [], "use_cpu": True, "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True,
        "seed": 1,
    }  # fmt: skip
    return kind(**{**usual, **settings})


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in canonical_parameters(model).items()}


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def batch_of(data: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([row[key] for row in data]) for key in data[0]}


def twin(model: Any) -> Any:
    return copy.deepcopy(model)
