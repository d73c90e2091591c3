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
    DECODERS,
    DETR,
    ENCODER,
    FLAUBERT,
    GPT2,
    MASK2FORMER,
    MASKFORMER,
    PROPHET,
    SECOND,
    SEGFORMER,
    SERIES,
    SPEECH,
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
    "ForConditionalGeneration": ("T5", transformers.T5Config, T5, text(labels=SECOND), Seq2SeqLM),
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

EXCEPTIONS: dict[str, tuple[type[Any], dict[str, Any], Callable[[], dict[str, Any]], type[Objective]]] = {
    **{
        f"{name}ForCausalLM": (getattr(transformers, f"{name}Config"), BART, text(labels=WORDS), MaskedLM)
        for name in DECODERS
    },
    "WhisperForCausalLM": (
        transformers.WhisperConfig,
        {**BART, "max_target_positions": 16, "begin_suppress_tokens": None, "suppress_tokens": None},
        text(labels=WORDS),
        MaskedLM,
    ),
    "CpmAntForCausalLM": (
        transformers.CpmAntConfig,
        {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "dim_head": 4,
            "dim_ff": 8,
            "vocab_size": 20,
            "prompt_length": 2,
            "prompt_types": 32,
            "segment_types": 32,
        },
        lambda: {"input_ids": words(), "labels": WORDS},
        MaskedLM,
    ),
    "ProphetNetForCausalLM": (transformers.ProphetNetConfig, PROPHET, text(labels=WORDS), ModelLoss),
    "ProphetNetForConditionalGeneration": (
        transformers.ProphetNetConfig, PROPHET, text(labels=SECOND.clamp(min=3)), ModelLoss,
    ),
    "FlaubertWithLMHeadModel": (transformers.FlaubertConfig, FLAUBERT, text(labels=WORDS), MaskedLM),
    "XLMWithLMHeadModel": (transformers.XLMConfig, FLAUBERT, text(labels=WORDS), MaskedLM),
    "XLNetLMHeadModel": (transformers.XLNetConfig, XLNET, text(labels=WORDS), MaskedLM),
    "FlaubertForQuestionAnswering": (
        transformers.FlaubertConfig, {**FLAUBERT, "start_n_top": 2, "end_n_top": 2}, text(**ANSWER), ModelLoss,
    ),
    "XLMForQuestionAnswering": (
        transformers.XLMConfig, {**FLAUBERT, "start_n_top": 2, "end_n_top": 2}, text(**ANSWER), ModelLoss,
    ),
    "XLNetForQuestionAnswering": (
        transformers.XLNetConfig, {**XLNET, "start_n_top": 2, "end_n_top": 2}, text(**ANSWER), ModelLoss,
    ),
    "LxmertForQuestionAnswering": (
        transformers.LxmertConfig,
        {**ENCODER, "l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 4, "num_qa_labels": 3},
        lambda: {**text()(), "visual_feats": real(2, 3, 4), "visual_pos": real(2, 3, 4), "labels": CLASS},
        ModelLoss,
    ),
    "TapasForQuestionAnswering": (
        transformers.TapasConfig,
        {**ENCODER, "type_vocab_sizes": [3, 8, 8, 2, 2, 8, 8], "max_num_rows": 8, "max_num_columns": 8},
        lambda: {
            **text()(),
            "token_type_ids": torch.tensor([[0, 0, 0, 0, 0, 0, 0]] + [[1, 1, 1, 0, 0, 0, 0]] * 5).expand(2, 6, 7),
            "labels": torch.tensor([[0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]]),
        },
        ModelLoss,
    ),
    "ViltForQuestionAnswering": (
        transformers.ViltConfig,
        {**ENCODER, **THREE, "image_size": 8, "patch_size": 4},
        lambda: {**text()(), **images()(), "labels": real(2, 3).sigmoid()},
        ModelLoss,
    ),
    "VisualBertForQuestionAnswering": (
        transformers.VisualBertConfig,
        {**ENCODER, **THREE, "visual_embedding_dim": 4},
        lambda: {**text()(), "visual_embeds": real(2, 3, 4), "labels": real(2, 3).softmax(1)},
        ModelLoss,
    ),
}  # fmt: skip
