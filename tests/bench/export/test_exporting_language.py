"""Exports of language models: ours come back as they were, others as Transformers loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.bench import compare
from holdfast.bench.data import hub, named
from holdfast.bench.data.sets import TextDataset
from holdfast.bench.export import exporting as export
from holdfast.bench.export import folder as model_folder
from holdfast.bench.models import named as models
from holdfast.bench.records.record import Record
from holdfast.errors import StateError
from tests.bench import tiny

transformers = pytest.importorskip("transformers")

NAME = "lm-sequence-imdb-financial_phrasebank"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(name: str, **_: Any) -> TextDataset:
        words = tiny.TEXT.split()
        lines = tuple(" ".join(words[(k + j * (2 + len(name) % 3)) % len(words)] for j in range(6)) for k in range(60))
        return TextDataset(name, lines, torch.zeros(60, dtype=torch.int64), lines[:20], torch.zeros(20), ("a", "b"))

    monkeypatch.setattr(named, "load_text", load)
    monkeypatch.setattr(hub, "_answers", lambda endpoint: False)
    monkeypatch.chdir(tmp_path)


def run(model: str, **options: Any) -> Record:
    asked: dict[str, Any] = {"stream_options": {"text": {"tokens": 8}}, "epochs": 2, "batch_size": 8, "lr": 1e-2}
    return compare(NAME, ["l2sp"], model=model, seeds=1, threads=1, **{**asked, **options}).records[0]


def test_our_own_comes_back_as_it_was(tmp_path: Path) -> None:
    record = run("gpt-tiny")
    exported = export.export(record, tmp_path / "mine")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip
    assert export.evaluate(exported, NAME) == record.matrix[-1] == exported.description.accuracies
    (said,) = exported.predict(["the cat"])
    assert set(said.split()) <= set(tiny.TEXT.split())
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "text-generation" in card and "## Perplexity" in card and "type: perplexity" in card
    assert "stanfordnlp/imdb" in card and "sequence`: embedded" not in card


@pytest.mark.parametrize("keep", [False, True], ids=["repeated", "kept"])
@pytest.mark.parametrize("start", [{}, {"lora_start": "corda"}], ids=["plain", "corda"])
def test_adapters_of_ours_are_in_the_weights(tmp_path: Path, start: dict[str, Any], keep: bool) -> None:
    record = run("gpt-tiny", model_options={"lora": 2, **start}, out=tmp_path / "out", keep_weights=keep)
    kept = next((tmp_path / "out" / "weights").glob("l2sp-seed0*")) if keep else None
    assert (kept is not None) == keep
    exported = export.export(record, tmp_path / "mine", weights=kept)
    plain = models.build("gpt-tiny", (8,), exported.description.outputs, seed=0)
    (weights,) = exported.weights
    assert set(weights) == set(plain.state_dict())
    assert export.evaluate(exported, NAME) == exported.description.accuracies
    assert exported.description.accuracies == pytest.approx(record.matrix[-1], abs=0.02)


@pytest.mark.parametrize("options", [{}, {"model_options": {"lora": 2}}], ids=["weights", "adapters"])
def test_transformers_loads_what_was_its_own(tmp_path: Path, options: dict[str, Any]) -> None:
    base = tiny.pretrained(tmp_path / "base")
    record = run(base, **options)
    exported = export.export(record, tmp_path / "mine")
    names = {path.name for path in (tmp_path / "mine").iterdir()}
    assert {"README.md", "config.json", "holdfast.json", "model.safetensors", "tokenizer.json"} <= names
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "mine").eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "mine")("the cat sat on", return_tensors="pt")
    before = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
    with torch.no_grad():
        new, old, ours = (each(words["input_ids"]).logits for each in (model, before, exported.model))
    assert torch.equal(new, ours) and not torch.allclose(new, old, atol=1e-3)
    assert not any("lora" in name for name, _ in model.named_parameters())
    (tmp_path / "base").rename(tmp_path / "gone")
    found = export.evaluate(exported, NAME)
    assert found == exported.description.accuracies
    assert found == pytest.approx(record.matrix[-1], abs=0.0 if not options else 0.02)
    assert (exported.predict(["the cat"])[0]) is not None
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "| before |" in card and "AutoModelForCausalLM" in card


def test_one_export_takes_the_place_of_the_other(tmp_path: Path) -> None:
    base = tiny.pretrained(tmp_path / "base")
    first, second = run(base), run("gpt-tiny")
    export.export(first, tmp_path / "mine")
    export.export(second, tmp_path / "mine")
    assert set(model_folder.file_names(tmp_path / "mine")) == {path.name for path in (tmp_path / "mine").iterdir()}
    assert export.load(tmp_path / "mine").description.model == "gpt-tiny"
    export.export(first, tmp_path / "mine")
    assert set(model_folder.file_names(tmp_path / "mine")) == {path.name for path in (tmp_path / "mine").iterdir()}
    (tmp_path / "mine" / "tokenizer.json").write_text("{}")
    with pytest.raises(StateError, match=r"tokenizer\.json"):
        export.load(tmp_path / "mine")
