"""A plain training loop written out with autograd and momentum: the twin of SI, RWalk and the hooks under them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

DOUBLE = torch.float64
LEARNING_RATE, MOMENTUM = 0.1, 0.9


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(DOUBLE)


def batches(seed: int, number: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(7, 4, generator=draw, dtype=DOUBLE), torch.randint(3, (7,), generator=draw)) for _ in range(number)
    ]


def task_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]]) -> None:
    for batch in data:
        optimizer.zero_grad()
        task_loss(model, batch).backward()
        optimizer.step()


class Walk:
    """SGD with momentum by hand; ``each(k, before, gradient, after)`` sees every weight's own step."""

    def __init__(self, penalty_gradient: Callable[[str, Tensor], Tensor]) -> None:
        self.model = network()
        self.penalty_gradient = penalty_gradient
        self.velocity = {name: torch.zeros_like(p) for name, p in self.model.named_parameters()}

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def go(
        self, data: list[tuple[Tensor, Tensor]], each: Callable[[str, Tensor, Tensor, Tensor], None] = lambda *a: None
    ) -> None:
        for batch in data:
            named = dict(self.model.named_parameters())
            gradients = torch.autograd.grad(task_loss(self.model, batch), list(named.values()))
            for (name, p), g in zip(named.items(), gradients, strict=True):
                before = p.detach().clone()
                self.velocity[name] = MOMENTUM * self.velocity[name] + g + self.penalty_gradient(name, before)
                p.data = before - LEARNING_RATE * self.velocity[name]
                each(name, before, g, p.detach().clone())


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
