"""Small runs of every method, alone or as one of two processes that share the data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import holdfast
import holdfast.penalties.quadratic
from holdfast import Method, registry
from holdfast.names import canonical_parameters
from holdfast.sharding import whole
from tests.importance.scales import Scaled

Batch = tuple[Tensor, Tensor]


def network() -> nn.Module:
    """Of uneven sizes, so that no dimension is cut in half, and the last bias of fewer entries than some cut."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(7, 5), nn.Tanh())
    return nn.Sequential(nn.Linear(4, 7), nn.LayerNorm(7), nn.Tanh(), inner, nn.Linear(5, 3)).double()


def normalised() -> nn.Module:
    """As :func:`network`, but a normalisation follows every layer but the last, without a bias between."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(7, 5, bias=False), nn.LayerNorm(5), nn.Tanh())
    outer = nn.Linear(4, 7, bias=False), nn.LayerNorm(7), nn.Tanh()
    return nn.Sequential(*outer, inner, nn.Linear(5, 3)).double()


class Odd(nn.Module):
    """What no layer rule knows: a parameter of its own, one weight in two places, a function in a layer's place."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.third.weight = self.second.weight
        self.aside, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.second(self.first(x) * self.scale))
        return self.head(torch.tanh(self.third(x)) + F.linear(x, self.aside.weight))


def odd() -> nn.Module:
    torch.manual_seed(0)
    return Odd().double()


