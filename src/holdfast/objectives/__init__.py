"""What a batch means: the outputs that a task uses, one loss per sample, targets drawn from the model.

A batch is a pair ``(inputs, targets)`` or a dict (``{"labels": …, **inputs}``, as Transformers has them).
Nothing here guesses: a batch that does not fit its objective is an error that says which one to use.
"""

from holdfast.objectives.bare import LossOnly, as_objective
from holdfast.objectives.base import Batch, Objective, SharedForward, count, draw
from holdfast.objectives.classification import Classification
from holdfast.objectives.independent import MultiLabel, Regression
from holdfast.objectives.language import CausalLM

__all__ = [
    "Batch",
    "CausalLM",
    "Classification",
    "LossOnly",
    "MultiLabel",
    "Objective",
    "Regression",
    "SharedForward",
    "as_objective",
    "count",
    "draw",
]
