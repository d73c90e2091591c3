"""The norms of ``holdfast.hessian_norm`` beside those of the dense Hessian: ``python -m speed.curvature [--out FILE]``.

Small networks on digits, before training and after it, where the whole matrix can be made and taken apart: how far each
norm is off, in the worst of seeds, in all weights and tensor by tensor, and what it costs beside the matrix.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from holdfast import hessian_norm
from holdfast.bench.data import streams
from holdfast.curvature import Kind

__all__ = ["compared", "table"]

_SEEDS, _STEPS, _BATCH = 3, 200, 128
_NETS = {"relu": nn.ReLU, "tanh": nn.Tanh}


def compared(net: str, trained: bool, seed: int = 0) -> dict[str, dict[str, float]]:
    """Kind of norm -> how far it is off, relative to the dense Hessian's, and the times of both.

    Args:
        net: the activation of its hidden layer.
        trained: after 200 steps of SGD, or as it was drawn.
        seed: of weights and data.
    """
    task = streams.build("split-digits", seed=seed, scenario="class", classes_per_task=10).tasks[0]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), _NETS[net](), nn.Linear(8, 10)).double()
    batches = [(x.double(), y) for x, y in task.batches(task.train, _BATCH)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(_STEPS if trained else 0):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    start = time.perf_counter()
    g, H, places = _dense(model, *batches[0])
    seconds = time.perf_counter() - start
    found = {}
    for kind in get_args(Kind):
        start = time.perf_counter()
        mine = hessian_norm(model, batches[0], kind=kind)
        took = time.perf_counter() - start
        blocks = {name: _norm(kind, g[place], H[place, place]) for name, place in places.items()}
        off = [abs(mine.tensors[name] - value) / abs(value) for name, value in blocks.items()]
        whole = _norm(kind, g, H)
        found[kind] = {
            "dense": whole, "whole": abs(mine.whole - whole) / abs(whole), "tensors": max(off),
            "share of the time": took / seconds,
        }  # fmt: skip
    return found


def _dense(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, dict[str, slice]]:
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    shapes = {name: p.shape for name, p in model.named_parameters()}
    places, start = {}, 0
    for name, shape in shapes.items():
        places[name] = slice(start, start + shape.numel())
        start += shape.numel()

    def loss(vector: Tensor) -> Tensor:
        weights = {name: vector[place].view(shapes[name]) for name, place in places.items()}
        return nn.functional.cross_entropy(functional_call(model, weights, (x,)), y)

    (g,) = torch.autograd.grad(loss(flat.requires_grad_()), flat)
    return g, hessian(loss, flat.detach(), vectorize=True), places


def _norm(kind: Kind, g: Tensor, H: Tensor) -> float:
    if kind == "quadratic":
        return float(g @ H @ g / g.square().sum())
    return float(H.norm() if kind == "frobenius" else torch.linalg.eigvalsh(H).abs().max())


def table(found: list[dict[str, Any]]) -> str:
    """The worst of each norm over all networks, as Markdown.

    Args:
        found: what the record holds: one entry for each network, state and seed.
    """
    lines = ["| kind | off, all weights | off, worst tensor | time, beside the matrix |", "|---|---|---|---|"]
    for kind in get_args(Kind):
        mine = [each["norms"][kind] for each in found]
        worst = (max(each[key] for each in mine) for key in ("whole", "tensors"))
        share = sorted(each["share of the time"] for each in mine)[len(mine) // 2]
        lines.append(f"| `{kind}` | {' | '.join(map(_shown, worst))} | {100 * share:.0f} % |")
    return "\n".join(lines)


def _shown(share: float) -> str:
    return f"{100 * share:.1f} %" if share > 1e-4 else f"{share:.0e}"


def main() -> None:
    """Measure, print, and write the record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="where to write the record")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    found = [
        {"net": net, "trained": trained, "seed": seed, "norms": compared(net, trained, seed)}
        for net in _NETS for trained in (False, True) for seed in range(_SEEDS)
    ]  # fmt: skip
    print(table(found))
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
