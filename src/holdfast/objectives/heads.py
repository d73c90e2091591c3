"""What a Transformers model is for, by the name of its head."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from holdfast.names import unwrap
from holdfast.objectives.answering import QuestionAnswering
from holdfast.objectives.base import Objective
from holdfast.objectives.classification import Classification
from holdfast.objectives.independent import MultiLabel, Regression
from holdfast.objectives.language import CausalLM, Seq2SeqLM
from holdfast.objectives.model_loss import ModelLoss
from holdfast.objectives.segmentation import Segmentation
from holdfast.objectives.tokens import MaskedLM, TokenClassification

__all__ = ["EXCEPTIONS", "HEADS", "innermost", "kind_of", "objective_of"]


def _sequence_classification(config: Any) -> Objective:
    """As the models themselves choose their loss by ``problem_type`` and the number of labels."""
    kind = getattr(config, "problem_type", None)
    if kind == "multi_label_classification":
        return MultiLabel()
    one = getattr(config, "num_labels", None) == 1
    return Regression() if kind == "regression" or (kind is None and one) else Classification()


def _classification(config: Any) -> Objective:
    return Classification()


def _causal(config: Any) -> Objective:
    return CausalLM(per="sequence")


def _generation(config: Any) -> Objective:
    """An encoder and a decoder, or one model that goes on where images and text end."""
    return Seq2SeqLM(per="sequence") if getattr(config, "is_encoder_decoder", False) else CausalLM(per="sequence")


def _seq2seq(config: Any) -> Objective:
    return Seq2SeqLM(per="sequence")


def _masked(config: Any) -> Objective:
    return MaskedLM()


def _tokens(config: Any) -> Objective:
    return TokenClassification()


def _answers(config: Any) -> Objective:
    return QuestionAnswering()


def _pixels(config: Any) -> Objective:
    return Segmentation()


def _own(config: Any) -> Objective:
    return ModelLoss()


# What follows the architecture in a class's name -> the objective, given the model's configuration. A loss that a model
# gives for a batch alone, of outputs that none of the other objectives describes, is the model's own.
HEADS: Mapping[str, Callable[[Any], Objective]] = {
    "ForSequenceClassification": _sequence_classification,
    "ForImageClassification": _sequence_classification,
    "ForImageClassificationWithTeacher": _classification,
    "ForVideoClassification": _sequence_classification,
    "ForAudioClassification": _sequence_classification,
    "ForMultipleChoice": _classification,
    "ForNextSentencePrediction": _classification,
    "ForTokenClassification": _tokens,
    "ForQuestionAnswering": _answers,
    "ForQuestionAnsweringSimple": _answers,
    "ForSemanticSegmentation": _pixels,
    "ForMaskedLM": _masked,
    "ForCausalLM": _causal,
    "LMHeadModel": _causal,
    "BertGenerationDecoder": _causal,
    "ForCausalImageModeling": _causal,
    "ForVisionText2Text": _causal,
    "ForConditionalGeneration": _generation,
    "EncoderDecoderModel": _seq2seq,
    "MarianMTModel": _seq2seq,
    "ForSpeechToText": _seq2seq,
    "ForTextToText": _seq2seq,
    "ForObjectDetection": _own,
    "ForSegmentation": _own,
    "ForImageSegmentation": _own,
    "ForInstanceSegmentation": _own,
    "ForUniversalSegmentation": _own,
    "ForCTC": _own,
    "ForAudioFrameClassification": _own,
    "ForXVector": _own,
    "ForPreTraining": _own,
    "ForMaskedImageModeling": _own,
    "ForPretraining": _own,
    "ForPrediction": _own,
    "ForClassification": _own,
    "ForTimeSeriesClassification": _own,
    "ForRegression": _own,
}
_ANY_OTHER = re.compile("For[A-Z]")  # a head that is not in the table: whatever the model itself says, if it does

# Decoders of models with two texts: their labels stand where their outputs do, and nothing is shifted.
_DECODERS = (
    "BartForCausalLM",
    "BigBirdPegasusForCausalLM",
    "BlenderbotForCausalLM",
    "BlenderbotSmallForCausalLM",
    "MBartForCausalLM",
    "MarianForCausalLM",
    "MvpForCausalLM",
    "PLBartForCausalLM",
    "PegasusForCausalLM",
    "TrOCRForCausalLM",
    "WhisperForCausalLM",
)

# Models of sound: several codes at each step, each with labels and a loss of its own, or none that are words at all.
_SOUNDS = (
    "ClvpModelForConditionalGeneration",
    "CsmDepthDecoderForCausalLM",
    "CsmForConditionalGeneration",
    "DiaForConditionalGeneration",
    "GradiumPhononTTSForConditionalGeneration",
    "HiggsAudioV2ForConditionalGeneration",
    "MoshiForConditionalGeneration",
    "MusicgenForCausalLM",
    "MusicgenForConditionalGeneration",
    "MusicgenMelodyForCausalLM",
    "MusicgenMelodyForConditionalGeneration",
    "PocketTTSForConditionalGeneration",
    "Qwen2_5OmniTalkerForConditionalGeneration",
    "VibeVoiceForConditionalGeneration",
)

# Whose outputs or losses are not those that the name of their head promises.
EXCEPTIONS: Mapping[str, Callable[[Any], Objective]] = {
    **dict.fromkeys(_DECODERS, _masked),
    **dict.fromkeys(_SOUNDS, _own),
    "BlipForQuestionAnswering": _own,
    "BrosForTokenClassification": _own,
    "BrosSpadeEEForTokenClassification": _own,
    "BrosSpadeELForTokenClassification": _own,
    "LukeForMaskedLM": _own,
    "PI0ForConditionalGeneration": _own,
    "CpmAntForCausalLM": _masked,
    "ReformerModelWithLMHead": _causal,
    "ProphetNetForCausalLM": _own,
    "ProphetNetForConditionalGeneration": _own,
    "FlaubertWithLMHeadModel": _masked,
    "XLMWithLMHeadModel": _masked,
    "XLNetLMHeadModel": _masked,
    "FlaubertForQuestionAnswering": _own,
    "XLMForQuestionAnswering": _own,
    "XLNetForQuestionAnswering": _own,
    "LxmertForQuestionAnswering": _own,
    "TapasForQuestionAnswering": _own,
    "ViltForQuestionAnswering": _own,
    "VisualBertForQuestionAnswering": _own,
}


def objective_of(model: nn.Module) -> Objective | None:
    """The objective of a Transformers model with a head; ``None`` for any other model.

    A head that the table does not know is protected by the loss that the model itself returns, if it returns one.

    Wrappers are looked through, and a class of one's own that is derived from a Transformers model counts as that.

    Args:
        model: any module.
    """
    model = innermost(model)
    library = sys.modules.get("transformers")  # a model of it cannot be where it was not imported
    if library is None or not isinstance(model, library.PreTrainedModel):
        return None
    for base in type(model).__mro__:
        if base.__module__.partition(".")[0] != "transformers":
            continue
        if (make := kind_of(base.__name__)) is not None:
            return make(model.config)
    return None


def kind_of(name: str) -> Callable[[Any], Objective] | None:
    """What a class of Transformers is for; ``None`` for one without a head.

    Args:
        name: of the class.
    """
    if (found := EXCEPTIONS.get(name)) is not None:
        return found
    known = next((make for head, make in HEADS.items() if name.endswith(head)), None)
    return _own if known is None and _ANY_OTHER.search(name) else known


def innermost(model: nn.Module) -> nn.Module:
    """The model inside wrappers, those of PEFT among them."""
    model = unwrap(model)
    library = sys.modules.get("peft")
    if library is not None and isinstance(model, library.PeftModel):
        inner: nn.Module = model.get_base_model()
        return inner
    return model
