"""Two processes, started once for all tests here: they take seconds to import PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def processes(tmp_path_factory):
    """The folder with what two processes wrote, and what each of them said: ``(folder, [said, said])``."""
    if not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("FSDP2 of PyTorch 2.6 needs a GPU: it records events on streams, which its CPU streams do not know")
    folder = tmp_path_factory.mktemp("processes")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "error", "-m", "tests.distributed.worker"]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(folder / "store"), str(folder)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
        )
        for rank in (0, 1)
    ]
    try:
        assert [worker.wait(timeout=600) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
