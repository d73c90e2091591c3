"""The estimate of memory against what is really held."""

from __future__ import annotations

import pytest
import torch

from contract import cases
from holdfast import ConfigurationError, registry
from holdfast.bench import models
from holdfast.bench.footprint import footprint
from holdfast.cli import sizes

KEPT = [entry.name for entry in registry.entries() if entry.kind == "method"]


def held_bytes(method) -> int:
    tensors = [t for held in method.state.values() for t in held.values()]
    return sum(t.nbytes for t in [*tensors, *method.buffers.values()])


@pytest.mark.parametrize("name", KEPT)
def test_the_estimate_is_within_a_tenth_of_what_is_held(name):
    entry = registry.lookup(name)
    model = models.build("mlp-40-40", (1, 6, 6), 10, seed=0)
    optimizer = cases.sgd(model)
    assert entry.build is not None
    method = entry.build(model, **{**entry.defaults, **({"strength": 0.01} if "strength" in entry.defaults else {})})
    expected = footprint(entry, model)
    method.attach(optimizer)
    draw = torch.Generator().manual_seed(0)
    for _ in range(2):
        batches = [(torch.randn(8, 1, 6, 6, generator=draw), torch.randint(10, (8,), generator=draw))]
        cases.train(model, optimizer, batches, method)
        cases.consolidate(model, optimizer, batches, method)
    assert held_bytes(method) == pytest.approx(expected.state_bytes, rel=0.1)


@pytest.mark.parametrize("name", ["classp", "adagrad"])
def test_the_estimate_of_an_optimizer_that_is_the_memory(name):
    entry = registry.lookup(name)
    model = models.build("mlp-40-40", (1, 6, 6), 10, seed=0)
    assert entry.build is not None
    optimizer = entry.build(model.parameters(), **entry.defaults)
    cases.step(model, optimizer, (torch.randn(8, 1, 6, 6), torch.randint(10, (8,))))
    held = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t))
    assert held == pytest.approx(footprint(entry, model).state_bytes, rel=0.1)


def test_bfloat16_importances_and_models_without_memory():
    with torch.device("meta"):
        model = models.build("resnet18", (3, 224, 224), 1000, seed=0)
    count = sum(p.numel() for p in model.parameters())
    assert footprint(registry.lookup("ewc"), model).state_bytes == 8 * count
    assert footprint(registry.lookup("ewc"), model, torch.bfloat16).state_bytes == 6 * count
    assert footprint(registry.lookup("si"), model).training_bytes == 8 * count
    assert footprint(registry.lookup("finetune"), model).peak_bytes == 0
    with pytest.raises(ConfigurationError, match="l2sp has no importances"):
        footprint(registry.lookup("l2sp"), model, torch.bfloat16)


def test_half_precision_weights_are_anchored_in_float32():
    model = models.build("mlp-40", (1, 6, 6), 10, seed=0).bfloat16()
    count = sum(p.numel() for p in model.parameters())
    assert footprint(registry.lookup("ewc"), model).state_bytes == 8 * count


def test_the_command_prints_each_method_for_a_model(capsys):
    sizes.show(registry.entries(), "resnet18", None, None, "bfloat16")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert all(entry.name in lines for entry in registry.entries())
    assert f"{6 * 11_689_512 / 2**20:.1f} MiB" in lines["ewc"]
    assert f"{4 * 11_689_512 / 2**20:.1f} MiB" in lines["l2sp"]


@pytest.mark.parametrize(("shape", "dtype"), [("3,x,1", "float32"), ("0", "float32"), (None, "float16")])
def test_the_command_refuses_what_it_cannot_read(shape, dtype):
    with pytest.raises(ConfigurationError, match="--i"):
        sizes.show(registry.entries(), "mlp", shape, None, dtype)
