"""What every closed-form head of the registry promises, built with the settings that users get."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from holdfast import DataError, registry
from holdfast.heads import Head
from tests.contract.cases import same_state

ENTRIES = [entry for entry in registry.entries() if entry.kind == "head"]
EVERY = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def task(seed: int, classes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(3):
        y = torch.tensor(classes)[torch.randint(len(classes), (9,), generator=draw)]
        x = torch.nn.functional.one_hot(y, 5).double() + torch.rand(9, 5, generator=draw, dtype=torch.float64)
        found.append((x, y))
    return found


TASKS = [task(1, (0, 1)), task(2, (2,)), task(3, (4, 1, 3))]


def built(entry: registry.Entry) -> Head:
    assert entry.build is not None
    head = entry.build(**entry.defaults)
    assert isinstance(head, Head)
    return head


@EVERY
def test_it_is_a_head_that_needs_data_and_takes_no_steps(entry):
    assert issubclass(entry.build, Head)
    assert entry.family == "head" and not entry.trains and entry.needs_data is entry.build.needs_data


@EVERY
def test_any_order_of_samples_batches_and_tasks(entry):
    head, other = built(entry), built(entry)
    for batches in TASKS:
        head.consolidate(batches)
    for x, y in [batch for batches in TASKS[::-1] for batch in batches[::-1]]:
        for number in torch.randperm(len(y)).tolist():
            other.consolidate([(x[number : number + 1], y[number : number + 1])])
    query = TASKS[2][0][0]
    torch.testing.assert_close(head(query), other(query), rtol=1e-9, atol=1e-9)


@EVERY
def test_it_grows_and_loses_nothing(entry):
    head = built(entry)
    for number, batches in enumerate(TASKS):
        head.consolidate(batches)
        assert head.num_tasks == number + 1
        assert head.classes == tuple(sorted({int(y) for part in TASKS[: number + 1] for _, ys in part for y in ys}))
    right = [head.predict(x) == y for batches in TASKS for x, y in batches]
    assert torch.cat(right).double().mean() > 0.8


@EVERY
def test_resumed_it_goes_on_bit_for_bit_and_its_state_is_a_copy(entry):
    head = built(entry)
    head.consolidate(TASKS[0])
    saved = copy.deepcopy(head.state_dict())
    again = built(entry)
    again.load_state_dict(head.state_dict())
    for batches in TASKS[1:]:
        again.consolidate(batches)
    assert same_state(dict(head.state_dict()), dict(saved))
    for batches in TASKS[1:]:
        head.consolidate(batches)
    assert same_state(dict(head.state_dict()), dict(again.state_dict()))
    assert torch.equal(head(TASKS[0][0][0]), again(TASKS[0][0][0]))


@EVERY
def test_an_empty_iterator_is_refused_and_nothing_changes(entry):
    head = built(entry)
    head.consolidate(TASKS[0])
    saved = copy.deepcopy(head.state_dict())
    with pytest.raises(DataError):
        head.consolidate(iter(()))
    assert same_state(dict(saved), dict(head.state_dict()))
