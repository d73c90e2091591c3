"""The embedded data set: scikit-learn's digits need no network and no folder."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from holdfast.bench.data.sets import ImageDataset
from holdfast.bench.data.splitting import holdout
from holdfast.bench.records import seeding
from holdfast.errors import DependencyError

__all__ = ["load"]

_FILE = Path("datasets", "data", "digits.csv.gz")


def load() -> ImageDataset:
    """Scikit-learn's 8x8 digits: 0..16 spread over 0..255, a fifth of every class set aside as the test part.

    The split belongs to the data set: it is the same for every seed of a run.
    """
    images, labels = _read()
    images = (images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    train, test = holdout(labels, 0.2, seeding.generator(0, "digits", "test"))
    return ImageDataset(
        "digits", images[train], labels[train], images[test], labels[test], tuple("0123456789"), (0.3053,), (0.3759,)
    )


def _read() -> tuple[Tensor, Tensor]:
    """Images, float64 ``[N, 8, 8]``, and labels: from the file, for scikit-learn takes three seconds to import."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DependencyError('the embedded digits need the bench: pip install "holdfast[bench]"')
    path = Path(spec.origin).parent / _FILE
    if not path.is_file():
        return _imported()
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = torch.tensor([[float(cell) for cell in line.split(",")] for line in file], dtype=torch.float64)
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].to(torch.int64)


def _imported() -> tuple[Tensor, Tensor]:
    """What :func:`_read` returns, by scikit-learn's own function."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    return torch.from_numpy(bundle.images), torch.from_numpy(bundle.target).to(torch.int64)
