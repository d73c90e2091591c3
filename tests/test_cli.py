"""The commands, as a user sees them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast import registry
from holdfast.bench.comparing import compare
from holdfast.bench.data import streams
from holdfast.bench.records import record
from holdfast.bench.records.record import Record, without_times
from holdfast.cli import app

FAST = ["--model", "mlp-8", "--epochs", "1", "--batch-size", "32"]


def holdfast(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), prog_name="holdfast")


def succeed(*words: str) -> str:
    result = holdfast(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def sources(found: Record) -> dict[str, str]:
    return {key: chosen.source for key, chosen in found.config.hyperparameters.items()}


COMMANDS = ["methods", "streams", "run", "compare", "report"]


def test_help_lists_every_command() -> None:
    for words in ([], ["--help"]):
        shown = succeed(*words)
        assert all(f"  {command} " in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_ends_with_an_example_that_parses(command: str) -> None:
    shown = " ".join(succeed(command, "--help").split())
    assert f"Example: holdfast {command}" in shown
    words = shlex.split(shown.partition("Example: ")[2])
    # Everything but the options' values is understood: an unknown option would be refused before --help is seen.
    assert holdfast(*words[1:], "--help").exit_code == 0


def test_version() -> None:
    assert succeed("--version").startswith("holdfast 0.")


def test_methods_are_those_of_the_registry() -> None:
    shown = succeed("methods").splitlines()
    for entry in registry.entries():
        (line,) = [line for line in shown if line.split()[0] == entry.name]
        assert entry.family in line and entry.source in line and entry.state in line
        assert ("(control)" in line) == entry.control
        assert ("the last task's" in line) == entry.needs_data
        assert ("at test" in line) == entry.needs_task_id


def test_a_method_shows_its_settings() -> None:
    shown = succeed("methods", "ewc")
    assert all(key in shown for key in registry.lookup("ewc").defaults)
    assert "1 to 1e+07, logarithmic" in shown


def test_streams_are_listed() -> None:
    shown = succeed("streams")
    assert all(name in shown for name in streams.names())


def test_run_shows_the_matrix_and_writes_nothing_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = holdfast("run", "split-digits", "--method", "ewc", "--set", "strength=10", *FAST)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    rows = [line for line in lines if line and line[0] in ("0/1", "2/3", "4/5", "6/7", "8/9")]
    assert [len(row) for row in rows] == [6] * 5  # a name and five numbers
    assert "Nothing was written" in result.stdout
    assert "[1/1] ewc, seed 0: average test accuracy" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_compare_writes_records_and_a_report_and_shows_the_table(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["compare", "split-digits", "--methods", "finetune,classp", "--set", "classp.lr=0.02", "--seeds", "2"]
    shown = succeed(*words, *FAST, "--out", str(out))
    assert "Added l2sp and adagrad as controls" in shown
    assert f"Report: {out / 'report.html'}" in shown
    found = record.load_all(out)
    assert {(r.config.method, r.config.seed) for r in found} == {
        (method, seed) for method in ("finetune", "classp", "l2sp", "adagrad") for seed in (0, 1)
    }
    assert sources(next(r for r in found if r.config.method == "classp"))["lr"] == "given"
    finetuned = [r.matrix[-1] for r in found if r.config.method == "finetune"]
    mean = sum(sum(row) / 5 for row in finetuned) / 2
    (line,) = [line for line in shown.splitlines() if line.startswith("finetune")]
    assert f"{100 * mean:.2f} ±" in line and "[control]" in line
    assert "Default, untuned: l2sp, adagrad" in shown
    assert "<html" in (out / "report.html").read_text()

    again = holdfast(*words, *FAST, "--out", str(out))
    assert again.stderr.count("kept from before") == 8
    assert record.load_all(out) == found


def test_controls_stay_away_if_they_are_told_to(tmp_path: Path) -> None:
    words = ["--methods", "anastrophic", "--no-controls", "--seeds", "1", *FAST, "--out", str(tmp_path)]
    shown = succeed("compare", "split-digits", *words)
    assert "Added" not in shown
    assert [r.config.method for r in record.load_all(tmp_path)] == ["anastrophic"]


def test_a_grid_is_chosen_without_the_test_set_and_shown(tmp_path: Path) -> None:
    words = ["--methods", "ewc", "--grid", "ewc.strength=1,1000", "--seeds", "1", *FAST, "--out", str(tmp_path)]
    result = holdfast("compare", "split-digits", *words)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("average validation accuracy") == 2
    assert "untuned" not in result.stdout
    (found,) = record.load_all(tmp_path)
    assert found.config.hyperparameters["strength"].story.startswith("best of 2 by validation accuracy, seed 0: ")


@pytest.mark.parametrize(
    "words",
    [
        ["--methods", "ewc", "--grid", "ewc.strength=1,1000", "--scenario", "domain"],
        ["--methods", "classp", "--no-controls", "--set", "classp.scaling=false", "--optimizer-between-tasks", "fresh"],
        ["--methods", "lwf", "--scenario", "class", "--training-outputs", "current", "--lr", "0.003"],
    ],
)
def test_the_command_in_a_record_repeats_the_run(words: list[str], tmp_path: Path) -> None:
    succeed("compare", "split-digits", *words, *FAST, "--seeds", "1", "--out", str(tmp_path / "a"))
    (first,) = record.load_all(tmp_path / "a")
    program, *command = shlex.split(first.command)
    assert program == "holdfast"
    succeed(*command, "--out", str(tmp_path / "b"))
    (second,) = record.load_all(tmp_path / "b")
    assert second.command == first.command
    numbers = [without_times(each) for each in (first, second)]
    for each in numbers:  # how a value was chosen is not repeated, only the value
        each["config"]["hyperparameters"] = {k: v["value"] for k, v in each["config"]["hyperparameters"].items()}
    assert numbers[0] == numbers[1]


def test_report_is_made_again_from_the_records(tmp_path: Path) -> None:
    succeed("run", "split-digits", "--method", "finetune", *FAST, "--out", str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    shown = succeed("report", str(tmp_path))
    assert "finetune" in shown
    assert str(tmp_path / "report.html") in shown
    assert len((tmp_path / "report.html").read_text()) == pytest.approx(len(page), rel=0.1)
    narrow = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["report", str(tmp_path)]).stdout
    table = narrow.partition("Mean ±")[0]
    assert "finetune" in table and "…" not in table
    assert max(map(len, table.splitlines())) <= 80
    exported = succeed("report", str(tmp_path), "--table", "csv")
    assert exported.startswith("stream,scenario,")
    assert len(exported.splitlines()) == 2


@pytest.mark.parametrize("where", [[], ["--out", "out"]])
def test_ctrl_c_before_the_first_result(where: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> list[Record]:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "run", interrupted)
    result = holdfast("run", "split-digits", "--method", "finetune", *where)
    assert result.exit_code == 130
    assert "stopped" in result.stderr.lower()
    assert "Report" not in result.stdout
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_run_that_diverges_says_why_and_fails() -> None:
    result = holdfast("run", "split-digits", "--method", "finetune", "--optimizer", "sgd", "--lr", "1e30", *FAST)
    assert result.exit_code == 1
    assert "not finite at step" in result.stderr


def test_streams_have_their_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = succeed("streams")
    assert all(name in shown for name in ("longtail-digits", "longtail-cifar10", "fewshot-mnist-4-2x5"))
    options = ["--imbalance", "5", "--class-balance", "0.9", "--stream-option", "limit_per_class=60"]
    shown = succeed("compare", "longtail-digits", "--methods", "finetune,max-norm", "--seeds", "1", *options, *FAST)
    assert "Many" in shown and "Few" in shown
    (first, second) = record.load_all(tmp_path / "holdfast-results" / "longtail-digits-task")
    expected = {"imbalance": 5.0, "class_balance": 0.9, "limit_per_class": 60}
    assert first.config.stream_options == second.config.stream_options == expected
    assert first.by_class is not None and first.by_class.samples[0][0] == 54
    again = succeed(*shlex.split(first.command)[1:], "--out", str(tmp_path / "again"))
    (repeated,) = record.load_all(tmp_path / "again")
    assert "Few" in again and repeated.matrix == first.matrix and repeated.by_class == first.by_class


def test_few_shots_need_no_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "PD" in succeed("compare", "fewshot-digits-4-3x5", "--methods", "ncm,finetune", "--seeds", "1", *FAST)
    assert (tmp_path / "holdfast-results" / "fewshot-digits-4-3x5-class" / "report.html").is_file()
