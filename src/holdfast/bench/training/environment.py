"""Where a run happened: versions and machine."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

import torch

from holdfast._version import __version__
from holdfast.bench.records.measured import Environment

__all__ = ["describe"]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe(device: str) -> Environment:
    """The environment of a run on a device, dated now."""
    kind = torch.device(device)
    return Environment(
        python=platform.python_version(),
        torch=torch.__version__,
        holdfast=__version__,
        platform=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        threads=torch.get_num_threads(),
        device_name=torch.cuda.get_device_name(kind) if kind.type == "cuda" else "cpu",
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
