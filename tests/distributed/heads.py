"""Closed-form heads, told everything at once or by one of two processes that share the samples."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from holdfast import HoldfastError
from holdfast.heads import NCM, SLDA, FeCAM, RandomFourier, RandomPatches, RandomProjection, Ridge, TransportCalibrated
from tests.contract.cases import same_state
from tests.distributed.cases import fsdp2, network

Batch = tuple[Tensor, Tensor]

HEADS = {
    "ncm": NCM,
    "slda": lambda: SLDA(shrinkage=0.1),
    "slda, auto": lambda: SLDA(shrinkage="auto"),
    "ridge": Ridge,
    "ridge, number": lambda: Ridge(strength=0.1),
    "fecam": FeCAM,
    "h-ot": lambda: TransportCalibrated(base_samples=9, keep=9, draws=20),
    "ridge, projection": lambda: Ridge(expand=RandomProjection(20)),
    "slda, fourier": lambda: SLDA(RandomFourier(15), shrinkage=0.1),
    "slda, patches": lambda: SLDA(RandomPatches(3, patch=3, pool=1), shrinkage=0.1),
}


def samples(seed: int, labels: list[int], images: bool) -> list[Batch]:
    """Batches of three."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.tensor(labels)
    x = torch.rand(len(y), 1, 5, 5, generator=draw, dtype=torch.float64) + y[:, None, None, None] / 9
    x = (x - x.min()) if images else (x - x.min()).flatten(1)[:, :6]
    return list(zip(x.split(3), y.split(3), strict=True))


def share(task: int, rank: int, images: bool = False) -> list[Batch]:
    """Each process has a class that the other never sees, and not as many batches."""
    labels = {
        (0, 0): [0, 1, 0, 1, 0, 1, 0, 0, 0],
        (0, 1): [1, 7] * 9,
        (1, 0): [0, 0, 0, 0, 0, 0, 0, 0, 0],
        (1, 1): [-3, -3, -3, -3],
    }[task, rank]
    return samples(2 * task + rank, labels, images)


def run(name: str, rank: int | None = None) -> dict[str, Any]:
    """Two tasks; without a rank, both processes' shares one after the other."""
    images = "patches" in name
    head = HEADS[name]()
    for task in (0, 1):
        ranks = (0, 1) if rank is None else (rank,)
        head.consolidate([batch for each in ranks for batch in share(task, each, images)])
    query = torch.cat([x for task in (0, 1) for each in (0, 1) for x, _ in share(task, each, images)])
    counts = torch.tensor(list(head.counts.values()))
    return {"state": dict(head.state_dict()), "scores": head(query), "counts": counts}


REFUSED = {  # what each of the two processes says
    "empty": ("1 of 2 processes", "consolidate got none"),
    "nan": ("1 of 2 processes", "not finite"),
    "width": ("have [4, 6] features", "have [4, 6] features"),
    "width before a map": ("shapes (6,) and (4,)", "shapes (6,) and (4,)"),
    "sharded": ("has the sharded weight '0.weight'",) * 2,
    "empty before a map": ("1 of 2 processes", "consolidate got none"),
}


def refused(name: str, rank: int) -> tuple[str, bool]:
    """The sentence, and whether the head is as it was."""
    head = SLDA(expand=RandomProjection(9)) if "map" in name else SLDA(fsdp2(network()) if name == "sharded" else None)
    mine = share(0, rank)
    if rank == 1 and name != "sharded":
        kinds = {
            "empty": [],
            "nan": [(x * torch.nan, y) for x, y in mine],
            "width": [(x[:, :4], y) for x, y in mine],
        }
        mine = kinds[name.split()[0]]
    before = copy.deepcopy(dict(head.state_dict()))
    try:
        head.consolidate(mine)
    except HoldfastError as error:
        return str(error), same_state(before, dict(head.state_dict())) and head.num_tasks == 0
    return "", False
