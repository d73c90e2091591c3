"""Two optimizers, one ``keep``: Muon for the matrices, AdamW for the rest. ``attach`` takes them all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import holdfast


def points(task: int, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Four classes; each task has them around places of its own, in sixteen dimensions."""
    places = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (number,), generator=draw)
    return places[task][y] + 0.5 * torch.randn(number, 16, generator=draw), y


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return (model(x).argmax(1) == y).float().mean().item()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))


def optimizers(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    return torch.optim.Muon(matrices, lr=1e-2), torch.optim.AdamW(rest, lr=1e-2)


def run(protected: bool) -> tuple[float, float]:
    """Accuracy on the old task, and on the new one, after both."""
    model = network()
    keep = holdfast.EWC(model, strength=1e4)
    for task in (0, 1):
        both = optimizers(model)
        if protected:
            keep.attach(*both)
        x, y = points(task, 512, seed=task + 1)
        batches = list(zip(x.split(32), y.split(32), strict=True))
        for _ in range(5):
            for inputs, labels in batches:
                model.zero_grad()
                nn.functional.cross_entropy(model(inputs), labels).backward()
                for optimizer in both:
                    optimizer.step()
        if protected and task == 0:
            keep.consolidate(batches)
    return accuracy(model, *points(0, 512, seed=3)), accuracy(model, *points(1, 512, seed=4))


if __name__ == "__main__":
    (old, new), (kept, learned) = run(protected=False), run(protected=True)
    print(f"old task: accuracy {old:.3f} without protection, {kept:.3f} with")
    print(f"new task: accuracy {new:.3f} without protection, {learned:.3f} with")
