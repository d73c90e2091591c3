"""Sharded parameters (FSDP2's ``fully_shard``, tensor-parallel plans): each process holds a part of every tensor.

What is remembered of a sharded parameter is sharded like it. The phases of a step work on the parts that are here
(:func:`local`), without a word to the other processes; only what is a number of the whole tensor is added up.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, StateError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs

__all__ = [
    "anywhere",
    "check_able",
    "check_flat_shards",
    "check_gathers",
    "fsdp_modules",
    "is_flat",
    "is_sharded",
    "kind_of",
    "largest",
    "local",
    "made_of",
    "place_like",
    "reshard",
    "summed_into",
    "sums",
    "total",
    "whole",
    "zero",
]


def is_sharded(tensor: Tensor) -> TypeIs[DTensor]:
    """Whether a tensor is spread over processes (a ``DTensor``)."""
    if type(tensor) in (Tensor, nn.Parameter):
        return False
    # The class is slow to import; if nobody imported it, nobody has such a tensor.
    home = sys.modules.get("torch.distributed.tensor")
    return home is not None and isinstance(tensor, home.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The part that this process holds, sharing its memory; the tensor itself where it is not sharded.

    Differentiable: the gradient arrives at the sharded tensor, as its shard.
    """
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, in every process, which all must ask for it; the tensor itself where it is not sharded."""
    if not is_sharded(tensor):
        return tensor
    if tensor.dtype is torch.int16:  # which no backend sends
        return whole(tensor.int()).short()
    return tensor.full_tensor()


@torch.no_grad()
def place_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A tensor held where and as the parameter is: on its device, and sharded like it.

    Args:
        parameter: ``[*p]``.
        tensor: ``[*p]``, whole and the same in every process, or sharded.

    Returns:
        ``[*p]``; the same tensor if it is held like that already.

    Raises:
        StateError: for a tensor of another shape than a sharded parameter's, or a plan that cuts in another way than
            into equal pieces.
    """
    if not is_sharded(parameter):
        return whole(tensor).to(parameter.device)
    mesh, placements = parameter.device_mesh, parameter.placements
    if is_sharded(tensor):
        if tensor.device_mesh == mesh and tensor.placements == placements:
            return tensor
        tensor = whole(tensor)
    part = tensor.to(parameter.device)
    # What fully_shard cuts under a tensor-parallel plan (a "strided" shard), that plan has cut before.
    order = sorted((type(q).__name__ != "Shard", d) for d, q in enumerate(placements) if not q.is_replicate())
    for _, d in order:
        cut: Any = placements[d]
        pieces = torch.chunk(part, mesh.size(d), cut.dim)
        rank = mesh.get_local_rank(d)
        part = pieces[rank] if rank < len(pieces) else part.narrow(cut.dim, 0, 0)
    if tensor.shape != parameter.shape or part.shape != local(parameter).shape:
        raise StateError(
            f"a tensor of shape {tuple(tensor.shape)} cannot be placed like its parameter of shape "
            f"{tuple(parameter.shape)}, which is sharded by {placements}; expected its shape, and equal pieces"
        )
    return made_of(parameter, part.clone(memory_format=torch.contiguous_format))


@torch.no_grad()
def made_of(parameter: Tensor, part: Tensor) -> Tensor:
    """The tensor, sharded like the parameter, of which each process gives its part; a whole one as it is.

    Args:
        parameter: ``[*p]``.
        part: of the shape of ``local(parameter)``, and on its device.
    """
    if not is_sharded(parameter):
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride())


@torch.no_grad()
def summed_into(total: Tensor, part: Tensor) -> None:
    """Add what each process has found for a whole tensor to one that is sharded, in place.

    Args:
        total: ``[*p]``; changed. One that is not sharded gets this process's part only.
        part: ``[*p]``, whole, this process's own.
    """
    if not is_sharded(total):
        total.add_(part)
        return
    from torch.distributed.tensor import DTensor, Partial

    mesh = total.device_mesh
    everybodys = DTensor.from_local(part, mesh, [Partial()] * mesh.ndim, run_check=False)
    local(total).add_(local(everybodys.redistribute(mesh, total.placements)))


