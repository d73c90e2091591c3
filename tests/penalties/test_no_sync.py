"""A step asks the device for no number: on a GPU that would wait for everything queued before it."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast import registry
from holdfast.dispatch import PHASES_AFTER, PHASES_BEFORE, Step
from tests.penalties.paths import batches, network, sgd, task_loss, train

PENALTIES = [e.name for e in registry.entries() if e.kind == "method" and e.family == "penalty"]
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")


class NoWaiting(TorchDispatchMode):
    """Refuses every operator that hands a number (or a size that depends on one) back to Python."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not any(name == wait or name.startswith(f"{wait}_") for wait in WAITS), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def test_the_watch_sees_a_wait():
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        float(torch.ones(()))


@pytest.mark.parametrize("coupling", ["gradient", "proximal"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", PENALTIES)
def test_no_phase_of_a_step_waits(name, coupling, scaled):
    model = network()
    optimizer = sgd(model)
    entry = registry.lookup(name)
    method = entry.build(model, **{**entry.defaults, "coupling": coupling, "strength": 0.1}).attach(optimizer)
    train(model, optimizer, batches(0, 3))
    method.consolidate(batches(0, 2))
    train(model, optimizer, batches(1, 1))
    optimizer.zero_grad()
    task_loss(model, batches(2, 1)[0]).backward()
    step = Step(optimizer, *((torch.tensor(4.0), torch.tensor(0.0)) if scaled else (None, None)))
    with torch.no_grad(), NoWaiting():
        for phase in PHASES_BEFORE:
            getattr(method, phase)(step)
        for p in model.parameters():
            p.sub_(p.grad, alpha=0.01)
        for phase in PHASES_AFTER:
            getattr(method, phase)(step)
