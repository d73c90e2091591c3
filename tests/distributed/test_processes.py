"""Two processes with half of the data each, by FSDP2, DDP, FSDP1 or a tensor-parallel plan, are one that has it all."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from holdfast import load_state
from holdfast.integrations.checkpoint import load_memory
from tests.distributed import heads
from tests.distributed.cases import CASES, FURTHER, classp, run
from tests.distributed.worker import KEPT, RUNS

FLAT = {"l2sp", "si", "freeze"}  # what looks at nothing but single weights: all that FSDP1 lets be
NEED_LAYERS = {"ewc", "online ewc", "mas", "anpyc", "pruning"}  # what no tensor-parallel plan lets be
for name, case in FURTHER.items():
    keep = case.build(case.model())
    FLAT |= {name} if keep.elementwise else set()
    NEED_LAYERS |= {name} if keep.needs_data else set()

EVERY = [(wrap, name) for wrap, names in RUNS.items() for name in names]


def refused(wrap, name):
    method = name.split(",")[0]
    if wrap == "fsdp1":
        return name not in FLAT
    return wrap in ("tensor parallel", "two plans") and (method in NEED_LAYERS or (wrap, name) == ("two plans", "lwf"))


@functools.cache
def alone(name):
    return run(CASES[name])


def flat(value, path=""):
    if isinstance(value, dict):
        return {place: t for key, part in value.items() for place, t in flat(part, f"{path}/{key}").items()}
    return {path: value} if isinstance(value, Tensor) else {}


def close(left, right):
    left, right = flat(left), flat(right)
    assert left.keys() == right.keys()
    for place, expected in right.items():
        torch.testing.assert_close(
            left[place], expected, rtol=1e-6, atol=1e-9, msg=lambda text, p=place: f"{p}: {text}"
        )


@pytest.mark.parametrize(("wrap", "name"), [each for each in EVERY if not refused(*each)])
def test_two_processes_are_one(processes, wrap, name):
    folder, said = processes
    assert [each[f"{wrap}: {name}"] for each in said] == ["", ""]
    found = [load_state(folder / f"{rank}" / wrap / name) for rank in (0, 1)]
    expected = alone(name)
    for each in found:
        if wrap == "fsdp1":  # what it remembers is in parts of a flat tensor, by canonical names
            assert each["names"] == sorted(expected["state"]["state"])
            close(each["weights"], expected["weights"])
        else:
            close(each, expected)


def test_classp_on_shards_is_classp(processes):
    folder, _ = processes
    for rank in (0, 1):
        close(load_state(folder / str(rank) / "classp"), classp())


@pytest.mark.parametrize(("wrap", "name"), [each for each in EVERY if refused(*each)])
def test_what_cannot_be_is_said_in_both_processes(processes, wrap, name):
    _, said = processes
    first, second = (each[f"{wrap}: {name}"] for each in said)
    assert first == second
    assert first.startswith("ConfigurationError: ") and "\n" not in first
    assert ("FSDP1" if wrap == "fsdp1" else "tensor-parallel") in first


@pytest.mark.parametrize("name", [name for name in RUNS["fsdp2"] if "lwf" not in name])
def test_state_of_shards_loads_into_one_process(processes, name):
    folder, _ = processes
    saved = load_state(folder / "0" / "fsdp2" / name)
    case = CASES[name]
    model = case.model()
    model.load_state_dict(saved["weights"], strict=False)  # a shared weight goes by one of its names
    keep = case.build(model)
    keep.load_state_dict(saved["state"])
    close(keep.state_dict(), saved["state"])


@pytest.mark.parametrize("fact", ["alike", "loaded alike", "saved whole", "back to the bit"])
def test_state_is_sharded_like_its_parameter_and_saved_whole(processes, fact):
    _, said = processes
    assert all(each["placement"][fact] for each in said)


def test_a_teacher_is_held_in_parts(processes):
    _, said = processes
    parts = [each["placement"]["teacher"] for each in said]
    assert all(parts) and sum(parts) == said[0]["placement"]["whole"]
    of_model, of_teacher = said[0]["placement"]["largest groups"]
    assert of_teacher < of_model  # a layer that has much of a group is made whole by itself


@pytest.mark.parametrize("kind", ["inrank", "efficient"])
def test_what_is_drawn_or_chosen_is_the_same_in_both_processes(processes, kind):
    _, said = processes
    first, second = (each["draws"][kind] for each in said)
    assert first == second and any(first)


def test_mixed_precision_leaves_what_is_remembered_in_full_precision(processes):
    _, said = processes
    for each in said:
        found = each["mixed_precision"]
        assert found["float32"] == found["bfloat16"] == ["torch.float32"]
        assert 0 < found["apart"] < 0.1


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("batched", "per sample", "per sample"),
        ("batch", "per sample", "per sample"),
        ("rows", "rows of a sharded parameter", "rows of a sharded parameter"),
        ("empty", "1 of 2 processes", "no sample"),
        ("nan", "not finite", "not finite"),
        ("flown", "at most strength", "at most strength"),
        ("flown, radam", "steps of RAdam do not bear", "steps of RAdam do not bear"),
    ],
)
def test_refusals_are_sentences_in_both_processes(processes, kind, first, second):
    _, said = processes
    for each, part in zip(said, (first, second), strict=True):
        sentence = each["refusals"][kind]
        assert part in sentence and "\n" not in sentence


def test_a_method_that_does_not_work_on_parts_says_so(processes):
    _, said = processes
    assert said[0]["others"] == said[1]["others"]
    for sentence in said[0]["others"].values():
        assert sentence.startswith("ConfigurationError: parameter '0.weight' is sharded") and "\n" not in sentence


@pytest.mark.parametrize("source", ["checkpoints", "alone"])
@pytest.mark.parametrize("name", KEPT)
def test_a_distributed_checkpoint_comes_back_in_parts(processes, name, source):
    _, said = processes
    assert all(each["checkpoints"][f"{name}, {source}"] for each in said)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("name", KEPT)
def test_one_process_takes_over_what_two_wrote(processes, name):
    folder, _ = processes
    keep = CASES[name].build(CASES[name].model())
    load_memory(keep, folder / "checkpoints" / name, key="app.keep")
    found, saved = (flat(s) for s in (keep.state_dict(), load_state(folder / "0" / "checkpoints" / name)))
    assert found.keys() == saved.keys() and all(torch.equal(found[place], saved[place]) for place in saved)


@pytest.mark.parametrize("name", heads.HEADS)
def test_a_head_told_by_two_processes_is_one_that_was_told_everything(processes, name):
    folder, said = processes
    assert [each[f"head: {name}"] for each in said] == ["", ""]
    first, second = (load_state(folder / f"{rank}" / "heads" / name) for rank in (0, 1))
    expected = flat(heads.run(name))
    for place, tensor in flat(first).items():
        assert torch.equal(tensor, flat(second)[place]), place
        torch.testing.assert_close(tensor, expected[place], rtol=1e-9, atol=1e-9)
    assert flat(first).keys() == expected.keys() and expected["/counts"].tolist() == [4, 15, 12, 9]


@pytest.mark.parametrize("name", heads.REFUSED)
def test_what_a_head_cannot_learn_is_said_in_both_processes_and_changes_nothing(processes, name):
    _, said = processes
    for each, part in zip(said, heads.REFUSED[name], strict=True):
        sentence, unchanged = each["heads refuse"][name]
        assert part in sentence and "\n" not in sentence
        assert unchanged
