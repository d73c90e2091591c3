"""A closed-form head as a folder: its accuracies to the last digit, its card, and what does not belong together."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from holdfast import heads, load_state, save_state
from holdfast.bench import compare
from holdfast.bench.data import named as data
from holdfast.bench.export import exporting as export
from holdfast.bench.jobs.folder import weights_of
from holdfast.bench.records import record as records
from holdfast.bench.records.record import Hyperparameter, Record, RunConfig
from holdfast.bench.training import runner
from holdfast.cli import app
from holdfast.errors import StateError

pytest.importorskip("sklearn", reason="the bench's packages are not installed")


def run(method: str, backbone: str, **changes: Any) -> Record:
    settings = {"fecam": {"tukey": 1.0}, "ridge": {"strength": "auto"}, "slda": {"shrinkage": "auto"}}.get(method, {})
    fields: dict[str, Any] = {
        "stream": "split-digits", "scenario": "class", "training_outputs": "all", "tasks": 2, "method": method,
        "model": "mlp-16", "optimizer": "adam", "lr": 0.01, "optimizer_between_tasks": "kept", "epochs": 1,
        "batch_size": 32, "validation_fraction": 0.1, "seed": 3, "stream_options": {"tasks": 2}, "backbone": backbone,
        "hyperparameters": {name: Hyperparameter(value=value, source="given") for name, value in settings.items()},
    }  # fmt: skip
    return runner.run(RunConfig(**{**fields, **changes}), command=f"holdfast run split-digits --method {method}")


@pytest.mark.parametrize(
    ("method", "backbone", "scenario"),
    [
        ("ncm", "pixels", "task"),
        ("slda", "random-patches", "class"),
        ("ridge", "first-task+relu-40", "class"),
        ("ridge", "pixels+fourier-40", "domain"),
        ("fecam", "random", "class"),
    ],
)
def test_the_round_trip_is_exact(method: str, backbone: str, scenario: str, tmp_path: Path) -> None:
    record = run(method, backbone, scenario=scenario)
    folder = tmp_path / "digits-head"
    export.export(record, folder)
    exported = export.load(folder)
    assert export.evaluate(exported, "split-digits") == record.matrix[-1] == exported.description.accuracies
    stands = (
        ["model.safetensors"] if backbone.startswith(("first-task", "random")) and "patches" not in backbone else []
    )
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "head.safetensors", *stands]
    digits = data.load("digits")
    for task, members in enumerate([(0, 1), (2, 3)]):
        rows = torch.tensor([label in members for label in digits.test_y.tolist()])
        answers = exported.predict(digits.test_x[rows], task=task)
        wanted = [str(label) for label in digits.test_y[rows].tolist()]
        if scenario == "domain":
            wanted = [exported.description.tasks[task].answers[members.index(int(label))] for label in wanted]
        right = [answer == label for answer, label in zip(answers, wanted, strict=True)]
        assert sum(right) / len(right) == exported.description.accuracies[task]


def test_its_card_says_what_it_chose_by_itself(tmp_path: Path) -> None:
    chosen = {
        "shrinkage": Hyperparameter(value="auto", source="default"),
        "prior": Hyperparameter(value=False, source="default"),
    }
    export.export(run("slda", "pixels", scenario="class", hyperparameters=chosen), tmp_path / "head")
    card = (tmp_path / "head" / "README.md").read_text(encoding="utf-8")
    assert "`shrinkage`: auto (found in training)" in card and "`prior`: False (the default, untuned)" in card


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "digits-slda"
    export.export(run("slda", "random-patches"), path)
    return path


def test_its_card_is_true_and_its_code_runs(folder: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    record = run("slda", "random-patches")
    assert [result.metric_value for result in card.data.eval_results] == record.matrix[-1]
    assert "slda" in card.data.tags and card.data.library_name == "holdfast"
    for said in ("a closed-form head, told 2 tasks one after the other", "`random-patches`", "holds the head: its"):
        assert said in card.text
    assert "learning rate" not in card.text and "model.safetensors" not in card.text  # nothing was trained
    code = "\n".join(re.findall(r"```python\n(.*?)```", card.text, re.S))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(0, 1, 2, 3)" in done.stdout


def test_it_is_loaded_alone_and_learns_on(folder: Path) -> None:
    head = heads.load(folder / "head.safetensors")
    assert head.classes == (0, 1, 2, 3)
    head.consolidate([(torch.rand(6, 1, 8, 8), torch.full((6,), 9))])
    assert head.classes == (0, 1, 2, 3, 9)


def test_the_commands_take_heads(tmp_path: Path) -> None:

    table = compare("split-digits", ["ncm"], scenario="class", out=tmp_path / "out", seeds=1, keep_weights=True)
    record = next(each for each in table.records if each.config.method == "ncm")
    path = tmp_path / "out" / "records" / records.filename(record.config)
    assert weights_of(path).is_file()
    done = CliRunner().invoke(app, ["export", str(path), str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "model"), "split-digits"])
    assert done.exit_code == 0 and "To the last digit as in its record." in done.output, done.output


def test_what_does_not_belong_together_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "run": {**config["run"], "method": "ncm"}}))
    with pytest.raises(StateError, match="holds a SLDA, and its run is of ncm"):
        export.load(copy)
    (copy / "config.json").write_text(json.dumps({**config, "head": None}))
    with pytest.raises(StateError, match="weights has 0 files"):
        export.load(copy)
    (copy / "config.json").write_text(json.dumps(config))
    content = load_state(copy / "head.safetensors")
    save_state({**content, "features": True}, copy / "head.safetensors")
    with pytest.raises(StateError, match="do not belong together"):
        export.load(copy)
    (copy / "head.safetensors").unlink()
    with pytest.raises(StateError, match="Cannot read the state"):
        export.load(copy)


def test_an_export_replaces_that_of_a_model_and_the_other_way_round(tmp_path: Path) -> None:
    plain = {"method": "finetune", "backbone": "pixels"}
    export.export(run(**plain), tmp_path / "model")
    export.export(run("ncm", "pixels"), tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md", "config.json", "head.safetensors",
    ]  # fmt: skip
    export.export(run(**plain), tmp_path / "model")
    assert not (tmp_path / "model" / "head.safetensors").exists()
