"""What is public changes on purpose: docs/compatibility.md says what a change owes its users."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
import torch

import holdfast
from tests import surface

RECORD = Path(__file__).with_name("public-surface.txt")


def test_the_public_surface_is_the_recorded_one() -> None:
    recorded = RECORD.read_text(encoding="utf-8").splitlines()
    changed = list(difflib.unified_diff(recorded, surface.lines(), "recorded", "now", n=0, lineterm=""))
    assert not changed, (
        "\n".join(changed) + "\nIf that is meant: python -m tests.surface > tests/public-surface.txt, a line in "
        "CHANGELOG.md, and what docs/compatibility.md promises of what went away"
    )


def test_what_torch_sets_on_an_optimizer_when_it_is_made_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = torch.optim.Optimizer.profile_hook_step(torch.optim.SGD.step)
    monkeypatch.setattr(holdfast.GoldenSGD, "step", wrapped, raising=False)
    assert not [line for line in surface.lines() if line.startswith("holdfast.GoldenSGD.step")]


def test_a_change_of_any_kind_is_seen() -> None:
    def function(a, b=1, *, c, d=None): ...  # type: ignore[no-untyped-def]  # only its form counts

    def other(a, b=2, *, c, d=None): ...  # type: ignore[no-untyped-def]  # likewise

    assert surface._signature(function) == "(a, b=1, *, c, d=None)" != surface._signature(other)
    lines = surface.lines()
    assert any(line.startswith("holdfast.EWC(model, *, strength=") and "**options{" in line for line in lines)
    assert any(line.startswith("holdfast.Method.consolidate(self, batches=(), *, objective=None") for line in lines)
    assert any(line.startswith("holdfast.integrations.transformers.HoldfastCallback(self, keep") for line in lines)
    assert len(lines) == len(set(lines))
