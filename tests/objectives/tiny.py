"""Settings of tiny models of Transformers, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

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
IDEFICS = {
    **{key: value for key, value in ENCODER.items() if key != "max_position_embeddings"},
    "cross_layer_interval": 1,
    "vision_config": {**VISION, "embed_dim": 8},
    "freeze_text_layers": False,
    "freeze_vision_layers": False,
}
SPEECH_T5 = {
    "hidden_size": 8,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 8,
    "vocab_size": 20,
    "conv_dim": (8, 8),
    "conv_kernel": (4, 4),
    "conv_stride": (4, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "max_text_positions": 16,
    "max_speech_positions": 50,
}
SEAMLESS = {
    "hidden_size": 8,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 8,
    "vocab_size": 20,
    "max_position_embeddings": 32,
}
CODES = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 8,
    "vocab_size": 20,
    "num_codebooks": 2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "max_position_embeddings": 16,
}
BROS = {**ENCODER, **THREE, "hidden_size": 64}


def boxed(**targets: Any) -> Callable[[], dict[str, Any]]:
    first = torch.tensor([[1, 0, 1, 1, 1, 0]] * 2).bool()
    return lambda: {**text(**targets)(), "bbox": real(2, 6, 8).sigmoid(), "bbox_first_token_mask": first}