def total(parts: Sequence[Tensor], like: Sequence[Tensor]) -> Tensor:
    """Numbers of parts of tensors, added up to the number of all of them, the same in every process.

    Args:
        parts: each ``[]``, computed from what is here of a tensor.
        like: those tensors.

    Returns:
        ``[]``. Differentiable: in each process with respect to the parts that are here.
    """
    found: dict[Any, Tensor] = {}
    for part, tensor in zip(parts, like, strict=True):
        key = _spread(tensor)
        found[key] = found[key] + part.to(found[key].device) if key in found else part
    added = [
        mine if key is None else mine + (_reduced(mine.detach(), key, "sum") - mine.detach())
        for key, mine in found.items()
    ]
    result = added[0]
    for other in added[1:]:
        result = result + other.to(result)
    return result


@torch.no_grad()
def sums(parts: Sequence[Tensor], like: Sequence[Tensor], *, rows: bool = False) -> list[Tensor]:
    """Numbers of each tensor by itself, added up over the processes that hold parts of it, in one exchange for all.

    Args:
        parts: of what is here of each tensor, ``[...]``.
        like: those tensors.
        rows: whether there is a number per row: rows in different processes are not added to one another.

    Returns:
        As ``parts``.
    """
    found: dict[Any, list[int]] = {}
    for index, tensor in enumerate(like):
        found.setdefault(_spread(tensor, rows=rows), []).append(index)
    answers = list(parts)
    for key, indices in found.items():
        if key is not None:
            reduced = _reduced(torch.cat([parts[i].flatten() for i in indices]), key, "sum")
            for i, answer in zip(indices, torch.split(reduced, [parts[i].numel() for i in indices]), strict=True):
                answers[i] = answer.view(parts[i].shape).to(parts[i].device)
    return answers


def largest(parts: Sequence[Tensor], like: Sequence[Tensor]) -> float:
    """The largest entry of tensors of which each process holds a part; 0 if there is none.

    Args:
        parts: what is here of each tensor.
        like: those tensors.
    """
    found: dict[Any, list[Tensor]] = {}
    for part, tensor in zip(parts, like, strict=True):
        found.setdefault(_spread(tensor), []).append(part)
    best = 0.0
    for key, some in found.items():
        here = [float(part.max()) for part in some if part.numel()]
        mine = torch.tensor(max(here) if here else -torch.inf, dtype=torch.float64, device=some[0].device)
        best = max(best, float(mine if key is None else _reduced(mine, key, "max")))
    return best


def anywhere(flags: Sequence[Tensor | bool], like: Sequence[Tensor]) -> list[bool]:
    """Whether something is so of any part of each tensor, in this process or another.

    Args:
        flags: of what is here of each tensor, ``[]``.
        like: those tensors.
    """
    found: dict[Any, list[int]] = {}
    for index, tensor in enumerate(like):
        found.setdefault(_spread(tensor), []).append(index)
    answers = [False] * len(flags)
    for key, indices in found.items():
        device = like[indices[0]].device
        mine = torch.stack([torch.as_tensor(flags[i]).to(device, torch.int32) for i in indices])
        reduced = mine if key is None else _reduced(mine, key, "max")
        for i, answer in zip(indices, reduced.tolist(), strict=True):
            answers[i] = bool(answer)
    return answers


def zero(parameters: Mapping[str, Tensor]) -> Tensor:
    """0 where the parameters are, ``[]``: a plain tensor also beside sharded ones."""
    first = next(iter(parameters.values()))
    return torch.zeros((), dtype=first.dtype, device=first.device)


def _spread(tensor: Tensor, *, rows: bool = False) -> Any:
    """Over which processes a tensor (or each of its rows) is cut up; ``None`` for one that is whole here."""
    if not is_sharded(tensor):
        return None
    cut: list[Any] = list(tensor.placements)
    dims = tuple(d for d, q in enumerate(cut) if not q.is_replicate() and not (rows and q.dim == 0))
    return (tensor.device_mesh, dims) if dims else None


