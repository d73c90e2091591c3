"""Tiny models and data of one's own, made on the spot."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

CLASSES = ("dark", "bright")
FURTHER = ("left", "right")

FACTORY = """
import torch
from safetensors.torch import load_file
from pathlib import Path

def make():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 12), torch.nn.ReLU(), torch.nn.Linear(12, 2))
    model.input_shape, model.classes = (1, 4, 4), ["dark", "bright"]
    weights = Path(__file__).with_name("trained.safetensors")
    if weights.is_file():
        model.load_state_dict(load_file(weights))
    return model

def unnamed():
    model = make()
    del model.classes
    return model

def mute():
    return torch.nn.Linear(2, 2)

class Partly(torch.nn.Sequential):
    # With a layer that takes no part, as some models have a pooler that nothing reads.

    def __init__(self):
        super().__init__(*make())
        self.idle = torch.nn.Linear(3, 3)
        self.input_shape, self.classes = (1, 4, 4), ["dark", "bright"]

    def forward(self, x):
        for layer in list(self)[:4]:
            x = layer(x)
        return x

def tied():
    sizes = (16, 16), (16, 16), (16, 2)
    model = torch.nn.Sequential(torch.nn.Flatten(), *(torch.nn.Linear(*size) for size in sizes))
    model[2].weight = model[1].weight
    model.input_shape, model.classes = (1, 4, 4), ["dark", "bright"]
    return model

def broken():
    raise RuntimeError("no such file")
"""


def pixels(kind: str, generator: torch.Generator) -> torch.Tensor:
    """Four by four: dark, bright, or bright on one side."""
    noise = 40 * torch.rand(4, 4, generator=generator)
    if kind == "bright":
        noise += 200
    elif kind == "left":
        noise[:, :2] += 200
    elif kind == "right":
        noise[:, 2:] += 200
    return noise.to(torch.uint8)


def draw(folder: Path, kinds: tuple[str, ...], count: int, seed: int) -> None:
    """A folder of images by class."""
    from PIL import Image

    generator = torch.Generator().manual_seed(seed)
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(pixels(kind, generator).numpy()).save(folder / kind / f"{number:02d}.png")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ``old`` and ``new`` images and a trained model, ``mine:make``."""
    from safetensors.torch import save_file

    for name, kinds, seed in (("old", CLASSES, 0), ("new", FURTHER, 1)):
        draw(tmp_path / name / "train", kinds, 20, seed)
        draw(tmp_path / name / "test", kinds, 10, seed + 10)
    (tmp_path / "mine.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine

    model: nn.Module = mine.make()
    generator = torch.Generator().manual_seed(5)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        y = torch.randint(0, 2, (16,), generator=generator)
        x = torch.stack([pixels(CLASSES[k], generator) for k in y.tolist()])[:, None].float() / 255
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    save_file(model.state_dict(), tmp_path / "trained.safetensors")
    yield tmp_path
    sys.modules.pop("mine", None)


WORDS = "good bad fine poor nice ugly film stock market actor price scene".split()


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=8)


@pytest.fixture
def sentiment(tmp_path: Path, tokenizer) -> Path:
    """A tiny text classifier in the form of Transformers, two classes with names."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    names = {0: "no", 1: "yes"}
    config = BertConfig(
        vocab_size=14, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=8, id2label=names, label2id={name: label for label, name in names.items()},
    )  # fmt: skip
    folder = tmp_path / "sentiment"
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def writer(tmp_path: Path, tokenizer) -> Path:
    """A tiny causal language model in the form of Transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=14, n_embd=8, n_layer=1, n_head=2, n_positions=8, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    folder = tmp_path / "writer"
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def table(path: Path, rows: list[tuple[str, str]], heads: tuple[str, str] = ("sentence", "label")) -> Path:
    """A CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([heads, *rows])
    return path


def reviews(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts with labels that their words give away."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        yes = bool(torch.randint(0, 2, (), generator=generator))
        words = [WORDS[(0 if yes else 1) + 2 * int(torch.randint(0, 3, (), generator=generator))] for _ in range(2)]
        rest = [WORDS[6 + int(torch.randint(0, 6, (), generator=generator))] for _ in range(3)]
        rows.append((" ".join(words + rest), "yes" if yes else "no"))
    return rows
