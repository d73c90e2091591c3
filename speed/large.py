"""A transformer of 100 M parameters, protected by EWC on the CPU: does the estimate of its memory hold?

Run as a program of its own, so that the peak is this model's alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import subprocess
import sys
import time

import torch
from torch import Tensor, nn

from holdfast import EWC, registry
from holdfast.bench.study.footprint import footprint
from holdfast.bench.training import memory
from speed.rows import Row
from speed.timing import Setup

__all__ = ["large", "settled", "state_sizes"]


class Reader(nn.Module):
    """A small text classifier: embedding, transformer encoder, the mean over positions, a linear head.

    Args:
        width: of the features.
        layers: of the encoder.
        vocabulary: number of tokens.
    """

    def __init__(self, width: int, layers: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(
            width, width // 64, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``[B, T]`` to outputs ``[B, 4]``."""
        outputs: Tensor = self.head(self.encoder(self.embedding(tokens)).mean(1))
        return outputs


def settled() -> int:
    """Resident memory now, in bytes: the peak since a moment ago, without what was freed and is kept for later."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not the GNU library
        ctypes.CDLL(None).malloc_trim(0)
    memory.reset_peak(torch.device("cpu"))
    return memory.peak_bytes(torch.device("cpu"))


def _measure(quick: bool) -> dict[str, float]:
    torch.manual_seed(0)
    width, layers, vocabulary, length = (64, 2, 500, 8) if quick else (768, 12, 20_000, 32)
    model = Reader(width, layers, vocabulary)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    draw = torch.Generator().manual_seed(1)

    def batch() -> tuple[Tensor, Tensor]:
        return torch.randint(vocabulary, (4, length), generator=draw), torch.randint(4, (4,), generator=draw)

    def train() -> None:
        inputs, targets = batch()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    train()  # so that gradients are there already, and what the libraries keep for themselves
    before = settled()
    keep = EWC(model, strength=1.0)
    expected = footprint(registry.lookup("ewc"), model)
    seconds = []
    memory.reset_peak(torch.device("cpu"))
    for _ in range(2):
        start = time.perf_counter()
        keep.consolidate([batch()])
        seconds.append(time.perf_counter() - start)
        keep.attach(optimizer)
        train()
    peak = memory.peak_bytes(torch.device("cpu"))
    after = settled()
    held = sum(t.nbytes for tensors in keep.state.values() for t in tensors.values())
    return {
        "parameters": sum(p.numel() for p in model.parameters()), "estimate": expected.state_bytes, "state": held,
        "resident": after - before, "peak": peak - before, "estimated_peak": expected.peak_bytes,
        "seconds": max(seconds),
    }  # fmt: skip


def large(setup: Setup) -> list[Row]:
    """The estimate beside what was held after two tasks, and beside the peak of consolidating."""
    command = [sys.executable, "-m", "speed.large", *(["--quick"] if setup.quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    size = f"{found['parameters'] / 1e6:.1f} M-parameter transformer"
    gib = 2**30
    rows = [
        Row("large", f"EWC on a {size}, {what}", "cpu", f"the estimate, {found[estimate] / gib:.3f} GiB",
            100 * abs(found[measured] / found[estimate] - 1), "% off the estimate", 10.0,
            note=f"{what}: measured {found[measured] / gib:.3f} GiB{more}")
        for what, measured, estimate, more in (
            ("state, 2 tasks", "state", "estimate", ""),
            ("resident memory held, 2 tasks", "resident", "estimate", ""),
            ("peak of consolidating", "peak", "estimated_peak", f"; {found['seconds']:.1f} s"),
        )
    ]  # fmt: skip
    return rows


def state_sizes(setup: Setup) -> list[Row]:
    """Bytes that EWC remembers per parameter, at 1 and 10 tasks, in float32 and with bfloat16 importances."""
    from speed.penalties import DrawnEWC, network
    from speed.plain import Still

    rows = []
    dtypes = ((torch.float32, 8.0), (torch.bfloat16, 6.0))
    for dtype, target in dtypes:
        for tasks in (1, 10):
            model, _ = network(Setup(setup.device, quick=True))
            optimizer = Still(model.parameters())
            keep = DrawnEWC(model, strength=1.0, importance_dtype=dtype).attach(optimizer)
            for _ in range(tasks):
                optimizer.step()
                keep.consolidate([None])
            held = sum(t.nbytes for tensors in keep.state.values() for t in tensors.values())
            count = sum(p.numel() for p in model.parameters())
            name = str(dtype).removeprefix("torch.")
            rows.append(
                Row("state", f"EWC state, {name} importances, {tasks} task{'s' if tasks > 1 else ''}",
                    setup.device.type, f"{8 * tasks} bytes if every task kept its own", held / count,
                    "bytes per parameter", target)
            )  # fmt: skip
    return rows


if __name__ == "__main__":
    print(json.dumps(_measure("--quick" in sys.argv)))
