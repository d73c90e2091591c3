"""What every closed-form head of the registry promises, built with the settings that users get."""

from __future__ import annotations

from functools import partial

import pytest
from torch import Tensor, nn

from holdfast import registry
from holdfast.heads import NCM, Head
from holdfast.testing import HEAD_CHECKS, check_head

ENTRIES = [entry for entry in registry.entries() if entry.kind == "head"]
EVERY = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def built(entry: registry.Entry, features: nn.Module | None) -> Head:
    assert entry.build is not None
    head = entry.build(features, **entry.defaults)
    assert isinstance(head, Head)
    return head


@EVERY
def test_it_is_a_head_that_needs_data_and_takes_no_steps(entry):
    assert issubclass(entry.build, Head)
    assert entry.family == "head" and not entry.trains and entry.needs_data is entry.build.needs_data


@EVERY
@pytest.mark.parametrize("check", HEAD_CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_promises_of_all_heads(entry, check):
    check(partial(built, entry))


class Latest(NCM):
    """Counts what came last ten times: its answers depend on the order."""

    def consolidate(self, batches=(), **more):
        parts = list(batches)
        super().consolidate([*parts, *parts[-1:] * 9], **more)


class Forgetful(NCM):
    """Adds a little of the latest question to the next answer."""

    def answer(self, features: Tensor) -> Tensor:
        scores = super().answer(features) + self.__dict__.get("before", 0.0)
        self.__dict__["before"] = 1e-3
        return scores


class Unnamed(NCM):
    """Answers with the place of a label in place of the label."""

    def predict(self, inputs: Tensor) -> Tensor:
        return self(inputs).argmax(1)


class Singular(NCM):
    """Knows no answer while a class has one sample."""

    def answer(self, features: Tensor) -> Tensor:
        return super().answer(features) / float(min(self.counts.values()) > 1)


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (Latest, "permuted stream"),
        (Forgetful, "what is refused changes nothing"),
        (Unnamed, "labels as they were given"),
        (Singular, "one shot: finite scores"),
    ],
)
def test_a_head_that_breaks_a_promise_is_told_which(kind, promise):
    with pytest.raises(AssertionError, match=promise):
        check_head(kind)
    check_head(NCM)
