"""Bases and projections agree with numbers that were computed independently of this project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast import ConfigurationError, DataError, NumericsError
from holdfast.projections.basis import (
    extend_basis_of,
    extend_rows,
    null_basis,
    preserved_basis,
    scaled_importance,
)
from holdfast.projections.subspaces import extend_basis, project

DATA = Path(__file__).parents[1] / "data" / "subspaces.npz"


@pytest.fixture(scope="module")
def known() -> dict[str, Tensor]:
    with np.load(DATA) as arrays:
        return {name: torch.tensor(arrays[name]) for name in arrays}


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("of_covariance", [False, True])
def test_gpm_and_sgp_over_two_tasks(known, of_covariance):
    threshold = float(known["gpm_sgp/threshold"])

    def extend(basis, inputs):
        if of_covariance:
            return extend_basis_of(basis, inputs @ inputs.T, threshold=threshold)
        return extend_basis(basis, inputs, threshold=threshold)

    first = extend(None, known["gpm_sgp/R1"])
    second = extend(first, known["gpm_sgp/R2"])
    assert [first.shape[1], second.shape[1]] == known["gpm_sgp/ranks"].tolist()
    assert torch.equal(second[:, : first.shape[1]], first)
    close(first @ first.T, known["gpm_sgp/basis_projector_task1"])
    close(second @ second.T, known["gpm_sgp/basis_projector_task2"])
    close(second.T @ second, torch.eye(second.shape[1], dtype=torch.float64))
    close(project(known["gpm_sgp/grad"], second), known["gpm_sgp/grad_gpm"])

    alpha = float(known["gpm_sgp/sgp_alpha"])
    importance = None
    for basis, inputs in ((first, known["gpm_sgp/R1"]), (second, known["gpm_sgp/R2"])):
        importance = scaled_importance(importance, (basis.T @ inputs).square().sum(1), alpha=alpha)
    close(importance, known["gpm_sgp/sgp_importance"])
    close(project(known["gpm_sgp/grad"], second, importance), known["gpm_sgp/grad_sgp"])


def test_the_other_file(known):
    for threshold in (0.9, 0.95, 0.97, 0.99):
        first = extend_basis(None, known["gpm/inputs/0"], threshold=threshold)
        second = extend_basis(first, known["gpm/inputs/1"], threshold=threshold)
        if (first.shape[1], second.shape[1]) == (int(known["gpm/rank/0"]), int(known["gpm/rank/1"])):
            close(first @ first.T, known["gpm/projector/0"])
            close(second @ second.T, known["gpm/projector/1"])
            close(project(known["gpm/grad"], second), known["gpm/projected"])
            return
    pytest.fail("no threshold gives the ranks of the file")


def test_the_papers_null_space(known):
    basis = null_basis(known["null_space_adam/covariance"], multiple=float(known["null_space_adam/a"]))
    assert basis.shape[1] == int(known["null_space_adam/null_dim"])
    close(basis @ basis.T, known["null_space_adam/projector"])
    kept = preserved_basis(known["null_space_adam/covariance"], threshold=1.0)
    close(torch.eye(9, dtype=torch.float64) - kept @ kept.T, known["null_space_adam/projector"])


def test_edges_of_a_basis():
    inputs = torch.randn(5, 3, dtype=torch.float64)
    whole = extend_basis(None, inputs, threshold=1.0)
    assert whole.shape == (5, 3)  # no more than the inputs span, whatever rounding says
    assert extend_basis(whole, inputs, threshold=1.0).shape == (5, 3)
    assert extend_basis(None, torch.zeros(5, 3), threshold=0.9).shape == (5, 0)
    full = extend_basis(whole, torch.randn(5, 9, dtype=torch.float64), threshold=1.0)
    assert full.shape == (5, 5)
    assert extend_basis(full, torch.randn(5, 9, dtype=torch.float64), threshold=1.0).shape == (5, 5)
    with pytest.raises(ConfigurationError, match="threshold is 0"):
        extend_basis(None, inputs, threshold=0)
    with pytest.raises(DataError, match="expected 4"):
        extend_basis(whole, inputs[:4], threshold=0.5)
    with pytest.raises(DataError, match=r"expected \[d, n\]"):
        extend_basis(None, inputs[0], threshold=0.5)
    with pytest.raises(NumericsError):
        extend_basis(None, inputs / 0, threshold=0.5)


def test_rows_are_directions_of_their_own():
    counts = torch.tensor([5.0, 0.0, 3.0, 2.0, 0.0])
    one_hot = torch.diag(counts.sqrt()).double()
    for threshold in (0.4, 0.5, 0.8, 0.81, 1.0):
        rows = extend_rows(None, counts, threshold=threshold)
        basis = extend_basis(None, one_hot, threshold=threshold)
        assert torch.equal((basis @ basis.T).diagonal() > 0.5, rows)
    again = extend_rows(extend_rows(None, counts, threshold=0.5), torch.tensor([0.0, 4.0, 1.0, 0, 0]), threshold=0.8)
    assert again.tolist() == [True, True, False, False, False]
