"""The embedded data set: scikit-learn's digits need no network and no folder."""

from __future__ import annotations

import torch

from holdfast.bench.data.sets import ImageDataset
from holdfast.bench.data.splitting import holdout
from holdfast.bench.records import seeding
from holdfast.errors import DependencyError

__all__ = ["load"]


def load() -> ImageDataset:
    """Scikit-learn's 8x8 digits: 0..16 spread over 0..255, a fifth of every class set aside as the test part.

    The split belongs to the data set: it is the same for every seed of a run.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DependencyError('the embedded digits need the bench: pip install "holdfast[bench]"') from error
    bundle = load_digits()
    images = (torch.from_numpy(bundle.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bundle.target).to(torch.int64)
    train, test = holdout(labels, 0.2, seeding.generator(0, "digits", "test"))
    return ImageDataset(
        "digits", images[train], labels[train], images[test], labels[test], tuple("0123456789"), (0.3053,), (0.3759,)
    )
