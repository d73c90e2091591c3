"""Merging of weights, after training: functions over state dicts, and CoMA and CoFiMA, which merge after every task.

May import the core and importance, and nothing of the bench.
"""

from __future__ import annotations

from holdfast.merging.path import interpolate
from holdfast.merging.running import CoFiMA, CoMA
from holdfast.merging.weights import average, fisher_average, magmax, task_arithmetic, ties, wise_ft

__all__ = [
    "CoFiMA",
    "CoMA",
    "average",
    "fisher_average",
    "interpolate",
    "magmax",
    "task_arithmetic",
    "ties",
    "wise_ft",
]
