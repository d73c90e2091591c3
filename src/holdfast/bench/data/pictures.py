"""A folder of images by class, opened when they are asked for; which can be read, and how large they are, is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.bench.data import by_class, cache
from holdfast.bench.data.parts import Part, Samples, counted, in_order, listed
from holdfast.errors import DataError, DependencyError, Option

__all__ = ["ENDINGS", "Pictures", "read"]

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # modes of 16 bits a pixel


class Pictures(Sequence[Any]):
    """Images, opened when they are asked for, upright and with 8 bits a channel.

    Args:
        files: of the images.
        sizes: their widths, heights and channels (1 or 3), int32 ``[N, 3]``.
    """

    files: Sequence[Path]
    sizes: Tensor

    def __init__(self, files: Sequence[Path], sizes: torch.Tensor) -> None:
        self.files, self.sizes = files, sizes

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: Any) -> Any:
        return _opened(self.files[place])


def read(root: Path, *, skip_broken: bool, cache_dir: Path | str | None = None) -> Samples:
    """The images below a folder.

    Args:
        root: see `by_class.walk`.
        skip_broken: leave out what cannot be read.
        cache_dir: where it is kept which images can be read, and their sizes: see `cache.default_directory`.

    Raises:
        DataError: for a folder without images, a class without one, or an image that cannot be read.
    """
    leaves = by_class.walk(root, ENDINGS, "image")
    files = [file for pairs in leaves.parts.values() for file, _ in pairs]
    sizes = _sizes(files, cache_dir)
    broken = (sizes[:, 0] == 0).nonzero().flatten().tolist()
    if broken and not skip_broken:
        file = files[broken[0]]
        raise DataError(
            f"{file} is no image that can be read ({_reason(file)}); ", Option("skip_broken"), " leaves such out"
        )
    found, start = {}, 0
    for key, pairs in leaves.parts.items():
        mine = [k for k in range(len(pairs)) if int(sizes[start + k, 0]) > 0]
        for folder in dict.fromkeys(file.parent for file, _ in pairs):
            if not any(pairs[k][0].parent == folder for k in mine):
                raise DataError(f"{folder} holds no image that can be read; expected one, or no such folder")
        chosen = Pictures([pairs[k][0] for k in mine], sizes[[start + k for k in mine]])
        names = [file.relative_to(root).as_posix() for file in chosen.files]
        found[key] = Part(chosen, [pairs[k][1] for k in mine], names)
        start += len(pairs)
    left = list(leaves.beside)
    if broken:
        names = [files[k].relative_to(root).as_posix() for k in broken]
        left.append(f"{counted(len(broken), 'image')} that cannot be read: {listed(names)}")
    return Samples("images", found, in_order(label for part in found.values() for label in part.labels), left_out=left)


def _sizes(files: Sequence[Path], cache_dir: Path | str | None) -> torch.Tensor:
    """Width, height and channels of each image, int32 ``[N, 3]``; zeros for one that cannot be read."""

    def build() -> dict[str, torch.Tensor]:
        rows = []
        for file in files:
            try:
                image = _opened(file)
            except _broken():
                rows.append((0, 0, 0))
            else:
                rows.append((*image.size, 1 if image.mode in ("1", "L", "LA") else 3))
        return {"sizes": torch.tensor(rows, dtype=torch.int32).view(-1, 3)}

    directory = Path(cache_dir).expanduser() if cache_dir else cache.default_directory()
    key = hashlib.sha256(cache.fingerprint(files).encode()).hexdigest()[:16]
    return cache.load_or_build(directory / f"sizes-{key}.safetensors", {"sizes": torch.int32}, build)["sizes"]


def _pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise DependencyError("images need: pip install 'holdfast[bench]'") from error
    return Image, ImageOps


def _broken() -> tuple[type[Exception], ...]:
    """What Pillow raises for what is no image."""
    image, _ = _pillow()
    return (OSError, SyntaxError, ValueError, EOFError, image.DecompressionBombError)


def _opened(file: Path) -> Any:
    image_of, operations = _pillow()
    with image_of.open(file) as image:
        image.load()
        upright = operations.exif_transpose(image)  # a camera writes down how it was held
        if upright.mode in _WIDE:  # Pillow would cut off what is above 255
            import numpy as np

            return image_of.fromarray((np.asarray(upright).astype(np.uint32) >> 8).astype(np.uint8))
        if upright.mode == "F":
            raise ValueError("pixels are floating point")
        return upright if upright is not image else image.copy()


def _reason(file: Path) -> str:
    try:
        _opened(file)
    except _broken() as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return "it has changed"
