"""The script of docs/how-to/texts.md runs as a reader copies it, on a classifier and two CSV files of one's own."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")
tokenizers = pytest.importorskip("tokenizers")

ROOT = Path(__file__).parent.parent
WORDS = {"good": ["fine", "great", "lovely", "superb"], "bad": ["poor", "awful", "dull", "weak"]}
NEW_WORDS = {"good": ["profit", "rise", "gain", "growth"], "bad": ["loss", "fall", "debt", "cut"]}


def written(path: Path, words: dict[str, list[str]]) -> None:
    """A CSV file of 32 texts, each of two words of its label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for place in range(16):
            for label, names in words.items():
                rows.writerow([f"{names[place % 4]} {names[place // 4]}", label])


def saved(folder: Path) -> None:
    """A tiny random classifier with a tokenizer, as `save_pretrained` writes them."""
    words = ["[PAD]", "[UNK]", *(word for group in (WORDS, NEW_WORDS) for names in group.values() for word in names)]
    model = tokenizers.models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]")
    whole = tokenizers.Tokenizer(model)
    whole.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=whole, pad_token="[PAD]", unk_token="[UNK]", model_max_length=8
    )
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=8, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1},
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)


def test_the_script_of_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "texts.md").read_text(encoding="utf-8")
    (script,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "MODEL" in code]
    saved(tmp_path / "my-classifier")
    written(tmp_path / "old.csv", WORDS)
    written(tmp_path / "new.csv", NEW_WORDS)
    (tmp_path / "mine.py").write_text(script, encoding="utf-8")
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^before: old \d\.\d+, new \d\.\d+$", done.stdout, re.MULTILINE)
    assert re.search(r"after: old \d\.\d+, new \d\.\d+$", done.stdout, re.MULTILINE)
    transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "better")
