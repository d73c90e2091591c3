"""Weights that are computed from other tensors: where a step leads depends on which these are.

May import the core and projections, whose masks the methods here hold, and nothing of the bench.
"""

from __future__ import annotations

from holdfast.reparam.lowrank import finalize, grow, inrank, ranks
from holdfast.reparam.power import inverse_power, power, powerpropagate
from holdfast.reparam.weights import plain

__all__ = ["finalize", "grow", "inrank", "inverse_power", "plain", "power", "powerpropagate", "ranks"]
