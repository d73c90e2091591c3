"""The folder of an exported model: only an export is replaced, and whole; what is damaged is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast.bench.data import named as data
from holdfast.bench.data.named import TextDataset
from holdfast.bench.export import exporting as export
from holdfast.bench.export import folder as model_folder
from holdfast.bench.records.record import Hyperparameter
from holdfast.errors import ConfigurationError, StateError
from tests.bench.export.test_exporting import run

pytest.importorskip("tokenizers", reason="the bench's packages are not installed")

IMAGES = ["README.md", "config.json", "model.safetensors"]
PER_TASK = ["README.md", "config.json", "model-task-0.safetensors", "model-task-1.safetensors"]
TEXTS = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def put(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, each in files.items():
        (folder / name).write_bytes(each)
    return folder


def write(files: dict[str, bytes], folder: Path) -> None:
    about = model_folder.Description.model_validate_json(files["config.json"])
    model_folder.write(folder, about, {name: each for name, each in files.items() if name != "config.json"})


def load_text(name: str, **_: Any) -> TextDataset:
    labels = torch.arange(12) % 2
    texts = tuple(f"{'good' if label else 'bad'} film {row}" for row, label in enumerate(labels.tolist()))
    return TextDataset(name, texts, labels, texts, labels, data.SOURCES[name].classes)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of an export of each kind: one set of weights, one per task, and a model for texts."""
    folder = tmp_path_factory.mktemp("exports")
    export.export(run("finetune"), folder / "images")
    prune = {"prune": Hyperparameter(value=0.9, source="given")}
    export.export(run("packnet", retrain_epochs=1, hyperparameters=prune), folder / "per-task")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load_text", load_text)
        options: dict[str, Any] = {
            "stream": "sequence-imdb-imdb", "scenario": "domain", "model": "transformer",
            "stream_options": {"text": {"tokens": 4, "vocabulary": 20}},
            "model_options": {"text": {"vocabulary": 20, "width": 6, "heads": 3}},
        }  # fmt: skip
        export.export(run("finetune", **options), folder / "texts")
    found = {name: content(folder / name) for name in ("images", "per-task", "texts")}
    assert [list(files) for files in found.values()] == [IMAGES, PER_TASK, TEXTS]
    return found


@pytest.fixture
def described(exports: dict[str, dict[str, bytes]], tmp_path: Path) -> Callable[..., Path]:
    """An export of a kind with something in its ``config.json`` changed."""

    def make(kind: str = "images", **changes: Any) -> Path:
        folder = put(exports[kind], tmp_path / "model")
        text = json.loads(exports[kind]["config.json"])
        (folder / "config.json").write_text(json.dumps({**text, **changes}))
        return folder

    return make


@pytest.mark.parametrize(
    "config",
    ['{"model_type": "bert", "architectures": ["BertModel"]}', "{", "[]", '{"format": "holdfast-model"}', "\xff"],
)
def test_somebody_elses_model_is_left_alone(tmp_path: Path, config: str) -> None:
    bert = {"config.json": config.encode("latin-1"), "model.safetensors": b"theirs", "README.md": b"theirs"}
    put(bert, tmp_path)
    with pytest.raises(ConfigurationError, match=r"is not empty and holds no exported model: name another one"):
        export.export(run("finetune"), tmp_path)
    assert content(tmp_path) == bert


@pytest.mark.parametrize("old", ["images", "per-task", "texts"])
@pytest.mark.parametrize("new", ["images", "per-task", "texts"])
def test_an_earlier_export_is_replaced_whole_and_nothing_else_is(
    exports: dict[str, dict[str, bytes]], tmp_path: Path, old: str, new: str
) -> None:
    other = {"notes.txt": b"mine", "model-old.safetensors": b"mine"}
    put({**exports[old], **other}, tmp_path)
    write(exports[new], tmp_path)
    assert content(tmp_path) == {**exports[new], **other}


