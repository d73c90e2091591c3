"""One process of two: runs the cases on its half of the data, and writes down what came out."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

import holdfast
from holdfast import registry
from holdfast.distillation.teacher import frozen_copy
from holdfast.integrations.checkpoint import load_memory, memory_of
from holdfast.objectives import Batch
from holdfast.sharding import fsdp_modules, local
from tests.distributed import heads
from tests.distributed.cases import CASES, adam, classp, fsdp2, network, run, sgd, share, train, vectors

RUNS = {
    "fsdp2": list(CASES),
    "hybrid": ["ewc", "ewc, loss", "l2sp, all anchors", "rwalk", "lwf"],
    "ddp": [name for name in CASES if "odd" not in name and "before" not in name],
    "fsdp1": [name for name in CASES if "odd" not in name and "before" not in name],
    "two plans": ["l2sp, all anchors", "si", "anastrophic", "freeze", "packnet", "ewc", "lwf"],
    "tensor parallel": [name for name in CASES if "odd" not in name and "before" not in name and "seq" not in name],
}
KEPT = ["ewc", "ewc, odd", "si", "rwalk", "packnet", "lwf"]  # in distributed checkpoints


def attempt(function: Callable[[], Any]) -> tuple[Any, str]:
    """What it returns, and the sentence that it raises; a traceback where that is nobody's sentence."""
    try:
        return function(), ""
    except holdfast.HoldfastError as error:
        return None, f"{type(error).__name__}: {error}"
    except Exception:
        return None, traceback.format_exc()


def placement(rank: int) -> dict[str, Any]:
    """State sharded like its parameter, saved whole, loaded into shards again; a teacher in parts."""
    model = fsdp2(network())
    optimizer = sgd(model.parameters())
    methods = [holdfast.EWC(model, strength=1.0), holdfast.LwF(model, strength=1.0)]
    for keep in methods:
        keep.consolidate(share(vectors(1), rank))
        keep.attach(optimizer)
    ewc, lwf = methods
    one_group = fully_shard(network(), mesh=init_device_mesh("cpu", (2,)))
    pairs = [(ewc.params[name], t) for name, held in ewc.state.items() for t in held.values()]
    saved = [keep.state_dict() for keep in methods]
    again = [holdfast.EWC(model, strength=1.0), holdfast.LwF(model, strength=1.0)]
    for keep, state in zip(again, saved, strict=True):
        keep.load_state_dict(state)
    back = [keep.state_dict() for keep in again]
    return {
        "alike": all(
            isinstance(t, DTensor) and t.device_mesh == p.device_mesh and t.placements == p.placements for p, t in pairs
        ),
        "loaded alike": all(isinstance(t, DTensor) for held in again[0].state.values() for t in held.values()),
        "saved whole": all(type(t) is Tensor for state in saved for t in tensors(state)),
        "back to the bit": all(
            torch.equal(a, b)
            for s, b_ in zip(saved, back, strict=True)
            for a, b in zip(tensors(s), tensors(b_), strict=True)
        ),
        "teacher": sum(local(t).numel() for t in lwf.buffers.values()),
        "whole": sum(t.numel() for t in lwf.buffers.values()),
        "largest groups": [largest_group(one_group), largest_group(frozen_copy(one_group))],
    }


def largest_group(model: nn.Module) -> int:
    """The most entries that FSDP2 makes whole at once."""
    states = {id(state): state for module in fsdp_modules(model) if (state := module._get_fsdp_state())}
    groups = [vars(state).get("_fsdp_param_groups") or [state._fsdp_param_group] for state in states.values()]
    sizes = [[p.sharded_param.numel() for p in one.fsdp_params] for each in groups for one in each if one is not None]
    return max(map(sum, sizes))


def checkpoints(rank: int, folder: Path) -> dict[str, Any]:
    """What two processes wrote, and what one did, taken over by two: each holds its parts again."""
    found: dict[str, Any] = {}
    for name in KEPT:
        case = CASES[name]
        model = fsdp2(case.model())
        keep = case.build(model)
        optimizer = case.optimizer(model.parameters())
        keep.attach(optimizer)
        mine = [(x[rank::2], y[rank::2]) for x, y in case.data(1)]
        train(model, optimizer, keep, mine)
        while keep.next_round(mine):
            train(model, optimizer, keep, mine)
        keep.consolidate(mine)
        path = folder / "checkpoints" / name
        dcp.save({"app": {"keep": memory_of(keep)}}, checkpoint_id=path)
        saved = keep.state_dict()
        holdfast.save_state(saved, folder / f"{rank}" / "checkpoints" / name)
        alone = case.build(case.model())
        alone.load_state_dict(saved)
        if rank == 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that it is one process's
                dcp.save({"app": {"keep": memory_of(alone)}}, checkpoint_id=folder / "alone" / name, no_dist=True)
        torch.distributed.barrier()
        for source in (path, folder / "alone" / name):
            fresh = case.build(fsdp2(case.model()))
            load_memory(fresh, source, key="app.keep")
            parts = [t for held in fresh.state.values() for t in held.values()]
            found[f"{name}, {source.parent.name}"] = all(isinstance(t, DTensor) for t in parts) and all(
                torch.equal(a, b) for a, b in zip(tensors(saved), tensors(fresh.state_dict()), strict=True)
            )
    return found


