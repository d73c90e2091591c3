"""The shape of a saved state: tensors and plain values, keyed by parameter name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import NumericsError, ProtectionError, StateError
from holdfast.parts import Rows, may_hold, rows_of
from holdfast.sharding import anywhere, is_sharded, local, place_like, whole
from holdfast.wrappers import canonical_name

__all__ = [
    "anchor_of",
    "check_finite",
    "check_fits",
    "check_form",
    "check_something",
    "finiteness",
    "pack",
    "placed_like",
    "unpack",
]


def anchor_of(parameter: Tensor) -> Tensor:
    """A copy of a parameter to hold on to, in float32 or better."""
    value = parameter.detach()
    if value.dtype in (torch.bfloat16, torch.float16):
        return value.float()
    return value.clone()


def check_fits(
    state: Mapping[str, Mapping[str, Tensor]], params: Mapping[str, nn.Parameter], rows: Mapping[str, Rows]
) -> None:
    """Refuse a state that names parameters which the model lacks, or of which it is no leading block.

    Args:
        state: name -> kind -> tensor.
        params: all of the model's.
        rows: which rows of some of them are selected.

    Raises:
        StateError: naming the first such parameter.
    """
    for name, tensors in state.items():
        if name not in params:
            raise StateError(f"something is remembered of parameter {name!r}, but the model has no such parameter")
        for kind, tensor in tensors.items():
            if not may_hold(tensor, rows_of(params[name], rows.get(name))):
                raise StateError(
                    f"{kind} of parameter {name!r} has shape {tuple(tensor.shape)}, "
                    f"but the parameter has {tuple(params[name].shape)}{_shown(rows.get(name))}"
                )


def _shown(rows: Rows | None) -> str:
    return "" if rows is None else f", of which select names the rows [{rows[0]}:{'' if rows[1] is None else rows[1]}]"


@torch.no_grad()
def finiteness(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Whether all entries of a tensor are finite, ``[]`` for each that is not empty, without waiting for the device.

    Of a sharded tensor, the entries that are here.
    """
    found = [local(t.detach()) for t in tensors if t.numel()]
    if all(t.device.type == "cpu" for t in found):  # there twenty times as fast as the norm
        return [torch.stack(torch.aminmax(t)).isfinite().all() if t.numel() else torch.tensor(True) for t in found]
    found = [t if t.numel() else t.new_zeros(1) for t in found]  # of a small tensor some processes hold no part
    # The largest magnitude: a sum of squares would overflow where no single entry does.
    return list(map(torch.isfinite, torch._foreach_norm(found, float("inf"))))


def placed_like(
    state: dict[str, dict[str, Tensor]], params: Mapping[str, nn.Parameter]
) -> dict[str, dict[str, Tensor]]:
    """What is remembered of each parameter, held as the parameter is now: it may have been sharded since.

    Args:
        state: name -> kind -> tensor; one that is not sharded may also be elsewhere than its parameter.
        params: name -> parameter, of each name in ``state``.

    Returns:
        The same dict if nothing has to be moved.
    """
    placed = {
        name: {
            kind: place_like(params[name], t) if is_sharded(params[name]) or is_sharded(t) else t
            for kind, t in tensors.items()
        }
        for name, tensors in state.items()
    }
    moved = any(t is not state[name][kind] for name, tensors in placed.items() for kind, t in tensors.items())
    return placed if moved else state


def check_finite(method: str, state: Mapping[str, Mapping[str, Tensor]], buffers: Mapping[str, Tensor]) -> None:
    """Refuse to remember a number that is not finite: it would spoil every weight at the next step.

    Raises:
        NumericsError: naming the first such tensor.
    """
    named = [(f"{kind} of parameter {name!r}", t) for name, tensors in state.items() for kind, t in tensors.items()]
    named += [(f"buffer {name!r}", t) for name, t in buffers.items()]
    named = [(label, t) for label, t in named if t.is_floating_point() and t.numel()]
    tensors = [t for _, t in named]
    broken = anywhere([~finite for finite in finiteness(tensors)], tensors)
    for (label, _), bad in zip(named, broken, strict=True):
        if bad:
            raise NumericsError(f"{method}: the {label} is not finite, so nothing was remembered of this task")


