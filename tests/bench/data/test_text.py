"""Texts, end to end: numbered words, a Transformer that ignores padding, passes that end by the loss, and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast.bench import recipes
from holdfast.bench.data import named as data
from holdfast.bench.data import streams
from holdfast.bench.data import text as text_data
from holdfast.bench.data.named import TextDataset
from holdfast.bench.export import exporting as export
from holdfast.bench.models import named as models
from holdfast.bench.models import transformer as text_models
from holdfast.bench.records.record import Hyperparameter, Record, RunConfig
from holdfast.bench.training import runner
from holdfast.errors import ConfigurationError

pytest.importorskip("tokenizers", reason="the bench's packages are not installed")

NEWS, FILMS = "financial_phrasebank", "imdb"
STREAM = f"sequence-{NEWS}-{FILMS}"
OPTIONS: dict[str, Any] = {"tokens": 6, "vocabulary": 60}
MODEL: dict[str, Any] = {"vocabulary": 60, "width": 12, "heads": 3}


@pytest.fixture(autouse=True)
def small_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for both data sets: one telling word per class, other words about it."""

    def load(name: str, **_: Any) -> TextDataset:
        classes = data.SOURCES[name].classes
        words = [f"{name[:4]}{label}" for label in range(len(classes))]

        def texts(start: int, count: int) -> tuple[str, ...]:
            made = []
            for k in range(start, start + count):
                others = [f"w{(7 * k + j) % 20}" for j in range(k % 3)]
                once = [f"only{name[:4]}{start}"] if k == start else []
                made.append(" ".join([*others, words[k % len(words)].capitalize(), *once]))
            return tuple(made)

        labels = torch.arange(60) % len(words)
        if name == NEWS:
            return TextDataset(name, texts(0, 60), labels, (), labels[:0], classes)
        return TextDataset(name, texts(0, 60), labels, texts(60, 30), labels[:30], classes)

    monkeypatch.setattr(data, "load_text", load)


def run(method: str = "finetune", **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "stream": STREAM, "scenario": "domain", "training_outputs": "all", "tasks": 2, "method": method,
        "model": "transformer", "model_options": {"text": MODEL}, "optimizer": "adam", "lr": 0.01, "epochs": 3,
        "optimizer_between_tasks": "fresh", "batch_size": 10, "validation_fraction": 0.0, "seed": 0,
        "stream_options": {"text": OPTIONS},
    }  # fmt: skip
    return runner.run(RunConfig(**{**fields, **changes}))


def test_words_are_numbered_by_how_often_they_occur() -> None:
    tokenizer = text_data.train_tokenizer(
        ["Bank bank bank falls", "bank falls!", "rare"], text_data.Options(tokens=4, vocabulary=4)
    )
    assert tokenizer == text_data.train_tokenizer(
        ["Bank bank bank falls", "bank falls!", "rare"], text_data.Options(tokens=4, vocabulary=4)
    )
    # 0 is padding, 1 unknown, then bank and falls; "rare" and "!" found no place among 4.
    rows = text_data.encode(tokenizer, ["BANK falls", "falls rare bank bank bank", "", "bank!"])
    assert rows.dtype == torch.int32
    assert rows.tolist() == [[2, 3, 0, 0], [3, 1, 2, 2], [0, 0, 0, 0], [2, 1, 0, 0]]


def test_cutting_a_text_before_it_is_read_changes_nothing() -> None:
    asked = text_data.Options(tokens=5, vocabulary=50)
    texts = ["it's a fine-grained   film, no?\nyes", "a\u00a0b c-d e f g h", "one"]
    tokenizer = text_data.train_tokenizer(texts, asked)
    from tokenizers import Tokenizer

    assert text_data.encode(tokenizer, texts).tolist() == [
        each.ids for each in Tokenizer.from_str(tokenizer).encode_batch(texts)
    ]


def test_the_vocabulary_is_that_of_the_training_parts() -> None:
    sets, tokenizer = text_data.load([NEWS, FILMS], text_data.Options(**OPTIONS))
    assert '"onlyimdb0"' in tokenizer and '"onlyimdb60"' not in tokenizer  # the latter occurs in test texts alone
    assert sets[NEWS].train_x.shape == (48, 6) and sets[NEWS].test_x.shape == (12, 6)
    assert sets[FILMS].train_x.shape == (60, 6) and sets[FILMS].test_x.shape == (30, 6)
    assert sets[NEWS].test_y.bincount().tolist() == [4, 4, 4]
    again, _ = text_data.load([NEWS], text_data.Options(**OPTIONS))
    assert torch.equal(again[NEWS].test_y, sets[NEWS].test_y)
    whole, _ = text_data.load([NEWS], text_data.Options(**OPTIONS, test_fraction=0.0))
    assert len(whole[NEWS].train_x) == 60 and len(whole[NEWS].test_x) == 0


def test_the_stream_shares_outputs_between_sentences_and_reviews() -> None:
    stream = streams.build(STREAM, seed=0, scenario="domain", validation_fraction=0.0, text=OPTIONS)
    assert stream.num_outputs == 3 and stream.input_shape == (6,) and stream.tokenizer is not None
    assert [task.answers for task in stream] == [("negative", "neutral", "positive"), ("negative", "positive")]
    inputs, targets = next(stream.tasks[1].batches(stream.tasks[1].train, 60))
    assert inputs.dtype == torch.int32 and sorted(set(targets.tolist())) == [0, 1]


