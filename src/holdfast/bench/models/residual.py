"""Residual networks (He et al. 2015, arXiv:1512.03385): the small one for small images, and ResNet-18."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["Block", "small", "standard18"]

Norm = Callable[[int], nn.Module]


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: the identity, or a 1x1 convolution where the shape changes.

    Args:
        entering: channels of the input.
        leaving: channels of the output.
        stride: of the first convolution and of the shortcut.
        norm: channels -> normalisation layer.
    """

    body: nn.Sequential
    shortcut: nn.Identity | nn.Sequential

    def __init__(self, entering: int, leaving: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(entering, leaving, 3, stride=stride, padding=1, bias=False),
            norm(leaving),
            nn.ReLU(),
            nn.Conv2d(leaving, leaving, 3, padding=1, bias=False),
            norm(leaving),
        )
        same = stride == 1 and entering == leaving
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(entering, leaving, 1, stride=stride, bias=False), norm(leaving))
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """relu(body + shortcut), ``[B, leaving, H / stride, W / stride]``."""
        return torch.relu(self.body(inputs) + self.shortcut(inputs))


def small(channels: int) -> tuple[nn.Module, int]:
    """Twenty layers for images of about 32 pixels: three stages of three blocks, widths 16, 32, 64.

    The normalisation is GroupNorm (8 groups), not the paper's BatchNorm: running statistics follow the latest task,
    and nothing that protects weights protects them.

    Args:
        channels: of the images.

    Returns:
        The trunk, and its number of features (64).
    """
    stem = [nn.Conv2d(channels, 16, 3, padding=1, bias=False), _group_norm(16), nn.ReLU()]
    return _network(stem, (16, 32, 64), blocks=3, norm=_group_norm), 64


def standard18(channels: int) -> tuple[nn.Module, int]:
    """ResNet-18 in its standard shapes: 7x7 stem of stride 2, max pooling, widths 64 to 512, BatchNorm.

    Args:
        channels: of the images.

    Returns:
        The trunk, and its number of features (512). With 1000 outputs on colour images: 11,689,512 parameters.
    """
    stem = [
        nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    return _network(stem, (64, 128, 256, 512), blocks=2, norm=nn.BatchNorm2d), 512


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(8, channels)


def _network(stem: Sequence[nn.Module], widths: Sequence[int], *, blocks: int, norm: Norm) -> nn.Module:
    """Stem, stages (each but the first halves the image), and the mean over the image."""
    stages: list[nn.Module] = []
    entering = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stages.append(Block(entering, width, 2 if stage and not block else 1, norm))
            entering = width
    trunk = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return trunk
