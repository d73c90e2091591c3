"""``accelerate launch`` in two processes, as it is typed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, pathlib, runpy, sys
runpy.run_path(sys.argv[1], run_name="__main__")
pathlib.Path(sys.argv[2], os.environ["RANK"]).write_text(os.environ["WORLD_SIZE"])
"""


def test_the_example_runs_in_two_processes(tmp_path):
    (tmp_path / "launched.py").write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    # With --cpu it starts one process, whatever it is told; the script itself says that it wants none of the GPUs.
    options = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    found = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *options, f"--main_process_port={port}",
         str(tmp_path / "launched.py"), str(ROOT / "examples" / "accelerate_loop.py"), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2", "2"]
    without, protected = re.findall(r"old task: accuracy ([\d.]+) without protection, ([\d.]+) with", found.stdout)[0]
    assert float(protected) > float(without) + 0.2
