"""Pretrained language models, tiny and random, in folders of Transformers with tokenizers of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

TEXT = "the cat sat on the mat what is it plus one two three four five patient fever dose"


def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    asked = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([TEXT], asked)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", model_max_length=32)


def pretrained(folder: Path, kind: str = "gpt2") -> str:
    """A folder with a model and its tokenizer."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = tokenizer()
    common = {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "gpt2":
            about = transformers.GPT2Config(
                **common, n_positions=32, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
            )
            model: Any = transformers.GPT2LMHeadModel(about)
        elif kind == "llama":
            sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
            model = transformers.LlamaForCausalLM(
                transformers.LlamaConfig(**common, **sizes, max_position_embeddings=32)
            )
        else:
            sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
            model = transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **sizes))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return os.fspath(folder)
