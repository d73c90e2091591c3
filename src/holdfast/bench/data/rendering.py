"""One's own samples as tensors: pixels of one size, numbered words, rows of features; with what that has to be told."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.bench.data import cache, text
from holdfast.bench.data.found import HELD, Found, FoundTask
from holdfast.bench.data.parts import Part, counted
from holdfast.bench.data.pictures import Pictures
from holdfast.errors import DataError

__all__ = ["Rendered", "render"]

_LARGEST, _DEFAULT = 64, 32  # sides of images, in pixels: what is kept as it is, and what all else becomes


@dataclass(frozen=True, eq=False)
class Rendered:
    """Data whose samples are tensors.

    Attributes:
        found: with a part to train on and one to test in each task.
        holds: ``grey``, ``colour``, ``texts`` or ``features``.
        about: what they hold, in a line.
        mean: per channel, of pixels scaled to [0, 1] and of the training parts alone; empty: there are no pixels.
        std: likewise.
        tokenizer: of texts, as in `text.encode`.
    """

    found: Found
    holds: str
    about: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    tokenizer: str | None = None


def render(
    there: Found, *, image_size: int | None, words: int | None, cache_dir: Path | str | None
) -> tuple[Rendered, list[str]]:
    """Samples as tensors, and what was decided on the way that nobody asked for, a sentence each.

    Args:
        there: the data.
        image_size: see `arranging.arrange`.
        words: likewise.
        cache_dir: see `cache.default_directory`.

    Raises:
        DataError: for samples that do not fit one another.
    """
    notes = [f"Left out of {there.place}: {line}." for line in there.left_out]
    untested = [task for task in there.tasks if "test" not in task.parts]
    if there.kind == "images":
        made = _images(there, image_size, notes, cache_dir)
    elif there.kind == "texts":
        made = _texts(there.with_test(), words)
    else:
        made = _features(there.with_test())
    if untested:
        held = sum(len(task.parts["test"]) for task in made.found.tasks if task.name in {u.name for u in untested})
        notes.append(
            f"{there.place} has no part to test: {counted(held, 'sample')}, {HELD:.0%} of every class, are held out "
            "for that, always the same."
        )
    count = sum(len(part) for task in there.tasks for part in task.parts.values())
    about = f"{count:,} {made.about} in {counted(len(there.classes), 'class')}"
    return replace(made, about=about), notes


def _with_samples(there: Found, rows: Sequence[Any]) -> Found:
    """The same data with other samples, given one after the other: task by task, part by part."""
    start, tasks = 0, []
    for task in there.tasks:
        parts = {}
        for name, part in task.parts.items():
            parts[name] = Part(rows[start : start + len(part)], part.labels, part.names)
            start += len(part)
        tasks.append(FoundTask(task.name, parts))
    return replace(there, tasks=tuple(tasks))


def _images(there: Found, asked: int | None, notes: list[str], cache_dir: Path | str | None) -> Rendered:
    samples = [part.samples for task in there.tasks for part in task.parts.values()]
    sizes = torch.cat([_sizes(each) for each in samples])
    least, most = sizes.min(0).values.tolist(), sizes.max(0).values.tolist()
    channels = most[2]
    width, height = (asked, asked) if asked is not None else (most[0], most[1])
    mixed = least[:2] != most[:2]
    if asked is None and (mixed or max(most[:2]) > _LARGEST):
        width = height = _DEFAULT
        shown = f"{least[0]}x{least[1]} to {most[0]}x{most[1]}" if mixed else f"{most[0]}x{most[1]}"
        notes.append(
            f"The images of {there.place} have {shown} pixels: they become {width}x{height} (image_size, or "
            "--image-size, says otherwise)."
        )
    if least[2] != most[2]:
        grey = int((sizes[:, 2] == 1).sum())
        notes.append(f"{counted(grey, 'image')} of {len(sizes):,} in {there.place} are grey: they become colour.")
    pixels = _pixels(samples, (width, height), "L" if channels == 1 else "RGB", cache_dir)
    made = _with_samples(there, pixels.unbind()).with_test()
    trained = torch.stack([row for task in made.tasks for row in task.parts["train"].samples])
    mean, std = _moments(trained)
    kind = "grey" if channels == 1 else "colour"
    return Rendered(made, kind, f"{kind} images of {width}x{height}", mean, std)


def _sizes(samples: Sequence[Any]) -> Tensor:
    if isinstance(samples, Pictures):
        return samples.sizes
    rows = [(*image.size, 1 if image.mode in ("1", "L", "LA") else 3) for image in samples]
    return torch.tensor(rows, dtype=torch.int32)


def _pixels(samples: Sequence[Any], size: tuple[int, int], mode: str, cache_dir: Path | str | None) -> Tensor:
    """All images, uint8 ``[N, C, H, W]``; kept on disk where they come from files."""
    width, height = size

    def build() -> dict[str, Tensor]:
        blob = bytearray()
        for image in (image for each in samples for image in each):
            ready = image.convert(mode)
            blob += (ready if ready.size == size else ready.resize(size, 2)).tobytes()  # 2: bilinear
        rows = torch.frombuffer(blob, dtype=torch.uint8).view(-1, height, width, len(mode))
        return {"pixels": rows.permute(0, 3, 1, 2).contiguous()}

    files = [file for each in samples if isinstance(each, Pictures) for file in each.files]
    if len(files) < sum(map(len, samples)):
        return build()["pixels"]
    order = "\n".join(map(str, files))  # the fingerprint sorts them
    key = hashlib.sha256(f"{cache.fingerprint(files)} {order} {size} {mode}".encode()).hexdigest()[:16]
    directory = Path(cache_dir).expanduser() if cache_dir else cache.default_directory()
    return cache.load_or_build(directory / f"own-{key}.safetensors", {"pixels": torch.uint8}, build)["pixels"]


def _moments(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel of pixels scaled to [0, 1], out of a count of their 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(pixels.shape[1]):
        share = torch.bincount(pixels[:, channel].flatten().int(), minlength=256).double()
        share /= share.sum()
        mean = float(share @ values)
        means.append(mean)
        stds.append(max(float(share @ (values - mean) ** 2) ** 0.5, 1 / 255))  # one colour alone has none
    return tuple(means), tuple(stds)


def _texts(there: Found, words: int | None) -> Rendered:
    options = text.Options() if words is None else text.options({"tokens": words})
    lines = [line for task in there.tasks for line in task.parts["train"].samples]
    tokenizer = text.train_tokenizer(lines, options)
    everything = [line for task in there.tasks for part in task.parts.values() for line in part.samples]
    made = _with_samples(there, text.encode(tokenizer, everything).unbind())
    return Rendered(made, "texts", f"texts, the first {options.tokens} words of each", tokenizer=tokenizer)


def _features(there: Found) -> Rendered:
    shapes = {tuple(row.shape) for task in there.tasks for part in task.parts.values() for row in part.samples}
    if len(shapes) > 1:
        raise DataError(f"{there.place} has features of shapes {', '.join(map(str, sorted(shapes)))}; expected one")
    (shape,) = shapes
    return Rendered(there, "features", f"rows of {'x'.join(map(str, shape))} features")
