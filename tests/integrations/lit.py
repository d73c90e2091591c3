"""Lightning modules as people write them, which know nothing of Holdfast, and what trains them by hand."""

from __future__ import annotations

import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional as F

from holdfast.testing.cases import network, task

OLD, NEW = task(1), [batch for n in range(2, 6) for batch in task(n)]


class Lit(LightningModule):
    """Trains automatically, returning a loss or a dict, or by hand, two micro-batches a step."""

    def __init__(self, way="automatic", keep=None):
        super().__init__()
        self.net, self.way, self.keep, self.calls = network(), way, keep, 0
        self.automatic_optimization = way != "manual"

    def forward(self, x):
        self.calls += 1
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        outputs = self(x)
        loss = F.cross_entropy(outputs, y)
        if self.keep is not None:
            loss = loss + self.keep.penalty(batch, outputs)
        if self.way == "manual":
            self.manual_backward(loss / 2)
            if batch_idx % 2 == 1:
                optimizer = self.optimizers()
                optimizer.step()
                optimizer.zero_grad()
            return None
        return loss if self.way == "automatic" else {"loss": loss, "more": 1}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Rows:
    """A loader that says where it is, as ``StatefulDataLoader`` does: Lightning resumes in mid-epoch with no other."""

    def __init__(self, data):
        self.data, self.at, self.start = data, 0, 0

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        start, self.start = self.start, 0
        for at in range(start, len(self.data)):
            self.at = at + 1
            yield self.data[at]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.start = state["at"]


def fit(module, *callbacks, data=NEW, path=None, kind=Trainer, **options):
    options = {"max_epochs": 1, "logger": False, "accelerator": "cpu", "devices": 1} | options
    options["enable_checkpointing"] = any(isinstance(c, ModelCheckpoint) for c in callbacks)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="(lightning|pytorch_lightning|torch)")
        quiet = {"enable_progress_bar": False, "enable_model_summary": False}
        trainer = kind(callbacks=list(callbacks), **quiet, **options)
        trainer.fit(module, Rows(data), ckpt_path=path)
    return trainer


def by_hand(net: nn.Module, keep, data=NEW, micro=1):
    """What a loop of one's own makes of it."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    keep.attach(optimizer)
    net.train()
    for at in range(0, len(data), micro):
        optimizer.zero_grad()
        for batch in data[at : at + micro]:
            outputs = net(batch[0])
            loss = F.cross_entropy(outputs, batch[1])
            (loss / micro + keep.penalty(batch, outputs, scale=1 / micro)).backward()
        optimizer.step()


def far(one: nn.Module, two: nn.Module) -> float:
    """The largest difference of a weight."""
    pairs = zip(one.named_parameters(), two.parameters(), strict=True)
    # The gradient of a bias before BatchNorm is nothing but rounding, of which AdamW makes whole steps.
    return max((a - b).abs().max().item() for (name, a), b in pairs if name != "first.bias")
