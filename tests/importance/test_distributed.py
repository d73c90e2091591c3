"""Importances of a distributed run are those of all its data, the same in every process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from importance.distributed_worker import data, estimates, model

WORKER = Path(__file__).with_name("distributed_worker.py")


def test_two_processes_agree_with_one_that_has_all_the_data(tmp_path):
    outs = [tmp_path / f"{rank}.safetensors" for rank in (0, 1)]
    workers = [
        subprocess.Popen([sys.executable, str(WORKER), str(rank), str(tmp_path / "store"), str(out)])
        for rank, out in enumerate(outs)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    first, second = map(load_file, outs)
    expected = estimates(model(), data())
    assert first.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=1e-5, atol=1e-8, msg=name)
