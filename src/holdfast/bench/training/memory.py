"""The most memory that a run took, and how much there is for one."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import torch

__all__ = ["available_bytes", "peak_bytes", "reset_peak"]

_PROCESS = Path("/proc/self")
_SYSTEM, _LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")


def reset_peak(device: torch.device) -> None:
    """Start measuring anew, where the system can (CUDA, and Linux for the process as a whole)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak is then the process's, since its start
        (_PROCESS / "clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """The peak since :func:`reset_peak`: memory on a CUDA device, else the process's resident memory, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_bytes(device: torch.device) -> int | None:
    """What can still be taken on a device without pushing anybody else out, in bytes; ``None`` where no one says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    with contextlib.suppress(OSError, ValueError):  # not Linux
        found += [
            int(line.split()[1]) * 1024 for line in _SYSTEM.read_text().splitlines() if line.startswith("MemAvailable:")
        ]
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        found.append(int(_LIMIT.read_text()))
    return min(found, default=None)