def tensors(state: dict[str, Any]) -> list[Tensor]:
    return [t for held in (*state["state"].values(), state["buffers"]) for t in held.values()]


def mixed_precision(rank: int) -> dict[str, Any]:
    """Weights in bfloat16 in forward and backward: what is remembered is as precise as the weights themselves."""
    found: dict[str, Any] = {}
    whole = {}
    for name, policy in (("float32", None), ("bfloat16", MixedPrecisionPolicy(param_dtype=torch.bfloat16))):
        model = fsdp2(network().float(), policy)
        optimizer = adam(model.parameters())
        methods = [
            holdfast.EWC(model, strength=1.0),
            holdfast.SI(model, strength=1.0),
            holdfast.LwF(model, strength=1.0),
        ]
        data = [(x.float(), y) for x, y in share(vectors(1), rank)]
        for keep in methods:
            keep.attach(optimizer)
        for _ in range(2):
            train(model, optimizer, methods[2], data[:1])
            for keep in methods:
                keep.consolidate(data)
        held = methods[0].state_dict()["state"]
        whole[name] = torch.cat([t["importance"].flatten() for t in held.values()])
        found[name] = sorted(
            {str(t.dtype) for keep in methods[:2] for held in keep.state.values() for t in held.values()}
        )
    found["apart"] = float((whole["bfloat16"] - whole["float32"]).norm() / whole["float32"].norm())
    return found


def flown(model: nn.Module, optimizer_of: Callable[[Any], torch.optim.Optimizer], mine: list[Batch]) -> None:
    """Train under a pull that no step bears, where the loss's gradient is another in each process."""
    keep = holdfast.EWC(model, strength=1e7)
    keep.consolidate(mine)
    optimizer = optimizer_of(model.parameters())
    keep.attach(optimizer)
    train(model, optimizer, keep, mine * 4)


def refusals(rank: int) -> dict[str, str]:
    """What is said where something cannot be, in both processes."""
    mine = share(vectors(1), rank)
    empty = [] if rank == 1 else mine
    broken = [(x * torch.nan, y) for x, y in mine] if rank == 1 else mine
    kinds: dict[str, Callable[[nn.Module], Any]] = {
        "batched": lambda m: holdfast.EWC(m, strength=1.0, fisher="batched").consolidate(mine),
        "batch": lambda m: holdfast.ANPyC(m, strength=1.0, reduction="batch").consolidate(mine),
        "rows": lambda m: holdfast.L2SP(m, strength=1.0, select="4.weight[:2]").attach(sgd(m.parameters())),
        "empty": lambda m: holdfast.importance.fisher(m, empty),
        "nan": lambda m: holdfast.MAS(m, strength=1.0).consolidate(broken),
        "flown": lambda m: flown(m, sgd, mine),
        "flown, radam": lambda m: flown(m, functools.partial(torch.optim.RAdam, lr=0.05), mine),
    }
    return {name: attempt(lambda make=make: make(fsdp2(network())))[1] for name, make in kinds.items()}


def draws(rank: int) -> dict[str, Any]:
    """What processes that draw differently, and see other samples, come to have in common."""
    torch.manual_seed(rank)
    model, mine = network(), share(vectors(1), rank)
    keep = holdfast.InRank(model)
    keep.consolidate()
    found = {"inrank": [float(t.double().sum()) for t in keep.buffers.values()]}
    efficient = holdfast.EfficientPackNet(model, gamma=0.9)
    efficient.consolidate(mine)
    found["efficient"] = [float(p.detach().double().sum()) for p in model.parameters()] + list(efficient.densities)
    return found


def others(rank: int) -> dict[str, str]:
    """What the registry's methods that do not work on parts say of shards, when they are attached."""
    found = {}
    for entry in registry.entries():
        if entry.kind == "method" and entry.build is not None and not entry.build.on_shards:
            model = fsdp2(network().float())
            make = functools.partial(entry.build, model, **entry.defaults)
            found[entry.name] = attempt(lambda make=make, model=model: make().attach(sgd(model.parameters())))[1]
    return found


def main(rank: int, store: str, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    said: dict[str, Any] = {}
    for wrap, names in RUNS.items():
        for name in names:
            result, sentence = attempt(lambda wrap=wrap, name=name: run(CASES[name], wrap, rank))
            said[f"{wrap}: {name}"] = sentence
            if result is not None:
                holdfast.save_state(result, folder / f"{rank}" / wrap / name)
    holdfast.save_state(classp("fsdp2", rank), folder / f"{rank}" / "classp")
    for name in heads.HEADS:
        result, said[f"head: {name}"] = attempt(lambda name=name: heads.run(name, rank))
        if result is not None:
            holdfast.save_state(result, folder / f"{rank}" / "heads" / name)
    said["heads refuse"] = {name: attempt(lambda n=name: heads.refused(n, rank))[0] for name in heads.REFUSED}
    for check in (placement, mixed_precision, refusals, draws, others, functools.partial(checkpoints, folder=folder)):
        name = getattr(check, "func", check).__name__
        said[name], sentence = attempt(lambda check=check: check(rank))
        assert not sentence, sentence
    (folder / f"{rank}.json").write_text(json.dumps(said))
    with contextlib.suppress(RuntimeError):
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
