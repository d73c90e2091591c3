"""One process of two: Accelerate and Lightning, with copies of the weights and with shards, on half of each batch."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.nn import functional as F

from holdfast import EWC, SI, LwF
from holdfast.sharding import whole
from holdfast.testing.cases import same_state, task

METHODS = {
    "ewc": lambda m: EWC(m, strength=30.0),
    "ewc, loss": lambda m: EWC(m, strength=30.0, coupling="loss"),
    "si": lambda m: SI(m, strength=3.0),
    "lwf": lambda m: LwF(m, strength=3.0),
}
OLD, NEW = task(1), [batch for n in range(2, 5) for batch in task(n)]
RATE = 0.01


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def half(batches, rank):
    return [(x[rank::2], y[rank::2]) for x, y in batches]


def in_one_process(make) -> dict[str, Any]:
    """What one process with all of the data comes to."""
    net = network()
    keep = make(net)
    for data in (OLD, NEW):
        optimizer = torch.optim.AdamW(net.parameters(), lr=RATE)
        keep.attach(optimizer)
        for batch in data:
            outputs = net(batch[0])
            optimizer.zero_grad()
            (F.cross_entropy(outputs, batch[1]) + keep.penalty(batch, outputs)).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
        keep.consolidate(data)
    return weights(net)


def weights(net):
    return {name: whole(p.detach()).clone() for name, p in net.state_dict().items()}


def accelerated(make, rank, folder, sharded):
    """Two tasks, the second saved half way; and what a new process would make of the second half."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    from holdfast.integrations.accelerate import register_for_checkpointing

    def prepared(seed, keep_of):
        AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=True)
        if sharded:  # which Accelerate itself offers for GPUs alone
            AcceleratorState._shared_state["distributed_type"] = DistributedType.FSDP
            AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin(
                fsdp_version=2, auto_wrap_policy="NO_WRAP"
            )
        net = network(seed)
        model, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), lr=RATE))
        keep = keep_of(model)
        register_for_checkpointing(accelerator, keep.attach(optimizer))
        return accelerator, model, optimizer, keep

    def steps(accelerator, model, optimizer, keep, data):
        for batch in half(data, rank):
            outputs = model(batch[0])
            accelerator.backward(F.cross_entropy(outputs, batch[1]) + keep.penalty(batch, outputs))
            accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()

    first = prepared(0, make)
    steps(*first, OLD)
    keep = first[-1]
    keep.consolidate(half(OLD, rank))
    state = weights(first[1])
    run = prepared(0, make)
    run[1].load_state_dict(first[1].state_dict())
    run[-1].load_state_dict(keep.state_dict())
    del state
    steps(*run, NEW[:3])
    run[0].save_state(str(folder))
    steps(*run, NEW[3:])
    again = prepared(5, make)
    again[0].load_state(str(folder))
    steps(*again, NEW[3:])
    for each in (run, again):
        each[-1].consolidate(half(NEW, rank))
    return {
        "weights": weights(run[1]),
        "resumed": weights(again[1]),
        "tasks": [run[-1].num_tasks, again[-1].num_tasks],
        "same": same_state(run[-1].state_dict(), again[-1].state_dict()),
        "files": sorted(path.name for path in folder.iterdir() if "holdfast" in path.name),
    }


def lightning(make, rank, folder, way):
    """The same with a Lightning module and its callback; resumed where the second task was half done."""
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard

    from holdfast.integrations.lightning import Protect
    from tests.integrations.lit import Lit, fit

    class Small(Lit):
        def __init__(self, seed=0):
            super().__init__("manual" if way == "manual" else "automatic")
            self.net = network(seed)

        def configure_model(self):
            if way == "sharded" and not hasattr(self.net, "unshard"):
                fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

        def training_step(self, batch, batch_idx):
            loss = F.cross_entropy(self(batch[0]), batch[1])
            if way != "manual":
                return loss
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            nn.utils.clip_grad_norm_(self.net.parameters(), 1e6)
            optimizer.step()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=RATE)

    def trained(module, keep, data, *callbacks, **options):
        strategy = ModelParallelStrategy() if way == "sharded" else DDPStrategy()
        fit(module, *callbacks, Protect(keep), data=half(data, rank), strategy=strategy, devices=2, **options)

    module = Small()
    keep = make(module.net)
    trained(module, keep, OLD)
    keep.consolidate(half(OLD, rank))
    saved = {name: whole(t).clone() for name, t in module.state_dict().items()}, keep.state_dict()

    def begun(seed):
        fresh = Small(seed)
        return fresh, make(fresh.net)

    def restored():
        fresh, other = begun(0)
        fresh.load_state_dict(saved[0])
        other.load_state_dict(saved[1])
        return fresh, other

    run, kept = restored()
    saves = ModelCheckpoint(folder, filename="half", every_n_train_steps=3, save_top_k=1)
    trained(run, kept, NEW[:3], saves)
    trained(run2 := restored()[0], kept2 := kept, [], max_epochs=0) if False else None
    del run2, kept2
    return {}
