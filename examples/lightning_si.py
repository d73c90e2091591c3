"""SI in a Lightning Trainer, by one callback: the module knows nothing of it. Two tasks, two Trainers, one ``keep``."""

from __future__ import annotations

import logging
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import holdfast
from holdfast.integrations.lightning import Protect


def points(task: int, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Four classes; each task has them around places of its own, in sixteen dimensions."""
    places = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (number,), generator=draw)
    return places[task][y] + 0.5 * torch.randn(number, 16, generator=draw), y


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return (model(x).argmax(1) == y).float().mean().item()


def run(protected: bool) -> tuple[float, float]:
    """Accuracy on the old task, and on the new one, after both."""
    torch.manual_seed(0)
    model = Classifier()
    keep = holdfast.SI(model, strength=10.0)
    for task in (0, 1):
        trainer = Trainer(
            max_epochs=5,
            callbacks=[Protect(keep, consolidate=True)] if protected else [],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, DataLoader(TensorDataset(*points(task, 512, seed=task + 1)), batch_size=32))
    model.eval()
    return accuracy(model, *points(0, 512, seed=3)), accuracy(model, *points(1, 512, seed=4))


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    (old, new), (kept, learned) = run(protected=False), run(protected=True)
    print(f"old task: accuracy {old:.3f} without protection, {kept:.3f} with")
    print(f"new task: accuracy {new:.3f} without protection, {learned:.3f} with")
