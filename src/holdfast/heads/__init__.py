"""Closed-form classifiers over fixed features: exact in any order, nothing stored, nothing forgotten.

May import the core (errors, names, objectives, importance.untouched, files) and nothing of the bench.
"""

from __future__ import annotations

from holdfast.heads.calibrated import TransportCalibrated
from holdfast.heads.fecam import FeCAM
from holdfast.heads.head import Head
from holdfast.heads.lwpk import LwPK
from holdfast.heads.maps import FeatureMap, RandomFourier, RandomProjection
from holdfast.heads.ncm import NCM
from holdfast.heads.patches import RandomPatches
from holdfast.heads.ridge import Ridge
from holdfast.heads.saving import load, save
from holdfast.heads.slda import SLDA

__all__ = [
    "FeCAM",
    "FeatureMap",
    "Head",
    "LwPK",
    "NCM",
    "RandomFourier",
    "RandomPatches",
    "RandomProjection",
    "Ridge",
    "SLDA",
    "TransportCalibrated",
    "load",
    "save",
]
