"""What methods take in memory beside a language model of 100 M parameters: estimated, and measured.

``python -m speed.scale --out docs/records/memory.json`` measures one method after the other in a process of their own,
then some again in two processes that share the model by FSDP2; ``--of FILE`` prints the table of such a file. Needs
Transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.distributed.fsdp import fully_shard

from holdfast import registry
from holdfast.bench.records.record import write_whole
from holdfast.bench.study.footprint import Footprint, footprint
from holdfast.bench.training import memory
from holdfast.bench.training.environment import describe
from holdfast.method import Method
from holdfast.sharding import local
from speed.large import settled

__all__ = ["measure", "table"]

METHODS = ("ewc", "ewc, bfloat16", "online-ewc", "l2sp", "si", "mas", "lwf")
SHARDED = ("ewc", "l2sp", "lwf")
ROWS = [(name, processes) for processes, names in ((1, METHODS), (2, SHARDED)) for name in names]
_CPU = torch.device("cpu")
_LENGTH = 16
WITHIN = 0.1


def network(quick: bool) -> nn.Module:
    """A Llama of 100 M parameters with random weights, in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers, inner, words = (32, 2, 64, 100) if quick else (768, 12, 2048, 10_000)
    config = LlamaConfig(
        vocab_size=words, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 32, max_position_embeddings=_LENGTH,
        tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def _held(method: Method) -> int:
    tensors = [t for held in method.state.values() for t in held.values()]
    return sum(local(t).nbytes for t in [*tensors, *method.buffers.values()])


def _dtype(name: str) -> torch.dtype | None:
    return torch.bfloat16 if name.endswith("bfloat16") else None


def _expected(name: str, model: nn.Module, processes: int) -> Footprint:
    return footprint(registry.lookup(name.split(",")[0]), model, _dtype(name), processes=processes)


class Run:
    """The model in training, whole or as one of several processes' parts, beside which methods are measured.

    Args:
        quick: a tiny model.
        processes: how many there are; this is one of them.
    """

    def __init__(self, quick: bool, processes: int) -> None:
        self.processes, self.model = processes, network(quick)
        self.expected = {name: _expected(name, self.model, processes) for name, _ in ROWS}  # before it is sharded
        self.count = sum(p.numel() for p in self.model.parameters())
        if processes > 1:
            for block in self.model.model.layers:  # type: ignore[union-attr]  # a module list
                fully_shard(block)
            fully_shard(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4)
        self.draw = torch.Generator().manual_seed(1)
        self.train()  # so that gradients are there already, and what the libraries keep for themselves

    def batch(self) -> dict[str, torch.Tensor]:
        """Some random words."""
        words = self.model.config.vocab_size  # type: ignore[union-attr]
        tokens = torch.randint(words, (1, _LENGTH), generator=self.draw)
        return {"input_ids": tokens, "labels": tokens}

    def train(self, keep: Method | None = None) -> None:
        """One step."""
        inputs = self.batch()
        outputs = self.model(**inputs)
        loss = outputs.loss
        if keep is not None and keep.needs_penalty:
            loss = loss + keep.penalty(inputs, outputs)
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        self.optimizer.step()

    def measured(self, name: str) -> dict[str, Any]:
        """One method over two tasks: bytes held and at the peak, against the moment before it was made.

        Args:
            name: of the method, and the importances' precision if that is not float32.
        """
        entry = registry.lookup(name.split(",")[0])
        dtype, expected = _dtype(name), self.expected[name]
        before = settled()
        memory.reset_peak(_CPU)
        self.train()
        plain = memory.peak_bytes(_CPU) - before  # what a step takes for a moment without any method
        assert entry.build is not None
        settings = {"strength": 1e-3} | ({} if dtype is None else {"importance_dtype": dtype})
        keep: Method = entry.build(self.model, **{**entry.defaults, **settings}).attach(self.optimizer)
        peaks = {"training": 0, "consolidating": 0}
        for _ in range(2):
            settled()
            memory.reset_peak(_CPU)
            self.train(keep)
            peaks["training"] = max(peaks["training"], memory.peak_bytes(_CPU) - before - plain)
            settled()
            memory.reset_peak(_CPU)
            keep.consolidate([self.batch()])
            peaks["consolidating"] = memory.peak_bytes(_CPU) - before
        self.train(keep)
        resident = settled() - before
        state, training = expected.state_bytes, expected.training_bytes
        estimate = {
            "state": state,
            "resident": state + training,
            "training": state + training + expected.stepping_bytes,
            "consolidating": state + expected.consolidating_bytes,
        }
        found = {"state": _held(keep), "resident": resident, **peaks}
        keep.detach()
        return {"parameters": self.count, "estimate": estimate, "measured": found, "plain_step": plain}


def measure(names: Sequence[str], processes: int, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Rows, measured in processes of their own; of several, what the first says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "speed.scale", "--rows", json.dumps(names), *(["--quick"] if quick else [])]
    started = []
    for rank in range(processes):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(processes)}
        # What is freed goes back to the system at once: the C library would keep it, and the peak be anybody's.
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "MALLOC_MMAP_THRESHOLD_": "65536"}
        out = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
        started.append(subprocess.Popen(command, env=env, stdout=out, text=True))
    assert started[0].stdout is not None
    for line in started[0].stdout:
        if line.startswith("{"):
            yield {**json.loads(line), "processes": processes}
    if any(each.wait() for each in started):
        raise RuntimeError(f"{', '.join(names)} over {processes} processes could not be measured; see above")


