"""What a penalty adds to a training step, at the size of a ResNet-18."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from holdfast import EWC, SI, Anastrophic, Method, RWalk
from holdfast.bench.models import named as models
from speed.plain import Still, quadratic_by_autograd, released_anastrophic
from speed.rows import Row, faster
from speed.timing import Setup, alternate, copy_work

__all__ = ["anastrophic", "dispatcher", "ewc", "network", "paths"]


def network(setup: Setup) -> tuple[nn.Module, str]:
    """The model whose tensors are protected, with a gradient everywhere, and its size in words."""
    name, side = ("resnet-small", 32) if setup.quick else ("resnet18", 224)
    model = models.build(name, (3, side, side), 1000, seed=0).to(setup.device)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    count = sum(p.numel() for p in model.parameters())
    return model, f"{count / 1e6:.1f} M parameters in {len(list(model.parameters()))} tensors"


class DrawnEWC(EWC):
    """EWC whose Fisher is drawn at random: the step is measured here, not the estimate."""

    def _estimate(self, batches: Iterable[Any], objective: Any, generator: Any) -> dict[str, Tensor]:
        return {name: torch.rand_like(p) for name, p in self.params.items()}


def _shift(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.01)


def ewc(setup: Setup) -> list[Row]:
    """EWC's step with 1 and 5 tasks behind it."""
    rows = []
    for tasks, target in ((1, 8.0), (5, 25.0)):
        model, size = network(setup)
        optimizers = {"holdfast": Still(model.parameters())}
        if setup.compiles:
            optimizers["compiled"] = Still(model.parameters())
        kept = [
            DrawnEWC(model, strength=1.0, fused=name == "compiled").attach(optimizer)
            for name, optimizer in optimizers.items()
        ]
        params = list(model.parameters())
        anchors, fishers = [], []
        for _ in range(tasks):
            for optimizer, keep in zip(optimizers.values(), kept, strict=True):
                optimizer.step()
                keep.consolidate([None])
            anchors.append([p.detach().clone() for p in params])
            fishers.append([torch.rand_like(p) for p in params])
            _shift(model)
        copy, copied = copy_work(setup, sum(p.numel() for p in params))
        timings = alternate(
            setup,
            {
                **{name: optimizer.step for name, optimizer in optimizers.items()},
                "autograd": lambda p=params, a=anchors, f=fishers: quadratic_by_autograd(p, a, f, 1.0),  # type: ignore[misc]  # bound now
                "copy": copy,
            },
        )
        must_move = 5 / 2 * copied  # weights, anchors, importances and gradients read, gradients written
        for name in optimizers:
            how = ", fused=True" if name == "compiled" else ""
            rows.append(
                faster(
                    timings, name, "autograd", bench="ewc", device=setup.device.type, target=target,
                    work=f"EWC step, {size}, {tasks} task{'s' if tasks > 1 else ''}{how}",
                    than="autograd loop over parameters", floor=timings.median("copy") * must_move / copied,
                )
            )  # fmt: skip
    return rows


def anastrophic(setup: Setup) -> list[Row]:
    """Anastrophic's penalty and gradient, with and without the phases."""
    rows = []
    for coherence, target in ((1.0, 6.0), (0.0, 150.0)):
        model, size = network(setup)
        optimizers = {"holdfast": Still(model.parameters())}
        if setup.compiles and not coherence:
            optimizers["compiled"] = Still(model.parameters())
        for name, optimizer in optimizers.items():
            keep = Anastrophic(model, strength=3.0, coherence=coherence, fused=name == "compiled")
            keep.consolidate()
            keep.attach(optimizer)
        weights = [p for name, p in model.named_parameters() if "weight" in name]
        previous = [w.detach().clone() for w in weights]
        _shift(model)
        copy, _ = copy_work(setup, sum(w.numel() for w in weights))
        timings = alternate(
            setup,
            {
                **{name: optimizer.step for name, optimizer in optimizers.items()},
                "released": lambda w=weights, b=previous: released_anastrophic(w, b, 1.0, 3.0),  # type: ignore[misc]  # bound now
                "copy": copy,
            },
        )
        phases = "with Φ" if coherence else "Φ off"
        for name in optimizers:
            how = ", fused=True" if name == "compiled" else ""
            rows.append(
                faster(
                    timings, name, "released", bench="anastrophic", device=setup.device.type, target=target,
                    work=f"Anastrophic gradient, {size}, {phases}{how}", than="released class's operations",
                    # Weights, anchors and gradients read, gradients written; what the transforms move is not counted.
                    floor=timings.median("copy") * 2,
                )
            )  # fmt: skip
    return rows


def paths(setup: Setup) -> list[Row]:
    """What SI and RWalk add to a step of plain SGD, after one task."""
    rows = []
    built: tuple[type[Any], ...] = (SI, RWalk)
    for kind in built:
        model, size = network(setup)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        bare, hooked = (torch.optim.SGD(model.parameters(), lr=1e-6) for _ in range(2))
        keep: Method = kind(model, strength=0.0).attach(hooked)
        hooked.step()
        keep.consolidate()
        copy, _ = copy_work(setup, sum(p.numel() for p in model.parameters()))
        timings = alternate(setup, {"bare": bare.step, "hooked": hooked.step, "copy": copy})
        extra, unit = timings.median("hooked") - timings.median("bare"), timings.median("copy")
        rows.append(
            Row(
                "paths", f"{kind.__name__} beside an SGD step, {size}, 1 task", setup.device.type,
                "copy of the parameters", extra / unit, "times as long", None, "less", extra, unit,
                # Copies of weights and gradients (4 streams), the penalty (5), the path integral (5), over a copy's 2.
                7 * unit, timings.rounds,
            )
        )  # fmt: skip
    return rows


def dispatcher(setup: Setup) -> list[Row]:
    """What the hooks alone cost: a method that protects nothing yet."""
    model, size = network(setup)
    bare, hooked = Still(model.parameters()), Still(model.parameters())
    DrawnEWC(model, strength=1.0).attach(hooked)
    many = 1 if setup.quick else 20

    def repeat(optimizer: Still) -> None:
        for _ in range(many):
            optimizer.step()

    timings = alternate(setup, {"bare": lambda: repeat(bare), "hooked": lambda: repeat(hooked)})
    extra = (timings.median("hooked") - timings.median("bare")) / many
    return [
        Row(
            "dispatcher", f"dispatcher alone, {size}", setup.device.type, "the same step without hooks", 1e3 * extra,
            "ms per step", 0.1, "less", timings.median("hooked") / many, timings.median("bare") / many,
            rounds=timings.rounds,
        )
    ]  # fmt: skip
