"""A tiny random model of Transformers for each head that the table of objectives names, with a batch for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from holdfast import (
    CausalLM,
    Classification,
    MaskedLM,
    ModelLoss,
    MultiLabel,
    Objective,
    QuestionAnswering,
    Regression,
    Segmentation,
    Seq2SeqLM,
    TokenClassification,
)
from tests.objectives.tiny import (
    ANSWER,
    BART,
    BOXES,
    CLASS,
    CLIPSEG,
    DETR,
    ENCODER,
    GPT2,
    IDEFICS,
    MASK2FORMER,
    MASKFORMER,
    SEAMLESS,
    SECOND,
    SEGFORMER,
    SERIES,
    SPEECH,
    SPEECH_T5,
    T5,
    TAGS,
    THREE,
    VISION,
    WORDS,
    XLNET,
    images,
    masked,
    real,
    series,
    sound,
    text,
    words,
)

Case = tuple[str, type[Any], dict[str, Any], Callable[[], dict[str, Any]], type[Objective]]

CASES: dict[str, Case] = {
    "ForSequenceClassification": (
        "Bert", transformers.BertConfig, {**ENCODER, **THREE}, text(labels=CLASS), Classification,
    ),
    "ForImageClassification": (
        "ViT", transformers.ViTConfig, {**VISION, **THREE}, images(labels=CLASS), Classification,
    ),
    "ForImageClassificationWithTeacher": (
        "DeiT", transformers.DeiTConfig, {**VISION, **THREE}, images(), Classification,
    ),
    "ForVideoClassification": (
        "Timesformer",
        transformers.TimesformerConfig,
        {**VISION, **THREE, "num_frames": 2},
        lambda: {"pixel_values": real(2, 2, 3, 8, 8), "labels": CLASS},
        Classification,
    ),
    "ForAudioClassification": (
        "AST",
        transformers.ASTConfig,
        {**VISION, **THREE, "num_mel_bins": 16, "max_length": 16, "patch_size": 8},
        lambda: {"input_values": real(2, 16, 16), "labels": CLASS},
        Classification,
    ),
    "ForMultipleChoice": (
        "Bert",
        transformers.BertConfig,
        ENCODER,
        lambda: {"input_ids": words(9).view(2, 3, 3), "labels": CLASS},
        Classification,
    ),
    "ForNextSentencePrediction": (
        "Bert", transformers.BertConfig, ENCODER, text(labels=torch.tensor([0, 1])), Classification,
    ),
    "ForTokenClassification": (
        "Bert", transformers.BertConfig, {**ENCODER, **THREE}, text(labels=TAGS), TokenClassification,
    ),
    "ForQuestionAnswering": ("Bert", transformers.BertConfig, ENCODER, text(**ANSWER), QuestionAnswering),
    "ForQuestionAnsweringSimple": ("XLNet", transformers.XLNetConfig, XLNET, text(**ANSWER), QuestionAnswering),
    "ForSemanticSegmentation": (
        "Segformer",
        transformers.SegformerConfig,
        SEGFORMER,
        lambda: {"pixel_values": real(2, 3, 32, 32), "labels": (real(2, 32, 32) > 0).long()},
        Segmentation,
    ),
    "ForMaskedLM": ("Bert", transformers.BertConfig, ENCODER, text(labels=WORDS.roll(1, 1)), MaskedLM),
    "ForCausalLM": (
        "Llama",
        transformers.LlamaConfig,
        {**ENCODER, "num_key_value_heads": 2, "pad_token_id": 0},
        text(labels=WORDS),
        CausalLM,
    ),
    "LMHeadModel": ("GPT2", transformers.GPT2Config, GPT2, text(labels=WORDS), CausalLM),
    "BertGenerationDecoder": (
        "", transformers.BertGenerationConfig, {**ENCODER, "is_decoder": True}, text(labels=WORDS), CausalLM,
    ),
    "ForCausalImageModeling": (
        "ImageGPT",
        transformers.ImageGPTConfig,
        {**GPT2, "vocab_size": 21},  # one more, for where an image starts
        lambda: {"input_ids": words(), "labels": WORDS},
        CausalLM,
    ),
    "ForVisionText2Text": (
        "Idefics",
        transformers.IdeficsConfig,
        IDEFICS,
        lambda: {
            **text(labels=WORDS)(),
            "pixel_values": real(2, 1, 3, 8, 8),
            "image_attention_mask": torch.ones(2, 6, 1).long(),
        },
        CausalLM,
    ),
    "ForConditionalGeneration": ("T5", transformers.T5Config, T5, text(labels=SECOND), Seq2SeqLM),
    "MarianMTModel": (
        "", transformers.MarianConfig, {**BART, "decoder_start_token_id": 0}, text(labels=SECOND), Seq2SeqLM,
    ),
    "ForSpeechToText": ("SpeechT5", transformers.SpeechT5Config, SPEECH_T5, sound(labels=SECOND), Seq2SeqLM),
    "ForTextToText": ("SeamlessM4T", transformers.SeamlessM4TConfig, SEAMLESS, text(labels=SECOND), Seq2SeqLM),
    "EncoderDecoderModel": ("", transformers.EncoderDecoderConfig, {}, text(labels=SECOND), Seq2SeqLM),
    "ForObjectDetection": (
        "Yolos",
        transformers.YolosConfig,
        {**VISION, **THREE, "image_size": [8, 8], "num_detection_tokens": 3},
        images(labels=BOXES),
        ModelLoss,
    ),
    "ForSegmentation": (
        "Detr",
        transformers.DetrConfig,
        DETR,
        lambda: {
            "pixel_values": real(2, 3, 32, 32),
            "labels": [{**boxes, "masks": torch.ones(len(boxes["boxes"]), 32, 32).double()} for boxes in BOXES],
        },
        ModelLoss,
    ),
    "ForImageSegmentation": (
        "CLIPSeg",
        transformers.CLIPSegConfig,
        CLIPSEG,
        lambda: {**images()(), "input_ids": words(), "labels": (real(2, 8, 8) > 0).double()},
        ModelLoss,
    ),
    "ForInstanceSegmentation": ("MaskFormer", transformers.MaskFormerConfig, MASKFORMER, masked, ModelLoss),
    "ForUniversalSegmentation": ("Mask2Former", transformers.Mask2FormerConfig, MASK2FORMER, masked, ModelLoss),
    "ForCTC": (
        "Wav2Vec2", transformers.Wav2Vec2Config, SPEECH, sound(labels=torch.tensor([[1, 2], [3, -100]])), ModelLoss,
    ),
    "ForAudioFrameClassification": (
        "Wav2Vec2",
        transformers.Wav2Vec2Config,
        {**SPEECH, **THREE},
        sound(labels=torch.nn.functional.one_hot(torch.arange(20).view(2, 10) % 3, 3)),
        ModelLoss,
    ),
    "ForXVector": ("Wav2Vec2", transformers.Wav2Vec2Config, {**SPEECH, **THREE}, sound(labels=CLASS), ModelLoss),
    "ForPreTraining": (
        "Bert",
        transformers.BertConfig,
        ENCODER,
        text(labels=WORDS, next_sentence_label=torch.tensor([0, 1])),
        ModelLoss,
    ),
    "ForMaskedImageModeling": (
        "ViT",
        transformers.ViTConfig,
        {**VISION, "encoder_stride": 4},
        images(bool_masked_pos=torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0]]).bool()),
        ModelLoss,
    ),
    "ForPretraining": (
        "PatchTST", transformers.PatchTSTConfig, {**SERIES, "do_mask_input": True}, series(), ModelLoss,
    ),
    "ForPrediction": ("PatchTST", transformers.PatchTSTConfig, SERIES, series(future_values=real(2, 2, 2)), ModelLoss),
    "ForClassification": (
        "PatchTST", transformers.PatchTSTConfig, {**SERIES, "num_targets": 3}, series(target_values=CLASS), ModelLoss,
    ),
    "ForTimeSeriesClassification": (
        "PatchTSMixer",
        transformers.PatchTSMixerConfig,
        {**SERIES, "num_layers": 1, "num_targets": 3},
        series(target_values=CLASS),
        ModelLoss,
    ),
    "ForRegression": (
        "PatchTST",
        transformers.PatchTSTConfig,
        {**SERIES, "num_targets": 2, "loss": "mse"},
        series(target_values=real(2, 2)),
        ModelLoss,
    ),
}  # fmt: skip

# The same head, and another objective, for its configuration says so.
BY_CONFIGURATION: dict[str, Case] = {
    "several labels": (
        "BertForSequenceClassification",
        transformers.BertConfig,
        {**ENCODER, **THREE, "problem_type": "multi_label_classification"},
        text(labels=torch.tensor([[0.0, 1, 1], [1, 0, 0]]).double()),
        MultiLabel,
    ),
    "one value": (
        "BertForSequenceClassification",
        transformers.BertConfig,
        {**ENCODER, "num_labels": 1},
        text(labels=real(2)),
        Regression,
    ),
    "several values": (
        "BertForSequenceClassification",
        transformers.BertConfig,
        {**ENCODER, **THREE, "problem_type": "regression"},
        text(labels=real(2, 3)),
        Regression,
    ),
}
