"""CLASSP's step beside the released class and PyTorch's AdaGrad."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim import Adagrad

from holdfast import CLASSP
from speed.penalties import network
from speed.plain import ReleasedClassp
from speed.rows import Row, cost, faster
from speed.timing import Setup, alternate, copy_work

__all__ = ["classp"]


def classp(setup: Setup) -> list[Row]:
    """CLASSP's step where every weight moves, and where the gate lets about half of them through."""
    works: dict[str, Callable[[], object]] = {}
    size, count = "", 0

    def parameters() -> list[torch.nn.Parameter]:
        nonlocal size, count
        model, size = network(setup)
        count = sum(p.numel() for p in model.parameters())
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        return list(model.parameters())

    values = {"lr": 1e-3, "eps": 1e-5, "power": 1.0}
    open_ = CLASSP(parameters(), threshold=0.0, **values)
    works["open"] = open_.step
    works["half"] = CLASSP(parameters(), threshold=0.45, **values).step
    if setup.compiles:
        works["compiled"] = CLASSP(parameters(), threshold=0.0, fused=True, **values).step
    works["released"] = ReleasedClassp(parameters(), threshold=0.0, **values).step
    works["foreach"] = Adagrad(parameters(), lr=1e-3, foreach=True).step
    works["loop"] = Adagrad(parameters(), lr=1e-3, foreach=False).step
    if setup.device.type == "cpu":
        works["fused"] = Adagrad(parameters(), lr=1e-3, fused=True).step
    copy, _ = copy_work(setup, count)
    timings = alternate(setup, {**works, "copy": copy})
    best = timings.fastest(*(name for name in ("foreach", "loop", "fused") if name in works))
    floor = timings.median("copy") * 5 / 2  # weights, gradients and sums read, weights and sums written
    tensors = {id(t): t for held in open_.state.values() for t in held.values()}
    where = setup.device.type
    rows = []
    for name, how in (("open", ""), ("compiled", ", fused=True")):
        if name in works:
            work = f"CLASSP step, {size}, threshold 0{how}"
            rows += [
                faster(timings, name, "released", bench="classp", work=work, device=where,
                       than="released class's operations", target=2.5, floor=floor),
                cost(timings, name, best, bench="classp", work=work, device=where, than=f"Adagrad ({best})", target=1.1,
                     floor=floor),
            ]  # fmt: skip
    return [
        *rows,
        cost(timings, "half", best, bench="classp", work=f"CLASSP step, {size}, half of the weights pass", device=where,
             than=f"Adagrad ({best})", target=None, floor=floor),
        Row("classp", f"CLASSP state, {size}", where, "one float32 tensor per parameter",
            sum(t.nbytes for t in tensors.values()) / count, "bytes per parameter", 4.0),
    ]  # fmt: skip
