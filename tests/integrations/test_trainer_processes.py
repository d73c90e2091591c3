"""A Trainer in two processes, each with half of each batch, is one that has it all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from holdfast import load_state
from tests.integrations.launched import LOADS_SHARDS
from tests.integrations.trainer_worker import METHODS, RESUMES, WAYS, run
from tests.integrations.trainers import apart, causal, weights

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=WAYS)
def folder(request, tmp_path_factory):
    if request.param == "fsdp2" and not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("FSDP2 of PyTorch 2.6 needs a GPU: it records events on streams, which its CPU streams do not know")
    if request.param == "fsdp2" and not LOADS_SHARDS:
        pytest.skip("Accelerate loads shards of an optimizer from 1.13 on")
    found = tmp_path_factory.mktemp("trainers")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.integrations.trainer_worker", str(found), "2", request.param]
    workers = [
        subprocess.Popen(command, cwd=ROOT, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in (0, 1)
    ]
    try:
        assert [worker.wait(timeout=600) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    return found


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_are_one(folder, tmp_path, name):
    first, second = (load_state(folder / f"{name} {rank}") for rank in (0, 1))
    assert apart(first, second) == 0
    assert apart(first, run(name, tmp_path, 1)) < 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_a_resume_in_mid_task_is_an_undisturbed_run_to_the_bit(folder, name):
    if not RESUMES:
        pytest.skip("on a CPU several processes of a Trainer resume with Transformers 5")
    for rank in (0, 1):
        through, taken_up = (load_state(folder / f"{name} {kind} {rank}") for kind in ("undisturbed", "resumed"))
        assert apart(through, taken_up) == 0
        assert apart(through, weights(causal())) > 1e-2
