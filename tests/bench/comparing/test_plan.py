"""From what was typed to a configuration, and everything that is refused before any training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast import registry
from holdfast.bench.comparing import plan, protocols, rehearsal, typed
from holdfast.bench.data import streams
from holdfast.bench.data.tasks import Stream
from holdfast.bench.records.record import Hyperparameter, RunConfig
from holdfast.errors import ConfigurationError


@pytest.fixture(scope="module")
def stream() -> Stream:
    return streams.build("split-digits", seed=0, limit_per_class=4)


def planned(stream: Stream, method: str, settings: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    return plan.plan(stream, method, settings=settings, changes=changes)


def test_what_is_not_said_stands_at_documented_defaults(stream: Stream) -> None:
    config = planned(stream, "ewc", {"strength": "7"}, epochs=3, lr=None)
    assert config.hyperparameters["strength"] == Hyperparameter(value=7.0, source="given")
    assert config.hyperparameters["fisher"] == Hyperparameter(value="auto", source="default")
    assert (config.epochs, config.lr, config.tasks) == (3, protocols.protocol("split-digits").lr, 5)
    assert set(config.hyperparameters) == set(registry.lookup("ewc").defaults)


def test_a_setting_for_comparisons_is_recorded_only_where_it_is_set(stream: Stream) -> None:
    # So that older records are still those of this plan.
    assert "anchors" not in planned(stream, "l2sp").hyperparameters
    config = planned(stream, "l2sp", {"anchors": "all"})
    assert config.hyperparameters["anchors"] == Hyperparameter(value="all", source="given")
    assert "--set anchors=all" in plan.command(config)
    rehearsal.check(config, stream)
    with pytest.raises(ConfigurationError, match="anchors is 'first'"):
        rehearsal.check(planned(stream, "l2sp", {"anchors": "first"}), stream)


@pytest.mark.parametrize(
    ("stream_name", "model"),
    [
        ("split-digits", "mlp"),
        ("permuted-mnist", "mlp"),
        ("split-cifar10-5", "resnet-small"),
        ("sequence-mnist-fashion_mnist", "mlp"),
    ],
)
def test_every_family_of_streams_has_a_protocol(stream_name: str, model: str) -> None:
    assert protocols.protocol(stream_name).model == model


def test_an_optimizer_that_is_the_memory_keeps_its_own_step_size_and_state(stream: Stream) -> None:
    changes = {"optimizer": "sgd", "lr": 0.5, "optimizer_between_tasks": "fresh"}
    config = planned(stream, "classp", {"lr": "0.02"}, **changes)
    assert (config.optimizer, config.lr, config.optimizer_between_tasks) == ("classp", 0.02, "kept")
    assert plan.keep_their_own(["ewc", "classp", "adagrad"], changes) == ["classp", "adagrad"]
    assert plan.keep_their_own(["ewc", "classp"], {"epochs": 2, "lr": None}) == []


def test_strength_may_be_auto_and_the_record_says_so(stream: Stream) -> None:
    config = planned(stream, "ewc", {"strength": "auto"})
    strength = config.hyperparameters["strength"]
    assert (strength.value, strength.source) == ("auto", "auto")
    assert "10 steps" in strength.detail
    rehearsal.check(config, stream)


def test_a_strength_that_is_found_by_default_is_a_default_and_the_record_says_how(stream: Stream) -> None:
    for method, fraction in (("ewc", "3"), ("rwalk", "1")):
        strength = planned(stream, method).hyperparameters["strength"]
        assert (strength.value, strength.source) == ("auto", "default")
        assert strength.detail == f"{fraction} times the task's gradient over its first 10 steps"
    assert "strength" not in plan.command(planned(stream, "ewc"))
    assert "--set strength=10000.0" in plan.command(planned(stream, "ewc", {"strength": "1e4"}))
    assert planned(stream, "si").hyperparameters["strength"] == Hyperparameter(value=100.0, source="default")


@pytest.mark.parametrize(
    ("method", "key", "text", "value"),
    [
        ("ewc", "strength", "1e-3", 0.001),
        ("ewc", "fisher", "exact", "exact"),
        ("classp", "scaling", "No", False),
        ("classp", "scaling", "TRUE", True),
        ("anastrophic", "phi_every", "4", 4),
    ],
)
def test_a_setting_has_the_type_of_its_default(method: str, key: str, text: str, value: Any) -> None:
    found = typed.typed(registry.lookup(method), key, text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("method", "key", "text", "words"),
    [
        ("ewc", "strenght", "1", ["ewc has no setting 'strenght'", "strength", "fisher", "coupling"]),
        ("ewc", "strength", "strong", ["ewc.strength is 'strong'", "finite number or 'auto'", "default auto"]),
        ("ewc", "strength", "nan", ["ewc.strength is 'nan'", "finite number"]),
        ("classp", "scaling", "maybe", ["classp.scaling is 'maybe'", "true or false"]),
        ("anastrophic", "phi_every", "1.5", ["anastrophic.phi_every is '1.5'", "whole number"]),
        ("finetune", "strength", "1", ["finetune has no setting 'strength'", "it has none"]),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(method: str, key: str, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        typed.typed(registry.lookup(method), key, text)
    assert all(word in str(caught.value) for word in words)


@given(
    entry=st.sampled_from([entry for entry in registry.entries() if entry.settings]),
    data=st.data(),
    text=st.text(max_size=12) | st.floats().map(str) | st.integers().map(str),
)
def test_any_text_is_either_a_value_or_one_sentence(entry: registry.Entry, data: st.DataObject, text: str) -> None:
    key = data.draw(st.sampled_from(sorted(entry.settings)))
    try:
        value = typed.typed(entry, key, text)
    except ConfigurationError as error:
        assert f"{entry.name}.{key} is " in str(error)
        return
    assert not isinstance(value, float) or math.isfinite(value)
    default = entry.settings[key]
    assert type(value) is type(default) or default is None or key == "strength" or key in entry.automatic
    assert key != "strength" or value == "auto" or type(value) is float


@pytest.mark.parametrize(
    ("method", "settings", "changes", "words"),
    [
        ("ewc", {"strength": "-1"}, {}, ["ewc", "strength is -1.0"]),
        ("ewc", {"fisher": "exakt"}, {}, ["fisher is 'exakt'"]),
        ("lwf", {"temperature": "-2"}, {}, ["lwf", "temperature is -2.0"]),
        ("classp", {"eps": "0"}, {}, ["classp", "eps"]),
        ("adagrad", {"lr": "-1"}, {}, ["adagrad", "learning rate"]),
        ("finetune", {}, {"lr": -1.0}, ["lr=-1.0"]),
        ("finetune", {}, {"model": "mpl"}, ["model 'mpl'", "mlp"]),
        ("finetune", {}, {"optimizer": "adm"}, ["no optimizer 'adm'", "adam"]),
        ("finetune", {}, {"model": "nowhere:factory"}, ["'nowhere:factory' could not be imported"]),
    ],
)
def test_what_would_fail_later_is_refused_at_once(
    stream: Stream, method: str, settings: dict[str, str], changes: dict[str, Any], words: list[str]
) -> None:
    config = planned(stream, method, settings, **changes)
    with pytest.raises(ConfigurationError) as caught:
        rehearsal.check(config, stream)
    assert all(word.lower() in str(caught.value).lower() for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": -1}, ["epochs is -1"]),
        ({"batch_size": 0}, ["batch_size is 0"]),
        ({"optimizer_between_tasks": "new"}, ["optimizer_between_tasks is 'new'", "fresh", "kept"]),
        ({"validation_fraction": 1.0}, ["validation_fraction is 1.0"]),
    ],
)
def test_a_protocol_out_of_range_is_one_sentence(stream: Stream, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        planned(stream, "finetune", **changes)
    assert all(word in str(caught.value) for word in words), str(caught.value)


OWN = """
from torch import nn

