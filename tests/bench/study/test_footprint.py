"""The estimate of memory against what is really held."""

from __future__ import annotations

import sys

import pytest
import torch

from holdfast import SI, ConfigurationError, RWalk, registry
from holdfast.bench.models import named as models
from holdfast.bench.study import footprint as footprints
from holdfast.bench.study.footprint import footprint
from holdfast.penalties.gradient import AT_ONCE
from holdfast.pieces import scratch
from tests.bench.training.stops import SUITS
from tests.contract import cases
from tests.live_bytes import LiveBytes

KEPT = [entry.name for entry in registry.entries() if entry.kind == "method" and not entry.needs_adapters]


def held_bytes(method) -> int:
    tensors = [t for held in method.state.values() for t in held.values()]
    return sum(t.nbytes for t in [*tensors, *method.buffers.values()])


@pytest.mark.parametrize("name", KEPT)
def test_the_estimate_is_within_a_tenth_of_what_is_held(name):
    entry = registry.lookup(name)
    model = models.build(SUITS.get(name, {}).get("model", "mlp-40-40"), (1, 6, 6), 10, seed=0)
    optimizer = cases.sgd(model)
    assert entry.build is not None
    method = entry.build(model, **{**entry.defaults, **({"strength": 0.01} if "strength" in entry.defaults else {})})
    expected = footprint(entry, model)
    method.attach(optimizer)
    draw = torch.Generator().manual_seed(0)
    for _ in range(1 if "further task" in entry.state else 2):  # what grows with each task is told of the first
        batches = [(torch.randn(8, 1, 6, 6, generator=draw), torch.randint(10, (8,), generator=draw))]
        cases.train(model, optimizer, batches, method)
        cases.consolidate(model, optimizer, batches, method)
    if method.most_buffer_bytes():  # how full a layer will be only its inputs decide
        assert 0.1 * expected.state_bytes < held_bytes(method) <= expected.state_bytes
        return
    assert held_bytes(method) == pytest.approx(expected.state_bytes, rel=0.1)


@pytest.fixture
def nothing_but_sums(monkeypatch):
    """Without what the estimate of importances works with, and with pieces as small beside a model as in earnest."""
    for module in ("pieces", "penalties.gradient", "bench.study.footprint"):
        for size in ("PIECE", "LARGE"):
            monkeypatch.setattr(f"holdfast.{module}.{size}", 1 << 9)
    for entries in (511, 768):  # of both lengths that occur: made once, for every step there will be
        scratch(entries, torch.float32)
    monkeypatch.setattr(footprints, "_working", lambda model, copied: 0)

    def per_sample_sum(model, batches, *, parameters, **options):
        return {name: torch.ones_like(p, requires_grad=False) for name, p in parameters.items()}, 1

    for name in ("fisher", "mas", "taylor"):  # the package's own attributes of these names are functions
        monkeypatch.setattr(sys.modules[f"holdfast.importance.{name}"], "per_sample_sum", per_sample_sum)


