"""EWC on sharded parameters (FSDP2): two processes, started here. What is remembered is sharded like the weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

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


def run(rank: int, protected: bool) -> tuple[float, float]:
    """Accuracy on the old task, and on the new one, after both."""
    model = network()
    mesh = init_device_mesh("cpu", (2,))  # without it, on GPUs
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    keep = holdfast.EWC(model, strength=1e4)
    if protected:
        keep.attach(optimizer)
    for task in (0, 1):
        x, y = points(task, 512, seed=task + 1)
        share = list(zip(x[rank::2].split(16), y[rank::2].split(16), strict=True))  # this process's
        for _ in range(5):
            for inputs, labels in share:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
        if protected and task == 0:
            keep.consolidate(share)
    return accuracy(model, *points(0, 512, seed=3)), accuracy(model, *points(1, 512, seed=4))


def work(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    (old, new), (kept, learned) = run(rank, protected=False), run(rank, protected=True)
    if rank == 0:
        print(f"old task: accuracy {old:.3f} without protection, {kept:.3f} with")
        print(f"new task: accuracy {new:.3f} without protection, {learned:.3f} with")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (str(Path(folder) / "store"),), nprocs=2)
