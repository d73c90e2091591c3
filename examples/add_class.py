"""Add a class to a classifier, without data of the old ones: a plain loop, EWC, under ten seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import holdfast


def points(classes: list[int], number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points around four places in sixteen dimensions."""
    places = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes)[torch.randint(len(classes), (number,), generator=draw)]
    return places[y] + 0.5 * torch.randn(number, 16, generator=draw), y


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, epochs: int) -> None:
    for _ in range(epochs):
        for inputs, labels in zip(x.split(32), y.split(32), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return (model(x).argmax(1) == y).float().mean().item()


def run(protected: bool) -> tuple[float, float]:
    """Accuracy on the four old classes, and on the new one."""
    torch.manual_seed(0)
    old, new = points([0, 1, 2, 3], 512, seed=1), points([4], 128, seed=2)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    train(model, torch.optim.Adam(model.parameters(), lr=1e-2), *old, epochs=5)

    keep = holdfast.EWC(model, strength=1e3)
    keep.consolidate([old])  # the last time that the old data are there

    head = nn.Linear(32, 5)  # a row for the new class
    with torch.no_grad():
        head.weight[:4], head.bias[:4] = model[2].weight, model[2].bias
    model[2] = head
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    if protected:
        keep.attach(optimizer)  # the old rows are held, the new one is free
    train(model, optimizer, *new, epochs=30)
    return accuracy(model, *points([0, 1, 2, 3], 512, seed=3)), accuracy(model, *points([4], 128, seed=4))


if __name__ == "__main__":
    (old, new), (kept, learned) = run(protected=False), run(protected=True)
    print(f"old task: accuracy {old:.3f} without protection, {kept:.3f} with")
    print(f"new task: accuracy {new:.3f} without protection, {learned:.3f} with")
