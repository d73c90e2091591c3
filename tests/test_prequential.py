"""Test on each batch, then train on it: the figure, what it must be held against, and who learns how."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import holdfast
from holdfast import ConfigurationError, DataError
from holdfast.heads import NCM, SLDA, Ridge
from holdfast.objectives import Classification
from holdfast.prequential import evaluate


def stream(number: int = 120, *, by_class: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (number,), generator=draw)
    y = y.sort().values if by_class else y
    return F.one_hot(y, 4).float() * 3 + torch.randn(number, 4, generator=draw), y


def pairs(x: Tensor, y: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


@pytest.mark.parametrize("make", [NCM, lambda: SLDA(shrinkage=0.1), Ridge])
def test_a_head_answers_each_sample_before_it_learns_it(make):
    x, y = stream(40)
    found = evaluate(make(), pairs(x, y, 1), window=10)
    head, hits = make(), []
    for i in range(len(y)):  # by hand
        hits.append(i > 0 and int(head.predict(x[i : i + 1])) == int(y[i]))
        head.consolidate([(x[i : i + 1], y[i : i + 1])])
    assert found.hits.tolist() == hits and torch.equal(found.labels, y)
    assert found.accuracy == sum(hits) / 40
    assert found.sliding[-1] == sum(hits[-10:]) / 10
    assert found.worst == min(sum(hits[i - 10 : i]) / 10 for i in range(10, 41))


def test_a_model_takes_one_step_on_each_batch_after_its_answer():
    x, y = stream()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 4))
    twin = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 4))
    twin.load_state_dict(model.state_dict())
    optimizer, other = (torch.optim.Adam(m.parameters(), lr=0.05) for m in (model, twin))
    torch.manual_seed(1)
    found = evaluate(model, pairs(x, y, 6), optimizer=optimizer)
    torch.manual_seed(1)
    hits = []
    for a, b in pairs(x, y, 6):
        hits += (twin.eval()(a).argmax(1) == b).tolist()
        other.zero_grad()
        F.cross_entropy(twin.train()(a), b).backward()
        other.step()
    assert found.hits.tolist() == hits and model.training
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    assert found.sliding[-1] > found.baseline


def test_a_stream_that_comes_class_by_class_is_seen_through():
    model = nn.Linear(4, 4)
    x, y = stream(400, by_class=True)
    blocked = evaluate(model, pairs(x, y, 2), optimizer=torch.optim.SGD(model.parameters(), lr=1.0))
    assert blocked.baseline == 1 - 4 / 400  # wrong at the first and at each change alone
    assert blocked.accuracy <= blocked.baseline and blocked.kappa <= 0
    assert "repeating the last label gets 99.00 %, so these answers show nothing" in str(blocked)
    mixed = evaluate(NCM(), pairs(*stream(400), 2))
    assert mixed.kappa > 0.5 and "show nothing" not in str(mixed)
    assert len(mixed.sliding_baseline) == 400 and mixed.sliding_baseline[-1] == mixed.baseline < 0.5


def test_attached_methods_and_ways_of_learning_of_ones_own():
    x, y = stream()
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep = holdfast.L2SP(model, strength=1.0)
    keep.consolidate()
    keep.attach(optimizer)
    start = model.weight.detach().clone()
    evaluate(model, pairs(x, y, 6), optimizer=optimizer)
    near = (model.weight - start).norm()
    free = nn.Linear(4, 4)
    free.load_state_dict({"weight": start, "bias": torch.zeros(4)})
    evaluate(free, pairs(x, y, 6), optimizer=torch.optim.SGD(free.parameters(), lr=0.1))
    assert 0 < near < 0.7 * (free.weight - start).norm()
    seen = []
    evaluate(model, pairs(x, y, 60), learn=seen.append)
    assert len(seen) == 2


def test_dicts_missing_labels_and_classes_that_compete():
    x, y = stream(30)
    y[::3] = -100
    found = evaluate(NCM(nn.Identity()), [{"input": a, "labels": b} for a, b in pairs(x, y, 5)], window=4)
    assert torch.equal(found.labels, y[y != -100])
    model = nn.Linear(4, 9)
    with torch.no_grad():
        model.weight.copy_(F.one_hot(torch.arange(9) % 5, 5)[:, :4].float())
    x, y = stream(200)
    found = evaluate(
        model,
        [*pairs(x, y + 5, 10), (x[:3], torch.full((3,), -100))],
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        objective=Classification(classes=(5, 6, 7, 8)),
    )
    assert found.accuracy > 0.5 and len(found.labels) == 200
    assert torch.equal(holdfast.prequential.evaluate(NCM(), pairs(x, y, 50)).labels, y)


def test_refusals():
    model, data = nn.Linear(4, 4), pairs(*stream(8), 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for call, error, text in (
        (lambda: evaluate(model, data), ConfigurationError, "optimizer is None; Linear learns by its steps"),
        (lambda: evaluate(NCM(), data, optimizer=optimizer), ConfigurationError, "NCM is computed, not trained"),
        (lambda: evaluate(len, data, optimizer=optimizer), ConfigurationError, "learner is a builtin_function"),
        (lambda: evaluate(NCM(), data, window=0), ConfigurationError, "window is 0"),
        (lambda: evaluate(NCM(), []), DataError, "no sample with a label"),
        (lambda: evaluate(NCM(), [(data[0][0], data[0][1].float())]), DataError, "expected integers"),
    ):
        with pytest.raises(error, match=text):
            call()
