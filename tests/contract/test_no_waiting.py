"""A step asks the device for no number, whatever the method: on a GPU that would wait for all queued before it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast.dispatch import PHASES_AFTER, PHASES_BEFORE, Step
from tests.contract.cases import consolidate, sgd, train
from tests.contract.growing import EVERY, data, made, small

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "item", "is_nonzero")


class NoWaiting(TorchDispatchMode):
    """Refuses every operator that hands a number (or a size that depends on one) back to Python."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not any(name == wait or name.startswith(f"{wait}_") for wait in WAITS), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def test_the_watch_sees_a_wait():
    for wait in (float, bool, torch.nonzero):
        with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
            wait(torch.ones(()))


@EVERY
@pytest.mark.parametrize("scaled", [False, True])
def test_no_phase_of_a_step_waits(name, coupling, scaled):
    model = small(4)
    optimizer = sgd(model)
    method = made(name, model, coupling).attach(optimizer)
    for seed in (1, 2):
        train(model, optimizer, data(seed, 4), method)
        consolidate(model, optimizer, data(seed, 4), method)
    batch = data(3, 4)[0]
    step = Step(optimizer, *((torch.tensor(4.0), torch.tensor(0.0)) if scaled else (None, None)))
    while True:
        optimizer.zero_grad()
        with NoWaiting():
            outputs = model(batch[0])
            (nn.functional.cross_entropy(outputs, batch[1]) + method.penalty(batch, outputs)).backward()
        with torch.no_grad(), NoWaiting():
            for phase in PHASES_BEFORE:
                getattr(method, phase)(step)
            for p in (p for p in model.parameters() if p.grad is not None):
                p.sub_(p.grad, alpha=0.01)
            for phase in PHASES_AFTER:
                getattr(method, phase)(step)
        method.count_step()
        if not method.next_round(data(3, 4)):
            break
