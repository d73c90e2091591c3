"""Teach a PyTorch model something new without losing what it knew, and without keeping the old data."""

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

__all__ = [
    "ANPyC",
    "Anastrophic",
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
    "ProtectionError",
    "RWalk",
    "Regression",
    "SI",
    "StateError",
    "Step",
    "load_state",
    "save_state",
]
