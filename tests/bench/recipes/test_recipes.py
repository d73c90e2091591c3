"""Recipes: every published protocol is valid and builds; a run is kept under its label and gone on with."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from holdfast.bench import recipes, report
from holdfast.bench.data import named as data
from holdfast.bench.data import streams
from holdfast.bench.data.sets import ImageDataset, TextDataset
from holdfast.bench.jobs import work
from holdfast.bench.jobs.folder import Folder
from holdfast.bench.jobs.handing_out import Local
from holdfast.bench.jobs.progress import Lines
from holdfast.bench.recipes import Recipe, Table
from holdfast.bench.records import record as records
from holdfast.bench.records.record import Hyperparameter, Record, RunConfig
from holdfast.bench.training import building
from holdfast.bench.training.learner import Learner
from holdfast.errors import ConfigurationError, StateError
from tests.bench.records.make import make_record

pytest.importorskip("sklearn", reason="the bench's packages are not installed")

TINY: dict[str, Any] = {
    "name": "tiny",
    "title": "Two tasks of digits",
    "source": "nobody",
    "about": "Digits.",
    "seeds": 2,
    "train": {
        "model": "mlp-8", "optimizer": "adam", "lr": 0.01, "optimizer_between_tasks": "fresh", "epochs": 1,
        "batch_size": 32,
    },
    "parts": {
        "heads": {"stream": "split-digits", "scenario": "task", "stream_options": {"tasks": 2}},
        "shared": {"stream": "split-digits", "scenario": "domain", "stream_options": {"tasks": 2}},
    },
    "variants": {"one": {"about": "First."}, "two": {"about": "Second.", "train": {"epochs": 2}}},
    "methods": [
        {"label": "plain", "method": "finetune"},
        {"label": "plain-sgd", "method": "finetune", "train": {"optimizer": "sgd", "lr": 0.1}, "parts": ["heads"]},
        {"label": "held", "method": "l2sp", "set": {"strength": 0.5}, "source": "nobody", "variants": ["two"]},
        {"label": "chosen", "method": "l2sp", "grid": {"strength": [0.1, 10.0]}, "seeds": 1, "parts": ["heads"]},
    ],
    "published": [{"source": "nobody", "values": {"plain": 90.0}, "part": "heads"}],
    "paired": [{"rows": ["plain", "chosen"]}],
    "quick": {"seeds": 1, "candidates": 1, "stream_options": {"tasks": 2, "limit_per_class": 20}},
}  # fmt: skip


def make(tmp_path: Path, **changes: Any) -> Recipe:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return recipes.read(path)


def run(table: Table, folder: Folder) -> tuple[list[Record], str]:
    said = io.StringIO()
    folder.make()
    monitor = Lines(Console(file=said, width=200))
    return recipes.run(table, folder, monitor, Local(work.here(folder, monitor))), said.getvalue()


@pytest.fixture
def small_data(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Stands in for every data set: the right shapes, hardly any samples."""
    true_load = data.load

    def load(name: str, **_: Any) -> ImageDataset:
        if name == "digits":
            return true_load(name)
        shape = data.SOURCES[name].shape
        assert shape is not None
        each = 115 if "list-003" in request.node.name else 6  # enough for a long tail
        labels = torch.arange(10).repeat(each)
        images = torch.randint(0, 256, (10 * each, *shape), dtype=torch.uint8)
        classes, channels = tuple("0123456789"), shape[0]
        return ImageDataset(name, images, labels, images, labels, classes, (0.5,) * channels, (0.5,) * channels)

    def load_text(name: str, **_: Any) -> TextDataset:
        classes = data.SOURCES[name].classes
        labels = torch.arange(30) % len(classes)
        texts = tuple(f"word{k} word" for k in range(30))
        return TextDataset(name, texts, labels, texts, labels, classes)

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(data, "load_text", load_text)


def chosen(config: RunConfig, recipe: Recipe) -> RunConfig:
    """As if the grids had chosen their first candidates."""
    row = next(row for row in recipe.methods if row.label == config.extra["label"])
    first = {key: Hyperparameter(value=float(values[0]), source="grid") for key, values in row.grid.items()}
    own = {"lr": first["lr"].value} if "lr" in first else {}
    return config.model_copy(update={"hyperparameters": config.hyperparameters | first, **own})


@pytest.mark.parametrize("name", recipes.names())
def test_every_published_protocol_builds_every_run_in_every_variant(name: str, small_data: None) -> None:
    recipe = recipes.load(name)
    for variant in recipe.variants or [None]:
        for quick in (False, True):
            table = recipes.resolve(recipe, variant=variant, quick=quick)
            if quick or recipe.train.model != "transformer":  # 40 million weights take seconds to draw
                recipes.check(table)
            names = [
                records.row_name(job.config) + str(job.config.seed) for row in table.rows for job in table.jobs(row)
            ]
            assert len(set(names)) == len(names)
            jobs = [job for row in table.rows for job in table.jobs(row)]
            assert all(job.config.extra["recipe"] == name for job in jobs)
            if not quick:  # what is planned is what the page of results lets pass
                configs = [chosen(job.config, recipe) for job in jobs]
                assert [recipes.as_planned(recipe, config) for config in configs] == configs


