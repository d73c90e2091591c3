"""How each class fares: groups by frequency, sessions and the drop, against numbers worked out by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from holdfast.bench.records.by_class import ByClass, frequency_groups


def test_groups_have_the_thresholds_of_the_source() -> None:
    groups, thirds = frequency_groups([101, 100, 20, 19])
    assert groups == ["many", "medium", "medium", "few"] and not thirds


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([5000, 900, 50, 25], ["many", "medium", "medium", "few"]),  # none is few by the thresholds
        ([9, 5, 7], ["many", "few", "medium"]),  # none is many
        ([60] * 3, ["many", "medium", "few"]),  # equal counts stay in order
        ([5], ["medium"]),
    ],
)
def test_groups_are_thirds_where_thresholds_leave_one_empty(numbers: list[int], expected: list[str]) -> None:
    assert frequency_groups(numbers) == (expected, True)


def test_sessions_are_means_over_all_classes_so_far() -> None:
    found = ByClass(samples=[[200, 300], [5]], accuracies=[[1.0, 0.5, 0.0], [0.75, 0.25, 0.5]])
    assert found.sessions == pytest.approx([0.75, 0.5]) and found.performance_drop == pytest.approx(0.25)
    assert found.frequencies == pytest.approx({"many": 0.5, "few": 0.5})
    assert found.grouping == "many: more than 100 training samples, few: fewer than 20"


def test_what_learned_all_at_once_has_one_session() -> None:
    found = ByClass(samples=[[60, 40], [30]], accuracies=[[1.0, 0.7, 0.4]])
    assert found.sessions == pytest.approx([0.7]) and found.performance_drop is None
    assert found.frequencies == pytest.approx({"many": 1.0, "medium": 0.7, "few": 0.4})
    assert found.grouping == "thirds of the classes by training samples, many: 60 to 60, few: 30 to 30"


def test_a_row_has_every_class() -> None:
    with pytest.raises(ValidationError, match="3 accuracies in every row"):
        ByClass(samples=[[2, 2], [1]], accuracies=[[1.0, 1.0]])
