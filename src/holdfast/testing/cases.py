"""Small tasks, a small network with whatever is difficult about networks, and a plain training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.method import Method
from holdfast.names import canonical_parameters
from holdfast.objectives import Classification

__all__ = [
    "Batch",
    "Net",
    "adam",
    "consolidate",
    "network",
    "same",
    "same_state",
    "sgd",
    "step",
    "task",
    "train",
    "weights",
]

Batch: TypeAlias = tuple[Tensor, Tensor]


class Net(nn.Module):
    """BatchNorm, dropout, a shared weight, a frozen weight and a parameter that never has a gradient.

    Args:
        dropout: its probability.
        outputs: rows of the head.
    """

    first: nn.Linear
    norm: nn.BatchNorm1d
    drop: nn.Dropout
    middle: nn.Linear
    shared: nn.Linear
    frozen: nn.Parameter
    unused: nn.Parameter
    head: nn.Linear

    def __init__(self, *, dropout: float = 0.0, outputs: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(dropout)
        self.middle = nn.Linear(8, 8)
        self.shared = nn.Linear(8, 8)
        self.shared.weight = self.middle.weight
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(8, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``[B, outputs]`` of inputs ``[B, 6]``."""
        x = self.drop(torch.relu(self.norm(self.first(inputs)))) * self.frozen
        x = torch.tanh(self.shared(torch.relu(self.middle(x))))
        found: Tensor = self.head(x)
        return found


def network(seed: int = 0, dtype: torch.dtype = torch.float32, *, dropout: float = 0.0, outputs: int = 4) -> Net:
    """The network, the same for a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(dropout=dropout, outputs=outputs).to(dtype)


def task(seed: int, dtype: torch.dtype = torch.float32, batches: int = 4) -> list[Batch]:
    """A few batches ``([12, 6], [12])`` whose 4 labels a linear rule gives."""
    draw = torch.Generator().manual_seed(seed)
    rule = torch.randn(6, 4, generator=draw, dtype=torch.float64)
    found = []
    for _ in range(batches):
        x = torch.randn(12, 6, generator=draw, dtype=torch.float64)
        found.append((x.to(dtype), (x @ rule).argmax(1)))
    return found


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum and weight decay."""
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """Adam with weight decay."""
    return torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, methods: Iterable[Method] = ()) -> None:
    """One step, with the penalties of those methods that act through the loss."""
    outputs = model(batch[0])
    loss = nn.functional.cross_entropy(outputs, batch[1])
    for method in methods:
        if method.needs_penalty:
            loss = loss + method.penalty(batch, outputs)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Batch], *methods: Method) -> None:
    """One pass over some batches."""
    for batch in batches:
        step(model, optimizer, batch, methods)


def consolidate(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch], *methods: Method) -> None:
    """End a task: the rounds of retraining that a method asks for, then remember."""
    for method in methods:
        while method.next_round(batches, objective=Classification()):
            train(model, optimizer, batches, *methods)
        method.consolidate(batches, objective=Classification(), generator=torch.Generator().manual_seed(7))


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter, by canonical name."""
    return {name: p.detach().clone() for name, p in canonical_parameters(model).items()}


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal to the last bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def same_state(left: Any, right: Any) -> bool:
    """Whether two state dicts are equal to the last bit."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_state(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same_state, left, right))
    return bool(left == right)