def test_a_row_has_its_own_training_over_the_variants_over_the_recipes(tmp_path: Path) -> None:
    table = recipes.resolve(make(tmp_path), variant="two", seeds=1)
    configs = {(row.part, row.label): table.jobs(row)[0].config for row in table.rows}
    assert configs["heads", "plain"].optimizer == "adam" and configs["heads", "plain"].epochs == 2
    assert configs["heads", "plain-sgd"].optimizer == "sgd" and configs["heads", "plain-sgd"].lr == 0.1
    assert ("shared", "plain-sgd") not in configs and configs["shared", "plain"].scenario == "domain"
    assert configs["heads", "held"].hyperparameters["strength"].value == 0.5
    assert configs["heads", "held"].hyperparameters["strength"].source == "recipe"
    assert configs["heads", "plain"].validation_fraction == 0
    first = recipes.resolve(make(tmp_path))
    assert {row.label for row in first.rows} == {"plain", "plain-sgd", "chosen"} and first.variant == "one"
    assert [len(row.final.seeds) for row in first.rows if row.label != "plain-sgd"] == [2, 1, 2]


def test_a_recipe_is_run_kept_and_gone_on_with(tmp_path: Path) -> None:
    recipe = make(tmp_path)
    table = recipes.resolve(recipe, variant="one", quick=True)
    folder = Folder(tmp_path / "out")
    found, said = run(table, folder)
    assert sorted(path.name for path in (tmp_path / "out" / "records").glob("*.json")) == [
        "heads-chosen-seed0.json", "heads-plain-seed0.json", "heads-plain-sgd-seed0.json", "shared-plain-seed0.json",
    ]  # fmt: skip
    assert said.count("kept from before") == 0 and "heads-chosen, seed 0, trying strength=0.1" in said
    chosen = next(record for record in found if record.config.extra["label"] == "chosen")
    strength = chosen.config.hyperparameters["strength"]
    assert strength.source == "grid" and strength.choice.count == 1 and strength.value == 0.1
    assert chosen.config.validation_fraction == 0 and not chosen.validation
    assert chosen.command == "holdfast recipe run tiny --variant one --methods chosen --parts heads --seeds 1 --quick"

    again, said = run(table, folder)
    assert said.count("kept from before") == 5 and again == found
    assert recipes.differing(table, found) is None
    assert "differs in variant" in str(recipes.differing(recipes.resolve(recipe, variant="two", quick=True), found))
    assert "differs in quick" in str(recipes.differing(recipes.resolve(recipe, variant="one"), found))
    other = make(tmp_path, train={**TINY["train"], "batch_size": 16})
    assert "differs in batch size" in str(recipes.differing(recipes.resolve(other, quick=True), found))


def test_a_learning_rate_that_a_grid_chose_is_no_other_experiment(tmp_path: Path) -> None:
    row = {"label": "chosen", "method": "adagrad", "grid": {"lr": [0.05, 0.0001]}, "parts": ["heads"]}
    table = recipes.resolve(make(tmp_path, methods=[*TINY["methods"][:3], row], paired=[]), labels=("chosen",), seeds=1)
    found, _ = run(table, Folder(tmp_path / "out"))
    assert found[0].config.lr == 0.05 != table.jobs(table.rows[0])[0].config.lr
    assert recipes.differing(table, found) is None


def test_the_released_ewc_baseline_is_run_as_released(tmp_path: Path, small_data: None) -> None:
    recipe = recipes.load("classp-mnist-fashion")
    (row,) = recipes.resolve(recipe, variant="released", labels=("ewc-released",), seeds=1).rows
    config = row.final.config("ewc-foreign", 0)
    assert {key: value.value for key, value in config.hyperparameters.items()} == {
        "strength": 2 * 5000.0, "coupling": "gradient",
    }  # fmt: skip
    assert (config.optimizer, config.lr, config.epochs_per_task, config.shuffle) == ("sgd", 0.25, [1, 3, 1], False)
    stream = building.build_stream(config)
    first, again, _ = stream.tasks
    assert [task.name for task in stream] == ["mnist", "mnist 2", "fashion_mnist"]
    assert torch.equal(first.train.rows, again.train.rows) and not len(first.valid)
    drawn = [y for _, y in Learner(config, stream).importance_batches(first)]
    whole, rest = divmod(len(first.train.targets), 32)
    assert [len(y) for y in drawn] == [32] * whole + [rest] * bool(rest)  # all, each once, in another order
    assert torch.cat(drawn).sort().values.equal(first.train.targets.sort().values)
    assert not torch.cat(drawn).equal(first.train.targets)

    table = recipes.resolve(recipe, variant="released", labels=("ewc-released",), quick=True)
    found, _ = run(table, Folder(tmp_path / "out"))
    assert [record.status for record in found] == ["finished"], found[0].failure
    assert len(found[0].matrix) == 3
    assert (tmp_path / "out" / "records" / "penalty-from-second-pass-ewc-released-seed0.json").is_file()


