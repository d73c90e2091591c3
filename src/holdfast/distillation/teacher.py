"""A frozen copy of a model, as it is now: of a model of FSDP2 one that is sharded by the same plan."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError
from holdfast.names import canonical_buffers, canonical_parameters, unwrap
from holdfast.sharding import fsdp_modules, is_sharded, kind_of, local, place_like, reshard, whole

__all__ = ["frozen_copy", "set_tensors", "tensors_of"]

_MUCH = 0.25  # of a group's entries


def frozen_copy(model: nn.Module, shared: Iterable[nn.Parameter] = ()) -> nn.Module:
    """A copy without wrappers, in eval mode, that nothing can train.

    Args:
        model: any module. If it is one of FSDP2, every process must ask, and each gets its part of the copy: a process
            holds as much of the teacher as of the model, and the whole of no more than one group at a time. A layer
            that has much of a group, such as an embedding, is a group of its own in the copy.
        shared: parameters that the copy has in common with the model; none of a model of FSDP2.

    Raises:
        ConfigurationError: if the model cannot be copied.
    """
    inner = unwrap(model)
    reshard(inner)
    with _copying(inner):
        found = _sharded_copy(inner) if fsdp_modules(inner) else copy.deepcopy(inner, {id(p): p for p in shared})
    _forget_bound(found, inner)
    return found.requires_grad_(False).eval()


def _forget_bound(copied: nn.Module, model: nn.Module) -> None:
    """Take a ``forward`` off a copy that would call the model itself: one put on an instance around its own (TRL does).

    Args:
        copied: changed.
        model: of which it is a copy.
    """
    own = {id(module) for module in model.modules()}
    for module in copied.modules():
        around = getattr(vars(module).get("forward"), "__func__", vars(module).get("forward"))
        held = list(inspect.getclosurevars(around).nonlocals.values()) if inspect.isfunction(around) else []
        if any(id(getattr(each, "__self__", None)) in own for each in held):
            del module.forward


@contextlib.contextmanager
def _copying(model: nn.Module) -> Iterator[None]:
    """Say in one sentence that a model cannot be copied, whatever its own code raises.

    Raises:
        ConfigurationError: for any error inside.
    """
    try:
        yield
    except Exception as error:
        kind = kind_of(model).__name__
        raise ConfigurationError(f"LwF keeps a copy of the model, but {kind} cannot be copied: {error}") from error


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers, by canonical name."""
    return {**canonical_parameters(model), **canonical_buffers(model)}


