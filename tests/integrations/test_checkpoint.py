"""Distributed checkpoints: what a method remembers comes back, or it is said that it does not."""

from __future__ import annotations

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from holdfast import EWC, ConfigurationError, StateError
from holdfast.integrations.checkpoint import load_memory, memory_of
from holdfast.testing.cases import adam, consolidate, network, same_state, task, train
from tests.contract.cases import METHODS, build

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def _learned(name):
    model = network()
    optimizer = adam(model)
    keep = build(name, model).attach(optimizer)
    train(model, optimizer, task(1), keep)
    consolidate(model, optimizer, task(1), keep)
    return model, keep


@pytest.mark.parametrize("name", METHODS)
def test_a_fresh_method_takes_over_everything(name, tmp_path):
    model, keep = _learned(name)
    dcp.save({"model": model.state_dict(), "app": {"keep": memory_of(keep)}}, checkpoint_id=tmp_path)
    again = network(seed=3)
    weights = {"model": again.state_dict()}
    dcp.load(weights, checkpoint_id=tmp_path)
    again.load_state_dict(weights["model"])
    fresh = build(name, again)
    load_memory(fresh, tmp_path, key="app.keep")
    assert fresh.num_tasks == 1
    assert same_state(fresh.state_dict(), keep.state_dict())


@pytest.mark.parametrize("name", METHODS)
def test_a_load_that_lacks_tensors_is_refused(name, tmp_path):
    _, keep = _learned(name)
    whole = keep.state_dict()
    if not whole["tensors"]:
        pytest.skip("it remembers no tensor")
    assert whole["tensors"] == len(whole["buffers"]) + sum(map(len, whole["state"].values()))
    dcp.save({"keep": keep}, checkpoint_id=tmp_path)
    fresh = build(name, network())
    refused = r"holds \d+ of the \d+ tensors .*load_memory|Missing key"  # the latter is what dcp itself says of a plan
    with pytest.raises((StateError, CheckpointException), match=refused):
        dcp.load({"keep": fresh}, checkpoint_id=tmp_path)  # fills in what is there: nothing but plain values
    assert fresh.num_tasks == 0


def test_a_state_that_lost_a_tensor_is_refused():
    _, keep = _learned("ewc")
    saved = keep.state_dict()
    saved["state"]["head.weight"].pop("anchor")
    with pytest.raises(StateError, match=r"holds (\d+) of the (?!\1)\d+ tensors"):
        build("ewc", network()).load_state_dict(saved)


def test_another_key_and_another_class_are_refused(tmp_path):
    _, keep = _learned("ewc")
    dcp.save({"keep": memory_of(keep), "step": 3}, checkpoint_id=tmp_path)
    with pytest.raises(StateError, match=r"no memory under 'method', but 'keep', 'step' at the top"):
        load_memory(EWC(network(), strength=1.0), tmp_path, key="method")
    with pytest.raises(StateError, match="the state is of EWC version 1; expected SI"):
        load_memory(build("si", network()), tmp_path)


def test_fsdp1_is_refused(monkeypatch):
    monkeypatch.setattr("holdfast.sharding.is_flat", lambda modules: True)
    with pytest.raises(ConfigurationError, match="use fully_shard"):
        memory_of(EWC(torch.nn.Linear(2, 2), strength=1.0))