def test_rows_of_one_method_are_told_apart_by_their_labels(tmp_path: Path) -> None:
    recipe = make(tmp_path)
    found, _ = run(recipes.resolve(recipe, labels=("plain", "plain-sgd"), quick=True), Folder(tmp_path / "out"))
    groups = report.groups(found)
    assert sorted(row.label for row in groups[0].rows) == ["plain", "plain-sgd"]
    marks = recipes.markers(recipe, "one")
    plain, sgd = sorted(groups[0].rows, key=lambda row: row.label)
    assert plain.published("average_accuracy", marks) == marks[0] and marks[0].value == 0.9
    assert sgd.published("average_accuracy", marks) is None
    assert groups[1].rows[0].published("average_accuracy", marks) is None  # of another scenario


def test_numbers_published_by_task_are_drawn_as_their_mean_and_other_protocols_are_said() -> None:
    anastrophic = recipes.load("anastrophic-split-mnist")
    (mean,) = recipes.markers(anastrophic, "", {"class": 2})
    assert mean.method == "anastrophic" and mean.value == pytest.approx((0.7116 + 0.8669) / 2)
    assert "the mean over its tasks, 71.16, 86.69" in mean.source
    assert recipes.markers(anastrophic, "", {"class": 3}) == recipes.markers(anastrophic, "") == []
    marks = recipes.markers(recipes.load("vandeven-fisher"), "")
    assert {mark.stream for mark in marks if "protocol differs: a network of two" in mark.source} == {"split-cifar10"}
    assert {mark.stream for mark in marks if "differs" not in mark.source} == {"split-mnist"}
    made = make_record("online-ewc", 0)
    extra = {"recipe": "vandeven-fisher", "part": "split-mnist", "label": "exact", "quick": True}
    quick = made.model_copy(update={"config": made.config.model_copy(update={"extra": extra})})
    assert all("protocol differs: a quick version" in mark.source for mark in recipes.markers_of([quick]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": [{"label": "a", "method": "ecw"}]}, "no method 'ecw'.*ewc"),
        (
            {"methods": [{"label": "a", "method": "l2sp", "set": {"strenght": 1}, "source": "x"}]},
            "no setting 'strenght'",
        ),
        ({"methods": [{"label": "a", "method": "l2sp", "set": {"strength": 1}}]}, "expected a 'source'"),
        ({"methods": TINY["methods"] + TINY["methods"][:1]}, "'plain' is there twice"),
        ({"published": [{"source": "x", "values": {"nobody": 1.0}}]}, "'nobody' is not one of"),
        ({"train": {"model": "mlp"}}, "optimizer is missing"),
        ({"train": {**TINY["train"], "epoch": 3}}, "train.epoch"),
        ({"name": "other"}, "expected tiny"),
        ({"paired": [{"rows": ["plain", "x"]}]}, "'x' is not one of"),
    ],
)
def test_a_wrong_recipe_is_refused_where_it_is_wrong(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StateError, match=message):
        make(tmp_path, **changes)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    recipe = make(tmp_path)
    with pytest.raises(ConfigurationError, match="no recipe 'hsu-split'; the nearest are hsu-split-mnist"):
        recipes.load("hsu-split")
    with pytest.raises(ConfigurationError, match="variant is 'three', no variant of tiny; it has one, two"):
        recipes.resolve(recipe, variant="three")
    with pytest.raises(ConfigurationError, match="labels has 'held', no row of tiny; it has plain, plain-sgd, chosen"):
        recipes.resolve(recipe, labels=("held",))
    with pytest.raises(ConfigurationError, match=r"none of the rows plain-sgd \(labels\) in shared"):
        recipes.resolve(recipe, labels=("plain-sgd",), parts=("shared",))
    with pytest.raises(StateError, match="is not YAML"):
        (tmp_path / "bad.yaml").write_text("a: [")
        recipes.read(tmp_path / "bad.yaml")


def test_accuracy_on_training_data_with_dropout_on_is_repeatable_and_disturbs_nothing() -> None:
    base = {**TINY["train"], "model": "mlp-64", "model_options": {"dropout": 0.5}}
    stream = streams.build("split-digits", seed=0, tasks=2)
    common = {"stream": "split-digits", "scenario": "task", "training_outputs": "all", "tasks": 2, "method": "finetune",
              "validation_fraction": 0.1, "seed": 0, **base}  # fmt: skip
    honest = Learner(records.RunConfig(**common), stream)
    released = Learner(records.RunConfig(**common, evaluate_on="train", evaluate_mode="train"), stream)
    before = torch.get_rng_state()
    noisy = released.accuracies("test")
    assert noisy == released.accuracies("test") and torch.equal(torch.get_rng_state(), before)
    assert released.model.training and honest.model.training
    assert noisy != honest.accuracies("train")  # the same weights, but no dropout
    plain = Learner(records.RunConfig(**common, evaluate_on="train"), stream)
    assert plain.accuracies("test") == honest.accuracies("train") != honest.accuracies("test")
