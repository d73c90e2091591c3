"""A tiny random model of Transformers for each head that the table of objectives names, with a batch for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

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

Case = tuple[str, type[Any], dict[str, Any], Callable[[], dict[str, Any]], type[Objective]]

ENCODER = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 20,
    "max_position_embeddings": 16,
}
FLAUBERT = {"emb_dim": 8, "n_layers": 1, "n_heads": 2, "n_words": 20, "max_position_embeddings": 16}
XLNET = {"d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8, "vocab_size": 20}
GPT2 = {
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 16,
    "vocab_size": 20,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
T5 = {
    "d_model": 8,
    "d_ff": 8,
    "d_kv": 4,
    "num_layers": 1,
    "num_heads": 2,
    "vocab_size": 20,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "image_size": 8,
    "patch_size": 4,
}
SEGFORMER = {
    "hidden_sizes": [4] * 4,
    "depths": [1] * 4,
    "num_attention_heads": [1] * 4,
    "decoder_hidden_size": 4,
    "num_labels": 3,
}
SPEECH = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 12,
    "conv_dim": (8, 8),
    "conv_kernel": (4, 4),
    "conv_stride": (4, 4),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 2,
    "classifier_proj_size": 8,
    "xvector_output_dim": 6,
    "tdnn_dim": (6, 6, 6),
    "tdnn_kernel": (2, 1, 1),
    "tdnn_dilation": (1, 1, 1),
    "ctc_zero_infinity": True,
}
THREE = {"num_labels": 3}
CLIP = {key: value for key, value in ENCODER.items() if key not in ("vocab_size", "max_position_embeddings")}
CLIPSEG = {
    "text_config": {**ENCODER, "eos_token_id": 2},
    "vision_config": {**CLIP, "image_size": 8, "patch_size": 4},
    "projection_dim": 4,
    "extract_layers": [0],
    "reduce_dim": 4,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 4,
}
QUERIES = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "num_queries": 3,
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET = {
    "embedding_size": 8,
    "hidden_sizes": [8] * 4,
    "depths": [1] * 4,
    "layer_type": "basic",
    "out_features": STAGES,
}
SWIN = {
    "image_size": 32,
    "embed_dim": 4,
    "depths": [1] * 4,
    "num_heads": [1] * 4,
    "window_size": 2,
    "out_features": STAGES,
}
DETR = {
    **QUERIES,
    **THREE,
    "use_timm_backbone": False,
    "backbone": None,
    "use_pretrained_backbone": False,
    "backbone_config": transformers.ResNetConfig(**RESNET),
}
MASKFORMER = {
    **THREE,
    "backbone_config": transformers.SwinConfig(**SWIN),
    "decoder_config": transformers.DetrConfig(**{**DETR, **QUERIES}),
    "fpn_feature_size": 64,
    "mask_feature_size": 32,
}
MASK2FORMER = {
    **THREE,
    "backbone_config": transformers.SwinConfig(**SWIN),
    "feature_size": 64,
    "mask_feature_size": 64,
    "hidden_dim": 64,
    "encoder_feedforward_dim": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_attention_heads": 2,
    "dim_feedforward": 8,
    "num_queries": 3,
    "train_num_points": 8,
}
SERIES = {
    "num_input_channels": 2,
    "context_length": 8,
    "patch_length": 2,
    "patch_stride": 2,
    "d_model": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "ffn_dim": 8,
    "prediction_length": 2,
    "norm_type": "layernorm",
}


def words(width: int = 6) -> Tensor:
    return torch.randint(3, 20, (2, width), generator=torch.Generator().manual_seed(1))


def real(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def text(**targets: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"input_ids": words(), "attention_mask": torch.ones_like(words()), **targets}


def images(**targets: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"pixel_values": real(2, 3, 8, 8), **targets}


def sound(**targets: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"input_values": real(2, 160), **targets}


def series(**targets: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"past_values": real(2, 8, 2), **targets}


CLASS = torch.tensor([0, 2])
TAGS = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 1, 0, -100, -100]])
WORDS = torch.where(TAGS == -100, -100, words())
SECOND = WORDS[:, 2:].contiguous()
ANSWER = {"start_positions": torch.tensor([1, 0]), "end_positions": torch.tensor([2, 4])}
BOXES = [
    {"class_labels": torch.tensor([1]), "boxes": real(1, 4).sigmoid()},
    {"class_labels": torch.tensor([0, 2]), "boxes": real(2, 4).sigmoid()},
]
MASKS = {
    "mask_labels": [torch.ones(1, 32, 32).double(), torch.eye(32).double().expand(2, 32, 32)],
    "class_labels": [torch.tensor([1]), torch.tensor([0, 2])],
}


def masked() -> dict[str, Any]:
    return {"pixel_values": real(2, 3, 32, 32), **MASKS}


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

BART = {
    "d_model": 8,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 8,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "vocab_size": 20,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
}
DECODERS = (
    "Bart", "BigBirdPegasus", "Blenderbot", "BlenderbotSmall", "MBart", "Marian", "Mvp", "PLBart", "Pegasus", "TrOCR",
)  # fmt: skip
PROPHET = {
    "hidden_size": 8,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "num_encoder_attention_heads": 2,
    "num_decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "vocab_size": 20,
    "max_position_embeddings": 16,
    "ngram": 2,
    "decoder_start_token_id": 1,
    "pad_token_id": 0,
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
