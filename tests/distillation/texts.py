"""A small language model that has moved on from what it was, and texts for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from holdfast import LwF
from holdfast.objectives import CausalLM

OBJECTIVE = CausalLM(per="token")
WORDS = 11


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.net, self.out = nn.Embedding(WORDS, 5), nn.GRU(5, 5, batch_first=True), nn.Linear(5, WORDS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        found: Tensor = 3 * self.out(self.net(self.words(input_ids))[0])
        return found


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Recurrent().double()


def text(seed: int, length: int = 6) -> dict[str, Tensor]:
    words = torch.randint(0, WORDS, (2, length), generator=torch.Generator().manual_seed(seed))
    labels = words.clone()
    labels[0, -1] = -100
    return {"input_ids": words, "labels": labels}


def apart(new: Tensor, old: Tensor, batch: dict[str, Tensor], kind: str, temperature: float = 1.0) -> Tensor:
    """Position by position, word by word."""
    total, count = new.new_zeros(()), 0
    for row, labels in enumerate(batch["labels"].tolist()):
        for place, label in enumerate(labels[1:]):
            if label == -100:
                continue
            open_ = [k for k in range(WORDS) if kind != "non_target" or k != label]
            p, q = ((f[row, place, open_] / temperature).softmax(-1) for f in (new, old))
            total = total + ((p * (p / q).log()) if kind == "reverse" else (q * (q / p).log())).sum()
            count += 1
    return total / count


def taught(**settings: Any) -> tuple[nn.Module, LwF, Callable[[dict[str, Tensor]], Tensor]]:
    """A model that has moved on, its method, and what the old one answers."""
    model, old = network(), network()
    keep = LwF(model, **{"strength": 0.7, "temperature": 1.0, "objective": OBJECTIVE} | settings)
    keep.consolidate()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype)
    return model, keep, lambda batch: old(batch["input_ids"]).detach()


def gradients(value: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(model.parameters()), retain_graph=True))
