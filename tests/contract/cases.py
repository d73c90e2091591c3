"""What the contract tests share: tiny tasks, a plain training loop, every registry entry built small."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from holdfast import Method, registry
from holdfast.objectives import Classification

METHODS = [entry.name for entry in registry.entries() if entry.kind == "method"]
QUADRATIC = [entry.name for entry in registry.entries() if "quadratic" in entry.promises]
NEED_DATA = [entry.name for entry in registry.entries() if entry.kind == "method" and entry.needs_data]

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """BatchNorm, dropout, a shared weight, a frozen weight and a parameter that never has a gradient."""

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
        x = self.drop(torch.relu(self.norm(self.first(inputs)))) * self.frozen
        x = torch.tanh(self.shared(torch.relu(self.middle(x))))
        return self.head(x)


def network(seed: int = 0, dtype: torch.dtype = torch.float32, *, dropout: float = 0.0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(dropout=dropout).to(dtype)


def task(seed: int, dtype: torch.dtype = torch.float32, batches: int = 4) -> list[Batch]:
    """A few batches whose labels a linear rule gives."""
    draw = torch.Generator().manual_seed(seed)
    rule = torch.randn(6, 4, generator=draw, dtype=torch.float64)
    found = []
    for _ in range(batches):
        x = torch.randn(12, 6, generator=draw, dtype=torch.float64)
        found.append((x.to(dtype), (x @ rule).argmax(1)))
    return found


def build(name: str, model: nn.Module, **overrides: Any) -> Method:
    """The registry's method, weak enough that a few steps at any learning rate here stay finite."""
    entry = registry.lookup(name)
    values = dict(entry.defaults)
    if "strength" in values:
        values["strength"] = 0.3
    if name == "freeze":
        values["select"] = "middle"
    assert entry.build is not None
    method = entry.build(model, **{**values, **overrides})
    assert isinstance(method, Method)
    return method


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, methods: Iterable[Method] = ()) -> None:
    outputs = model(batch[0])
    loss = nn.functional.cross_entropy(outputs, batch[1])
    for method in methods:
        if method.needs_penalty:
            loss = loss + method.penalty(batch, outputs)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Batch], *methods: Method) -> None:
    for batch in batches:
        step(model, optimizer, batch, methods)


def consolidate(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch], *methods: Method) -> None:
    """End a task: the rounds of retraining that a method asks for, then remember."""
    for method in methods:
        while method.next_round(batches, objective=Classification()):
            train(model, optimizer, batches, *methods)
        method.consolidate(batches, objective=Classification(), generator=torch.Generator().manual_seed(7))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def same_state(left: Any, right: Any) -> bool:
    """Two state dicts are equal to the last bit."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_state(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same_state, left, right))
    return bool(left == right)
