"""Where it would run: Python, devices, the folder of data sets, a browser."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from holdfast._version import __version__

__all__ = ["BROWSERS", "browser", "data_sets", "devices", "headline"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def headline() -> str:
    """Versions of Holdfast and Python, the machine, and where this Holdfast lies."""
    place = Path(__file__).resolve().parents[1]
    return (
        f"holdfast {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}, {place}"
    )


def devices() -> str:
    """What PyTorch can compute on here."""
    try:
        import torch
    except ImportError as error:  # not installed, or a library of its own is not
        return f"unknown: PyTorch cannot be imported ({error})"
    found = [f"CPU: {torch.get_num_threads()} threads, {os.cpu_count()} cores"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            found.append(f"cuda:{index}: {about.name}, {about.total_memory / 2**30:.0f} GiB")
    else:
        found.append("no CUDA")
    if torch.backends.mps.is_available():
        found.append("mps")
    return "; ".join(found)


def data_sets(folder: Path | None = None) -> str:
    """Which of the named data sets lie in the folder of data sets, and where the others would come from.

    Args:
        folder: default: the environment's ``HOLDFAST_DATA``.
    """
    said = "--data-dir" if folder else "HOLDFAST_DATA"
    folder = folder or (Path(os.environ["HOLDFAST_DATA"]) if os.environ.get("HOLDFAST_DATA") else None)
    if folder is None:
        return "HOLDFAST_DATA is not set: named data sets come from the Hugging Face Hub; digits are embedded"
    if not folder.expanduser().is_dir():
        return f"{said} is {folder}, which is no folder: unset it, or name one that holds mnist/, cifar10/, ..."
    try:
        from holdfast.bench.data.sources import SOURCES
    except ImportError:
        return f"{said} is {folder}; what it holds is known where PyTorch is installed"
    names = list(SOURCES)
    there = [name for name in names if any((folder.expanduser() / name).rglob("*.parquet"))]
    lacking = [name for name in names if name not in there]
    return f"{said} is {folder}, with {', '.join(there) or 'no named data set'}" + (
        f"; without {', '.join(lacking)}" if lacking else ""
    )


def browser() -> str:
    """Which browser is there for Holdfast's own tests; no command needs one."""
    found = next((name for name in BROWSERS if shutil.which(name)), None)
    return f"{found or 'no Chromium found'} (only Holdfast's own tests start one; reports open in any)"
