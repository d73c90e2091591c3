"""Models of Transformers that are not what the name of their head says, each tiny and with a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from holdfast import CausalLM, MaskedLM, ModelLoss, Objective
from tests.objectives.tiny import (
    ANSWER,
    BART,
    BROS,
    CLASS,
    CODES,
    DECODERS,
    ENCODER,
    FLAUBERT,
    PROPHET,
    SECOND,
    TAGS,
    THREE,
    VISION,
    WORDS,
    XLNET,
    boxed,
    images,
    real,
    text,
    words,
)

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
    "MusicgenForCausalLM": (
        transformers.MusicgenDecoderConfig, CODES, lambda: {"labels": words(12).view(2, 6, 2)}, ModelLoss,
    ),
    "MusicgenMelodyForCausalLM": (
        transformers.MusicgenMelodyDecoderConfig, CODES, lambda: {"labels": words(12).view(2, 6, 2)}, ModelLoss,
    ),
    "BlipForQuestionAnswering": (
        transformers.BlipConfig,
        {
            "text_config": {**ENCODER, "encoder_hidden_size": 8, "bos_token_id": 1, "sep_token_id": 2},
            "vision_config": VISION,
        },
        lambda: {**text(labels=words())(), **images()()},
        ModelLoss,
    ),
    "BrosForTokenClassification": (transformers.BrosConfig, BROS, boxed(labels=TAGS), ModelLoss),
    "BrosSpadeELForTokenClassification": (
        transformers.BrosConfig, BROS, boxed(labels=TAGS.clamp(min=0)), ModelLoss,
    ),
    "BrosSpadeEEForTokenClassification": (
        transformers.BrosConfig,
        BROS,
        boxed(initial_token_labels=TAGS.clamp(min=0), subsequent_token_labels=TAGS.clamp(min=0)),
        ModelLoss,
    ),
    "LukeForMaskedLM": (
        transformers.LukeConfig,
        {**ENCODER, "entity_vocab_size": 9, "entity_emb_size": 4},
        lambda: {
            **text(labels=WORDS.roll(1, 1))(),
            "entity_ids": words(3) % 9,
            "entity_position_ids": torch.arange(3).view(1, 3, 1).expand(2, 3, 1),
            "entity_labels": words(3).flip(1) % 9,
        },
        ModelLoss,
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


# Too large to be built here, or not in each release that is supported: known by name, and by their sources.
BY_NAME: dict[str, type[Objective]] = {
    "ReformerModelWithLMHead": CausalLM,  # it gives gradients in training mode alone
    **dict.fromkeys(
        [
            "ClvpModelForConditionalGeneration",
            "CsmDepthDecoderForCausalLM",
            "CsmForConditionalGeneration",
            "DiaForConditionalGeneration",
            "GradiumPhononTTSForConditionalGeneration",
            "HiggsAudioV2ForConditionalGeneration",
            "MoshiForConditionalGeneration",
            "MusicgenForConditionalGeneration",
            "MusicgenMelodyForConditionalGeneration",
            "PI0ForConditionalGeneration",
            "PocketTTSForConditionalGeneration",
            "Qwen2_5OmniTalkerForConditionalGeneration",
            "VibeVoiceForConditionalGeneration",
        ],
        ModelLoss,
    ),
}
