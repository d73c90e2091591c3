"""What a tracker is told is what the record says."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from holdfast import ConfigurationError, DependencyError
from holdfast.bench.comparing import compare
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.data import streams
from holdfast.bench.jobs import handing_out as executing
from holdfast.bench.jobs import trackers, work
from holdfast.bench.jobs.job import Job
from holdfast.bench.records.record import Record
from tests.bench.jobs.watching import Watching
from tests.bench.jobs.workers import Shelf

SMALL = {"limit_per_class": 20, "test_limit_per_class": 10}


def missing(*modules: str) -> bool:
    return any(importlib.util.find_spec(module) is None for module in modules)


def tracked(track: trackers.Track, *seeds: int) -> list[Record]:
    """Real runs of a comparison, tracked."""
    stream = streams.build("split-digits", seed=0, **SMALL)
    compared = Comparison(
        stream, ("ewc",), seeds or (0,), changes={"model": "mlp-8", "epochs": 1}, fields={"stream_options": SMALL}
    )
    trackers.check(track)
    shelf, watching = Shelf(), Watching()
    jobs = [Job(compared.config("ewc", seed, {"strength": "3e2"})) for seed in compared.seeds]
    with executing.Local(work.here(shelf, watching, track=track)) as executor:
        return compare.execute(jobs, executor, shelf, Monitor())


class Monitor(Watching):
    def ends(self, job, record, *, kept: bool) -> None:
        self.ended.append((job.config.seed, kept))


def expected(record: Record) -> dict[str, list[float]]:
    """Metric -> its values in order, from the record."""
    found = {f"accuracy/task_{j}": [row[j] for row in record.matrix] for j in range(record.config.tasks)}
    found["accuracy/all"] = [sum(row) / len(row) for row in record.matrix]
    found["accuracy/learned"] = [sum(row[: i + 1]) / (i + 1) for i, row in enumerate(record.matrix)]
    found["loss"] = list(record.curves.loss)
    found["task"] = [float(task) for task in record.curves.task]
    shares = [share for share in record.curves.penalty_share if share is not None]
    return found | ({"penalty_share": shares} if shares else {})


@pytest.mark.skipif(missing("accelerate", "tensorboard"), reason="pip install 'holdfast[bench,tensorboard]'")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard's own imports
def test_tensorboard_has_every_number_of_the_record(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (record,) = tracked(trackers.Track("tensorboard", tmp_path / "logs", "project"))
    events = EventAccumulator(str(tmp_path / "logs" / "ewc-seed0"), size_guidance={"scalars": 0}).Reload()
    for name, values in expected(record).items():
        points = events.Scalars(name)
        assert [point.value for point in points] == pytest.approx(values)
        if name == "loss":
            assert [point.step for point in points] == record.curves.step
    assert events.Scalars("accuracy/all")[-1].step == record.costs.steps
    (settings,) = (tmp_path / "logs" / "ewc-seed0").rglob("hparams.yml")
    text = settings.read_text()
    assert "strength: 300.0" in text and "strength_source: given" in text and "batch_size: 32" in text


@pytest.mark.skipif(missing("accelerate", "mlflow", "sqlalchemy", "alembic"), reason="pip install 'holdfast[mlflow]'")
@pytest.mark.filterwarnings("ignore")  # MLflow warns of its own future, and leaves its database to the interpreter
def test_mlflow_has_every_number_of_the_records_in_a_local_database(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    before = mlflow.get_tracking_uri()
    try:
        records = tracked(trackers.Track("mlflow", tmp_path / "a b", "split-digits-task"), 0, 1)
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/a b/mlflow.db")
        experiment = client.get_experiment_by_name("split-digits-task")
        runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
        assert set(runs) == {"ewc-seed0", "ewc-seed1"}
        for record in records:
            run = runs[f"ewc-seed{record.config.seed}"]
            assert run.info.status == "FINISHED"
            assert run.data.params["strength"] == "300.0" and run.data.params["seed"] == str(record.config.seed)
            for name, values in expected(record).items():
                history = sorted(client.get_metric_history(run.info.run_id, name), key=lambda metric: metric.step)
                assert [metric.value for metric in history] == pytest.approx(values, rel=1e-12)
    finally:
        mlflow.set_tracking_uri(before)
    assert {path.name for path in (tmp_path / "a b").iterdir()} <= {"mlflow.db", "mlflow-files"}
    assert not Path("mlruns").exists()


def test_without_a_tracker_the_others_are_told_as_ever():
    job = Job(Comparison(streams.build("split-digits", seed=0, **SMALL), ("finetune",)).config("finetune", 0))
    watching = Watching()
    with trackers.observer(None, job, watching) as told:
        assert told is watching
    with trackers.observer(None, job) as told:
        assert told is None


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="tensorboard, mlflow, wandb"):
        trackers.Track("clearml", tmp_path, "project")


@pytest.mark.parametrize(
    "kind, module, extra",
    [("wandb", "wandb", "wandb"), ("mlflow", "alembic", "mlflow"), ("tensorboard", "accelerate", "bench")],
)
def test_a_tracker_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, kind, module, extra):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else real(name) or object())
    with pytest.raises(DependencyError, match=rf"needs {module}: pip install 'holdfast\[{extra}\]'"):
        trackers.check(trackers.Track(kind, tmp_path, "project"))


@pytest.mark.skipif(missing("accelerate", "tensorboard"), reason="pip install 'holdfast[bench,tensorboard]'")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_that_breaks_off_leaves_what_it_measured(tmp_path):
    job = Job(Comparison(streams.build("split-digits", seed=0, **SMALL), ("ewc",)).config("ewc", 0), label="trial 3")
    with pytest.raises(KeyboardInterrupt):
        with trackers.observer(trackers.Track("tensorboard", tmp_path, "project"), job, Watching()) as told:
            told.begin(job.config, 10)
            told.advance(3)
            told.measured(0, 3, float("nan"), 0.5)
            raise KeyboardInterrupt
    assert any("tfevents" in name for name in os.listdir(tmp_path / "ewc-seed0-trial_3"))
