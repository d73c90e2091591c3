"""Protect a detector, whose loss only the model itself knows: ModelLoss, EWC, under half a minute.

The detector is a small one that is made here; one of torchvision or Transformers is called in the same way, with its
images and its list of targets in a dict, and returns its loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import holdfast
from holdfast import ModelLoss

Batch = dict[str, Any]


class Detector(nn.Module):
    """Says for each of 4 x 4 cells whether an object is in its middle, and the object's height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(16, 3, 1),
        )  # fmt: skip

    def forward(self, images: Tensor, labels: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        found = self.body(images)  # [B, 3, 4, 4]
        there, size = torch.zeros(len(labels), 4, 4), torch.zeros(len(labels), 2, 4, 4)
        for index, target in enumerate(labels):
            for (row, column), box in zip(target["cells"], target["sizes"], strict=True):
                there[index, row, column], size[index, :, row, column] = 1.0, box
        seen = nn.functional.binary_cross_entropy_with_logits(found[:, 0], there)
        boxes = ((found[:, 1:] - size).square() * there[:, None]).sum() / there.sum().clamp(min=1)
        return {"loss": seen + boxes, "there": found[:, 0]}


def scenes(bright: bool, number: int, seed: int) -> list[Batch]:
    """Bright things on a dark ground, or dark ones on a bright ground; one or two in each image of 16 x 16."""
    draw = torch.Generator().manual_seed(seed)
    images, labels = torch.zeros(number, 1, 16, 16), []
    for image in images:
        many = int(torch.randint(1, 3, (), generator=draw))
        cells = torch.randperm(16, generator=draw)[:many]
        places, sizes = torch.stack([cells // 4, cells % 4], 1), torch.randint(1, 4, (many, 2), generator=draw)
        for (row, column), (height, width) in zip((4 * places).tolist(), sizes.tolist(), strict=True):
            image[0, row : row + height, column : column + width] = 1.0
        labels.append({"cells": places, "sizes": sizes.float()})
    images += 0.1 * torch.randn(images.shape, generator=draw)
    images = images if bright else 1.0 - images
    return [{"images": images[at : at + 32], "labels": labels[at : at + 32]} for at in range(0, number, 32)]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch], epochs: int) -> None:
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            model(**batch)["loss"].backward()
            optimizer.step()


@torch.no_grad()
def loss(model: nn.Module, batches: list[Batch]) -> float:
    return sum(model(**batch)["loss"].item() for batch in batches) / len(batches)


def run(protected: bool) -> tuple[float, float]:
    """Loss on bright things, and on dark ones."""
    torch.manual_seed(0)
    model = Detector()
    old, new = scenes(True, 256, seed=1), scenes(False, 256, seed=2)
    train(model, torch.optim.Adam(model.parameters(), lr=1e-2), old, epochs=15)

    keep = holdfast.EWC(model, strength=100.0, objective=ModelLoss())
    keep.consolidate(old)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    if protected:
        keep.attach(optimizer)
    train(model, optimizer, new, epochs=20)
    return loss(model, scenes(True, 128, seed=3)), loss(model, scenes(False, 128, seed=4))


if __name__ == "__main__":
    (old, new), (kept, learned) = run(protected=False), run(protected=True)
    print(f"old task: loss {old:.3f} without protection, {kept:.3f} with")
    print(f"new task: loss {new:.3f} without protection, {learned:.3f} with")
