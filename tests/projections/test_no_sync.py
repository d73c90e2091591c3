"""A protected step asks the device nothing: every wait for it would cost more than the method's own work."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast.distillation.lwf import LwF
from holdfast.objectives import Classification
from holdfast.projections.freeze import Freeze
from holdfast.projections.packnet import PackNet
from holdfast.projections.pruning import AnpycPruning
from tests.projections.cases import data, heads, train

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "item", "is_nonzero"}


class Asking(TorchDispatchMode):
    """Collects the operations whose result the host must wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in WAITING:
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


METHODS = {
    "freeze": lambda model: Freeze(model, select="trunk"),
    "packnet": PackNet,
    "anpyc-prune": lambda model: AnpycPruning(model, strength=1.0),
    "lwf": lambda model: LwF(model, strength=1.0),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("retraining", [False, True])
def test_a_step_waits_for_nothing(name: str, retraining: bool) -> None:
    model = heads(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    keep = METHODS[name](model).attach(optimizer)
    objective = Classification(head=0)
    train(model, optimizer, data(0))
    while keep.next_round(data(0), objective=objective):
        train(model, optimizer, data(0))
    keep.consolidate(data(0), objective=objective)
    if retraining:
        keep.next_round(data(0), objective=objective)
    x, y = data(1)[0]
    with Asking() as asking:
        raw = model(x)
        (F.cross_entropy(raw[0], y) + keep.penalty((x, y), raw)).backward()
        optimizer.step()
    assert not asking.found
    with Asking() as asking:  # and it would have noticed
        bool(model.heads[0].bias.any())
    assert asking.found
