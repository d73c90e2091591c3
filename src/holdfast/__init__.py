"""Teach a PyTorch model something new without losing what it knew, and without keeping the old data."""

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
from holdfast.penalties.ewc import EWC, OnlineEWC
from holdfast.penalties.l2sp import L2SP

__all__ = [
    "CLASSP",
    "CausalLM",
    "Classification",
    "ConfigurationError",
    "DataError",
    "DependencyError",
    "EWC",
    "HoldfastError",
    "L2SP",
    "Method",
    "MultiLabel",
    "NumericsError",
    "Objective",
    "OnlineEWC",
    "ProtectionError",
    "Regression",
    "StateError",
    "Step",
    "load_state",
    "save_state",
]
