"""The door: one call from Python, with a named stream or one's own tensors, in one process and in several."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.bench import Stream, compare
from holdfast.bench.comparing import calling, plan
from holdfast.bench.comparing import compare as comparing
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.comparing.tuning import Search
from holdfast.bench.data import streams
from holdfast.bench.records import record as records
from holdfast.bench.records.record import without_times
from holdfast.errors import ConfigurationError

QUICK: dict[str, Any] = {"model": "mlp-4", "epochs": 1, "batch_size": 16}
PAGE = Path(__file__).parents[3] / "docs" / "bench.md"


@pytest.fixture
def own() -> Stream:
    draw = torch.Generator().manual_seed(0)

    def task(feature: int) -> Any:
        x = torch.randn(120, 4, generator=draw)
        y = (x[:, feature] > 0).long() + 2 * feature
        return (x[:80], y[:80]), (x[80:], y[80:])

    return Stream.from_tensors([task(0), task(1)], scenario="class", name="signs")


def test_the_page_runs_as_printed_in_one_process_and_in_two(tmp_path: Path) -> None:
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)):
        script = tmp_path / f"page{number}.py"
        script.write_text(code, encoding="utf-8")
        done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "" and ("| ewc" in done.stdout) == ("compare(" in code)
    assert (tmp_path / "signs" / "report.html").is_file()
    assert len(records.load_all(tmp_path / "signs")) == 4


def test_a_stream_of_ones_own_is_learned_and_kept(own: Stream, tmp_path: Path) -> None:
    table = compare(own, ["finetune", "joint"], seeds=2, out=tmp_path / "out", **QUICK)
    assert [one.config.method for one in table.records] == ["finetune", "finetune", "joint", "joint"]
    assert all(one.status == "finished" and one.config.stream == "signs" for one in table.records)
    assert {one.config.stream_options["own"] for one in table.records} == {own.own}
    assert all(one.command == "" for one in table.records)  # no command could name these tensors
    assert [row.method for row in table.rows()] and "| joint" in str(table) and "joint" in table.to_csv()
    assert table.report is not None and "signs" in table.report.read_text()
    first = [without_times(one) for one in table.records]
    again = compare(own, ["finetune", "joint"], seeds=2, out=tmp_path / "out", **QUICK)
    assert [without_times(one) for one in again.records] == first
    nowhere = compare(own, ["finetune", "joint"], seeds=2, **QUICK)
    assert [one.matrix for one in nowhere.records] == [one.matrix for one in table.records]
    assert (nowhere.folder, nowhere.report) == (None, None)


def test_a_folder_refuses_another_stream_of_that_name(own: Stream, tmp_path: Path) -> None:
    compare(own, ["finetune"], seeds=1, out=tmp_path, **QUICK)
    (x, y), test = (own.tasks[0].train.samples, own.tasks[0].train.targets), (own.tasks[0].test.samples[:2], None)
    other = Stream.from_tensors([((x + 1, y), (test[0], y[:2]))] * 2, scenario="class", name="signs")
    with pytest.raises(ConfigurationError, match="differs in the data themselves"):
        compare(other, ["finetune"], seeds=1, out=tmp_path, **QUICK)


def test_grids_settings_and_controls(own: Stream) -> None:
    said: list[str] = []
    table = compare(
        own,
        ["classp", "l2sp"],
        seeds=[3],
        settings={"classp": {"threshold": 1e-5}},
        grids={"l2sp": {"strength": [0.1, 1.0]}},
        note=said.append,
        **QUICK,
    )
    by_method = {one.config.method: one.config for one in table.records}
    assert set(by_method) == {"classp", "l2sp", "adagrad"} and {one.seed for one in by_method.values()} == {3}
    assert by_method["classp"].hyperparameters["threshold"].value == 1e-5
    assert by_method["l2sp"].hyperparameters["strength"].source == "grid"
    assert said[0] == "Added adagrad as a control (controls=False, or --no-controls, does without)."


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"methods": "ewc"}, "methods is 'ewc'; expected a list of names"),
        ({"methods": []}, "methods is empty"),
        ({"methods": ["ewk"]}, "there is no method 'ewk'"),
        ({"seeds": 0}, "seeds is 0; expected at least one"),
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"epoch": 3}, "there is no training option 'epoch'; the nearest are"),
        ({"stream": "split-digit"}, "there is no stream 'split-digit'"),
        ({"settings": {"ewc": {"power": 1}}}, "ewc has no setting 'power'"),
        ({"settings": {"mas": {"strength": 1}}}, "settings names the method 'mas'; this compares ewc"),
        ({"grids": {"mas": {"strength": [1, 2]}}}, "grids names the method 'mas'; this compares ewc"),
        ({"executor": "slurm"}, "executor is 'slurm'"),
        ({"stream": None}, "stream is None; expected a name"),
        ({"methods": [int]}, "methods has <class 'int'>; expected names"),
        ({"seeds": "3"}, "seeds is '3'; expected at least one"),
        ({"seeds": 1.5}, "seeds is 1.5; expected at least one"),
        ({"seeds": [0, 0]}, "a list of different ones"),
        ({"settings": {"ewc": 3}}, "settings has 3 for ewc; expected hyperparameter -> value"),
        ({"grids": {"ewc": {"strength": []}}}, r"grids has \[\] for ewc.strength; expected a list"),
        ({"grids": {"ewc": {"strength": 3}}}, "grids has 3 for ewc.strength; expected a list"),
        ({"threads": 0}, "threads is 0; expected at least 1"),
        ({"threads": "2"}, "threads is '2'; expected a whole number"),
        ({"methods": None}, "methods is None; expected a list of names"),
        ({"epochs": "3"}, "epochs is '3'; expected a whole number"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"workers": 0}, "workers is 0; expected at least 1"),
        ({"workers": 1.5, "executor": "processes"}, "workers is 1.5; expected a whole number"),
        ({"checkpoint_every": -1}, "checkpoint_every is -1; expected seconds, 0 or more"),
        ({"checkpoint_every": float("nan")}, "checkpoint_every is nan; expected seconds"),
        ({"checkpoint_every": "60"}, "checkpoint_every is '60'; expected seconds"),
        ({"validation_fraction": "0.1"}, "validation_fraction is '0.1'; expected at least 0"),
        ({"search": Search(2, tasks=6)}, "tasks is 6, but the stream 'split-digits' has 5 tasks"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(call: dict[str, Any], sentence: str) -> None:
    asked = {"stream": "split-digits", "methods": ["ewc"], "seeds": 1, **call}
    with pytest.raises(ConfigurationError, match=sentence):
        compare(**asked)


def test_threads_are_as_before(own: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    used = [2]
    monkeypatch.setattr(calling.torch, "get_num_threads", lambda: used[-1])
    monkeypatch.setattr(calling.torch, "set_num_threads", used.append)
    compare(own, ["finetune"], seeds=1, epochs=1)
    assert used[1] == 1 and used[-1] == 2


def test_a_scenario_belongs_to_the_stream(own: Stream) -> None:
    with pytest.raises(ConfigurationError, match="this one was made with scenario='class'"):
        compare(own, ["finetune"], scenario="domain")
    named = streams.build("split-digits", seed=0)
    with pytest.raises(ConfigurationError, match="the stream 'split-digits' has a name: give that"):
        compare(named, ["finetune"])


def test_every_configuration_is_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[str] = []
    real = plan.plan
    monkeypatch.setattr(plan, "plan", lambda *a, **k: planned.append(a[1]) or real(*a, **k))
    stream = streams.build("split-digits", seed=0, limit_per_class=4)
    asked = Comparison(stream, ("finetune", "ewc"), (0, 1, 2, 3, 4), grids={"ewc": {"strength": ["1", "10"]}})
    comparing.check(asked)
    assert len(comparing.jobs(asked)) == 10 and len(comparing.candidates(asked)["ewc"]) == 2
    assert planned == ["finetune", "ewc"]
