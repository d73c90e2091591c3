"""Heads agree with numbers that were computed independently of this project, to 1e-9."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.heads import NCM, SLDA, FeCAM, RandomFourier, Ridge
from holdfast.heads.fecam import normalised_correlation
from holdfast.heads.maps import random_fourier, random_projection
from holdfast.heads.moments import summary
from holdfast.heads.slda import slda_weight, within_covariance

DATA = Path(__file__).parents[1] / "data" / "heads.npz"


@pytest.fixture(scope="module")
def known() -> dict[str, Tensor]:
    with np.load(DATA) as arrays:
        return {name: torch.tensor(arrays[name]) for name in arrays}


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def learned(head, inputs: Tensor, labels: Tensor, *, batch: int = 7):
    head.consolidate(list(zip(inputs.split(batch), labels.long().split(batch), strict=True)))
    return head


@pytest.mark.parametrize(
    ("name", "make"),
    [("ncm", NCM), ("slda", lambda: SLDA(shrinkage=1e-2)), ("ridge", lambda: Ridge(strength=3.0))],
)
def test_scores(known, name, make):
    head = learned(make(), known["heads/features"], known["heads/labels"])
    close(head(known["heads/query"]), known[f"heads/{name}/scores"])


def test_sums_and_the_heads_over_them(known):
    x, y, query = known["analytic_head/X"], known["analytic_head/y"], known["analytic_head/Xt"]
    ncm, ridge = learned(NCM(), x, y), learned(Ridge(strength=0.3), x, y)
    close(ncm(query), known["analytic_head/ncm_logits"])
    sums = summary(ridge._moments["all"])
    close(sums.counts, known["analytic_head/counts"])
    close(sums.means, known["analytic_head/means"])
    close(sums.gram(), known["analytic_head/gram"])
    close(within_covariance(sums.gram(), sums.sums, sums.counts) * len(x), known["analytic_head/within"])
    close(ridge._solve()["weight"], known["analytic_head/ridge_W"])
    for prior, name in ((False, "slda_logits"), (True, "slda_logits_prior")):
        close(learned(SLDA(prior=prior), x, y)(query), known[f"analytic_head/{name}"])


def test_the_covariance_does_not_depend_on_the_order_where_the_releases_does(known):
    x, y, order = known["analytic_head/X"], known["analytic_head/y"], known["analytic_head/order2"].long()
    for index in (torch.arange(len(y)), order):
        sums = summary(learned(SLDA(), x[index], y[index])._moments["all"])
        close(within_covariance(sums.gram(), sums.sums, sums.counts) * len(x), known["analytic_head/within"])
    first, second = known["analytic_head/hayes_sigma_in_order"], known["analytic_head/hayes_sigma_permuted"]
    assert (first - second).abs().max() > 1e-2


def test_ridge_is_where_the_recursion_arrives_task_after_task(known):
    x, y, query = known["analytic_head/X"], known["analytic_head/y"], known["analytic_head/Xt"]
    even = torch.arange(len(y)) % 2 == 0
    parts = [((y == 0) & even) | (y == 1), y == 2, (y == 3) | ((y == 0) & ~even)]
    head = Ridge(strength=0.3)
    for mask, name in zip(parts, ("acil_W_task1", "acil_W_task2", "ridge_W"), strict=True):
        learned(head, x[mask], y[mask])
        torch.testing.assert_close(head(query), query @ known[f"analytic_head/{name}"], rtol=1e-8, atol=1e-8)


def test_a_random_projection_then_ridge(known):
    x, y, query = known["analytic_head/X"], known["analytic_head/y"], known["analytic_head/Xt"]
    projection = known["analytic_head/projection"]
    head = learned(Ridge(lambda x: random_projection(x, projection), strength=0.3), x, y)
    close(head(query), known["analytic_head/ranpac_logits"])


def test_random_fourier_features_then_a_shrunken_covariance(known):
    features = lambda x: random_fourier(x, known["klda/omega"], known["klda/phase"])  # noqa: E731  # a one-line function
    query = features(known["klda/Xt"])
    close(query, known["klda/phi_test"])
    shrinkage = float(known["klda/shrinkage_of_mean_variance"])
    head = learned(SLDA(features, shrinkage=shrinkage, relative=True), known["klda/X"], known["klda/y"])
    torch.testing.assert_close(head(known["klda/Xt"]), known["klda/lda_logits"], rtol=1e-8, atol=1e-8)
    covariance = known["klda/within"] / len(known["klda/X"])
    weight, offset = slda_weight(covariance.clone(), known["klda/means"], shrinkage, relative=True)
    torch.testing.assert_close(query @ weight + offset, known["klda/lda_logits"], rtol=1e-8, atol=1e-8)


def test_discriminants_are_half_of_the_published_distances_but_for_a_constant(known):
    half, scores = known["klda/mahalanobis_logits"] / 2, known["klda/lda_logits"]
    features = lambda x: random_fourier(x, known["klda/omega"], known["klda/phase"])  # noqa: E731  # a one-line function
    shrinkage = float(known["klda/shrinkage_of_mean_variance"])
    head = learned(SLDA(features, shrinkage=shrinkage, relative=True), known["klda/X"], known["klda/y"])
    found = head(known["klda/Xt"])
    torch.testing.assert_close(found - found[:, :1], half - half[:, :1], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(scores - scores[:, :1], half - half[:, :1], rtol=1e-8, atol=1e-8)


def test_many_fourier_features_are_the_kernel(known):
    gamma, x = float(known["klda/gamma"]), known["klda/Xt"]
    map_ = RandomFourier(100_000, width=1.0)
    map_.fit(x)
    median = torch.pdist(x).median()
    map_.tensors["frequencies"] *= (2 * gamma) ** 0.5 * median  # of width 1/sqrt(2γ) in place of one median distance
    features = map_(x)
    torch.testing.assert_close(features @ features.T, known["klda/kernel_exact"], rtol=0, atol=0.02)


def test_fecam(known):
    features, labels = known["fecam/F"], known["fecam/y"]
    head = learned(FeCAM(), features, labels)
    close(head(known["fecam/Ft"]), -known["fecam/distance"])
    for label in head.classes:
        rows = features[labels == label].sqrt()
        close(normalised_correlation(rows.T.cov()), known["fecam/correlation"][label])


def test_squared_error_is_known_from_the_sums_alone(known):
    from holdfast.heads.chosen import held_error
    from holdfast.heads.moments import Moments, mirror

    x, y = known["analytic_head/X"], known["analytic_head/y"]
    moments = Moments()
    moments.add(x, y)
    moments.settle()
    mirror(moments.gram)
    weight, offset = torch.randn(7, 3).double(), torch.randn(3).double()
    wanted = torch.nn.functional.one_hot(y, 4)[:, 1:]  # class 0 is like none of the columns
    direct = (x @ weight + offset - wanted).square().sum() / len(x)
    # The samples of class 0 count with a target of 0 and a norm of 1.
    assert held_error(weight, offset, moments, (1, 2, 3)) == pytest.approx(
        float(direct) + float((y == 0).double().mean()), rel=1e-10
    )
