"""What the processes of a distributed run must agree on before they wait for each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed
from torch import Tensor

from holdfast.errors import DataError

__all__ = ["in_step", "of_the_first", "several", "summed"]


def several() -> bool:
    """Whether this is one of several processes of a distributed run."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def of_the_first(drawn: Tensor) -> Tensor:
    """What the first process has drawn, in all of them.

    Args:
        drawn: of the same shape in each, on the device by which they talk; overwritten.
    """
    if several():
        torch.distributed.broadcast(drawn, src=0)
    return drawn


def summed(mine: Tensor) -> Tensor:
    """The sum of what all processes have.

    Args:
        mine: of the same shape in each, on the device by which they talk; overwritten.
    """
    if several():
        torch.distributed.all_reduce(mine)
    return mine


@contextmanager
def in_step(parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """What one process raises within, all raise: none is left waiting for the others.

    Nothing within may itself wait for the other processes.

    Args:
        parameters: those at hand; the processes exchange a number on their device.

    Raises:
        DataError: in the processes that succeeded while another failed.
    """
    try:
        yield
    except Exception:
        _failures(1, parameters)
        raise
    failed = _failures(0, parameters)
    if failed:
        raise DataError(
            f"{failed} of {torch.distributed.get_world_size()} processes could not use their batches (their own errors "
            "say why); expected every process of a distributed run to have some"
        )


def _failures(mine: int, parameters: Mapping[str, Tensor]) -> int:
    if not several() or not parameters:
        return 0
    device = next(iter(parameters.values())).device
    failed = torch.tensor(mine, device=device)
    torch.distributed.all_reduce(failed)
    return int(failed)
