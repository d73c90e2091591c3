"""Importances of models of sequences, per sample, beside a plain training pass over the same samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from holdfast.importance import fisher, mas
from holdfast.objectives import CausalLM, Classification, Objective
from speed.rows import Row, cost
from speed.timing import Setup, alternate

__all__ = ["sequences"]

_WORDS, _CLASSES = 1000, 4
# The first batch of an estimate costs more: there the layer rules are checked against autograd.
_BATCHES = 8
_TARGET = 1.5


def sequences(setup: Setup) -> list[Row]:
    """The empirical Fisher and MAS of small Transformers beside a training pass."""
    layers, width, samples, length, number = (1, 16, 2, 8, 1) if setup.quick else (4, 256, 16, 64, _BATCHES)
    rows = []
    for kind, objective in (
        ("BERT", Classification()),
        ("GPT-2", Classification()),
        ("GPT-2 language model", CausalLM(per="sequence")),
    ):
        language = isinstance(objective, CausalLM)
        model, trained = (_model(kind, layers, width, length).to(setup.device) for _ in range(2))
        optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
        draw = torch.Generator().manual_seed(0)
        batches = [_batch(samples, length, language, draw, setup.device) for _ in range(number)]

        def training(trained: nn.Module = trained, optimizer: torch.optim.Optimizer = optimizer) -> None:
            trained.train()
            for batch in batches:  # noqa: B023  # called within this round
                optimizer.zero_grad()
                trained(**batch).loss.backward()
                optimizer.step()

        def empirical(model: nn.Module = model, objective: Objective = objective) -> None:
            fisher(model, batches, objective=objective, kind="empirical")  # noqa: B023  # called within this round

        def sensitivity(model: nn.Module = model, objective: Objective = objective) -> None:
            mas(model, batches, objective=objective)  # noqa: B023  # called within this round

        timings = alternate(setup, {"training": training, "empirical": empirical, "mas": sensitivity}, warm=1)
        for name, shown in (("empirical", "empirical Fisher"), ("mas", "MAS")):
            work = f"{shown}, {kind}, {layers} layers of {width}, {number} batches of {samples} × {length}"
            rows.append(
                cost(timings, name, "training", bench="sequences", work=work, device=setup.device.type,
                     than="plain training pass (SGD)", target=_TARGET)
            )  # fmt: skip
    return rows


def _model(kind: str, layers: int, width: int, length: int) -> nn.Module:
    import transformers  # slow to import, and only this benchmark needs it

    torch.manual_seed(0)
    if kind == "BERT":
        config = transformers.BertConfig(
            vocab_size=_WORDS, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
            intermediate_size=4 * width, max_position_embeddings=length, num_labels=_CLASSES,
        )  # fmt: skip
        return transformers.BertForSequenceClassification(config)
    config = transformers.GPT2Config(
        vocab_size=_WORDS, n_embd=width, n_layer=layers, n_head=4, n_positions=length, num_labels=_CLASSES,
        pad_token_id=0, bos_token_id=1, eos_token_id=1, loss_type="ForCausalLM",
    )  # fmt: skip
    made = transformers.GPT2LMHeadModel if "language" in kind else transformers.GPT2ForSequenceClassification
    return made(config)


def _batch(samples: int, length: int, language: bool, draw: torch.Generator, device: torch.device) -> dict[str, Any]:
    words = torch.randint(2, _WORDS, (samples, length), generator=draw).to(device)
    labels = words if language else torch.randint(_CLASSES, (samples,), generator=draw).to(device)
    return {"input_ids": words, "labels": labels}
