"""Importances of a distributed run are those of all its data, the same in every process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.importance.distributed_worker import data, estimates, model

WORKER = Path(__file__).with_name("distributed_worker.py")


@pytest.fixture(scope="module")
def outs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    outs = [folder / f"{rank}.safetensors" for rank in (0, 1)]
    workers = [
        subprocess.Popen([sys.executable, str(WORKER), str(rank), str(folder / "store"), str(out)])
        for rank, out in enumerate(outs)
    ]
    try:
        assert [worker.wait(timeout=600) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    return outs


def test_two_processes_agree_with_one_that_has_all_the_data(outs):
    first, second = map(load_file, outs)
    expected = estimates(model(), data())
    assert first.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=1e-5, atol=1e-8, msg=name)


def test_where_one_process_has_no_usable_data_all_refuse_and_none_waits(outs):
    first, second = (json.loads(out.with_suffix(".json").read_text()) for out in outs)
    assert first.keys() == second.keys() and len(first) == 8
    assert all(text.startswith("1 of 2 processes could not use their batches") for text in first.values())
    assert "got no batch" in second["ewc empty"] and "shapes cannot be multiplied" in second["mas broken"]
