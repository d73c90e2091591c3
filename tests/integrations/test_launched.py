"""Accelerate and Lightning in two processes, with copies of the weights and with shards, against one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.integrations.launched import LOADS_SHARDS, METHODS, ON_WEIGHTS, in_one_process, with_adapters

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes came to."""
    if not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("FSDP2 of PyTorch 2.6 needs a GPU: it records events on streams, which its CPU streams do not know")
    folder = tmp_path_factory.mktemp("launched")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tests.integrations.launched"]
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([*command, str(rank), str(folder)], env=env, cwd=ROOT) for rank in (0, 1)]
    try:
        assert [worker.wait(timeout=600) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "how", ["accelerate ddp", "accelerate fsdp2", "lightning ddp", "lightning manual", "lightning fsdp2"]
)
def test_two_processes_are_one_and_resume_to_the_bit(found, how, name):
    if how == "accelerate fsdp2" and not LOADS_SHARDS:
        pytest.skip("Accelerate loads shards of an optimizer from 1.13 on")
    mine, other = (each[f"{how} {name}"] for each in found)
    assert "error" not in mine, mine["error"]
    own = in_one_process(METHODS[name], clip="accelerate" in how, fresh="lightning" in how)
    assert mine["weights"].keys() == own.keys()
    for key, expected in own.items():
        assert (mine["weights"][key] - expected).abs().max() < 1e-6
        assert torch.equal(mine["weights"][key], other["weights"][key])
        assert torch.equal(mine["resumed"][key], mine["weights"][key])
    assert mine["tasks"] == [2, 2] and mine["same"]
    if "accelerate" in how:
        assert mine["files"] == (["holdfast_0.safetensors"] if "fsdp2" in how else [])


@pytest.mark.parametrize("name", ON_WEIGHTS)
def test_effective_weights_of_two_processes_are_those_of_one(found, name):
    mine, other = (each[f"adapters ddp {name}"] for each in found)
    assert "error" not in mine, mine["error"]
    own = with_adapters(METHODS[name], None)
    assert mine["tasks"] == own["tasks"] == 3 and mine["weights"].keys() == own["weights"].keys()
    assert any("base_layer.weight importance" in key for key in own["weights"])
    for key, expected in own["weights"].items():
        assert (mine["weights"][key] - expected).abs().max() < 1e-6
        assert torch.equal(mine["weights"][key], other["weights"][key])
