"""Bad input: one clear sentence on the standard error, exit code 2, no traceback, and nothing trained."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from holdfast.cli import app, commands
from holdfast.errors import ConfigurationError, Option

RUN = ["run", "split-digits", "--method"]
COMPARE = ["compare", "split-digits", "--methods"]

CASES = {
    "unknown method": ([*RUN, "ewk"], ["no method 'ewk'", "ewc"]),
    "unknown method in a list": ([*COMPARE, "ewc,lfw"], ["no method 'lfw'", "lwf"]),
    "no method": ([*COMPARE, ","], ["--methods", "holdfast methods"]),
    "unknown method shown": (["methods", "ewk"], ["no method 'ewk'", "ewc"]),
    "unknown stream": (["run", "split-digit", "--method", "ewc"], ["split-digit", "split-digits"]),
    "unknown scenario": ([*RUN, "ewc", "--scenario", "tasks"], ["--scenario is 'tasks'", "task, domain, class"]),
    "misplaced training outputs": ([*RUN, "ewc", "--training-outputs", "seen"], ["--training-outputs", "class"]),
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
    "no tail": (
        ["run", "longtail-digits", "--method", "ewc", "--imbalance", "0.2"],
        ["--imbalance is 0.2", "at least 1"],
    ),
    "a tail of a split": ([*RUN, "ewc", "--imbalance", "9"], ["--imbalance does not apply", "split-digits"]),
    "few shots by task": (
        ["run", "fewshot-digits-4-2x5", "--method", "ncm", "--scenario", "task"],
        ["--scenario class", "'task'"],
    ),
    "loss of classes to come": (
        [*RUN, "ewc", "--scenario", "class", "--class-balance", "0.9"],
        ["--class-balance", "--training-outputs seen"],
    ),
    "unknown option of a stream": ([*RUN, "ewc", "--stream-option", "limit=3"], ["'limit'", "limit_per_class"]),
    "scenario as an option": (
        [*RUN, "ewc", "--stream-option", "scenario=class"],
        ["--stream-option has 'scenario'", "--scenario"],
    ),
    "unknown model": ([*RUN, "ewc", "--model", "mpl"], ["model 'mpl'", "mlp"]),
    "unknown optimizer": ([*RUN, "ewc", "--optimizer", "adm"], ["no optimizer 'adm'", "adam"]),
    "unknown device": ([*RUN, "ewc", "--device", "abacus"], ["--device is 'abacus'"]),
    "no epochs": ([*RUN, "ewc", "--epochs", "-1"], ["--epochs", "1"]),
    "no batch": ([*RUN, "ewc", "--batch-size", "0"], ["--batch-size is 0"]),
    "all validation": ([*RUN, "ewc", "--validation-fraction", "1.5"], ["--validation-fraction is 1.5"]),
    "unknown option": ([*RUN, "ewc", "--strength", "1"], ["--strength"]),
    "missing option": (["compare", "split-digits"], ["--methods"]),
    "missing stream": (["run", "--method", "ewc"], ["stream"]),
    "unknown command": (["compere"], ["compere"]),
    "ill-typed option": ([*RUN, "ewc", "--seed", "one"], ["--seed", "integer"]),
    "no seeds": ([*COMPARE, "ewc", "--seeds", "0"], ["--seeds", "1"]),
    "report of nothing": (["report", "no-such-folder"], ["no-such-folder is not a folder"]),
    "importance of no method": (["importance", "split-digits", "--methods", ","], ["--methods", "holdfast methods"]),
    "unknown table": (["report", ".", "--table", "word"], ["--table is 'word'", "markdown"]),
}


# Each option as it was typed, at the head of the sentence or within it: no keyword of the Python call behind it.
AS_TYPED = {
    "--scenario tasks": "--scenario is 'tasks'; expected one of task, domain, class",
    "--training-outputs seen": "--training-outputs seen needs --scenario class, got 'task'",
    "--outputs growing": "--outputs growing needs --scenario class, in which each task",
    "--batch-size 0": "--batch-size is 0; expected at least 1",
    "--validation-fraction 1.5": "--validation-fraction is 1.5; expected at least 0 and less than 1",
    "--optimizer-between-tasks lost": "--optimizer-between-tasks is 'lost': input should be",
    "--prequential 99": "--prequential 99 is for streams without boundaries, and the scenario",
    "--prequential 0": "--prequential is 0; expected at least 1",
    "--backbone pixels": "--backbone is 'pixels', but only closed-form heads stand on one",
    "--device abacus": "--device is 'abacus', which cannot be used",
    "--executor slurm": "--executor is 'slurm'; expected one of local, processes, ray",
    "--ray-address a:1": "--ray-address needs --executor ray, got 'local'",
    "--workers 2": "--workers 2 needs --executor processes or ray, got 'local'",
    "--track paper": "--track is 'paper'; expected one of tensorboard",
    "--set ewc.strength=1 --grid ewc.strength=1,2": "ewc.strength is given by --set and by --grid",
    "--grid ewc.strength=1,1.0": "--grid has a value twice for ewc.strength",
    "--grid ewc.strength=1,2 --validation-fraction 0": "--grid for ewc chooses by validation data, but "
    "--validation-fraction is 0",
    "--tune 2 --validation-fraction 0": "chooses by validation data, but --validation-fraction is 0",
    "--tune 2 --tasks 9": "--tasks is 9, but the stream 'split-digits' has 5 tasks",
    "--tune 2 --tasks 0": "--tasks is 0; expected at least 1",
    "--tune 2 --storage nonsense": "--storage: the database of searches 'nonsense' cannot be used",
    "--tune 2 --storage sqlite:///no/such.db": "--storage: the database of searches sqlite:///no/such.db cannot",
}

AS_TYPED_ELSEWHERE = {
    "recipe run hsu-split-mnist --variant tidy": "--variant is 'tidy', no variant of hsu-split-mnist",
    "recipe run hsu-split-mnist --methods ewk": "--methods has 'ewk', no row of hsu-split-mnist",
    "recipe run hsu-split-mnist --parts half": "--parts has 'half', no part of hsu-split-mnist",
    "recipe run hsu-split-mnist --executor slurm": "--executor is 'slurm'",
    "importance split-digits --methods si": "--methods has 'si'; an importance is that of ewc, online-ewc, mas, anpyc",
    "importance split-digits --prune-to 100": "--prune-to is 100; expected a percentage above 0 and below 100",
    "importance split-digits --optimizer-between-tasks lost": "No such option: --optimizer-between-tasks",
    "runs . --where method": "--where has 'method'; expected COLUMN SIGN VALUE",
    "run split-digits --method slda --backbone given": "slda: --backbone given takes a model of your own, "
    "package.module:factory; got --model mlp",
    "run split-mnist --method ewc --data-dir nowhere": "either set HOLDFAST_DATA (or --data-dir) to a folder",
    "export nothing.json model --push wrong/name/here": "--push is 'wrong/name/here'; expected OWNER/NAME",
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


@pytest.mark.parametrize("typed", [*AS_TYPED, *AS_TYPED_ELSEWHERE])
def test_an_option_is_named_as_it_was_typed(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = typed.split() if typed in AS_TYPED_ELSEWHERE else [*COMPARE, "ewc", *typed.split()]
    refused(words, [{**AS_TYPED, **AS_TYPED_ELSEWHERE}[typed]])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_named_by_the_option_that_names_another(tmp_path: Path) -> None:
    error = ConfigurationError("name another folder with ", Option("out"))
    compare, hub = (typer.main.get_command(app).commands[name] for name in ("compare", "export"))
    assert error.worded(partial(commands.typed, compare)) == "name another folder with --out"
    assert commands.typed(hub, Option("out")) == "out"  # which has no such option
    assert commands.typed(compare, Option("stream", ("a",))) == "STREAM a"
    assert str(error.within("ewc")) == "ewc: name another folder with out"
    assert isinstance(error.within("ewc"), ConfigurationError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # from a worker


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
