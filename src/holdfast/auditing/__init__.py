"""Two models and some data: what was lost, what was gained. Nothing here trains.

Pure functions say what each figure is; :func:`audit` runs both models over the data and makes a record of all of them.
"""

from holdfast.auditing.answers import Answers, answers_of
from holdfast.auditing.calibration import brier_score, calibration_error, forward_kl
from holdfast.auditing.changes import Flips, clustered_interval, flips, mcnemar, wilson_interval
from holdfast.auditing.drift import linear_cka, relative_distances
from holdfast.auditing.record import Audit, Change, ClassChange, DataAudit, Layer, Measured, Risen, WorstFlip
from holdfast.auditing.running import audit
from holdfast.auditing.words import as_text, probability, verdict

__all__ = [
    "Answers",
    "Audit",
    "Change",
    "ClassChange",
    "DataAudit",
    "Flips",
    "Layer",
    "Measured",
    "Risen",
    "WorstFlip",
    "answers_of",
    "as_text",
    "audit",
    "brier_score",
    "calibration_error",
    "clustered_interval",
    "flips",
    "forward_kl",
    "linear_cka",
    "mcnemar",
    "probability",
    "relative_distances",
    "verdict",
    "wilson_interval",
]