def test_the_block_is_that_of_a_transformer_encoder() -> None:
    block = text_models._Block(12, 3, 20, 0.0).double().eval()
    theirs = nn.TransformerEncoderLayer(12, 3, 20, 0.0, batch_first=True, dtype=torch.float64).train()
    theirs.load_state_dict({
        "self_attn.in_proj_weight": block.queries_keys_values.weight,
        "self_attn.in_proj_bias": block.queries_keys_values.bias,
        "self_attn.out_proj.weight": block.joined.weight, "self_attn.out_proj.bias": block.joined.bias,
        "linear1.weight": block.up.weight, "linear1.bias": block.up.bias,
        "linear2.weight": block.down.weight, "linear2.bias": block.down.bias,
        "norm1.weight": block.first.weight, "norm1.bias": block.first.bias,
        "norm2.weight": block.second.weight, "norm2.bias": block.second.bias,
    })  # fmt: skip
    words = torch.randn(4, 5, 12, dtype=torch.float64)
    there = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 4 + [False], [True] * 5])
    torch.testing.assert_close(block(words, None), theirs(words))
    torch.testing.assert_close(block(words, there), theirs(words, src_key_padding_mask=~there))


def test_padding_changes_an_answer_only_without_the_mask() -> None:
    short, long = torch.tensor([[5, 6, 7]], dtype=torch.int32), torch.tensor([[5, 6, 7, 0, 0]], dtype=torch.int32)
    masked = models.build("transformer", (5,), 3, seed=0, text={**MODEL, "mask": True}).eval()
    torch.testing.assert_close(masked(short), masked(long))
    released = models.build("transformer", (5,), 3, seed=0, text={**MODEL, "mask": False}).eval()
    assert not torch.allclose(released(short), released(long))
    assert masked(torch.zeros(1, 5, dtype=torch.int32)).isfinite().all()  # a text without a word


@pytest.mark.parametrize("method", ["finetune", "ewc", "lwf", "joint"])
def test_a_run_learns_what_each_word_means(method: str) -> None:
    values = {"ewc": 1.0, "lwf": 0.02}
    strength = {"strength": Hyperparameter(value=values[method], source="given")} if method in values else {}
    record = run(method, epochs=8, importance_samples=20, hyperparameters=strength)
    assert record.status == "finished"
    learned = [record.matrix[-1][k] if method == "joint" else record.matrix[k][k] for k in range(2)]
    assert min(learned) > 0.8


def test_a_task_ends_after_the_pass_whose_last_loss_is_low_enough() -> None:
    passes = 5  # of 48 sentences in batches of 10; 6 of the 60 reviews
    assert run(stop_losses=[1e9, 1e9]).costs.steps == passes + 6
    assert run(stop_losses=[1e9, 0.0]).costs.steps == passes + 3 * 6
    assert run(stop_losses=[0.0, 0.0]).costs.steps == run().costs.steps == 3 * (passes + 6)
    # The penalty counts: fine-tuning would have stopped at once.
    held = {
        "strength": Hyperparameter(value=1e6, source="given"),
        "coupling": Hyperparameter(value="loss", source="given"),
    }
    assert run("l2sp", hyperparameters=held, stop_losses=[1e9, 5.0], lr=0.001).costs.steps == passes + 3 * 6
    assert run(stop_losses=[1e9, 5.0], lr=0.001).costs.steps == passes + 6


def test_export_keeps_the_vocabulary(tmp_path: Path) -> None:
    record = run(epochs=6)
    exported = export.export(record, tmp_path / "model")
    assert export.evaluate(export.load(tmp_path / "model"), STREAM) == record.matrix[-1]
    assert exported.tokenizer == (tmp_path / "model" / "tokenizer.json").read_text()
    texts = data.load_text(FILMS)
    answers = exported.predict(texts.test_texts, task=1)
    names = [texts.class_names[label] for label in texts.test_y.tolist()]
    assert sum(a == b for a, b in zip(answers, names, strict=True)) / len(names) == record.matrix[-1][1]
    assert "text-classification" in (tmp_path / "model" / "README.md").read_text()
    with pytest.raises(ConfigurationError, match="expected a list of texts"):
        exported.predict("one text")


def test_the_recipe_of_texts_runs_in_both_variants() -> None:
    for variant in ("honest", "released"):
        table = recipes.resolve(recipes.load("classp-fpb-imdb"), variant=variant, quick=True)
        (job,) = table.jobs(next(row for row in table.rows if row.label == "classp"))
        assert runner.run(job.config).status == "finished"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": {"tokens": 0}}, "text.tokens is 0"),
        ({"text": {"words": 3}}, "text.words"),
        ({"pad": 2}, "pad does not apply to .*texts"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        streams.build(STREAM, seed=0, scenario="domain", **options)


def test_a_model_for_texts_says_what_it_needs() -> None:
    with pytest.raises(ConfigurationError, match=r"needs text.vocabulary"):
        models.build("transformer", (5,), 3, seed=0)
    with pytest.raises(ConfigurationError, match="text has no 'heds'"):
        models.build("transformer", (5,), 3, seed=0, text={**MODEL, "heds": 3})
    with pytest.raises(ConfigurationError, match="width is 12; expected a multiple of heads=5"):
        models.build("transformer", (5,), 3, seed=0, text={**MODEL, "heads": 5})
    with pytest.raises(ConfigurationError, match="needs rows of numbered words"):
        models.build("transformer", (1, 28, 28), 3, seed=0, text=MODEL)
    with pytest.raises(ConfigurationError, match="text does not apply to 'split-digits'"):
        streams.build("split-digits", seed=0, text=OPTIONS)
