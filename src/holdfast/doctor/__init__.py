"""What is installed, what is missing for what, and where it would run: may import the ground and `bench.data`.

It works where nothing but Python is installed, reads versions without importing what has them, and imports one large
package, PyTorch, which alone knows of a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from holdfast.doctor import machine, packages

__all__ = ["report"]


def report(data_dir: Path | None = None) -> Iterator[str]:
    """What ``holdfast doctor`` says, line by line.

    Args:
        data_dir: folder with the data sets; default: the environment's ``HOLDFAST_DATA``.
    """
    yield machine.headline()
    yield ""
    needs = packages.needs()
    for need in needs:
        yield from need.lines()
    if not needs:
        yield "packages  unknown: this Holdfast is a folder that pip has not installed (pip install -e FOLDER)"
    yield ""
    yield f"device    {machine.devices()}"
    yield f"data      {machine.data_sets(data_dir)}"
    yield f"browser   {machine.browser()}"
