"""Random filters on patches, against the same written out patch by patch."""

from __future__ import annotations

import pytest
import torch

from holdfast import ConfigurationError, DataError
from holdfast.heads import SLDA, RandomPatches
from holdfast.heads.patches import patch_features, whitening


def images(number: int = 12, channels: int = 1, side: int = 9) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(number, channels, side, side, generator=draw, dtype=torch.float64).cumsum(3)


@pytest.mark.parametrize("channels", [1, 3])
def test_responses_are_those_of_single_patches(channels):
    x, k, n = images(3, channels), 5, 3
    filters = torch.randn(k, channels, n, n, dtype=torch.float64)
    filters -= filters.mean((1, 2, 3), keepdim=True)
    offsets, floor = torch.randn(k, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    found = patch_features(x, filters, offsets, floor, 2).view(3, k, 2, 2)
    for number in range(3):
        responses = torch.zeros(k, 7, 7, dtype=torch.float64)
        for row in range(7):
            for column in range(7):
                patch = x[number, :, row : row + n, column : column + n].flatten()
                normal = (patch - patch.mean()) / (patch.var(unbiased=False) + floor).sqrt()
                responses[:, row, column] = filters.flatten(1) @ normal - offsets
        rectified = responses.relu()
        # Cells of an odd side overlap by a row and a column.
        cells = [[rectified[:, a:b, c:d].mean((1, 2)) for c, d in ((0, 4), (3, 7))] for a, b in ((0, 4), (3, 7))]
        wanted = torch.stack([torch.stack(row, -1) for row in cells], -2)
        torch.testing.assert_close(found[number], wanted, rtol=1e-9, atol=1e-12)


def test_whitened_patches_have_covariance_one():
    patches = torch.randn(500, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 3
    white, mean = whitening(patches, 1e-12)
    done = (patches - mean) @ white
    torch.testing.assert_close(done.mT @ done / 500, torch.eye(6, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(white, white.mT)


def test_sizes_and_that_blocks_do_not_matter(monkeypatch):
    for channels, size in ((1, 4 * 9), (3, 4 * 9)):
        x = images(channels=channels)
        features = RandomPatches(4)
        features.fit(x)
        whole = features(x)
        assert whole.shape == (12, size)
        monkeypatch.setattr("holdfast.heads.patches._BLOCK", 500)
        torch.testing.assert_close(features(x), whole)
        monkeypatch.undo()


def test_a_threshold_is_in_standard_deviations_of_the_responses_to_the_patches_it_was_fitted_to():
    x = images(channels=3, side=6)  # one patch each, so that all of them are seen
    plain, above = (RandomPatches(5, pool=1, threshold=threshold) for threshold in (0.0, 1.5))
    for features in (plain, above):
        features.fit(x)
    filters, floor = plain.tensors["filters"].double(), plain.tensors["floor"].double()
    rows = x.flatten(1)
    normal = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, unbiased=False, keepdim=True) + floor).sqrt()
    responses = normal @ filters.flatten(1).mT - plain.tensors["offsets"].double()
    torch.testing.assert_close(responses.mean(0), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(above(x), (responses - 1.5 * responses.std(0, unbiased=False)).relu(), rtol=0, atol=1e-5)
    default = RandomPatches(5, pool=1)
    default.fit(x)
    assert not torch.equal(default.tensors["offsets"], plain.tensors["offsets"])


def test_drawn_from_its_seed_and_fitted_to_the_first_task_alone():
    x = images(30)
    y = torch.arange(30) % 3
    heads = [SLDA(RandomPatches(3, seed=seed), shrinkage=0.1) for seed in (0, 0, 1)]
    for head in heads:
        head.consolidate([(x[:20], y[:20])])
    assert torch.equal(heads[0](x), heads[1](x)) and not torch.equal(heads[0](x), heads[2](x))
    before = {name: tensor.clone() for name, tensor in heads[0].expand.tensors.items()}
    heads[0].consolidate([(5 * x[20:], y[20:])])
    assert all(torch.equal(tensor, heads[0].expand.tensors[name]) for name, tensor in before.items())


def test_refusals():
    for x in (torch.rand(4, 20), torch.rand(4, 1, 5, 5)):
        with pytest.raises(DataError, match="expected images"):
            SLDA(RandomPatches(3)).consolidate([(x, torch.arange(4))])
    features = RandomPatches(3)
    with pytest.raises(DataError, match="not drawn yet"):
        features(images())
    features.fit(images())
    with pytest.raises(DataError, match="3 channels; expected 1"):
        features(images(channels=3))
    with pytest.raises(ConfigurationError, match="floor is 0"):
        RandomPatches(floor=0)
