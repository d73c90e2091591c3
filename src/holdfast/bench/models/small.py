"""The small networks of published protocols: an MLP, and two of the sources' convolutional ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["cnn_anastrophic", "cnn_classp", "mlp"]


def mlp(shape: tuple[int, ...], widths: Sequence[int], dropout: float) -> tuple[nn.Module, int]:
    """Hidden layers with ReLU on flattened inputs."""
    layers: list[nn.Module] = [nn.Flatten()]
    features = torch.Size(shape).numel()
    for width in widths:
        layers += [nn.Linear(features, width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        features = width
    return nn.Sequential(*layers), features


def cnn_anastrophic(shape: tuple[int, int, int], dropout: float) -> tuple[nn.Module, int]:
    """The network of the Anastrophic release's two-task Split-MNIST."""
    channels, height, width = shape
    flat = 32 * (height // 4) * (width // 4)
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(flat, 128),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else [])), 128


def cnn_classp(shape: tuple[int, int, int], rates: tuple[float, float]) -> tuple[nn.Module, int]:
    """The network of the CLASSP release's MNIST then Fashion-MNIST.

    Its second dropout is the plain one: the release uses the channel-wise one on features ``[B, 128]``, which have no
    channels; PyTorch warns there, and drops single features as plain dropout does.
    """
    channels, height, width = shape
    flat = 64 * ((height - 4) // 2) * ((width - 4) // 2)
    trunk = nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout2d(rates[0]),
        nn.Flatten(),
        nn.Linear(flat, 128),
        nn.ReLU(),
        nn.Dropout(rates[1]),
    )
    return trunk, 128
