"""Teach a PyTorch model something new without losing what it knew, and without keeping the old data.

The public names are imported when they are first used, so that ``holdfast --help`` does not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from holdfast import registry
from holdfast._version import __version__ as __version__

if TYPE_CHECKING:  # what type checkers read in place of `_HOMES`: a method without a line here is `Any` to them
    from holdfast.auditing import audit as audit
    from holdfast.curvature import hessian_norm as hessian_norm
    from holdfast.distillation.lwf import LwF as LwF
    from holdfast.drawing import hessian_init as hessian_init
    from holdfast.errors import ConfigurationError as ConfigurationError
    from holdfast.errors import DataError as DataError
    from holdfast.errors import DependencyError as DependencyError
    from holdfast.errors import HoldfastError as HoldfastError
    from holdfast.errors import NumericsError as NumericsError
    from holdfast.errors import ProtectionError as ProtectionError
    from holdfast.errors import ProtectionWarning as ProtectionWarning
    from holdfast.errors import StateError as StateError
    from holdfast.files import load_state as load_state
    from holdfast.files import save_state as save_state
    from holdfast.generating import Generations as Generations
    from holdfast.generating import generations as generations
    from holdfast.merging.running import CoFiMA as CoFiMA
    from holdfast.merging.running import CoMA as CoMA
    from holdfast.method import Method as Method
    from holdfast.method import Step as Step
    from holdfast.objectives import CausalLM as CausalLM
    from holdfast.objectives import ClassBalanced as ClassBalanced
    from holdfast.objectives import Classification as Classification
    from holdfast.objectives import Loss as Loss
    from holdfast.objectives import MaskedLM as MaskedLM
    from holdfast.objectives import ModelLoss as ModelLoss
    from holdfast.objectives import MultiLabel as MultiLabel
    from holdfast.objectives import Objective as Objective
    from holdfast.objectives import QuestionAnswering as QuestionAnswering
    from holdfast.objectives import Regression as Regression
    from holdfast.objectives import Segmentation as Segmentation
    from holdfast.objectives import Seq2SeqLM as Seq2SeqLM
    from holdfast.objectives import TokenClassification as TokenClassification
    from holdfast.optim import CLASSP as CLASSP
    from holdfast.optim import GoldenSGD as GoldenSGD
    from holdfast.penalties.anastrophic import Anastrophic as Anastrophic
    from holdfast.penalties.anpyc import ANPyC as ANPyC
    from holdfast.penalties.ewc import EWC as EWC
    from holdfast.penalties.ewc import OnlineEWC as OnlineEWC
    from holdfast.penalties.l2sp import L2SP as L2SP
    from holdfast.penalties.mas import MAS as MAS
    from holdfast.penalties.olora import OLoRA as OLoRA
    from holdfast.penalties.rwalk import RWalk as RWalk
    from holdfast.penalties.si import SI as SI
    from holdfast.projections.balancing import WeightBalancing as WeightBalancing
    from holdfast.projections.bounds import FixNorm as FixNorm
    from holdfast.projections.bounds import MaxNorm as MaxNorm
    from holdfast.projections.freeze import Freeze as Freeze
    from holdfast.projections.half import HFT as HFT
    from holdfast.projections.momentum import MoFO as MoFO
    from holdfast.projections.packnet import PackNet as PackNet
    from holdfast.projections.pruning import AnpycPruning as AnpycPruning
    from holdfast.projections.rollback import OLOR as OLOR
    from holdfast.projections.subspaces import GPM as GPM
    from holdfast.projections.subspaces import SGP as SGP
    from holdfast.projections.subspaces import AdamNSCL as AdamNSCL
    from holdfast.reparam.efficient import EfficientPackNet as EfficientPackNet
    from holdfast.reparam.updating import InRank as InRank
    from holdfast.selecting import low_perplexity as low_perplexity
    from holdfast.strength import AutoStrength as AutoStrength

# Where each public name lives: methods and optimizers where the registry says.
_HOMES = {
    name: f"holdfast.{home}"
    for home, names in {
        "auditing": "audit",
        "curvature": "hessian_norm",
        "drawing": "hessian_init",
        "errors": "ConfigurationError DataError DependencyError HoldfastError NumericsError ProtectionError "
        "ProtectionWarning StateError",
        "files": "load_state save_state",
        "generating": "Generations generations",
        "method": "Method Step",
        "objectives": "CausalLM ClassBalanced Classification Loss MaskedLM ModelLoss MultiLabel Objective "
        "QuestionAnswering Regression Segmentation Seq2SeqLM TokenClassification",
        "penalties.olora": "OLoRA",
        "selecting": "low_perplexity",
        "strength": "AutoStrength",
    }.items()
    for name in names.split()
} | {
    name: module
    for entry in registry.entries()
    if entry.kind in ("method", "optimizer") and (entry.home or "").startswith("holdfast.")
    for module, name in [str(entry.home).split(":")]
}

__all__ = sorted(_HOMES)


_WINGS = ("heads", "merging", "prequential", "reparam")  # that are used by their own names: holdfast.heads.SLDA


def __getattr__(name: str) -> Any:
    if name in _WINGS:
        return importlib.import_module(f"holdfast.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
