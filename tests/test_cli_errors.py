"""Bad input: one clear sentence on the standard error, exit code 2, no traceback, and nothing trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli import app

RUN = ["run", "split-digits", "--method"]
COMPARE = ["compare", "split-digits", "--methods"]

CASES = {
    "unknown method": ([*RUN, "ewk"], ["no method 'ewk'", "ewc"]),
    "unknown method in a list": ([*COMPARE, "ewc,lfw"], ["no method 'lfw'", "lwf"]),
    "no method": ([*COMPARE, ","], ["--methods", "holdfast methods"]),
    "unknown method shown": (["methods", "ewk"], ["no method 'ewk'", "ewc"]),
    "unknown stream": (["run", "split-digit", "--method", "ewc"], ["split-digit", "split-digits"]),
    "unknown scenario": ([*RUN, "ewc", "--scenario", "tasks"], ["scenario is 'tasks'", "task, domain, class"]),
    "misplaced training outputs": ([*RUN, "ewc", "--training-outputs", "seen"], ["training_outputs", "class"]),
    "unknown setting": ([*RUN, "ewc", "--set", "strenght=1"], ["'strenght'", "strength, fisher, coupling"]),
    "unknown setting in a list": ([*COMPARE, "ewc,si", "--set", "si.fisher=exact"], ["si has no setting 'fisher'"]),
    "setting of no method": ([*COMPARE, "ewc,si", "--set", "strength=1"], ["METHOD.KEY=VALUE"]),
    "setting without a value": ([*RUN, "ewc", "--set", "strength"], ["expected KEY=VALUE"]),
    "ill-typed setting": ([*RUN, "ewc", "--set", "strength=much"], ["ewc.strength is 'much'", "number"]),
    "ill-typed grid": ([*COMPARE, "ewc", "--grid", "ewc.strength=1,x"], ["ewc.strength is 'x'", "number"]),
    "negative strength": ([*RUN, "ewc", "--set", "strength=-1"], ["strength is -1.0", ">= 0"]),
    "negative strength of the last": ([*COMPARE, "finetune,si", "--set", "si.strength=-1"], ["strength is -1.0"]),
    "unknown coupling": ([*RUN, "ewc", "--set", "coupling=glue"], ["coupling is 'glue'", "proximal"]),
    "method needs a task id": ([*COMPARE, "packnet", "--scenario", "class"], ["packnet must be told at test"]),
    "learning rate of an optimizer": ([*RUN, "classp", "--lr", "0.1"], ["--lr", "--set lr="]),
    "forgetful memory": ([*RUN, "adagrad", "--optimizer-between-tasks", "fresh"], ["adagrad remembers"]),
    "unknown model": ([*RUN, "ewc", "--model", "mpl"], ["model 'mpl'", "mlp"]),
    "unknown optimizer": ([*RUN, "ewc", "--optimizer", "adm"], ["no optimizer 'adm'", "adam"]),
    "unknown device": ([*RUN, "ewc", "--device", "abacus"], ["device 'abacus'"]),
    "no epochs": ([*RUN, "ewc", "--epochs", "-1"], ["--epochs", "1"]),
    "no batch": ([*RUN, "ewc", "--batch-size", "0"], ["batch_size is 0"]),
    "all validation": ([*RUN, "ewc", "--validation-fraction", "1.5"], ["1.5"]),
    "unknown option": ([*RUN, "ewc", "--strength", "1"], ["--strength"]),
    "missing option": (["compare", "split-digits"], ["--methods"]),
    "missing stream": (["run", "--method", "ewc"], ["stream"]),
    "unknown command": (["compere"], ["compere"]),
    "ill-typed option": ([*RUN, "ewc", "--seed", "one"], ["--seed", "integer"]),
    "no seeds": ([*COMPARE, "ewc", "--seeds", "0"], ["--seeds", "1"]),
    "report of nothing": (["report", "no-such-folder"], ["no-such-folder is not a folder"]),
    "importance of no method": (["importance", "split-digits", "--methods", ","], ["--methods", "ewc, mas, anpyc"]),
    "unknown table": (["report", ".", "--table", "word"], ["--table is 'word'", "markdown"]),
}


def refused(words: list[str], parts: list[str]) -> None:
    result = CliRunner().invoke(app, words, prog_name="holdfast")
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("holdfast: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.output
    assert all(part.lower() in result.stderr.lower() for part in parts), result.stderr


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words, parts = CASES[case]
    refused(words, parts)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_data_set_is_named_with_both_ways_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOLDFAST_DATA", str(tmp_path / "data"))
    refused(["run", "split-mnist", "--method", "ewc"], ["'mnist'", "HOLDFAST_DATA", "--data-dir", "huggingface.co"])


def test_an_unwritable_folder_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    out = str(tmp_path / "file" / "out")
    refused([*COMPARE, "ewc", "--out", out], [out, "cannot be written"])


def test_a_file_that_is_not_a_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "x.json").write_text('{"schema_version": 1}')
    refused(["report", str(tmp_path)], ["x.json is not a holdfast record"])
    refused([*COMPARE, "ewc", "--out", str(tmp_path)], ["x.json is not a holdfast record"])


def test_an_empty_folder_has_no_report(tmp_path: Path) -> None:
    refused(["report", str(tmp_path)], ["holds no records"])


def test_a_folder_of_another_comparison_is_refused(tmp_path: Path) -> None:
    fast = ["--model", "mlp-4", "--epochs", "1", "--seeds", "1", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, [*COMPARE, "finetune", *fast]).exit_code == 0
    fast[1] = "mlp-5"
    refused([*COMPARE, "finetune", *fast], ["another comparison", "model", "--out"])