def test_exporting_twice_replaces_the_first(exports: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    folder = put(exports["texts"], tmp_path / "model")
    record = run("finetune")
    exported = export.export(record, folder)
    assert sorted(content(folder)) == IMAGES and exported.tokenizer is None
    assert export.evaluate(exported, "split-digits") == record.matrix[-1]


def test_a_description_has_no_file_removed_that_is_not_an_exports(described: Callable[..., Path]) -> None:
    folder = described(weights=["../precious.safetensors"])
    precious = put({"precious.safetensors": b"mine"}, folder.parent) / "precious.safetensors"
    with pytest.raises(ConfigurationError, match="holds no exported model"):
        model_folder.check(folder)
    with pytest.raises(StateError, match=r"describes no exported model: weights\.0"):
        export.load(folder)
    assert precious.exists()


@pytest.mark.parametrize("old", ["none", "images", "per-task", "texts"])
@pytest.mark.parametrize("new", ["images", "per-task", "texts"])
def test_wherever_an_export_breaks_off_the_folder_claims_nothing_false(
    exports: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    real_write, real_unlink = model_folder.write_file, Path.unlink
    seen = set()
    for step in range(12):
        folder = put(exports.get(old, {}), tmp_path / str(step))
        left = step

        def break_off() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        def writing(path: Path, *args: Any, **options: Any) -> Path:
            break_off()
            return real_write(path, *args, **options)

        def removing(path: Path, **options: Any) -> None:
            if path.suffix in (".json", ".safetensors"):
                break_off()
            real_unlink(path, **options)

        with monkeypatch.context() as patch:
            patch.setattr(model_folder, "write_file", writing)
            patch.setattr(Path, "unlink", removing)
            try:
                write(exports[new], folder)
            except KeyboardInterrupt:
                pass
        files = content(folder)
        if files in (exports.get(old, {}), exports[new]):
            seen.add("whole")
        else:
            seen.add("unfinished")
            with pytest.raises(StateError, match=r"the export into .* did not finish: export the run again"):
                export.load(folder)
        write(exports[new], folder)
        assert content(folder) == exports[new]
        if left >= 0:
            break
    assert left >= 0 and seen == {"whole", "unfinished"}


def test_what_a_killed_export_left_is_no_other_file(exports: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    put({".config.json.999999999-1.tmp": b"{"}, tmp_path)
    write(exports["images"], tmp_path)
    assert content(tmp_path) == exports["images"]


def test_a_file_that_cannot_be_removed_is_named(exports: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    folder = put(
        {name: each for name, each in exports["texts"].items() if name != "tokenizer.json"}, tmp_path / "model"
    )
    (folder / "tokenizer.json").mkdir()
    with pytest.raises(StateError, match=r"Cannot remove .*tokenizer\.json of an earlier export"):
        write(exports["images"], folder)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("images", "model.safetensors"), ("per-task", "model-task-1.safetensors"), ("texts", "tokenizer.json")],
)
def test_a_missing_file_is_named(exports: dict[str, dict[str, bytes]], tmp_path: Path, kind: str, name: str) -> None:
    folder = put(exports[kind], tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(StateError, match=rf"model/{name} is missing, which .*config\.json lists$"):
        export.load(folder)


@pytest.mark.parametrize("text", [b"\xff\xfe", b"", b"{}", b"{", b'{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_named(exports: dict[str, dict[str, bytes]], tmp_path: Path, text: bytes) -> None:
    folder = put({**exports["texts"], "tokenizer.json": text}, tmp_path / "model")
    with pytest.raises(StateError, match=r"tokenizer\.json is not the tokenizer of the model, or is damaged: ."):
        export.load(folder)


def test_the_tokenizer_of_another_model_is_named(exports: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    tokenizer = json.loads(exports["texts"]["tokenizer.json"])
    for part in ("padding", "truncation"):
        tokenizer[part] = None
    folder = put({**exports["texts"], "tokenizer.json": json.dumps(tokenizer).encode()}, tmp_path / "model")
    with pytest.raises(StateError, match=r"tokenizer\.json is not the tokenizer of the model"):
        export.load(folder)
    longer = exports["texts"]["tokenizer.json"].replace(b'"Fixed":4', b'"Fixed":5')
    (folder / "tokenizer.json").write_bytes(longer)
    with pytest.raises(StateError, match=r"it gives \[5\] numbers; expected \[4\]"):
        export.load(folder)


def test_weights_of_another_task_are_looked_at_too(exports: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    folder = put(exports["per-task"], tmp_path / "model")
    weights = load_file(folder / "model-task-0.safetensors")
    save_file(dict(list(weights.items())[1:]), folder / "model-task-0.safetensors")
    with pytest.raises(
        StateError, match=r"model-task-0\.safetensors are not of the model mlp-16: .*Missing key"
    ) as caught:
        export.load(folder)
    assert "\n" not in str(caught.value)


TASK = {"name": "0/1", "answers": ["0", "1"], "columns": [0, 1], "head": 0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": []}, "weights has 0 files for 2 tasks"),
        ({"tasks": []}, "tasks: "),
        ({"tasks": [TASK] * 3}, "accuracies has 2 values for 3 tasks"),
        ({"accuracies": [0.5]}, "accuracies has 1 values for 2 tasks"),
        ({"mean": []}, "mean and std have 0 and 1 values for 1 channels"),
        ({"std": [0.0]}, "std.0: "),
        ({"outputs": 2}, "tasks.0.head is 0 where outputs is 2"),
        ({"outputs": [2]}, "tasks.1.head is 1; expected 0 to 0"),
        ({"tasks": [TASK, {**TASK, "head": -1}]}, "tasks.1.head is -1; expected 0 to 1"),
        ({"tasks": [TASK, {**TASK, "head": None}]}, "tasks.1.head is None where outputs is"),
        ({"tasks": [TASK, {**TASK, "columns": [0, 2]}]}, "tasks.1.columns must be one of 2 outputs"),
        ({"tasks": [TASK, {**TASK, "answers": ["0"]}]}, "tasks.1.columns must be"),
        ({"tasks": [{**TASK, "pixel_order": [0, 1]}, TASK]}, "tasks.0.pixel_order must hold every number from 0 to 63"),
        ({"input_shape": []}, "input_shape: "),
        ({"tokenizer": "vocabulary.json"}, "tokenizer: "),
        ({"colour": "\x1b[31m"}, "colour: "),
    ],
)
def test_what_a_description_gets_wrong_is_said(described: Callable[..., Path], changes: Any, said: str) -> None:
    with pytest.raises(StateError) as caught:
        export.load(described(**changes))
    assert f"config.json describes no exported model: {said}" in str(caught.value)
    assert "\n" not in str(caught.value) and "Value error" not in str(caught.value)


def test_fewer_weights_than_tasks_are_said(described: Callable[..., Path]) -> None:
    tasks = [TASK, {**TASK, "head": 1}, {**TASK, "head": 1}]
    run_of_three = {**json.loads(described("per-task").joinpath("config.json").read_text())["run"], "tasks": 3}
    folder = described("per-task", tasks=tasks, accuracies=[0.5] * 3, run=run_of_three)
    with pytest.raises(StateError, match="weights has 2 files for 3 tasks; expected 1, or 1 per task"):
        export.load(folder)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("images", {"model_options": {"depth": 3}}),
        ("images", {"model_options": {"seed": 3}}),
        ("images", {"model_options": {"dropout": "much"}}),
        ("images", {"model": "elsewhere:model"}),
        ("texts", {"model_options": {"text": {"vocabulary": 20, "width": 6, "heads": 0}}}),
        ("texts", {"model_options": {"text": 3}}),
    ],
)
def test_a_model_that_cannot_be_built_is_said(described: Callable[..., Path], kind: str, changes: Any) -> None:
    with pytest.raises(StateError, match=r"config\.json describes no model: '.*' with \{.*\}: .") as caught:
        export.load(described(kind, **changes))
    assert "\n" not in str(caught.value)
