"""Measuring several pieces of work against each other on a machine that others use, too."""

from __future__ import annotations

import gc
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

__all__ = ["Setup", "Timings", "alternate", "copy_work"]


@dataclass(frozen=True)
class Setup:
    """How a benchmark is measured.

    Args:
        device: where.
        quick: tiny sizes and few rounds, to see that it runs; its figures mean nothing.
        seconds: how long one comparison goes on, once it has had its least number of rounds.
        cpu_time: count the time that the process had a processor, not the time that passed; for one thread on a machine
            that others keep busy.
    """

    device: torch.device
    quick: bool = False
    seconds: float = 15.0
    cpu_time: bool = False

    @property
    def compiles(self) -> bool:
        """Whether compiled kernels can be measured: on the CPU they need a C++ compiler."""
        return not self.quick and (self.device.type == "cuda" or shutil.which(os.environ.get("CXX", "g++")) is not None)

    @property
    def clock(self) -> Callable[[], float]:
        """What seconds are read from."""
        return time.process_time if self.cpu_time else time.perf_counter

    @property
    def rounds(self) -> tuple[int, int]:
        """The least and the largest number of rounds."""
        return (2, 2) if self.quick else (5, 200)


class Timings:
    """Seconds of each piece of work, round by round.

    Args:
        seconds: name -> one figure per round.
    """

    def __init__(self, seconds: Mapping[str, list[float]]) -> None:
        self.seconds = dict(seconds)

    def median(self, name: str) -> float:
        """The median of one piece of work."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, to: str) -> float:
        """The median over the rounds of how many times as long one took as another, which drifts less than either."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds[to], strict=True))

    def fastest(self, *names: str) -> str:
        """The one with the least median."""
        return min(names, key=self.median)

    @property
    def rounds(self) -> int:
        """How often each was measured."""
        return len(next(iter(self.seconds.values())))


def alternate(
    setup: Setup, works: Mapping[str, Callable[[], object]], *, warm: int = 2, least: int | None = None
) -> Timings:
    """Run every piece of work once a round, each round beginning with another.

    Whatever disturbs the machine then disturbs all of them; medians of many rounds and their ratios are what counts.

    Args:
        setup: how long, and where.
        works: name -> what is timed.
        warm: rounds that are not counted.
        least: rounds, where the setup's least number of them would take too long.
    """
    names = list(works)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    fewest, most = setup.rounds
    least = fewest if least is None else min(least, fewest)
    for _ in range(min(warm, 1) if setup.quick else warm):
        for work in works.values():
            work()
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        done = 0
        while done < least or (done < most and time.perf_counter() - began < setup.seconds):
            turn = done % len(names)
            for name in names[turn:] + names[:turn]:
                wait_for(setup.device)
                start = setup.clock()
                works[name]()
                wait_for(setup.device)
                seconds[name].append(setup.clock() - start)
            done += 1
    finally:
        gc.enable()
    return Timings(seconds)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_work(setup: Setup, count: int) -> tuple[Callable[[], object], int]:
    """A copy of so many float32 numbers, the yardstick of memory bandwidth, and the bytes that it moves."""
    source = torch.ones(count, device=setup.device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.nbytes
