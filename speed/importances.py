"""Fisher informations, per sample, beside a plain training pass over the same samples."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from holdfast.bench.models import named as models
from holdfast.importance import fisher
from speed.plain import one_by_one, train_step, vectorized
from speed.rows import Row, cost, faster
from speed.timing import Setup, alternate

__all__ = ["importances"]

_BATCH = 128
_KINDS: tuple[Literal["sampled", "empirical", "exact"], ...] = ("sampled", "empirical", "exact")
# model -> its targets: sampled and empirical, exact, in training passes
_TARGETS = {"mlp": (1.3, 8.0), "cnn-anastrophic": (1.7, 12.0)}
# The first batch of an estimate costs more: there the layer rules are checked against autograd.
_BATCHES = {"mlp": 20, "cnn-anastrophic": 8}
_NAMES = {"mlp": "MLP 784-400-400-10", "cnn-anastrophic": "Anastrophic CNN"}


def importances(setup: Setup) -> list[Row]:
    """Each kind of Fisher beside a training pass, one backward per sample and ``torch.func.vmap``."""
    rows = []
    for name, (sampled_target, exact_target) in _TARGETS.items():
        batch_size, number = (8, 1) if setup.quick else (_BATCH, _BATCHES[name])
        model, trained = (models.build(name, (1, 28, 28), 10, seed=0).to(setup.device) for _ in range(2))
        optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
        draw = torch.Generator().manual_seed(0)
        batches = [_batch(batch_size, draw, setup.device) for _ in range(number)]

        def training(trained: nn.Module = trained, optimizer: torch.optim.Optimizer = optimizer) -> None:
            for batch in batches:  # noqa: B023  # called within this round
                train_step(trained, optimizer, batch)

        def estimate(kind: Literal["sampled", "empirical", "exact"], model: nn.Module = model) -> None:
            fisher(model, batches, kind=kind, generator=torch.Generator(setup.device).manual_seed(1))  # noqa: B023  # called within this round

        timings = alternate(
            setup,
            {
                "training": training,
                "sampled": lambda e=estimate: e("sampled"),  # type: ignore[misc]  # bound now
                "empirical": lambda e=estimate: e("empirical"),  # type: ignore[misc]  # bound now
                "exact": lambda e=estimate: e("exact"),  # type: ignore[misc]  # bound now
            },
        )
        what = f"{_NAMES[name]}, {number} batches of {batch_size}"
        for kind in _KINDS:
            target = exact_target if kind == "exact" else sampled_target
            rows.append(
                cost(timings, kind, "training", bench="fisher", work=f"{kind} Fisher, {what}",
                     device=setup.device.type, than="plain training pass (SGD)", target=target)
            )  # fmt: skip
        one = batches[:1]
        slow = alternate(
            setup,
            {
                "empirical": lambda m=model, b=one: fisher(m, b, kind="empirical"),  # type: ignore[misc]  # bound now
                "one": lambda m=model, b=one[0]: one_by_one(m, b),  # type: ignore[misc]  # bound now
                "vmap": lambda m=model, b=one[0]: vectorized(m, b),  # type: ignore[misc]  # bound now
            },
            warm=1,
        )
        for beside, than in (("one", "one backward per sample"), ("vmap", "torch.func.vmap of grad")):
            rows.append(
                faster(slow, "empirical", beside, bench="fisher", work=f"empirical Fisher, {_NAMES[name]}, one batch",
                       device=setup.device.type, than=than,
                       target=50.0 if setup.device.type == "cuda" and beside == "one" else None)
            )  # fmt: skip
    return rows


def _batch(size: int, draw: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(size, 1, 28, 28, generator=draw)
    return inputs.to(device), torch.randint(10, (size,), generator=draw).to(device)
