"""The figures of an audit against numbers computed independently, SciPy, and the definitions by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from holdfast.auditing import (
    brier_score,
    calibration_error,
    clustered_interval,
    flips,
    forward_kl,
    linear_cka,
    mcnemar,
    relative_distances,
    wilson_interval,
)
from holdfast.errors import ConfigurationError, DataError

DATA = Path(__file__).parents[1] / "data" / "audit.npz"


@pytest.fixture(scope="module")
def known() -> dict[str, Tensor]:
    with np.load(DATA) as arrays:
        return {name: torch.tensor(arrays[name]) for name in arrays}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_reference(known: dict[str, Tensor]) -> None:
    before, after, labels = known["logits_before"], known["logits_after"], known["labels"]
    found = flips(before.argmax(1), after.argmax(1), labels)
    assert found.negative_rate == pytest.approx(known["negative_flip_rate"].item(), abs=1e-12)
    assert found.positive_rate == pytest.approx(known["positive_flip_rate"].item(), abs=1e-12)
    assert found.relative_negative_rate == pytest.approx(known["relative_negative_flip_rate"].item(), abs=1e-12)
    assert found.between_wrong / found.count == pytest.approx(known["flips_between_wrong"].item(), abs=1e-12)
    assert mcnemar(found.negative, found.positive) == pytest.approx(known["mcnemar_exact_p"].item(), abs=1e-12)
    for side, logits in (("before", before), ("after", after)):
        confidence, answer = logits.softmax(1).max(1)
        wanted = known[f"ece_{side}"].item()
        assert calibration_error(confidence, answer == labels) == pytest.approx(wanted, abs=1e-12)
    assert forward_kl(before, after).mean().item() == pytest.approx(known["forward_kl"].item(), abs=1e-12)
    alike = linear_cka(known["features_before"], known["features_after"])
    assert alike == pytest.approx(known["linear_cka"].item(), abs=1e-12)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (8, 4), (1, 0), (0, 12), (500, 430), (20_000, 20_300)])
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    wanted = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("right", "count"), [(0, 1), (0, 20), (20, 20), (7, 10), (912, 1000)])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_wilson(right: int, count: int, level: float) -> None:
    wanted = stats.binomtest(right, count).proportion_ci(level, method="wilson")
    assert wilson_interval(right, count, level) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_an_interval_over_whole_samples_is_the_usual_one_where_each_has_one_part() -> None:
    values = random(40)
    mean, half = clustered_interval(values, torch.ones(40))
    assert mean == pytest.approx(values.mean().item(), abs=1e-14)
    assert half == pytest.approx(stats.norm.ppf(0.975) * values.std().item() / math.sqrt(40), rel=1e-12)


def test_repeating_every_part_within_its_sample_tells_nothing_new() -> None:
    values = random(30)
    once = clustered_interval(values, torch.ones(30))
    ten_times = clustered_interval(10 * values, torch.full((30,), 10.0))
    assert ten_times == pytest.approx(once, rel=1e-12)


def test_an_interval_leaves_out_samples_without_a_part() -> None:
    sums, counts = torch.tensor([1.0, 0.0, 2.0, 5.0]), torch.tensor([2.0, 0.0, 3.0, 4.0])
    assert clustered_interval(sums, counts) == clustered_interval(sums[[0, 2, 3]], counts[[0, 2, 3]])
    assert clustered_interval(sums[:1], counts[:1]) == (0.5, None)


def test_unbiased_similarity_by_its_definition() -> None:
    x, y = random(9, 4), random(9, 30, seed=1) + 2.0

    def hsic(k: Tensor, m: Tensor) -> float:  # Song et al. 2012, eq. 4: sums over tuples of different samples
        n, total = len(k), 0.0
        for i in range(n):
            for j in range(n):
                if j == i:
                    continue
                total += k[i, j] * m[i, j] / (n * (n - 1))
                for q in range(n):
                    if q in (i, j):
                        continue
                    total -= 2 * k[i, j] * m[i, q] / (n * (n - 1) * (n - 2))
                    for r in range(n):
                        if r not in (i, j, q):
                            total += k[i, j] * m[q, r] / (n * (n - 1) * (n - 2) * (n - 3))
        return float(total)

    k, m = x @ x.T, y @ y.T
    wanted = hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))
    assert linear_cka(x, y, unbiased=True) == pytest.approx(wanted, abs=1e-9)


def test_similarity_sees_neither_rotation_nor_scale_nor_shift() -> None:
    x = random(50, 6)
    turned = 3 * x @ torch.linalg.qr(random(6, 6, seed=2))[0] + 5
    for unbiased in (False, True):
        assert linear_cka(x, turned, unbiased=unbiased) == pytest.approx(1.0, abs=1e-9)


def test_unrelated_representations_of_few_samples_are_alike_in_the_plain_form_alone() -> None:
    x, y = random(100, 1000), random(100, 1000, seed=1)
    assert linear_cka(x, y) > 0.85
    assert abs(linear_cka(x, y, unbiased=True)) < 0.1


def test_brier_score_by_hand() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
    wanted = [0.3**2 + 0.2**2 + 0.1**2, 0.1**2 + 0.1**2 + 0.8**2 + 1.0]  # the second target is no column
    torch.testing.assert_close(brier_score(probabilities, torch.tensor([0, 5])), torch.tensor(wanted).double())


def test_kl_of_a_model_that_grew_is_over_what_it_had() -> None:
    old, new = random(5, 3), random(5, 4, seed=1)
    p, q = old.softmax(1), new[:, :3].softmax(1)
    torch.testing.assert_close(forward_kl(old, new), (p * (p / q).log()).sum(1))
    with pytest.raises(DataError, match="expected the model after to have at least"):
        forward_kl(new, old)


def test_distances_of_layers() -> None:
    before, after = torch.nn.Linear(3, 2).double(), torch.nn.Linear(3, 4).double()
    found = relative_distances(torch.nn.Sequential(before), torch.nn.Sequential(after))
    w, b = before.weight.detach(), before.bias.detach()
    moved = (after.weight.detach()[:2] - w).square().sum() + (after.bias.detach()[:2] - b).square().sum()
    assert found == {"0": pytest.approx((moved / (w.square().sum() + b.square().sum())).sqrt().item(), rel=1e-12)}


def test_bad_input() -> None:
    three, two = torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(DataError, match=r"shapes \(3,\) and \(2,\) and \(3,\)"):
        flips(three, two, three)
    with pytest.raises(DataError, match="N >= 1"):
        flips(three[:0], three[:0], three[:0])
    with pytest.raises(DataError, match="negative is -1"):
        mcnemar(-1, 3)
    with pytest.raises(DataError, match="right is 3 of 2"):
        wilson_interval(3, 2)
    with pytest.raises(ConfigurationError, match=r"level is 1\.5"):
        wilson_interval(1, 2, 1.5)
    with pytest.raises(ConfigurationError, match="bins is 0"):
        calibration_error(torch.zeros(2), torch.zeros(2), bins=0)
    with pytest.raises(DataError, match="same N >= 4"):
        linear_cka(random(3, 2), random(3, 2), unbiased=True)
    with pytest.raises(DataError, match="no sample has a part"):
        clustered_interval(torch.zeros(2), torch.zeros(2))
