"""Metrics against numbers worked out by hand, and Student's t against published tables."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import metrics
from holdfast.errors import ConfigurationError, DataError

# After task 1, 2, 3; the second task's best comes after the second, the first task's best after the second too.
MATRIX = [[0.8, 0.2, 0.3], [0.9, 0.7, 0.4], [0.6, 0.5, 1.0]]
INITIAL = [0.5, 0.1, 0.1]


def test_metrics_by_hand() -> None:
    assert metrics.per_task_accuracy(MATRIX) == [0.6, 0.5, 1.0]
    assert metrics.average_accuracy(MATRIX) == pytest.approx(0.7)
    assert metrics.learning_accuracy(MATRIX) == pytest.approx((0.8 + 0.7 + 1.0) / 3)
    assert metrics.forgetting(MATRIX) == pytest.approx(((0.9 - 0.6) + (0.7 - 0.5)) / 2)
    assert metrics.backward_transfer(MATRIX) == pytest.approx(((0.6 - 0.8) + (0.5 - 0.7)) / 2)
    assert metrics.forward_transfer(MATRIX, INITIAL) == pytest.approx(((0.2 - 0.1) + (0.4 - 0.1)) / 2)


def test_a_tensor_and_a_list_agree() -> None:
    tensor = torch.tensor(MATRIX, dtype=torch.float64)
    assert metrics.forgetting(tensor) == metrics.forgetting(MATRIX)
    assert metrics.forward_transfer(tensor, torch.tensor(INITIAL, dtype=torch.float64)) == pytest.approx(0.2)


def test_one_row_has_an_end_but_no_history() -> None:
    joint = [[0.9, 0.8, 0.7]]
    assert metrics.average_accuracy(joint) == pytest.approx(0.8)
    assert metrics.learning_accuracy(joint) is None
    assert metrics.forgetting(joint) is None
    assert metrics.backward_transfer(joint) is None
    assert metrics.forward_transfer(joint, INITIAL) is None


def test_one_task_has_nothing_to_forget() -> None:
    assert metrics.learning_accuracy([[0.9]]) == pytest.approx(0.9)
    assert metrics.forgetting([[0.9]]) is None
    assert metrics.backward_transfer([[0.9]]) is None


def test_forward_transfer_needs_the_untrained_model() -> None:
    assert metrics.forward_transfer(MATRIX, []) is None
    with pytest.raises(DataError, match="initial has 2 values"):
        metrics.forward_transfer(MATRIX, [0.1, 0.2])


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([], "empty"),
        ([[]], "empty"),
        ([[0.1, 0.2], [0.3]], "different lengths"),
        ([[0.1], [0.2]], "2 rows for 1 tasks"),
        (torch.zeros(3), "2 dimensions"),
    ],
)
def test_what_is_not_a_matrix_is_refused(matrix: list[list[float]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        metrics.average_accuracy(matrix)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6).flatmap(lambda n: st.lists(st.tuples(*[st.floats(0, 1)] * n), min_size=n, max_size=n)))
def test_forgetting_is_at_least_the_negative_backward_transfer(matrix: list[tuple[float, ...]]) -> None:
    forgetting, transfer = metrics.forgetting(matrix), metrics.backward_transfer(matrix)
    assert forgetting is not None and transfer is not None
    assert forgetting >= -transfer - 1e-12
    assert -1 <= forgetting <= 1


# Two-sided 95 % and 99 % points, from the tables of the NIST/SEMATECH handbook, 1.3.6.7.2 (three decimals).
@pytest.mark.parametrize(
    ("freedom", "t95", "t99"),
    [(1, 12.706, 63.657), (2, 4.303, 9.925), (3, 3.182, 5.841), (9, 2.262, 3.25), (100, 1.984, 2.626)],
)
def test_quantiles_of_student(freedom: int, t95: float, t99: float) -> None:
    assert metrics.t_quantile(0.95, freedom) == pytest.approx(t95, abs=6e-4)
    assert metrics.t_quantile(0.99, freedom) == pytest.approx(t99, abs=6e-4)


def test_quantiles_that_have_a_closed_form() -> None:
    for level in (0.5, 0.9, 0.95):
        assert metrics.t_quantile(level, 1) == pytest.approx(math.tan(math.pi * level / 2), rel=1e-10)
        assert metrics.t_quantile(level, 2) == pytest.approx(level * math.sqrt(2 / (1 - level**2)), rel=1e-10)


def test_quantile_refuses_what_has_none() -> None:
    with pytest.raises(ConfigurationError, match="level is 1"):
        metrics.t_quantile(1.0, 3)
    with pytest.raises(ConfigurationError, match="freedom is 0"):
        metrics.t_quantile(0.95, 0)


def test_interval_by_hand() -> None:
    mean, half = metrics.interval([1.0, 2.0, 3.0])  # s = 1, n = 3
    assert mean == pytest.approx(2.0)
    assert half == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert metrics.interval([0.7]) == (0.7, None)
    assert metrics.interval([0.7, 0.7, 0.7])[1] == pytest.approx(0.0, abs=1e-15)
    with pytest.raises(DataError, match="values is empty"):
        metrics.interval([])


def test_worst_case_by_hand() -> None:
    # Task 1 was at worst 0.6 (after task 3), task 2 at worst 0.5; the last task stands at 1.
    assert metrics.minimum_accuracy(MATRIX) == pytest.approx((0.6 + 0.5) / 2)
    assert metrics.worst_case_accuracy(MATRIX) == pytest.approx(1.0 / 3 + 2 / 3 * 0.55)
    recovered = [[0.9, 0.1, 0.1], [0.2, 0.9, 0.1], [0.9, 0.9, 0.9]]  # forgotten and learned again
    assert metrics.forgetting(recovered) == pytest.approx(0.0)
    assert metrics.minimum_accuracy(recovered) == pytest.approx((0.9 + 0.9) / 2 - (0.9 - 0.2) / 2)
    assert metrics.worst_case_accuracy([[0.9]]) == 0.9 and metrics.minimum_accuracy([[0.9]]) is None
    assert metrics.worst_case_accuracy([[0.9, 0.8]]) is None  # joint: no history


def test_tests_within_tasks_show_the_dip_after_a_task_begins() -> None:
    rows = [[0.5, 0.1], [0.9, 0.1], [0.3, 0.2], [0.7, 0.6], [0.8, 0.9]]  # task 2 begins after row 1
    assert metrics.minimum_accuracy(rows, learned=[1, 4]) == 0.3
    assert metrics.worst_case_accuracy(torch.tensor(rows).double(), learned=[1, 4]) == pytest.approx(0.45 + 0.15)
    assert metrics.worst_case_accuracy([rows[1], rows[4]]) == pytest.approx(0.45 + 0.4)
    for learned in ([1], [4, 1], [1, 5], [-1, 4], [1, 1]):
        with pytest.raises(DataError, match="learned is"):
            metrics.minimum_accuracy(rows, learned=learned)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6).flatmap(lambda n: st.lists(st.tuples(*[st.floats(0, 1)] * n), min_size=n, max_size=n)))
def test_the_worst_case_is_no_better_than_the_end(matrix: list[tuple[float, ...]]) -> None:
    worst = metrics.worst_case_accuracy(matrix)
    assert worst is not None and 0 <= worst <= metrics.average_accuracy(matrix) + 1e-12


def test_prequential_by_hand() -> None:
    hits = [False, True, True, False, True]
    assert metrics.prequential_accuracy(hits) == pytest.approx([0, 1 / 2, 2 / 3, 2 / 4, 3 / 5])
    assert metrics.prequential_accuracy(torch.tensor(hits), window=2) == [0, 0.5, 1.0, 0.5, 0.5]
    assert metrics.prequential_accuracy([], window=3) == []
    with pytest.raises(ConfigurationError, match="window is 0"):
        metrics.prequential_accuracy(hits, window=0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), max_size=30), st.integers(1, 40))
def test_a_sliding_window_is_the_mean_of_its_last_hits(hits: list[bool], window: int) -> None:
    parts = [hits[max(0, end - window) : end] for end in range(1, len(hits) + 1)]
    assert metrics.prequential_accuracy(hits, window) == [sum(part) / len(part) for part in parts]


def test_repeating_the_last_label_is_what_a_stream_must_be_held_against() -> None:
    assert metrics.no_change([3, 3, 5, 5, 3]) == [False, True, False, True, False]
    assert metrics.no_change(torch.tensor([7])) == [False] and metrics.no_change([]) == []
    assert metrics.temporal_kappa(0.9, 0.8) == pytest.approx(0.5)
    assert metrics.temporal_kappa(0.7, 0.8) == pytest.approx(-0.5)
    assert metrics.temporal_kappa(1.0, 1.0) is None
