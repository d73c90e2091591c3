"""Every module of the bench as of version 0.1 is still found by its old name, and says its new one."""

from __future__ import annotations

import importlib
import inspect
import sys

import pytest

from holdfast.bench import moved
from holdfast.bench.comparing import calling

ORDINARY = {
    "holdfast.bench.runner": "run",
    "holdfast.bench.data": "holdout",
    "holdfast.bench.models": "Heads",
    "holdfast.bench.jobs": "Job",
    "holdfast.bench.export": "export",
    "holdfast.bench.metrics": "average_accuracy",
    "holdfast.bench.compare": "run_job",
    "holdfast.bench.plan": "typed",
}


@pytest.mark.parametrize("old", ORDINARY)
def test_what_an_old_module_held_is_there_with_a_warning(old: str) -> None:
    module = importlib.import_module(old)
    with pytest.warns(DeprecationWarning, match=rf"{old}\.{ORDINARY[old]} is holdfast\.\S+ now"):
        found = getattr(module, ORDINARY[old])
    assert callable(found) or found is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = module.nonsense


@pytest.mark.parametrize("old", moved.MOVED)
def test_every_old_name_leads_to_modules_that_exist(old: str) -> None:
    assert importlib.import_module(old).__name__ == old
    for home in moved.MOVED[old]:
        importlib.import_module(home)


def test_the_door_stays_a_function_beside_the_old_module_of_its_name() -> None:
    importlib.import_module("holdfast.bench.compare")
    from holdfast.bench import compare

    assert callable(compare)
    assert inspect.signature(compare) == inspect.signature(calling.compare)
    assert not hasattr(importlib.import_module("holdfast.bench.runner"), "__wrapped__")
    sys.modules.pop("holdfast.bench.compare")


def test_what_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("holdfast.bench.nonsense")
