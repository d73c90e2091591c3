"""Two small data sets of texts: sentences that go on as they began, each set in words of its own."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.bench.comparing import plan
from holdfast.bench.data import streams
from holdfast.bench.data.sets import TextDataset
from holdfast.bench.data.tasks import Stream
from holdfast.bench.records.record import RunConfig

NAME = "lm-sequence-imdb-financial_phrasebank"
OPTIONS: dict[str, Any] = {"tokens": 8, "vocabulary": 40, "rows": 60, "test_rows": 20}


def load(name: str, **_: Any) -> TextDataset:
    """Stands in for ``holdfast.bench.data.named.load_text``."""

    def text(k: int) -> str:
        return " ".join(f"{name[:2]}{(k * (1 + j)) % 11}" for j in range(9))

    labels = torch.zeros(60, dtype=torch.int64)
    test = tuple(map(text, range(60, 90))) if name == "imdb" else ()
    return TextDataset(name, tuple(map(text, range(60))), labels, test, labels[: len(test)], ("a", "b"))


def stream(seed: int = 0) -> Stream:
    """Both, one after the other; 25 different words in rows of 8."""
    return streams.build(NAME, seed=seed, scenario="domain", text=OPTIONS)


def config(method: str = "finetune", *, model_options: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    """A run of some twenty steps."""
    fields = {"stream_options": {"text": OPTIONS}, "model_options": model_options or {}}
    return plan.plan(stream(), method, changes={"batch_size": 8, "epochs": 2, **changes}, **fields)