@torch.no_grad()
def _reduced(value: Tensor, key: Any, how: str) -> Tensor:
    mesh, dims = key
    value = value.to(mesh.device_type, copy=True)
    kinds = torch.distributed.ReduceOp
    for dim in dims:
        torch.distributed.all_reduce(value, kinds.SUM if how == "sum" else kinds.MAX, group=mesh.get_group(dim))
    return value


def _fsdp(name: str) -> Any:
    return getattr(sys.modules.get("torch.distributed.fsdp"), name, None)


def fsdp_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that ``fully_shard`` was called on, outermost first."""
    wrapper = _fsdp("FSDPModule")
    return [] if wrapper is None else [module for module in model.modules() if isinstance(module, wrapper)]


def reshard(model: nn.Module) -> None:
    """Let go of what FSDP2 has gathered: after a forward pass without a backward it keeps the root's whole parameters.

    While it does, the model has others than the optimizer, and does not see what is done to these.
    """
    for module in fsdp_modules(model):
        module.reshard()  # type: ignore[operator]  # as every one of FSDP2 can


def kind_of(module: nn.Module) -> type[nn.Module]:
    """A module's own type: ``fully_shard`` gives a module that it is called on a subclass of it."""
    kind = type(module)
    wrapper = _fsdp("FSDPModule")
    return kind.__mro__[2] if wrapper is not None and isinstance(module, wrapper) else kind


def check_able(method: str, parameters: Mapping[str, Tensor], *, able: bool) -> None:
    """Refuse sharded parameters where a method does not say that it works on parts.

    Raises:
        ConfigurationError: naming the first such parameter.
    """
    name = None if able else next((name for name, p in parameters.items() if is_sharded(p)), None)
    if name is not None:
        raise ConfigurationError(
            f"parameter {name!r} is sharded (a DTensor), and {method} works on whole parameters alone: use it before "
            "fully_shard, under DistributedDataParallel or in one process, or another method"
        )


def check_gathers(parameters: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse parameters that stay in parts when the model is called: a tensor-parallel plan, alone or under FSDP2.

    Args:
        parameters: name -> parameter of the model.
        model: the model.

    Raises:
        ConfigurationError: naming the first such parameter.
    """
    cuts = {name: sum(not q.is_replicate() for q in p.placements) for name, p in parameters.items() if is_sharded(p)}
    name = next((name for name, number in cuts.items() if number > 1 or not fsdp_modules(model)), None)
    if name is not None:
        raise ConfigurationError(
            f"parameter {name!r} is split by a tensor-parallel plan, by which no process ever sees a whole layer: "
            "consolidate before parallelize_module, or use fully_shard (FSDP2) or a method that needs no data"
        )


def is_flat(modules: Iterable[nn.Module]) -> bool:
    """Whether any of these modules is one of FSDP1, whose parameters are nameless pieces of one flat tensor."""
    wrapper = _fsdp("FullyShardedDataParallel")
    return wrapper is not None and any(isinstance(module, wrapper) for module in modules)


def check_flat_shards(what: str, modules: Iterable[nn.Module], *, able: bool | None = None) -> None:
    """Refuse FSDP1, whose parameters are nameless pieces of one flat tensor, where whole tensors are asked for.

    Args:
        what: what is asked for.
        modules: those of the model.
        able: whether a method, as it is set, looks at nothing but single weights; ``None`` for what no method can.

    Raises:
        ConfigurationError: naming what to use instead.
    """
    if not able and is_flat(modules):
        others = (
            ""
            if able is None
            else ", or L2SP, SI, Freeze or OLOR with a strength that is a number and no coupling='loss'"
        )
        raise ConfigurationError(
            f"{what} cannot be had with FullyShardedDataParallel (FSDP1), whose parameters are pieces of one flat "
            f"tensor: use fully_shard (FSDP2) in its place{others}"
        )
