"""What the processes of a sharded model do together: batches in turn, decisions, looking at whole gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from holdfast.errors import DataError
from holdfast.objectives import Batch
from holdfast.processes import in_step, several
from holdfast.sharding import fsdp_modules, is_sharded

__all__ = ["WholeParameters", "agreed", "in_turn", "most", "on_the_way"]

_END: Any = object()


class WholeParameters:
    """The whole parameters that FSDP2 puts in the place of shards while a module runs.

    Args:
        model: a model of FSDP2.
        wanted: canonical name -> parameter.

    Attributes:
        found: canonical name -> the parameter that the latest forward pass used: the leaf of its autograd graph. One
            that is not sharded is its own.
    """

    def __init__(self, model: nn.Module, wanted: Mapping[str, nn.Parameter]) -> None:
        names = {id(p): name for name, p in wanted.items()}
        self.found: dict[str, nn.Parameter] = {name: p for name, p in wanted.items() if not is_sharded(p)}
        self._places: dict[nn.Module, list[tuple[nn.Module, str, str]]] = {
            group: [
                (owner, key, names[id(p)])
                for owner in group.modules()
                for key, p in owner._parameters.items()
                if p is not None and id(p) in names
            ]
            for group in fsdp_modules(model)
        }

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        """Look at each group as it ends its forward, before its parameters are let go of."""
        handles = [group.register_forward_hook(self._see, prepend=True) for group in self._places]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see(self, group: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        for owner, key, name in self._places[group]:
            p = owner._parameters[key]
            if p is not None and not is_sharded(p):  # those of a group within are their group's to show
                self.found[name] = p


def most(numbers: Sequence[int], device: torch.device) -> list[int]:
    """The largest that any process has, of each number."""
    if not several() or not numbers:
        return list(numbers)
    found = torch.tensor(numbers, dtype=torch.int64, device=device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return list(map(int, found.tolist()))


def agreed(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Which of these are so in any process."""
    return [bool(number) for number in most([int(flag) for flag in flags], device)]


def in_turn(batches: Iterable[Batch], parameters: Mapping[str, Tensor]) -> Iterator[tuple[Batch, bool]]:
    """Batches, until no process has another.

    Args:
        batches: this process's.
        parameters: those at hand; the processes exchange a number on their device.

    Yields:
        ``(batch, whether it is this process's own)``: one that has no more gets its last again.

    Raises:
        DataError: in all processes, if one has none at all.
    """
    iterator = iter(batches)
    with in_step(parameters):
        batch = next(iterator, _END)
        if batch is _END:
            raise DataError("the batches hold no sample; expected at least one")
    last, mine = batch, True
    device = next(iter(parameters.values())).device
    while agreed([mine], device)[0]:
        yield last, mine
        with in_step(parameters):
            batch = next(iterator, _END) if mine else _END
        mine = batch is not _END
        last = batch if mine else last


def on_the_way(
    outputs: Tensor, parameters: Sequence[nn.Parameter], cotangent: Tensor, look: Sequence[Callable[[Tensor], None]]
) -> None:
    """Show each parameter's whole gradient to a function, one after the other; all at once would be a model more.

    Args:
        outputs: of the forward pass.
        parameters: whole ones, leaves of its graph.
        cotangent: the gradient at the outputs.
        look: for each parameter what is called with its gradient ``[*p]``; not called if there is none.
    """

    def seen(function: Callable[[Tensor], None]) -> Callable[[Tensor], Tensor]:
        def hook(gradient: Tensor) -> Tensor:
            function(gradient)
            return gradient.new_zeros(()).expand_as(gradient)

        return hook

    handles = [
        p.register_hook(seen(function))  # type: ignore[no-untyped-call]  # torch's own gap
        for p, function in zip(parameters, look, strict=True)
    ]
    try:
        torch.autograd.grad(outputs, list(parameters), cotangent, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
