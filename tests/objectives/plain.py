"""What objectives are held against: one backward per value, formulas written out, models of a few weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.names import canonical_parameters

Statistic = Callable[[Tensor, Tensor], Tensor]


def square(gradient: Tensor, weight: Tensor) -> Tensor:
    return gradient**2


def size(gradient: Tensor, weight: Tensor) -> Tensor:
    return gradient.abs()


def change(gradient: Tensor, weight: Tensor) -> Tensor:
    u = gradient * weight
    return torch.maximum(torch.zeros_like(u), u + u**2 / 2)


def mean_of(model: nn.Module, values: list[Tensor], statistic: Statistic = square, number: int | None = None) -> Any:
    """The mean of a function of each value's gradient: one backward per value."""
    parameters = {name: p for name, p in canonical_parameters(model).items() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for value in values:
        gradients = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
        for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
            if gradient is not None:
                total[name] += statistic(gradient, p.detach())
    return {name: value / (number or len(values)) for name, value in total.items()}


def equal(found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values() if value.numel())
    assert largest > 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=1e-12 * largest)


def nll(logits: Tensor, target: int) -> Tensor:
    """Minus the log of a softmax's entry, written out."""
    return (logits - logits.max()).exp().sum().log() + logits.max() - logits[target]


def kl(new: Tensor, old: Tensor) -> Tensor:
    """KL(old || new) of two rows of logits, written out."""
    p, q = new.exp() / new.exp().sum(), old.exp() / old.exp().sum()
    return (q * (q / p).log()).sum()


class Words(nn.Module):
    """Each word sees those before it, so that padding behind a text changes no output of the text."""

    def __init__(self, words: int = 7, outputs: int = 7) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(words, 4)
        self.head = nn.Linear(4, outputs)
        self.double()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **ignored: Any) -> dict[str, Tensor]:
        return {"logits": self.head(torch.tanh(self.embedding(input_ids).cumsum(1)))}


class Pixels(nn.Module):
    """A class for each pixel, of a quarter of the image's size."""

    def __init__(self, channels: int = 2, outputs: int = 3, stride: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(channels, 4, 3, padding=1, stride=stride)
        self.head = nn.Conv2d(4, outputs, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


def move(model: nn.Module, amount: float = 0.3) -> None:
    """Another student than the teacher was."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(amount * torch.randn(p.shape, generator=generator, dtype=p.dtype))
