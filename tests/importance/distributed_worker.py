"""One process of a distributed run: estimates importances from its own share of the data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from holdfast import EWC, AnpycPruning
from holdfast.errors import DataError
from holdfast.importance import fisher, mas
from holdfast.objectives import Classification


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    sizes = (5, 8, 3)  # shares of different sizes: a mean of means would be wrong
    return [(torch.randn(n, 4, generator=draw), torch.randint(0, 3, (n,), generator=draw)) for n in sizes]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def estimates(wrapped: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    keep = EWC(wrapped, strength=1.0)
    keep.consolidate(batches)
    found = {f"fisher.{name}": held["importance"] for name, held in keep.state.items()}
    found |= {f"mas.{name}": t for name, t in mas(wrapped, batches, objective=Classification()).items()}
    return found


def refusals(wrapped: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]], broken: bool) -> dict[str, str]:
    """What each way of estimating says where one process has no data, or data that its model fails on."""
    kinds = {
        "ewc": lambda data: EWC(wrapped, strength=1.0).consolidate(data),
        "pruning": lambda data: AnpycPruning(wrapped, strength=1.0).next_round(data),
        "mas": lambda data: mas(wrapped, data),
        "batched": lambda data: fisher(wrapped, data, kind="batched"),
    }
    wrong = {"empty": [], "broken": [(x[:, :2], y) for x, y in batches]}
    found = {}
    for name, estimate in kinds.items():
        for case, data in wrong.items():
            try:
                estimate(data if broken else batches)
            except (DataError, RuntimeError) as error:
                found[f"{name} {case}"] = str(error)
    return found


if __name__ == "__main__":
    rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mine = data()[:1] if rank == 0 else data()[1:]
    wrapped = DistributedDataParallel(model())
    # First, so that what comes after a refusal is seen to be in step.
    Path(out).with_suffix(".json").write_text(json.dumps(refusals(wrapped, mine, broken=rank == 1)))
    save_file(estimates(wrapped, mine), out)
    torch.distributed.destroy_process_group()
