"""Records on disk: exact, atomic, standard JSON, and one sentence for whatever is not a record."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from holdfast.bench.records import record as records
from holdfast.bench.records.measured import Curves
from holdfast.bench.records.record import Record
from holdfast.errors import StateError
from tests.bench.records.make import make_record


def test_save_and_load_are_exact(tmp_path: Path) -> None:
    record = make_record("ewc", 3, warnings=["ein Ton: ä"], diagnostics={"distance": {"fc1.weight": [0.1, 1 / 3]}})
    path = records.save(record, tmp_path / "deep" / records.filename(record.config))
    assert path.name == "ewc-seed3.json"
    assert records.load(path) == record
    assert os.listdir(path.parent) == ["ewc-seed3.json"]


@pytest.mark.parametrize("value", [1, 1.0, True, "paper", None])
def test_a_hyperparameter_keeps_its_type(value: object, tmp_path: Path) -> None:
    record = make_record(hyperparameters={"key": {"value": value, "source": "given"}})
    loaded = records.load(records.save(record, tmp_path / "a.json")).config.hyperparameters["key"].value
    assert loaded == value and type(loaded) is type(value)


def test_numbers_that_went_bad_are_kept_in_standard_json(tmp_path: Path) -> None:
    curves = Curves(task=[0, 0], step=[0, 1], loss=[float("inf"), float("nan")], penalty_share=[None, float("nan")])
    record = make_record(status="failed", failure="loss is nan at step 1", rows=0, curves=curves)
    path = records.save(record, tmp_path / "a.json")

    def refuse(token: str) -> float:
        raise AssertionError(f"{token} is not standard JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    loaded = records.load(path).curves
    assert loaded.loss[0] == float("inf") and loaded.loss[1] != loaded.loss[1]
    assert loaded.penalty_share[0] is None and loaded.penalty_share[1] != loaded.penalty_share[1]


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_record("ewc", 0)
    path = records.save(old, tmp_path / "a.json")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match=r"Cannot write the record .*a\.json: No space left on device\."):
        records.save(make_record("ewc", 1), path)
    assert records.load(path) == old
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="Cannot write the record"):
        records.save(make_record(), tmp_path / "file" / "a.json")


def test_load_all_reads_a_comparison(tmp_path: Path) -> None:
    for seed in (1, 0):
        records.save(make_record("ewc", seed), tmp_path / "records" / f"ewc-seed{seed}.json")
    (tmp_path / "report.html").write_text("")
    assert [record.config.seed for record in records.load_all(tmp_path)] == [0, 1]
    assert records.load_all(tmp_path) == records.load_all(tmp_path / "records")
    with pytest.raises(StateError, match="missing is not a folder"):
        records.load_all(tmp_path / "missing")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'{"status": "finished"}', b"[" * 100_000])
def test_what_is_not_a_record_is_named(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(text)
    with pytest.raises(StateError, match=r"other\.json is not a holdfast record"):
        records.load(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="Cannot read the record"):
        records.load(tmp_path)
    with pytest.raises(StateError, match=r"Cannot read the record .*missing\.json: No such file"):
        records.load(tmp_path / "missing.json")


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = records.save(make_record(), tmp_path / "a.json")
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(StateError, match="schema_version"):
        records.load(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_record_is_a_sentence_or_a_record(data: st.DataObject, tmp_path: Path) -> None:
    text = bytearray(make_record(tasks=2).model_dump_json().encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.json"
    path.write_bytes(text)
    try:
        assert isinstance(records.load(path), Record)
    except StateError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize(
    "changes",
    [
        {"matrix": [[0.5] * 4]},
        {"matrix": [[0.5] * 5] * 6},
        {"matrix": [[1.5] * 5]},
        {"matrix": [[float("nan")] * 5]},
        {"matrix": []},
        {"initial": [0.5]},
        {"validation": [[0.5]]},
        {"task_names": ["one"]},
        {"scenario": "domains"},
        {"unknown": 1},
    ],
)
def test_a_record_that_contradicts_itself_cannot_exist(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        make_record(**changes)


def test_curves_have_one_length() -> None:
    with pytest.raises(ValidationError, match="one length"):
        Curves(task=[0], step=[0], loss=[0.1], penalty_share=[])


def test_a_record_is_frozen() -> None:
    record = make_record()
    with pytest.raises(ValidationError, match="frozen"):
        record.status = "failed"  # type: ignore[misc]  # the assignment that must be refused


def test_without_times_drops_times_and_nothing_else() -> None:
    record = make_record()
    costs = record.costs.model_copy(update={"seconds_total": 9.9, "seconds_per_step": 9.9, "peak_memory_bytes": 9})
    slower = record.model_copy(
        update={"costs": costs, "environment": record.environment.model_copy(update={"date": "2027-01-01T00:00:00Z"})}
    )
    assert slower != record
    assert records.without_times(slower) == records.without_times(record)
    other = record.model_copy(update={"costs": costs.model_copy(update={"state_bytes": 1})})
    assert records.without_times(other) != records.without_times(record)
    assert records.without_times(make_record(seed=1)) != records.without_times(record)


def test_state_bytes_per_parameter() -> None:
    assert make_record("ewc").costs.state_bytes_per_parameter == pytest.approx(8.0)
    assert make_record("finetune").costs.state_bytes_per_parameter == 0.0


def test_a_method_name_cannot_leave_the_folder() -> None:
    assert records.filename(make_record("../../etc/x", 1).config) == ".._.._etc_x-seed1.json"