@pytest.mark.parametrize("name", ["ewc", "online-ewc", "si", "rwalk", "mas", "l2sp", "anpyc"])
@pytest.mark.parametrize("layers", ["mlp-60", "mlp-60-60-60-60"])  # one large tensor, several
def test_the_peak_is_within_a_tenth_of_what_is_measured(name, layers, nothing_but_sums):
    entry = registry.lookup(name)
    model = models.build(layers, (1, 12, 12), 10, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = [(torch.randn(2, 1, 12, 12), torch.randint(10, (2,)))]
    cases.train(model, optimizer, batches)  # the gradients are not the method's
    assert entry.build is not None
    expected = footprint(entry, model)
    live = LiveBytes()
    method = entry.build(model, **{**entry.defaults, "strength": 0.01}).attach(optimizer)
    peaks = {"training": 0, "consolidating": 0}
    for _ in range(3):
        with live:
            live.peak = live.now
            for _ in range(12):  # an interval of RWalk's ends among them
                optimizer.step()
            peaks["training"] = max(peaks["training"], live.peak)
            live.peak = live.now
            method.consolidate(batches)
            peaks["consolidating"] = max(peaks["consolidating"], live.peak)
    state = expected.state_bytes
    assert live.now == pytest.approx(held_bytes(method), rel=0.01)  # nothing else is left
    assert max(peaks.values()) == pytest.approx(expected.peak_bytes, rel=0.1)
    assert peaks["consolidating"] == pytest.approx(state + expected.consolidating_bytes, rel=0.1)
    assert peaks["training"] == pytest.approx(state + expected.training_bytes + expected.stepping_bytes, rel=0.1)


@pytest.mark.parametrize("kind", [SI, RWalk])
def test_what_is_held_in_training_only_is_let_go(kind):
    model = models.build("mlp-40", (1, 6, 6), 10, seed=0)
    optimizer = cases.sgd(model)
    batches = [(torch.randn(2, 1, 6, 6), torch.randint(10, (2,)))]
    method = kind(model, strength=0.01).attach(optimizer)
    for end in (method.consolidate, method.detach):
        cases.train(model, optimizer, batches)
        assert method._before
        end()
        assert not method._before


def test_what_is_the_memory_itself_has_nothing_to_do_at_a_tasks_end():
    model = models.build("mlp-40", (1, 6, 6), 10, seed=0)
    for name in ("classp", "adagrad", "finetune"):
        assert footprint(registry.lookup(name), model).consolidating_bytes == 0


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


def test_a_large_model_on_a_device_needs_little_for_a_step():
    with torch.device("meta"):
        model = models.build("resnet18", (3, 224, 224), 1000, seed=0)
    assert footprint(registry.lookup("ewc"), model).stepping_bytes == 4 * 11_689_512  # less than is made at once
    with torch.device("meta"):
        model = torch.nn.Sequential(*(torch.nn.Linear(1000, 1000, bias=False) for _ in range(100)))
    assert footprint(registry.lookup("ewc"), model).stepping_bytes == 4 * AT_ONCE


@pytest.mark.parametrize("name", ["ewc", "online-ewc", "l2sp", "si", "mas", "lwf", "rwalk", "anastrophic", "anpyc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_follows_from_shapes_is_exact(name, dtype):
    entry = registry.lookup(name)
    model = models.build("mlp-40-40", (1, 6, 6), 10, seed=0).to(dtype)
    expected = footprint(entry, model)
    assert entry.build is not None
    settings = {"strength": 0.01, **({"damping": 1.0} if name == "si" else {})}
    method = entry.build(model, **{**entry.defaults, **settings}).attach(optimizer := cases.sgd(model))
    batches = [(torch.randn(8, 1, 6, 6, dtype=dtype), torch.randint(10, (8,)))]
    cases.train(model, optimizer, batches, method)
    cases.consolidate(model, optimizer, batches, method)
    assert held_bytes(method) == expected.state_bytes


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_of_a_sharded_model_the_first_process_has_the_largest_part(processes):
    model = models.build("mlp-40-40", (1, 6, 6), 10, seed=0)
    largest = sum(torch.chunk(p, processes)[0].numel() for p in model.parameters())
    assert footprint(registry.lookup("ewc"), model, processes=processes).state_bytes == 8 * largest
    assert footprint(registry.lookup("lwf"), model, processes=processes).state_bytes == 4 * largest
    for name in ("gpm", "ncm"):
        with pytest.raises(ConfigurationError, match=f"{name} .* sharded model"):
            footprint(registry.lookup(name), model, processes=processes)


@pytest.mark.parametrize("name", ["ewc", "si", "l2sp"])
def test_what_is_kept_on_the_host_is_not_on_the_device(name):
    model = models.build("mlp-40-40", (1, 6, 6), 10, seed=0)
    entry, count = registry.lookup(name), sum(p.numel() for p in model.parameters())
    here, away = footprint(entry, model), footprint(entry, model, offloaded=True)
    assert away.host_bytes == (4 if name == "l2sp" else 8) * count
    assert away.state_bytes + away.host_bytes == here.state_bytes
    assert away.stepping_bytes == here.stepping_bytes + away.host_bytes  # so small that it is lent at once
    for refused in ({"processes": 2}, {}):
        with pytest.raises(ConfigurationError, match="expected"):
            footprint(registry.lookup("lwf"), model, offloaded=True, **refused)


def test_half_precision_weights_are_anchored_in_float32():
    model = models.build("mlp-40", (1, 6, 6), 10, seed=0).bfloat16()
    count = sum(p.numel() for p in model.parameters())
    assert footprint(registry.lookup("ewc"), model).state_bytes == 8 * count
