"""One process of two: Accelerate and Lightning, with copies of the weights and with shards, on half of each batch."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from importlib.metadata import version
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
# An older Accelerate loads shards of an optimizer into what the optimizer has before its first step, which is nothing.
LOADS_SHARDS = tuple(map(int, version("accelerate").split(".")[:2])) >= (1, 13)
ON_WEIGHTS = ["ewc", "ewc, loss"]  # what may act on the weights that adapters give
OLD, NEW = task(1), [batch for n in range(2, 5) for batch in task(n)]
RATE, CLIP = 0.01, 0.5


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def half(batches, rank):
    return [(x[rank::2], y[rank::2]) for x, y in batches]


def in_one_process(make, *, clip, fresh) -> dict[str, Any]:
    """What one process with all of the data comes to."""
    net = network()
    keep = make(net)
    for data in (OLD, NEW):
        if data is OLD or fresh:
            optimizer = torch.optim.AdamW(net.parameters(), lr=RATE)
            keep.attach(optimizer)
        for batch in data:
            outputs = net(batch[0])
            optimizer.zero_grad()
            (F.cross_entropy(outputs, batch[1]) + keep.penalty(batch, outputs)).backward()
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            optimizer.step()
        keep.consolidate(data)
    return weights(net)


def with_adapters(make, rank, folder=None, way="ddp"):
    """A base that is remembered, and two tasks with LoRA, remembered with the adapters in; alone without a rank."""
    from peft import LoraConfig, get_peft_model

    def mine(data):
        return data if rank is None else half(data, rank)

    net = network()
    keep = make(net)
    keep.consolidate(mine(OLD))
    lora = get_peft_model(net, LoraConfig(r=2, target_modules=["0"], modules_to_save=["2"]))
    with torch.no_grad():  # the same in both processes, and alone
        lora.base_model.model[0].lora_A.default.weight.copy_(torch.linspace(-1, 1, 12).reshape(2, 6))
    model = lora if rank is None else nn.parallel.DistributedDataParallel(lora)
    optimizer = torch.optim.AdamW([p for p in lora.parameters() if p.requires_grad], lr=RATE)
    keep.rebind(model, on="effective").attach(optimizer)
    for data in (NEW[:3], NEW[3:]):
        for batch in mine(data):
            outputs = model(batch[0])
            optimizer.zero_grad()
            (F.cross_entropy(outputs, batch[1]) + keep.penalty(batch, outputs)).backward()
            optimizer.step()
        keep.consolidate(mine(data))
    remembered = {f"{name} {kind}": t for name, held in keep.state.items() for kind, t in held.items()}
    return {"weights": {**weights(lora), **remembered}, "tasks": keep.num_tasks}


def weights(net):
    """Whole ones, under the names that the model has without wrappers."""
    return {name.removeprefix("module."): whole(p.detach()).clone() for name, p in net.state_dict().items()}


def accelerated(make, rank, folder, way):
    """Two tasks, the second saved half way; and what a new process would make of the second half."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    from holdfast.integrations.accelerate import register_for_checkpointing

    def prepared(seed, keep_of):
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True)
        if way == "fsdp2":  # which Accelerate itself offers for GPUs alone
            for state in (AcceleratorState, PartialState):
                state._shared_state["distributed_type"] = DistributedType.FSDP
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
            accelerator.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()

    run = prepared(0, make)
    steps(*run, OLD)
    run[-1].consolidate(half(OLD, rank))
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


def trained_by_lightning(make, rank, folder, way):
    """Two tasks with a module and the callback; the second is saved half way, and resumed by another."""
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard

    from holdfast.integrations.lightning import Protect
    from tests.integrations.lit import Lit, fit

    class Small(Lit):
        def __init__(self, seed=0):
            super().__init__("manual" if way == "manual" else "automatic")
            self.net, self.sharded = network(seed), False

        def configure_model(self):
            if way == "fsdp2" and not self.sharded:
                self.sharded = True
                fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

        def training_step(self, batch, batch_idx):
            loss = F.cross_entropy(self(batch[0]), batch[1])
            if way != "manual":
                return loss
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=RATE)

    def fitted(module, keep, data, *callbacks, **options):
        strategy = ModelParallelStrategy(2, 1) if way == "fsdp2" else DDPStrategy()
        fit(module, *callbacks, Protect(keep), data=half(data, rank), strategy=strategy, devices=2, **options)

    module = Small()
    keep = make(module.net)
    fitted(module, keep, OLD)
    keep.consolidate(half(OLD, rank))
    fitted(module, keep, NEW, ModelCheckpoint(folder, filename="half", every_n_train_steps=3, save_top_k=-1))
    again = Small(5)
    resumed = make(again.net)
    fitted(again, resumed, NEW, path=str(sorted(folder.glob("half*"))[0]))
    for each in (keep, resumed):
        each.consolidate(half(NEW, rank))
    return {
        "weights": weights(module.net),
        "resumed": weights(again.net),
        "tasks": [keep.num_tasks, resumed.num_tasks],
        "same": same_state(keep.state_dict(), resumed.state_dict()),
    }


def main(rank: int, folder: Path) -> None:
    """All of it, into ``folder/RANK.pt``."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "ACCELERATE_USE_CPU": "true"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    only = sys.argv[3:]
    for library, run, ways in (
        ("accelerate", accelerated, ("ddp", "fsdp2") if LOADS_SHARDS else ("ddp",)),
        ("lightning", trained_by_lightning, ("ddp", "manual", "fsdp2")),
        ("adapters", with_adapters, ("ddp",)),
    ):
        for way in ways:
            for name, make in METHODS.items():
                key = f"{library} {way} {name}"
                left_out = only and not any(part in key for part in only)
                if left_out or (library == "adapters" and name not in ON_WEIGHTS):
                    continue
                try:
                    place = folder / key.replace(" ", "-").replace(",", "")
                    place.mkdir(exist_ok=True)
                    found[key] = run(make, rank, place, way)
                except Exception:
                    found[key] = {"error": traceback.format_exc()}
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]), Path(sys.argv[2]))