def narrow(input_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

def other_inputs(input_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))

def fitting(input_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
"""


@pytest.mark.parametrize(
    ("name", "scenario", "words"),
    [
        ("narrow", "class", ["gives outputs (2, 2) for the task '2/3'", "expected (2, 4)"]),
        ("narrow", "task", ["gives outputs (2,) for the task '0/1'", "in a list of 5: one head per task"]),
        ("other_inputs", "class", ["fails on inputs (2, 1, 8, 8)", "63"]),
        ("fitting", "class", []),
    ],
)
def test_a_model_of_ones_own_that_does_not_fit_is_refused_at_once(
    name: str, scenario: Any, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "holdfast_unfit_model.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    stream = streams.build("split-digits", seed=0, scenario=scenario, limit_per_class=4)
    config = planned(stream, "finetune", model=f"holdfast_unfit_model:{name}")
    if not words:
        rehearsal.check(config, stream)
        return
    with pytest.raises(ConfigurationError) as caught:
        rehearsal.check(config, stream)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_device_that_is_not_there_is_refused(stream: Stream) -> None:
    config = plan.plan(stream, "finetune", device="abacus")
    with pytest.raises(ConfigurationError, match="device is 'abacus', which cannot be used"):
        rehearsal.check(config, stream)


def test_a_method_that_must_be_told_the_task_says_why_it_does_not_apply() -> None:
    needing = [entry for entry in registry.entries() if entry.needs_task_id]
    told = streams.build("split-digits", seed=0, scenario="task", limit_per_class=4)
    stream = streams.build("split-digits", seed=0, scenario="class", limit_per_class=4)
    for entry in registry.entries():
        nowhere = entry.needs_few_shot or entry.needs_adapters
        assert (plan.refusal(entry, told) is not None) == (entry.needs_one_head or nowhere)
        assert (plan.refusal(entry, stream) is not None) == (entry in needing or nowhere)
    for entry in needing:
        with pytest.raises(ConfigurationError, match=f"{entry.name} must be told at test which task"):
            planned(stream, entry.name)


def test_a_method_of_few_shots_says_which_streams_have_them(stream: Stream) -> None:
    few = streams.build("fewshot-digits-6-2x2", seed=0, scenario="class", limit_per_class=8)
    found = [entry for entry in registry.entries() if entry.needs_few_shot]
    assert found
    for entry in found:
        assert plan.refusal(entry, few) is None
        with pytest.raises(ConfigurationError, match=f"^{entry.name} is for few samples .* 'split-digits' has no"):
            planned(stream, entry.name)


def test_the_command_repeats_whatever_differs_from_the_defaults(stream: Stream) -> None:
    plain = planned(stream, "ewc")
    assert plan.command(plain) == "holdfast run split-digits --method ewc --seed 0 --scenario task"
    config = plan.plan(
        stream,
        "ewc",
        seed=3,
        settings={"strength": Hyperparameter(value=12.5, source="grid"), "fisher": "exact"},
        changes={"lr": 0.25, "optimizer_between_tasks": "fresh"},
    )
    assert plan.command(config, threads=2) == (
        "holdfast run split-digits --method ewc --set strength=12.5 --set fisher=exact --seed 3 --scenario task "
        "--lr 0.25 --optimizer-between-tasks fresh --threads 2"
    )
    own = planned(stream, "classp", {"scaling": "false"}, optimizer="sgd", optimizer_between_tasks="fresh")
    assert plan.command(own) == (
        "holdfast run split-digits --method classp --set scaling=false --seed 0 --scenario task"
    )


def test_a_head_whose_features_do_not_suit_it_is_refused_before_anything_is_trained(stream: Stream) -> None:
    config = planned(stream, "fecam", backbone="pixels")
    with pytest.raises(
        ConfigurationError, match=r"^fecam: over --backbone pixels: .* to the power 0.5, .* or tukey=1$"
    ):
        rehearsal.check(config, stream)
    rehearsal.check(planned(stream, "fecam", {"tukey": "1"}, backbone="pixels"), stream)
    for method in ("ncm", "slda", "ridge", "fecam"):
        for backbone in ("first-task", "random", "random-patches", *(["pixels+relu-30"] * (method != "fecam"))):
            rehearsal.check(planned(stream, method, backbone=backbone), stream)


def test_a_head_that_needs_more_memory_than_there_is_says_how_much(stream: Stream, monkeypatch: Any) -> None:
    from holdfast.bench.training import memory
    from holdfast.heads import Ridge

    config = planned(stream, "ridge", backbone="pixels+relu-3000")
    needed = Ridge().memory(3000, 10)
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed)
    rehearsal.check(config, stream)
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed - 1)
    with pytest.raises(ConfigurationError, match=r"^ridge: over --backbone pixels\+relu-3000, 3,000 features and 10 "):
        rehearsal.check(config, stream)
    monkeypatch.setattr(memory, "available_bytes", lambda device: None)
    rehearsal.check(config, stream)
    monkeypatch.undo()
    assert memory.available_bytes(torch.device("cpu")) > 2**20