def sequences() -> nn.Module:
    """Several positions per sample, embedded; two layers share a group, and one is a normalisation of its own kind."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Conv1d(4, 3, 3))
    scale = Scaled(5, torch.mul)
    return nn.Sequential(nn.Embedding(9, 5), scale, inner, nn.Flatten(), nn.Linear(12, 3)).double()


def vectors(task: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(task)
    shape = (2, 8, 4)
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    return list(zip(x, torch.randint(0, 3, shape[:2], generator=draw), strict=True))


def words(task: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(task)
    x = torch.randint(0, 9, (2, 8, 4), generator=draw)
    return list(zip(x, torch.randint(0, 3, (2, 8), generator=draw), strict=True))


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


@dataclass(frozen=True)
class Case:
    """One method on one model; ``before``: it has consolidated once before the model is sharded."""

    build: Callable[[nn.Module], Method]
    model: Callable[[], nn.Module] = network
    data: Callable[[int], list[Batch]] = vectors
    optimizer: Callable[[Any], torch.optim.Optimizer] = sgd
    before: bool = False


_h = holdfast
CASES = {
    "l2sp": Case(lambda m: _h.L2SP(m, strength=0.3)),
    "l2sp, all anchors": Case(lambda m: _h.L2SP(m, strength=0.3, anchors="all")),
    "ewc": Case(lambda m: _h.EWC(m, strength=3.0)),
    "ewc, before": Case(lambda m: _h.EWC(m, strength=3.0), before=True),
    "ewc, loss": Case(lambda m: _h.EWC(m, strength=3.0, coupling="loss")),
    "ewc, proximal": Case(lambda m: _h.EWC(m, strength=3.0, coupling="proximal"), optimizer=adam),
    "ewc, auto": Case(lambda m: _h.EWC(m, strength=_h.AutoStrength(steps=2)), optimizer=adam),
    "ewc, rough": Case(lambda m: _h.EWC(m, strength=3.0, importance_dtype=torch.bfloat16, state_device="cpu")),
    "ewc, sequences": Case(lambda m: _h.EWC(m, strength=3.0, fisher="empirical"), sequences, words),
    "ewc, odd": Case(lambda m: _h.EWC(m, strength=3.0), odd),
    "online ewc": Case(lambda m: _h.OnlineEWC(m, strength=3.0, decay=0.5)),
    "mas": Case(lambda m: _h.MAS(m, strength=3.0)),
    "mas, odd": Case(lambda m: _h.MAS(m, strength=3.0, form="norm"), odd),
    "si": Case(lambda m: _h.SI(m, strength=3.0)),
    "rwalk": Case(lambda m: _h.RWalk(m, strength=3.0, interval=2)),
    "anpyc": Case(lambda m: _h.ANPyC(m, strength=3.0, sharpening=0.1)),
    "anpyc, odd": Case(lambda m: _h.ANPyC(m, strength=3.0), odd),
    "anastrophic": Case(lambda m: _h.Anastrophic(m, strength=0.3)),
    "anastrophic, loss": Case(lambda m: _h.Anastrophic(m, strength=0.3, coupling="loss")),
    "fixnorm": Case(lambda m: _h.FixNorm(m, select=["0.weight", "3.0.weight"], head="4", alpha=0.5), normalised),
    "fixnorm, before": Case(lambda m: _h.FixNorm(m), normalised, before=True),
    "max-norm, before": Case(lambda m: _h.MaxNorm(m, delta=0.3), before=True),
    "max-norm": Case(lambda m: _h.MaxNorm(m)),
    "weight-balancing": Case(lambda m: _h.WeightBalancing(m, norm="tau", head="4")),
    "freeze": Case(lambda m: _h.Freeze(m, select="0.*"), optimizer=adam),
    "packnet": Case(lambda m: _h.PackNet(m), optimizer=adam),
    "pruning": Case(lambda m: _h.AnpycPruning(m, strength=0.3)),
    "lwf": Case(lambda m: _h.LwF(m, strength=1.0), optimizer=adam),
    "lwf, memory": Case(lambda m: _h.LwF(m, strength=1.0, memory=vectors(9), on="both", kl_budget=1e-3)),
    "lwf, cached": Case(lambda m: _h.LwF(m, strength=1.0, memory=vectors(9), cached=2, direction="reverse")),
    "lwf, before": Case(lambda m: _h.LwF(m, strength=1.0), before=True),
}
_listed = {type(case.build(case.model())) for case in CASES.values()}
# Whatever else says that it works on shards is held to that, with its defaults.
FURTHER = {
    entry.name: Case(functools.partial(entry.build, **entry.defaults))
    for entry in registry.entries()
    if entry.kind == "method" and entry.build is not None and entry.build.on_shards and entry.build not in _listed
}
CASES |= FURTHER


def fsdp2(model: nn.Module, policy: MixedPrecisionPolicy | None = None) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    for child in list(model.children())[:-1]:
        if next(child.parameters(), None) is not None and not isinstance(model, Odd):
            fully_shard(child, mesh=mesh, mp_policy=policy or MixedPrecisionPolicy())
    return fully_shard(model, mesh=mesh, mp_policy=policy or MixedPrecisionPolicy())


def hybrid(model: nn.Module) -> nn.Module:
    """Sharded over one process, replicated over two: each dimension of the mesh is there."""
    return fully_shard(model, mesh=init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard")))


def fsdp1(model: nn.Module) -> nn.Module:
    return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))


def tensor_parallel(model: nn.Module) -> nn.Module:
    columns = ColwiseParallel(output_layouts=Replicate())
    return parallelize_module(model, init_device_mesh("cpu", (2,)), {"0": columns, "3.0": columns})


def two_plans(model: nn.Module) -> nn.Module:
    """``fully_shard`` over a tensor-parallel plan."""
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("data", "tensor"))
    columns = ColwiseParallel(output_layouts=Replicate())
    parallelize_module(model, mesh["tensor"], {"0": columns, "3.0": columns})
    return fully_shard(model, mesh=mesh["data"])


WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "fsdp2": fsdp2,
    "hybrid": hybrid,
    "ddp": DistributedDataParallel,
    "fsdp1": fsdp1,
    "tensor parallel": tensor_parallel,
    "two plans": two_plans,
}


def share(batches: list[Batch], rank: int) -> list[Batch]:
    """Every second sample; of the second process in one batch, so that their numbers differ."""
    mine = [(x[rank::2], y[rank::2]) for x, y in batches]
    return mine if rank == 0 else [(torch.cat([x for x, _ in mine]), torch.cat([y for _, y in mine]))]


def run(case: Case, wrap: str | None = None, rank: int = 0) -> dict[str, Any]:
    """Two tasks: weights, state, and the penalty's value.

    Args:
        case: what is run.
        wrap: one of ``WRAPS`` in a process of two, each with half of the data; ``None`` for one with all.
        rank: of this process.
    """
    model = case.model()
    if wrap is not None and not case.before:
        model = WRAPS[wrap](model)
    keep = case.build(model)
    if case.before:
        keep.consolidate(case.data(0))
        if wrap is not None:
            WRAPS[wrap](model)  # in place, with FSDP2
    optimizer = case.optimizer(model.parameters())
    keep.attach(optimizer)
    halves = wrap not in (None, "tensor parallel", "two plans")
    for task in (1, 2):
        batches = case.data(task)
        mine = share(batches, rank) if halves else batches
        steps = [(x[rank::2], y[rank::2]) for x, y in batches] if halves else batches
        train(model, optimizer, keep, steps)
        while keep.next_round(mine):
            train(model, optimizer, keep, steps)
        keep.consolidate(mine)
        with torch.no_grad():
            model(steps[0][0])  # after which FSDP2 still holds whole parameters
    return found(model, keep)


def classp(wrap: str | None = None, rank: int = 0) -> dict[str, Any]:
    """Training by the optimizer that is a memory itself, its state saved and loaded half way."""
    model = network() if wrap is None else WRAPS[wrap](network())
    optimizer = holdfast.CLASSP(model.parameters(), lr=0.05, threshold=1e-6)
    for task in (1, 2):
        for x, y in vectors(task):
            part = slice(None) if wrap is None else slice(rank, None, 2)
            optimizer.zero_grad()
            F.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
        saved = optimizer.state_dict()
        optimizer = holdfast.CLASSP(model.parameters(), lr=0.05, threshold=1e-6)
        optimizer.load_state_dict(saved)
    return {"weights": {name: whole(p.detach()) for name, p in canonical_parameters(model).items()}}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, keep: Method, batches: list[Batch]) -> None:
    for x, y in batches:
        optimizer.zero_grad()
        outputs = model(x)
        penalty = keep.penalty((x, y), outputs)
        assert type(penalty) is Tensor
        (F.cross_entropy(outputs, y) + penalty).backward()
        optimizer.step()


def found(model: nn.Module, keep: Method) -> dict[str, Any]:
    """What a run is compared by; FSDP1 has neither a state to save nor a penalty's value."""
    if isinstance(model, FullyShardedDataParallel):
        names = sorted(keep.state)
        with FullyShardedDataParallel.summon_full_params(model):
            weights = {name: p.detach().clone() for name, p in canonical_parameters(model).items()}
        return {"weights": weights, "names": names}
    weights = {name: whole(p.detach()).clone() for name, p in canonical_parameters(model).items()}
    value = (
        keep.value().detach() if isinstance(keep, holdfast.penalties.quadratic.QuadraticPenalty) else torch.zeros(())
    )
    return {"weights": weights, "state": keep.state_dict(), "value": value}
