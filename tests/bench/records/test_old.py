"""What version 0.1 wrote is read: records, a comparison's folder, a checkpoint, an exported model (see data/old)."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from holdfast.bench import report
from holdfast.bench.comparing import compare, refusing
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.data import streams
from holdfast.bench.export import exporting as export
from holdfast.bench.jobs.folder import Folder
from holdfast.bench.jobs.job import Job
from holdfast.bench.jobs.progress import Lines
from holdfast.bench.records import legacy
from holdfast.bench.records import record as records
from holdfast.bench.records.record import Record
from holdfast.bench.records.tried import tried
from holdfast.bench.training import checkpoint, runner
from holdfast.bench.training.checkpoint import Checkpoints
from holdfast.files import load_state
from tests.bench.comparing.here import run_here

pytest.importorskip("sklearn", reason="the bench's packages are not installed")

OLD = Path(__file__).parents[2] / "data" / "old"
FILES = sorted(path for path in OLD.glob("**/*.json") if "exported" not in path.parts)


def as_it_lies(path: Path, key: str) -> str:
    """The sentence of a hyperparameter on disk."""
    found: str = json.loads(path.read_text())["config"]["hyperparameters"][key]["detail"]
    return found


def test_there_are_old_files() -> None:
    assert len(FILES) == 8


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_record_is_read_and_reported(path: Path, tmp_path: Path) -> None:
    record = records.load(path)
    again = records.save(record, tmp_path / path.name)
    assert records.load(again) == record
    assert record.config.method in report.to_markdown([record])


def test_what_a_grid_tried_is_read_from_its_old_sentence() -> None:
    path = OLD / "compare" / "records" / "l2sp-seed1.json"
    strength = records.load(path).config.hyperparameters["strength"]
    choice = strength.choice
    assert choice is not None and (choice.kind, choice.seed, choice.tasks, choice.count) == ("grid", 0, None, 2)
    for each in choice.candidates:  # beside the records lie those of the candidates
        lies = records.load(OLD / "compare" / "choices" / f"l2sp-seed0-strength_{each.values['strength']}.json")
        assert each.score == pytest.approx(math.fsum(lies.validation[-1]) / 5, abs=0.5e-4)
        assert each.agrees(compare.candidate(lies.config, lies, ["strength"]))
    assert strength.value == choice.best.values["strength"] and strength.detail == ""
    assert strength.story == as_it_lies(path, "strength") != ""
    grid = tried(records.load(path))
    assert grid is not None and list(grid.scores) == [0.1, 1.0] and grid.edge in ("smallest", "largest")


def test_what_a_search_tried_is_read_as_far_as_its_old_sentence_says_it() -> None:
    path = OLD / "tuned" / "si-seed0.json"
    strength = records.load(path).config.hyperparameters["strength"]
    choice = strength.choice
    assert choice is not None and (choice.kind, choice.seed, choice.tasks) == ("search", 0, 2)
    assert (choice.count, choice.unlisted, choice.best.values) == (3, 2, {"strength": strength.value})
    assert strength.story == as_it_lies(path, "strength") != ""


@pytest.mark.parametrize(
    ("source", "sentence", "values"),
    [
        ("grid", "best of 2 by validation accuracy, seed 3: a=1, b=True 9.50%, a=2, b=False failed",
         [{"a": 1, "b": True}, {"a": 2, "b": False}]),
        ("grid", "best of 2 by validation accuracy, seed 3: a=1e-06 9.50%, a=None failed", [{"a": 1e-6}, {"a": None}]),
        ("grid", "best of 1 by validation accuracy, seed 3: a=exact 9.50%", [{"a": "exact"}]),
        ("tuned", "best of 4 trials by validation accuracy over all tasks, seed 3: 9.50% in trial 2", [{"x": 5}]),
        ("tuned", "best of 4 trials by validation accuracy over the first task, seed 3: 9.50% in trial 2", [{"x": 5}]),
    ],
)  # fmt: skip
def test_every_form_of_the_old_sentence_is_read(source: str, sentence: str, values: list[dict[str, Any]]) -> None:
    found = legacy.choice_of(source, sentence, {"x": 5})
    assert found is not None and found.seed == 3
    assert [each.values for each in found.candidates] == values
    assert [each.score for each in found.candidates] == [0.095, None][: len(values)]
    assert found.count == int(sentence.split()[2])
    texts = {type(value) for each in found.candidates for value in each.values.values()}
    assert texts == {type(value) for each in values for value in each.values()}  # True is not 1


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("grid", ""),
        ("grid", "of 100, 1000 by validation accuracy 95.12"),
        ("grid", "best of 1 by validation accuracy, seed 0: a=1 9.50%, b=2 8.00%"),
        ("grid", "best of 3 by validation accuracy, seed 0: a=1 9.50%, a=2"),
        ("grid", "best of 1 by validation accuracy, seed 0: nothing 9.50%"),
        ("grid", "best of 1 by validation accuracy, seed 0: a=1 1.2.3%"),
        ("tuned", "best of 1 by validation accuracy, seed 0: a=1 9.50%"),
        ("recipe", "best of 1 by validation accuracy, seed 0: a=1 9.50%"),
    ],
)
def test_what_is_no_such_sentence_is_left_as_it_is(source: str, sentence: str) -> None:
    assert legacy.choice_of(source, sentence, {"a": 1.0}) is None
    fields = {"hyperparameters": {"a": {"value": 1.0, "source": source, "detail": sentence}}}
    assert legacy.config(fields) == fields


class _Counting(Lines):
    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.done: list[bool] = []

    def ends(self, job: Job, record: Record, *, kept: bool) -> None:
        self.done.append(kept)


def test_a_folder_is_gone_on_with(tmp_path: Path) -> None:
    shutil.copytree(OLD / "compare", tmp_path / "compare")
    folder, watch = Folder(tmp_path / "compare"), _Counting()
    stream = streams.build("split-digits", seed=0, validation_fraction=0.1)
    comparison = Comparison(
        stream, ("finetune", "l2sp"), (0, 1), grids={"l2sp": {"strength": ["0.1", "1"]}},
        changes={"model": "mlp-8", "epochs": 1},
    )  # fmt: skip
    refusing.prepare(folder, comparison)
    found = run_here(comparison, folder, watch)
    assert watch.done == [True] * 6
    assert [record.matrix for record in found] == [
        records.load(OLD / "compare" / "records" / f"{method}-seed{seed}.json").matrix
        for method in ("finetune", "l2sp")
        for seed in (0, 1)
    ]


def test_a_run_is_gone_on_with_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = records.load(OLD / "stopped" / "ewc-seed0.json")
    file = shutil.copy(OLD / "stopped" / "checkpoint-000001.safetensors", tmp_path)
    versions = {key: json.loads(load_state(file)["identity"])[key] for key in ("holdfast", "torch")}
    now = checkpoint.identity
    # Numbers of another version are refused, with good reason; here the form is what counts.
    monkeypatch.setattr(checkpoint, "identity", lambda config: now(config) | versions)
    snapshot = Checkpoints(tmp_path, old.config, warn=pytest.fail).load()
    assert snapshot is not None and snapshot.ledger.steps == 29
    record = runner.run(old.config, keeper=Checkpoints(tmp_path, old.config, warn=pytest.fail))
    assert record.status == "finished" and record.costs.steps == old.costs.steps
    assert record.matrix[:3] == old.matrix[:3]
    for row, expected in zip(record.matrix[3:], old.matrix[3:], strict=True):
        assert row == pytest.approx(expected, abs=0.1)  # to the last digit with the same PyTorch


def test_an_exported_model_gives_what_its_card_says() -> None:
    exported = export.load(OLD / "exported")
    assert isinstance(exported.model, torch.nn.Module)
    assert export.evaluate(exported, "split-digits") == pytest.approx(exported.description.accuracies, abs=0.01)
    assert exported.description.accuracies == records.load(OLD / "stopped" / "ewc-seed0.json").matrix[-1]