def check_something(method: str, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Refuse importances that are all 0: whatever the strength, nothing would be protected.

    Raises:
        ProtectionError: saying where to look.
    """
    found = [held["importance"] for held in state.values() if "importance" in held]
    if found and not any(anywhere([local(importance).any() for importance in found], found)):
        raise ProtectionError(
            f"{method} found importance 0 for every weight, which protects nothing: does training move the weights, do "
            "the outputs depend on them (a forward under no_grad hides it), and is what competes more than one output?"
        )


def pack(
    method: str,
    version: int,
    meta: Mapping[str, Any],
    state: Mapping[str, Mapping[str, Tensor]],
    buffers: Mapping[str, Tensor],
    *,
    gather: bool = True,
) -> dict[str, Any]:
    """A state dict, its tensors detached but not copied (as ``torch.nn.Module.state_dict`` does).

    Args:
        method: its class's name.
        version: of that class.
        meta: plain values.
        state: name -> kind -> tensor.
        buffers: name -> tensor.
        gather: make sharded tensors whole, one after the other, in the host's memory: all processes must ask for it.
    """
    saved = _saved if gather else Tensor.detach
    return {
        "method": method,
        "version": version,
        "tensors": sum(map(len, state.values())) + len(buffers),
        "meta": dict(meta),
        "state": {name: {k: saved(t) for k, t in tensors.items()} for name, tensors in state.items()},
        "buffers": {name: saved(t) for name, t in buffers.items()},
    }


def _saved(tensor: Tensor) -> Tensor:
    return whole(tensor.detach()).cpu() if is_sharded(tensor) else tensor.detach()


def check_form(saved: Any, method: str, version: int) -> None:
    """Refuse what no state dict of this method and version looks like.

    Raises:
        StateError: saying what is wrong with it.
    """
    if not isinstance(saved, Mapping):
        raise StateError(f"the state is a {type(saved).__name__}; expected what {method}.state_dict() returns")
    missing = [key for key in ("method", "version", "meta", "state", "buffers") if key not in saved]
    if missing:
        raise StateError(f"the state lacks {missing[0]!r}; expected what {method}.state_dict() returns")
    if (saved["method"], saved["version"]) != (method, version):
        raise StateError(
            f"the state is of {saved['method']} version {saved['version']}; expected {method} version {version}"
        )
    for key in ("meta", "state", "buffers"):
        if not isinstance(saved[key], Mapping):
            raise StateError(f"the state's {key!r} is a {type(saved[key]).__name__}; expected a dict")
    for name, held in {**saved["state"], "buffers": saved["buffers"]}.items():
        if not (isinstance(held, Mapping) and all(isinstance(t, Tensor) for t in held.values())):
            raise StateError(f"the state holds {held!r} under {name!r}; expected a dict of tensors")
    # torch.distributed.checkpoint fills in a state dict that is there: what a fresh method has not got, it leaves out.
    found = sum(map(len, saved["state"].values())) + len(saved["buffers"])
    expected = saved.get("tensors", found)  # older states do not say
    if found != expected:
        raise StateError(
            f"the state holds {found} of the {expected} tensors that were saved of {method}: from a checkpoint of "
            "torch.distributed.checkpoint take it by holdfast.integrations.checkpoint.load_memory: docs/distributed.md"
        )


def unpack(
    saved: Mapping[str, Any], method: str, version: int, params: Mapping[str, nn.Parameter], rows: Mapping[str, Rows]
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The parts of a state dict, checked and copied to where the parameters live.

    Returns:
        ``(meta, state, buffers)``.

    Raises:
        StateError: for another method's or version's state, a missing part, an unknown name or another shape.
    """
    check_form(saved, method, version)
    # A state from when a wrapper's mark was still part of a name.
    named = {name if name in params else canonical_name(name): held for name, held in saved["state"].items()}
    check_fits(named, params, rows)
    starts = saved["meta"].get("rows", {})
    for name in named:
        expected = rows[name][0] if name in rows else 0
        if starts.get(name, 0) != expected:
            raise StateError(
                f"the state holds parameter {name!r} from row {starts.get(name, 0)} on, but select names it from row "
                f"{expected}"
            )
    state = {
        name: {k: place_like(params[name], t.detach().to(params[name].device, copy=True)) for k, t in tensors.items()}
        for name, tensors in named.items()
    }
    device = next(iter(params.values())).device
    buffers = {name: t.detach().to(device, copy=True) for name, t in saved["buffers"].items()}
    return dict(saved["meta"]), state, buffers