@torch.no_grad()
def set_tensors(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Give a frozen copy other values; what is not named stays.

    Args:
        model: what :func:`frozen_copy` made.
        values: canonical name -> whole or sharded tensor; of another shape where a layer has grown since.

    Raises:
        ConfigurationError: for another shape where the layer is sharded.
    """
    for name, tensor in tensors_of(model).items():
        if name not in values:
            continue
        value = values[name]
        if value.shape == tensor.shape:
            local(tensor.detach()).copy_(local(place_like(tensor, value)))
        elif is_sharded(tensor):
            raise ConfigurationError(
                f"the teacher's {name!r} has shape {tuple(value.shape)}, but the model's {tuple(tensor.shape)} is "
                "sharded; expected the old shape (a sharded layer cannot grow)"
            )
        else:  # a layer that has grown since is given its old shape again
            tensor.data = value.to(tensor)


def _sharded_copy(model: nn.Module) -> nn.Module:
    """Copy everything but the parameters, then these, one group of FSDP2 at a time, each sharded before the next."""
    inside = fsdp_modules(model)
    twins = {id(module): _bare(kind_of(module)) for module in inside}
    memo: dict[int, Any] = dict(twins)
    wanted: dict[int, nn.Parameter] = {}  # id of a placeholder -> the parameter that it stands for
    for p in model.parameters():
        if is_sharded(p):
            if sum(not q.is_replicate() for q in p.placements) > 1:
                raise ConfigurationError("a parameter is cut by two plans, fully_shard and a tensor-parallel one")
            stand_in = memo[id(p)] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"))
            wanted[id(stand_in)] = p
    for module in inside:
        for key, value in vars(module).items():
            if not key.startswith("__composable_api"):  # what FSDP2 itself keeps there
                vars(twins[id(module)])[key] = copy.deepcopy(_without_fsdp(value), memo)
    found: nn.Module = copy.deepcopy(model, memo)
    waiting: dict[int, int] = {}  # id of a group's state -> how many of its modules are still to come
    groups = []
    for module in reversed(inside):  # children first, as it was done to the model
        state = module._get_fsdp_state()  # type: ignore[operator]  # FSDP2's own, of every such module
        waiting[id(state)] = waiting.get(id(state), len(state._modules)) - 1
        if waiting[id(state)] == 0:
            groups.append(([twins[id(member)] for member in state._modules], state, module))
    for members, state, module in groups:  # what is large is made whole while little else is there
        alone = dataclasses.replace(state._mp_policy, output_dtype=None)  # what the group gives out is cast there
        others = {id(twin) for twin in twins.values()} - {id(member) for member in members}
        for layer in _large_layers(members, others, wanted):
            _shard([layer], state, module, wanted, alone)
    for members, state, module in groups:
        _shard(members, state, module, wanted, state._mp_policy)
    return found


def _large_layers(members: list[nn.Module], others: Set[int], wanted: Mapping[int, nn.Parameter]) -> list[nn.Module]:
    """The layers that have a large share of a group's entries, and share no parameter with another layer."""
    inside = {id(m): m for member in members for m in _within(member, others)}.values()
    owners = Counter(id(p) for m in inside for p in m._parameters.values() if id(p) in wanted)
    total = sum(wanted[p].numel() for p in owners)

    def own(layer: nn.Module) -> list[int]:
        return [id(p) for p in layer._parameters.values() if p is not None]

    leaves = [m for m in inside if not any(True for _ in m.children()) and m not in members and own(m)]
    alone = [m for m in leaves if all(owners[p] == 1 for p in own(m))]
    return [m for m in alone if sum(wanted[p].numel() for p in own(m)) > _MUCH * total]


def _within(module: nn.Module, others: Set[int]) -> Iterator[nn.Module]:
    """A module and what is in it, but for the modules of other groups."""
    yield module
    for child in module.children():
        if id(child) not in others:
            yield from _within(child, others)


def _bare(kind: type[nn.Module]) -> nn.Module:
    return kind.__new__(kind)


def _without_fsdp(value: Any) -> Any:
    """A table of hooks without those of FSDP2, which belong to the model itself."""
    if not isinstance(value, OrderedDict):
        return value
    return OrderedDict(
        (key, hook)
        for key, hook in value.items()
        if not getattr(hook, "__module__", "").startswith("torch.distributed.fsdp")
    )


def _shard(
    twins: list[nn.Module], state: Any, module: nn.Module, wanted: Mapping[int, nn.Parameter], policy: Any
) -> None:
    from torch.distributed.fsdp import OffloadPolicy, fully_shard
    from torch.distributed.tensor import Shard

    like: dict[int, nn.Parameter] = {}  # id of a whole parameter -> how it is to be sharded
    made: dict[int, nn.Parameter] = {}
    left: set[nn.Parameter] = set()
    for owner in (inner for twin in twins for inner in twin.modules()):
        for name, p in owner._parameters.items():
            if p is not None and id(p) in wanted:
                if id(p) not in made:
                    made[id(p)] = nn.Parameter(whole(wanted[id(p)].detach()), requires_grad=False)
                    like[id(made[id(p)])] = wanted[id(p)]
                owner._parameters[name] = made[id(p)]
            elif p is not None and not is_sharded(p) and id(p) not in like:
                left.add(p)
    mesh = next(p.device_mesh for p in module.parameters() if is_sharded(p))
    dims = {i: _dimension(p) for i, p in like.items()}
    groups = vars(state).get("_fsdp_param_groups") or [vars(state).get("_fsdp_param_group")]  # by PyTorch's version
    offload = next((group.offload_policy for group in groups if group is not None), OffloadPolicy())
    others: dict[str, Any] = {"ignored_params": left} if left else {}
    if any(dims.values()):
        others["shard_placement_fn"] = lambda p: Shard(dims[id(p)])
    fully_shard(
        twins if len(twins) > 1 else twins[0],
        mesh=mesh,
        reshard_after_forward=True,
        mp_policy=policy,
        offload_policy=offload,
        **others,
    )


def _dimension(parameter: Tensor) -> int:
    from torch.distributed.tensor import Shard

    assert is_sharded(parameter)
    return next((q.dim for q in parameter.placements if isinstance(q, Shard)), 0)
