"""What the guide's pictures show, computed: small networks on scikit-learn's digits, seconds each, one thread."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import holdfast
from holdfast.heads import SLDA

__all__ = ["COMPUTATIONS"]

Data = tuple[Tensor, Tensor]


def _digits() -> tuple[Data, Data]:
    """Training and test part: pixels from 0 to 1 ``[N, 64]``, labels; every fifth sample is of the test."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16.0, dtype=torch.float32), torch.tensor(y)
    test = torch.arange(len(y)) % 5 == 0
    return (x[~test], y[~test]), (x[test], y[test])


def _network(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, epochs: int, seed: int,
           each: Callable[[], None] = lambda: None) -> None:  # fmt: skip
    draw = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for places in torch.randperm(len(data[1]), generator=draw).split(32):
            loss = F.cross_entropy(model(data[0][places]), data[1][places])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            each()


@torch.no_grad()
def _accuracy(model: nn.Module, data: Data) -> float:
    return round((model(data[0]).argmax(1) == data[1]).float().mean().item(), 4)


def _batches(data: Data) -> list[Data]:
    return list(zip(data[0].split(32), data[1].split(32), strict=True))


def forgetting() -> dict[str, Any]:
    """Digits, then the same digits with their pixels in another order: how the first are answered on the way."""
    train, test = _digits()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    other = [(x[:, order], y) for x, y in (train, test)]
    curves: dict[str, Any] = {}
    for name in ("fine-tuning", "EWC"):
        model = _network(64, 200, 10)
        _train(model, torch.optim.Adam(model.parameters(), lr=2e-3), train, 12, 0)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        if name == "EWC":
            keep = holdfast.EWC(model)
            keep.consolidate(_batches(train))
            keep.attach(optimizer)
        found: dict[str, list[float]] = {
            "step": [0],
            "old": [_accuracy(model, test)],
            "new": [_accuracy(model, other[1])],
        }
        steps = 0

        def look(model: nn.Module = model, found: dict[str, list[float]] = found) -> None:
            nonlocal steps
            steps += 1
            if steps % 15 == 0:
                found["step"].append(steps)
                found["old"].append(_accuracy(model, test))
                found["new"].append(_accuracy(model, other[1]))

        _train(model, optimizer, other[0], 10, 1, look)
        curves[name] = found
    return curves


def fisher() -> dict[str, Any]:
    """A logistic regression of two weights: the old loss around its minimum, its Fisher, two ways to a new minimum."""
    draw = torch.Generator().manual_seed(3)
    # The first input is large and says much of the old labels, the second is small: the old loss is a valley.
    x = torch.randn(400, 2, generator=draw) * torch.tensor([2.0, 0.7])
    x[:, 1] += 0.25 * x[:, 0]  # and leans a little
    y = (torch.rand(400, generator=draw) < torch.sigmoid(x @ torch.tensor([1.2, 0.8]))).long()
    z = torch.randn(400, 2, generator=draw) * torch.tensor([0.7, 1.0])
    w = (torch.rand(400, generator=draw) < torch.sigmoid(z @ torch.tensor([-0.6, 3.0]))).long()
    model = _Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(600):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    start = model.weight.detach().clone()
    ways, importance = {}, [0.0, 0.0]
    for name in ("fine-tuning", "EWC"):
        model.weight.data.copy_(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        if name == "EWC":
            keep = holdfast.EWC(model, strength=6.0)
            keep.consolidate([(x, y)])
            keep.attach(optimizer)
            importance = keep.state["weight"]["importance"].tolist()
        way = [start.tolist()]
        for step in range(240):
            optimizer.zero_grad()
            F.cross_entropy(model(z), w).backward()
            optimizer.step()
            if step % 8 == 7:
                way.append(model.weight.detach().tolist())
        ways[name] = [[round(value, 4) for value in point] for point in way]
    first, second = torch.linspace(*_FIRST, 46), torch.linspace(*_SECOND, 40)
    grid = [[round(F.cross_entropy(model.at(torch.stack([a, b]), x), y).item(), 4) for a in first] for b in second]
    return {
        "start": [round(value, 4) for value in start.tolist()], "fisher": [round(value, 5) for value in importance],
        "ways": ways, "first": list(_FIRST), "second": list(_SECOND), "loss": grid,
    }  # fmt: skip


_FIRST, _SECOND = (-0.8, 3.0), (-1.0, 3.0)


class _Line(nn.Module):
    """Two weights, two classes: the second one's logit is ``x · weight``, the first one's 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def at(self, weight: Tensor, x: Tensor) -> Tensor:
        one = x @ weight
        return torch.stack([torch.zeros_like(one), one], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.at(self.weight, x)


def class_incremental() -> dict[str, Any]:
    """Five tasks of two digits in one head of ten: which digit is answered for which, in the end, in per cent."""
    train, test = _digits()
    tasks = [tuple(part[_among(train[1], pair)] for part in train) for pair in _PAIRS]
    tables = {}
    for name in ("fine-tuning", "EWC"):
        model = _network(64, 100, 10)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        keep = holdfast.EWC(model).attach(optimizer) if name == "EWC" else None
        for task in tasks:
            _train(model, optimizer, task, 8, 0)
            if keep is not None:
                keep.consolidate(_batches(task))
        tables[name] = _table(model(test[0]).argmax(1), test[1])
    head = SLDA(nn.Identity(), shrinkage="auto")
    for task in tasks:
        head.consolidate(_batches(task))
    tables["SLDA"] = _table(head.predict(test[0]), test[1])
    return tables


_PAIRS = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]


def _among(labels: Tensor, wanted: tuple[int, ...]) -> Tensor:
    return torch.isin(labels, torch.tensor(wanted))


def _table(answers: Tensor, labels: Tensor) -> list[list[int]]:
    counts = torch.zeros(10, 10).index_put((labels, answers), torch.tensor(1.0), accumulate=True)
    return [[round(value) for value in row] for row in (100 * counts / counts.sum(1, keepdim=True)).tolist()]


def subspaces() -> dict[str, Any]:
    """Of each layer's inputs on the first digits, the energy in so many directions; and how full GPM's memory gets."""
    train, _ = _digits()
    model = _network(64, 100, 100, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep = holdfast.GPM(model, threshold=0.97).attach(optimizer)
    energy: dict[str, list[float]] = {}
    fullness: dict[str, list[float]] = {}
    for place, pair in enumerate(_PAIRS):
        of = _among(train[1], pair)
        task = (train[0][of], train[1][of] % 2)
        _train(model, optimizer, task, 10, place)
        if place == 0:
            energy = _energies(model, task[0])
        keep.consolidate(_batches(task))
        for name, share in keep.fullness.items():
            fullness.setdefault(name, []).append(round(float(share), 4))
    return {"energy": energy, "fullness": fullness, "threshold": 0.97}


@torch.no_grad()
def _energies(model: nn.Sequential, x: Tensor) -> dict[str, list[float]]:
    found = {}
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear):
            values = torch.linalg.svdvals(x.double()).square()
            found[f"{name}.weight"] = [round(value, 4) for value in (values.cumsum(0) / values.sum()).tolist()[:30]]
        x = layer(x)
    return found


COMPUTATIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "forgetting": forgetting,
    "fisher": fisher,
    "class-incremental": class_incremental,
    "subspaces": subspaces,
}
"""Picture -> what computes it."""