def _rows(names: Sequence[str], quick: bool) -> None:
    """What one of the processes does."""
    processes = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    if processes > 1:
        torch.distributed.init_process_group("gloo")
    run = Run(quick, processes)
    for name in names:
        print(json.dumps({"method": name, **run.measured(name)}), flush=True)
    if processes > 1:
        torch.distributed.destroy_process_group()


_COLUMNS = {
    "state": "state",
    "resident": "held in training",
    "training": "peak of a step",
    "consolidating": "peak of `consolidate`",
}


def table(found: Mapping[str, Any]) -> str:
    """The rows in Markdown: MiB estimated and measured; bold is what is more than a tenth off."""
    header = " | ".join(f"{title}, estimated | measured" for title in _COLUMNS.values())
    lines = [f"| method | processes | {header} |", f"|---|---|{'---|' * (2 * len(_COLUMNS))}"]
    for row in found["rows"]:
        cells = []
        for key in _COLUMNS:
            expected, got = row["estimate"][key], row["measured"][key]
            shown = f"{got / 2**20:,.1f}"
            cells += [f"{expected / 2**20:,.1f}", f"**{shown}**" if off(row, key) > WITHIN else shown]
        lines.append(f"| {row['method']} | {row['processes']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def off(row: Mapping[str, Any], key: str) -> float:
    """How far an estimate of a row is from what was measured, as a share of that."""
    return abs(float(row["estimate"][key]) / float(row["measured"][key]) - 1)


def main() -> None:
    """Parse, measure what is missing, write it down, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="file to write")
    where.add_argument("--of", type=Path, help="print the table of such a file, measure nothing")
    where.add_argument("--rows", metavar="NAMES", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    asked = parser.parse_args()
    if asked.rows:
        _rows(json.loads(asked.rows), asked.quick)
        return
    found: dict[str, Any] = {"rows": []} if asked.out else json.loads(asked.of.read_text(encoding="utf-8"))
    for processes, names in ((1, METHODS), (2, SHARDED)) if asked.out else ():
        for row in measure(names, processes, quick=asked.quick):
            found["rows"].append(row)
            found |= {"environment": describe("cpu").model_dump(), "length": _LENGTH}
            write_whole(asked.out, json.dumps(found, indent=1) + "\n", "record")
    print(table(found))


if __name__ == "__main__":
    main()
