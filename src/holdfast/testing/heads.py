"""The promises of closed-form heads, one function each: it takes what makes a head over some features."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.errors import DataError, NumericsError, ProtectionError
from holdfast.heads import Head
from holdfast.testing.cases import Batch, same_state
from holdfast.testing.promises import expect, refused

__all__ = ["HEAD_CHECKS", "MakeHead", "check_head"]

MakeHead: TypeAlias = Callable[[nn.Module | None], Head]

_CLASSES, _WIDTH = 5, 6
_NAMES = (10**12, -7, 3, 0, -(10**12))


def _samples(number: int = 90, seed: int = 0) -> Batch:
    """Five noisy classes in six features that are not negative: ``[number, 6]`` and ``[number]``."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.rand(_CLASSES, _WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    labels = torch.cat([torch.arange(_CLASSES), torch.randint(_CLASSES, (number - _CLASSES,), generator=draw)])
    noise = torch.randn(number, _WIDTH, generator=draw, dtype=torch.float64)
    return (centres[labels] + noise).relu(), labels


def _told(head: Head, x: Tensor, y: Tensor, *, batch: int = 8) -> Head:
    head.consolidate(zip(torch.split(x, batch), torch.split(y, batch), strict=True))
    return head


def _close(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.allclose(left, right, rtol=1e-9, atol=1e-9)


def the_order_of_a_stream_does_not_matter(make: MakeHead) -> None:
    """Permuted, class by class and sample by sample: the same scores to 1e-9."""
    x, y = _samples()
    query, _ = _samples(seed=1)
    wanted = _told(make(None), x, y)(query)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    expect(_close(_told(make(None), x[order], y[order], batch=1)(query), wanted), "a permuted stream: the same scores")
    by_class, one_by_one = make(None), make(None)
    for label in (3, 0, 4, 1, 2):
        _told(by_class, x[y == label], y[y == label])
    for number in order.tolist():
        one_by_one.consolidate([(x[number : number + 1], y[number : number + 1])])
    expect(_close(by_class(query), wanted), "class after class: the same scores as all at once")
    expect(_close(one_by_one(query), wanted), "a sample at a time: the same scores as all at once")
    expect(by_class.counts == {label: int((y == label).sum()) for label in range(_CLASSES)}, "counts are those told")


def it_grows_by_any_labels_and_knows_a_class_that_comes_again(make: MakeHead) -> None:
    """Labels are any integers; columns are in their ascending order; a class may come twice."""
    x, y = _samples()
    names = torch.tensor(_NAMES)
    head, plain = make(None), make(None)
    for number, part in enumerate((y < 2, y == 2, y > 1)):  # class 2 comes twice
        _told(head, x[part], names[y[part]])
        _told(plain, x[part], y[part])
        met = sorted({int(label) for label in names[y[: len(y)]][(y < 2) | ((y == 2) & (number > 0)) | (number > 1)]})
        expect(head.classes == tuple(met), "classes are all that were met, ascending")
        expect(head.num_tasks == number + 1, "num_tasks counts what was told")
    expect(_close(head(x), plain(x)[:, [4, 1, 3, 2, 0]]), "columns in ascending order of label, whatever they are")
    expect(torch.equal(head.predict(x), names[plain.predict(x)]), "predict says labels as they were given")
    expect(float(head.predict(x).eq(names[y]).double().mean()) > 0.6, "it learns what a linear rule could")


def a_few_shots_are_enough(make: MakeHead) -> None:
    """Five samples of a class, one of each, or a single one in all: finite scores, and answers better than chance."""
    x, y = _samples(number=400)
    few = torch.cat([(y == label).nonzero()[:5, 0] for label in range(_CLASSES)])
    head = _told(make(None), x[few], y[few])
    expect(bool(head(x).isfinite().all()), "five shots: finite scores")
    expect(float(head.predict(x).eq(y).double().mean()) > 0.4, "five shots: better than chance")
    stream = make(None)
    for number in range(_CLASSES):
        stream.consolidate([(x[number : number + 1], y[number : number + 1])])
        scores = stream(x)
        expect(scores.shape == (len(x), number + 1), "a column for each class met, from the first sample on")
        expect(bool(scores.isfinite().all()), "one shot: finite scores")


def it_goes_on_bit_for_bit_from_a_saved_state(make: MakeHead) -> None:
    """What ``state_dict`` returns is a copy, and another head goes on from it as this one does."""
    x, y = _samples()
    head = _told(make(None), x[:40], y[:40])
    state = head.state_dict()
    saved = copy.deepcopy(state)
    again = make(None)
    again.load_state_dict(state)
    expect(torch.equal(again(x), head(x)), "a loaded head gives the same scores")
    _told(again, x[40:], y[40:])
    expect(same_state(dict(saved), dict(head.state_dict())), "what a loaded head learns is its own")
    _told(head, x[40:], y[40:])
    expect(same_state(dict(head.state_dict()), dict(again.state_dict())), "resumed, it remembers the same")
    expect(torch.equal(head(x), again(x)), "resumed, it gives the same scores")
    expect(torch.equal(copy.deepcopy(head)(x), head(x)), "a copy gives the same scores")


def what_is_refused_changes_nothing(make: MakeHead) -> None:
    """No sample, another width, labels that are none, a number that is not finite."""
    x, y = _samples()
    head = _told(make(None), x, y)
    saved, scores = copy.deepcopy(head.state_dict()), head(x)
    broken = x.clone()
    broken[70, 2] = float("nan")
    wrong: list[tuple[type[Exception], Iterable[Any]]] = [
        (NumericsError, [(x, y), (broken, y)]),
        (DataError, iter(())),
        (DataError, [(x[:0], y[:0])]),
        (DataError, [(x, y), (x[:, :4], y)]),
        (DataError, [(x, y.double())]),
        (DataError, [(x, y[:-1])]),
    ]
    for error, batches in wrong:
        refused(error, functools.partial(head.consolidate, batches), "what cannot be learned")
        kept = same_state(dict(saved), dict(head.state_dict())) and torch.equal(head(x), scores)
        expect(kept, "what is refused changes nothing")
    refused(DataError, lambda: head(x[:, :4]), "a question of another width")
    refused(DataError, lambda: make(None)(x), "a question before the first consolidate")


def a_sample_without_a_label_is_left_out(make: MakeHead) -> None:
    """-100 is no label."""
    x, y = _samples()
    masked = torch.where(torch.arange(len(y)) % 3 == 0, -100, y)
    head = _told(make(None), x, masked)
    known = masked != -100
    expect(_close(head(x), _told(make(None), x[known], y[known])(x)), "a sample labelled -100 is left out")


def its_model_is_looked_at_and_never_changed(make: MakeHead) -> None:
    """In evaluation mode, as it was; and once it has learned, a model that changed is refused."""
    x, y = _samples()
    norm = nn.BatchNorm1d(_WIDTH)
    model = nn.Sequential(norm, nn.Dropout(0.5), nn.ReLU()).double().train()
    before = copy.deepcopy(model.state_dict())
    head = _told(make(model), x, y)
    scores = head(x)
    expect(torch.equal(scores, head(x)), "the model is asked in evaluation mode")
    expect(torch.equal(head.answer(head.represent(x)), scores), "answer(represent(x)) is the head's forward")
    expect(same_state(dict(before), dict(model.state_dict())) and model.training, "the model is left as it was")
    with torch.no_grad():
        norm.bias.add_(1)
    refused(ProtectionError, lambda: head(x), "a model that changed")
    refused(ProtectionError, lambda: _told(head, x, y), "a model that changed")


def its_size_is_known_beforehand(make: MakeHead) -> None:
    """Width and bytes, before a sample was learned."""
    x, y = _samples()
    head = make(None)
    width = head.width([(x[:2], y[:2])])
    announced = head.state_size(width, _CLASSES)
    expect(head.num_tasks == 0, "asking for the width teaches nothing")
    _told(head, x, y)
    expect(0 < head.state_bytes <= announced <= head.memory(width, _CLASSES), "it remembers no more than was announced")


HEAD_CHECKS: tuple[Callable[[MakeHead], None], ...] = (
    the_order_of_a_stream_does_not_matter,
    it_grows_by_any_labels_and_knows_a_class_that_comes_again,
    a_few_shots_are_enough,
    it_goes_on_bit_for_bit_from_a_saved_state,
    what_is_refused_changes_nothing,
    a_sample_without_a_label_is_left_out,
    its_model_is_looked_at_and_never_changed,
    its_size_is_known_beforehand,
)
"""Every promise of a head, in the order in which :func:`check_head` asks for them."""


def check_head(make: MakeHead) -> None:
    """Hold a head to every promise that all heads keep.

    Args:
        make: makes it over a model's features, or over the inputs for ``None``: ``lambda features: Mine(features)``.
            Features are not negative.

    Raises:
        AssertionError: naming the first promise that is broken.
    """
    for check in HEAD_CHECKS:
        check(make)
