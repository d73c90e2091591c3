"""Teach a PyTorch model something new without losing what it knew, and without keeping the old data.

The public names are imported when they are first used, so that ``holdfast --help`` does not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.distillation.lwf import LwF
    from holdfast.errors import (
        ConfigurationError,
        DataError,
        DependencyError,
        HoldfastError,
        NumericsError,
        ProtectionError,
        StateError,
    )
    from holdfast.files import load_state, save_state
    from holdfast.method import Method, Step
    from holdfast.objectives import CausalLM, Classification, MultiLabel, Objective, Regression
    from holdfast.optim import CLASSP
    from holdfast.penalties.anastrophic import Anastrophic
    from holdfast.penalties.anpyc import ANPyC
    from holdfast.penalties.ewc import EWC, OnlineEWC
    from holdfast.penalties.l2sp import L2SP
    from holdfast.penalties.mas import MAS
    from holdfast.penalties.rwalk import RWalk
    from holdfast.penalties.si import SI
    from holdfast.projections.freeze import Freeze
    from holdfast.projections.packnet import PackNet
    from holdfast.projections.pruning import AnpycPruning
    from holdfast.strength import AutoStrength

__all__ = [
    "ANPyC",
    "Anastrophic",
    "AnpycPruning",
    "AutoStrength",
    "CLASSP",
    "CausalLM",
    "Classification",
    "ConfigurationError",
    "DataError",
    "DependencyError",
    "EWC",
    "Freeze",
    "HoldfastError",
    "L2SP",
    "LwF",
    "MAS",
    "Method",
    "MultiLabel",
    "NumericsError",
    "Objective",
    "OnlineEWC",
    "PackNet",
    "ProtectionError",
    "RWalk",
    "Regression",
    "SI",
    "StateError",
    "Step",
    "load_state",
    "save_state",
]

_HOMES = {
    "ANPyC": "holdfast.penalties.anpyc",
    "Anastrophic": "holdfast.penalties.anastrophic",
    "AnpycPruning": "holdfast.projections.pruning",
    "AutoStrength": "holdfast.strength",
    "CLASSP": "holdfast.optim",
    "CausalLM": "holdfast.objectives",
    "Classification": "holdfast.objectives",
    "ConfigurationError": "holdfast.errors",
    "DataError": "holdfast.errors",
    "DependencyError": "holdfast.errors",
    "EWC": "holdfast.penalties.ewc",
    "Freeze": "holdfast.projections.freeze",
    "HoldfastError": "holdfast.errors",
    "L2SP": "holdfast.penalties.l2sp",
    "LwF": "holdfast.distillation.lwf",
    "MAS": "holdfast.penalties.mas",
    "Method": "holdfast.method",
    "MultiLabel": "holdfast.objectives",
    "NumericsError": "holdfast.errors",
    "Objective": "holdfast.objectives",
    "OnlineEWC": "holdfast.penalties.ewc",
    "PackNet": "holdfast.projections.packnet",
    "ProtectionError": "holdfast.errors",
    "RWalk": "holdfast.penalties.rwalk",
    "Regression": "holdfast.objectives",
    "SI": "holdfast.penalties.si",
    "StateError": "holdfast.errors",
    "Step": "holdfast.method",
    "load_state": "holdfast.files",
    "save_state": "holdfast.files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
