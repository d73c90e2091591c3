"""What a batch means: the outputs that a task uses, one loss per sample, targets drawn from the model.

A batch is a pair ``(inputs, targets)`` or a dict (``{"labels": …, **inputs}``, as Transformers has them).
Nothing here guesses: a batch that does not fit its objective is an error that says which one to use.
"""

from holdfast.objectives.answering import QuestionAnswering
from holdfast.objectives.balanced import ClassBalanced, class_balanced_weights
from holdfast.objectives.base import Batch, Objective, SharedForward
from holdfast.objectives.classification import Classification
from holdfast.objectives.independent import MultiLabel, Regression
from holdfast.objectives.language import CausalLM, Seq2SeqLM
from holdfast.objectives.loss import Loss
from holdfast.objectives.meaning import Meaning, count, draw, meaning_of
from holdfast.objectives.model_loss import ModelLoss
from holdfast.objectives.resolve import as_objective, describe, restore
from holdfast.objectives.segmentation import Segmentation
from holdfast.objectives.tokens import MaskedLM, TokenClassification

__all__ = [
    "Batch",
    "CausalLM",
    "ClassBalanced",
    "Classification",
    "Loss",
    "MaskedLM",
    "Meaning",
    "ModelLoss",
    "MultiLabel",
    "Objective",
    "QuestionAnswering",
    "Regression",
    "Segmentation",
    "Seq2SeqLM",
    "SharedForward",
    "TokenClassification",
    "as_objective",
    "class_balanced_weights",
    "count",
    "describe",
    "draw",
    "meaning_of",
    "restore",
]
