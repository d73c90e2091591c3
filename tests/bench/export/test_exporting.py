"""Export: the folder gives back what the record says, to the last digit, and its card is true and its code runs."""

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
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors import safe_open

from holdfast.bench import compare
from holdfast.bench.data import named as data
from holdfast.bench.data import streams
from holdfast.bench.export import card, hub
from holdfast.bench.export import exporting as export
from holdfast.bench.jobs.folder import weights_of
from holdfast.bench.records import record as records
from holdfast.bench.records.record import Hyperparameter, Record, RunConfig
from holdfast.bench.training import runner
from holdfast.errors import ConfigurationError, HoldfastError, StateError

pytest.importorskip("sklearn", reason="the bench's packages are not installed")


def run(method: str = "l2sp", **changes: Any) -> Record:
    strength = {"strength": Hyperparameter(value=0.5, source="given")}
    fields: dict[str, Any] = {
        "stream": "split-digits", "scenario": "task", "training_outputs": "all", "tasks": 2, "method": method,
        "model": "mlp-16", "optimizer": "adam", "lr": 0.01, "optimizer_between_tasks": "kept", "epochs": 1,
        "batch_size": 32, "validation_fraction": 0.1, "seed": 3, "stream_options": {"tasks": 2},
        "hyperparameters": strength if method == "l2sp" else {},
    }  # fmt: skip
    return runner.run(RunConfig(**{**fields, **changes}), command="holdfast run split-digits --method l2sp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "kept-digits"
    export.export(run(), path)
    return path


def test_the_round_trip_is_exact(folder: Path) -> None:
    exported = export.load(folder)
    assert export.evaluate(exported, "split-digits") == run().matrix[-1] == exported.description.accuracies
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(exported.model.state_dict())
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_weights_that_were_kept_are_exported_without_training_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = compare(
        "split-digits", ["packnet"], seeds=1, model="mlp-16", epochs=1, out=tmp_path / "out", keep_weights=True
    )
    weights = weights_of(tmp_path / "out" / "records" / "packnet-seed0.json")
    assert weights.is_file() and not (tmp_path / "out" / "checkpoints" / "packnet-seed0").exists()
    monkeypatch.setattr(runner, "run", lambda *a, **k: pytest.fail("trained anew"))
    exported = export.export(table.records[0], tmp_path / "model", weights=weights)
    assert len(exported.weights) == 5  # a set for each task: the method's state was kept, too
    assert export.evaluate(exported, "split-digits") == table.records[0].matrix[-1]
    other = table.records[0].config.model_copy(update={"seed": 1})
    with pytest.raises(StateError, match="seed was 0 and is 1 now"):
        export.export(table.records[0].model_copy(update={"config": other}), tmp_path / "other", weights=weights)
    flipped = table.records[0].model_copy(update={"matrix": [[0.5] * 5] * 5})
    with pytest.raises(StateError, match="do not give the record's accuracies"):
        export.export(flipped, tmp_path / "other", weights=weights)
    assert not (tmp_path / "other").exists()


def test_weights_are_kept_in_a_folder_only() -> None:
    with pytest.raises(ConfigurationError, match="keep_weights needs a folder"):
        compare("split-digits", ["finetune"], seeds=1, keep_weights=True)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_predictions_are_right_as_often_as_the_record_says(scenario: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"stream_options": {"tasks": 2}, "scenario": scenario}
    exported = export.export(run(**options), tmp_path / "model")
    digits = data.load("digits")
    for task, members in enumerate([(0, 1), (2, 3)]):
        rows = torch.tensor([label in members for label in digits.test_y.tolist()])
        answers = exported.predict(digits.test_x[rows], task=task)
        right = [answer == str(label) for answer, label in zip(answers, digits.test_y[rows].tolist(), strict=True)]
        assert sum(right) / len(right) == exported.description.accuracies[task]


def test_permuted_pixels_are_put_in_order(tmp_path: Path) -> None:
    options: dict[str, Any] = {"stream": "permuted-digits", "epochs": 2}
    exported = export.export(run("finetune", **options), tmp_path / "model")
    digits = data.load("digits")
    for task in range(2):
        answers = exported.predict(digits.test_x, task=task)
        right = [answer == str(label) for answer, label in zip(answers, digits.test_y.tolist(), strict=True)]
        assert sum(right) / len(right) == exported.description.accuracies[task]
    assert exported.description.accuracies[0] > 0.3


def test_a_method_with_weights_per_task_is_exported_with_them(tmp_path: Path) -> None:
    record = run("packnet", retrain_epochs=1, hyperparameters={"prune": Hyperparameter(value=0.9, source="given")})
    exported = export.export(record, tmp_path / "model")
    assert exported.description.weights == ["model-task-0.safetensors", "model-task-1.safetensors"]
    assert export.evaluate(export.load(tmp_path / "model"), "split-digits") == record.matrix[-1]
    first, last = exported.weights
    assert any(not torch.equal(first[name], last[name]) for name in first)
    text = (tmp_path / "model" / "README.md").read_text()
    for said in (
        "`packnet` answers each task with weights of its own. So there is no `model.safetensors`",
        "- `model-task-1.safetensors`: 2/3 (task 1).",
        "print(exported.predict(images, task=0))  # answered with model-task-0.safetensors",
    ):
        assert said in text


def test_the_card_has_the_metadata_that_hubs_read(folder: Path) -> None:
    loaded = ModelCard.load(folder / "README.md")
    record = run()
    metadata = loaded.data.to_dict()
    assert metadata["library_name"] == "holdfast" and metadata["pipeline_tag"] == "image-classification"
    assert "continual-learning" in metadata["tags"] and "l2sp" in metadata["tags"]
    found = {result.dataset_name: result.metric_value for result in loaded.data.eval_results}
    names = [f"split-digits: {name}" for name in record.task_names]
    assert found == dict(zip(names, record.matrix[-1], strict=True))
    for text in ("| 0/1 |", f"{100 * record.matrix[-1][0]:.2f}", "`strength`: 0.5 (given)", "seed 3", "## Limits"):
        assert text in loaded.text


def test_the_card_names_the_data_sets_on_the_hub_and_the_licence(folder: Path) -> None:
    record = run()
    mnist = record.model_copy(update={"config": record.config.model_copy(update={"stream": "split-mnist"})})
    stream = streams.build("split-digits", seed=0, tasks=2)
    loaded = ModelCard(card.render(mnist, stream, "name", ["model.safetensors"], licence="apache-2.0"))
    assert loaded.data.datasets == ["ylecun/mnist"] and loaded.data.license == "apache-2.0"


@pytest.mark.parametrize(
    ("stream", "hub_ids"),
    [
        ("split-mnist", {"0/1": "ylecun/mnist", "2/3": "ylecun/mnist", "4/5": "ylecun/mnist"}),
        ("permuted-digits", {"permutation 0": "digits", "permutation 1": "digits"}),
        (
            "sequence-mnist-fashion_mnist-mnist",
            {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist", "mnist 2": "ylecun/mnist"},
        ),
    ],
)
def test_every_task_keeps_its_accuracy_and_its_data_set_on_a_hub(
    tmp_path: Path, stream: str, hub_ids: dict[str, str]
) -> None:
    record = run()
    accuracies = dict(zip(hub_ids, (0.25, 0.5, 0.125), strict=False))
    config = record.config.model_copy(update={"stream": stream, "tasks": len(hub_ids)})
    changes = {"config": config, "task_names": list(hub_ids), "matrix": [list(accuracies.values())]}
    about = streams.build("split-digits", seed=0, tasks=len(hub_ids))
    text = card.render(record.model_copy(update=changes), about, "name", ["model.safetensors"])
    ModelCard(text).save(tmp_path / "README.md")
    saved = ModelCard.load(tmp_path / "README.md")
    (index,) = saved.data.to_dict()["model-index"]
    found = {each["dataset"]["config"]: each for each in index["results"]}
    assert len(index["results"]) == len(found) == len(hub_ids)
    assert {task: each["dataset"]["type"] for task, each in found.items()} == hub_ids
    assert {task: [metric["value"] for metric in each["metrics"]] for task, each in found.items()} == {
        task: [value] for task, value in accuracies.items()
    }
    assert saved.data.datasets == ([each for each in dict.fromkeys(hub_ids.values()) if "/" in each] or None)


def test_the_card_says_where_a_value_comes_from_and_what_was_cut_short(tmp_path: Path) -> None:
    coupling = Hyperparameter(value="proximal", source="recipe", detail="ours, so that no strength diverges")
    options = {"tasks": 2, "limit_per_class": 20, "test_limit_per_class": 10}
    record = run(
        hyperparameters={"strength": Hyperparameter(value=3.0, source="recipe"), "coupling": coupling},
        stop_losses=[0.25, 0.1], epochs_per_task=[3, 2], stream_options=options, extra={"quick": True},
    )  # fmt: skip
    export.export(record, tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text()
    for said in (
        "- `coupling`: proximal (from the recipe: ours, so that no strength diverges).",
        "- `strength`: 3.0 (from the recipe).",
        "- Epochs per task: at most 3, 2; a task ends after an epoch whose last batch has a loss, penalty included, of "
        "at most 0.25, 0.1 (task by task); 32 samples a step; seed 3.",
        "Options of the stream: `tasks`: 2; `limit_per_class`: 20; `test_limit_per_class`: 10.",
        "- Of every class, only the first 20 training samples were used.",
        "- The accuracies are on the first 10 test samples of every class only.",
        "**This run is a quick version, on few samples or for few epochs: its numbers mean little.**",
    ):
        assert said in text
    assert "as published" not in text


def test_the_card_of_a_whole_run_speaks_of_no_cuts(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert "- Epochs per task: 1; 32 samples a step; seed 3." in text
    assert "quick" not in text and "only the first" not in text and "of every class only" not in text
    assert "`model.safetensors` holds the weights." in text and "model-task" not in text


def test_the_cards_snippet_works_as_it_stands(folder: Path) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=folder.parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("['0']", "['1']")


def test_a_record_that_does_not_come_out_again_is_not_exported(tmp_path: Path) -> None:
    record = run()
    other = record.model_copy(update={"matrix": [record.matrix[0], [0.5, 0.5]]})
    with pytest.raises(StateError, match=r"did not give the same accuracies.*\[\[0.5, 0.5\]\]"):
        export.export(other, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    failed = record.model_copy(update={"status": "failed"})
    with pytest.raises(StateError, match="is failed; expected a finished one"):
        export.export(failed, tmp_path / "model")


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigurationError, match="is not empty and holds no exported model"):
        export.export(run(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_what_is_damaged_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="holds no exported model"):
        export.load(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    text = json.loads((folder / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**text, "model": "mlp-17"}))
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(StateError, match="are not of the model mlp-17"):
        export.load(copy)
    (copy / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(StateError, match="are damaged"):
        export.load(copy)
    (copy / "config.json").write_text(json.dumps({**text, "tasks": 3}))
    with pytest.raises(StateError, match="describes no exported model: tasks"):
        export.load(copy)


def test_another_stream_must_fit(folder: Path) -> None:
    exported = export.load(folder)
    with pytest.raises(ConfigurationError, match=r"'permuted-digits' has inputs .* the model takes"):
        export.evaluate(exported, "permuted-digits")
    with pytest.raises(ConfigurationError, match="task is 2; this model knows tasks 0 to 1"):
        exported.predict(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), task=2)
    with pytest.raises(ConfigurationError, match=r"expected torch.uint8 \[B, 1, 8, 8\]"):
        exported.predict(torch.zeros(1, 1, 8, 8))


def test_pushing_without_a_network_is_a_sentence_and_leaves_the_folder(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(HoldfastError, match=r"^someone/model was not pushed: .*; the model is complete in "):
        hub.push(folder, "someone/model")
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_only_the_models_own_files_are_pushed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / "diary.txt").write_text("dear")
    pushed = []

    def upload(api: HfApi, *, repo_id: str, folder_path: Path, allow_patterns: list[str]) -> str:
        names = [path.name for path in folder_path.iterdir()]
        pushed.extend(sorted(filter_repo_objects(names, allow_patterns=allow_patterns)))
        return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *args, **options: None)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    assert hub.push(copy, "someone/model") == "https://huggingface.co/someone/model"
    assert pushed == ["README.md", "config.json", "model.safetensors"]


@pytest.mark.parametrize(("trouble", "said"), [("no network", "cannot be reached"), ("no token", "no credentials")])
def test_why_it_could_not_be_pushed_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, said: str
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        if trouble == "no token":
            raise LocalTokenNotFoundError("no token")
        raise HfHubHTTPError.__mro__[1]("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(HoldfastError, match=said):
        hub.push(folder, "someone/model")


def test_a_record_in_json_exports_like_the_one_in_memory(tmp_path: Path) -> None:
    record = run("finetune")
    path = records.save(record, tmp_path / "record.json")
    assert export.export(records.load(path), tmp_path / "model").description.accuracies == record.matrix[-1]
