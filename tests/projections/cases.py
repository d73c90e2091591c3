"""What the tests of methods that retrain share: a net with several heads, and a plain training loop."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.3),
}


class Heads(nn.Module):
    """BatchNorm and several heads; a task's loss reaches its own head only."""

    def __init__(self, heads: int = 2, *, norm: bool = True) -> None:
        super().__init__()
        parts = [nn.Linear(5, 7), *([nn.BatchNorm1d(7)] if norm else []), nn.ReLU(), nn.Linear(7, 6), nn.ReLU()]
        self.trunk = nn.Sequential(*parts)
        self.heads = nn.ModuleList(nn.Linear(6, 3) for _ in range(heads))

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.trunk(x)
        return [head(h) for head in self.heads]


def heads(number: int = 2, *, norm: bool = True, dtype: torch.dtype = torch.float32) -> Heads:
    torch.manual_seed(0)
    return Heads(number, norm=norm).to(dtype)


def data(seed: int, batches: int = 3, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 5, generator=g).to(dtype), torch.randint(3, (8,), generator=g)) for _ in range(batches)]


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[tuple[Tensor, Tensor]], head: int = 0
) -> None:
    model.train()
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x)[head], y).backward()
        optimizer.step()
