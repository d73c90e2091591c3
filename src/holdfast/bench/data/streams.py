"""Streams of tasks from named data sets.

A name says what the stream is: ``split-D`` (the classes of D, k to a task), ``split-D-K`` (the same with k = K),
``permuted-D`` (all classes of D in every task, the pixels in another order), ``sequence-A-B-…`` (one task per
data set, which may come again), ``lm-sequence-A-B-…`` (likewise, texts to be continued; with paths among them it is of
one's own data, as ``instruct-A-B-…`` is: see `found.read`), ``longtail-D`` (all classes
of D in one task, each rarer than the one before; ``longtail-D-K``: K a task), ``fewshot-D-BASE-WAYxSHOT`` (a task of
BASE classes, then WAY a task with SHOT samples each). What the model must answer is the
scenario: see `build`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.nn import functional

from holdfast.bench.data import asked, assembling, drafts, language, named, scarce
from holdfast.bench.data import text as texts
from holdfast.bench.data.asked import Asked, Name
from holdfast.bench.data.drafts import Draft
from holdfast.bench.data.sets import ImageDataset
from holdfast.bench.data.tasks import Stream
from holdfast.errors import ConfigurationError, Option

__all__ = ["build", "by_path", "names"]


def names() -> dict[str, str]:
    """Stream name -> what it is, in a line. Other data sets and other numbers of classes follow the same grammar."""
    known = named.names()
    found = {f"split-{name}": f"5 tasks of 2 classes: {about}" for name, about in known.items()}
    found["split-mnist-5"] = "2 tasks, digits 0 to 4 and 5 to 9; any split-DATA-K has K classes a task"
    found |= {
        f"permuted-{name}": f"{Name('', 'permuted', (name,)).default_tasks} tasks of all classes, each with its own "
        f"order of pixels: {about}"
        for name, about in known.items()
    }
    found |= {f"longtail-{name}": f"1 task, each class rarer than the last: {about}" for name, about in known.items()}
    found["longtail-mnist-2"] = "5 tasks of 2 classes, each class rarer than the last; any longtail-DATA-K"
    found["fewshot-mnist-4-2x5"] = (
        "4 classes, then 3 tasks of 2 with 5 samples each; any fewshot-DATA-BASE-WAYxSHOT, class-incremental"
    )
    found["sequence-mnist-fashion_mnist"] = "2 tasks, one data set each; any sequence-A-B-… of one image shape"
    found["lm-sequence-imdb-financial_phrasebank"] = (
        "2 tasks, texts to be continued word by word; any lm-sequence-A-B-… of data sets of texts"
    )
    return found


def by_path() -> dict[str, str]:
    """Likewise, what streams of one's own data may be called, such as `found.read` takes."""
    return {
        "lm-sequence-imdb-./letters": "your own texts by path, alone or among data sets of texts; a task each",
        "instruct-./a.jsonl-./b.jsonl": "your own prompts to be answered, by path; a task each",
        "./pets": "your own data of any kind: a folder, a table, texts (docs/own-data.md)",
    }


def build(
    name: str, *, data_dir: Path | str | None = None, cache_dir: Path | str | None = None, **options: Any
) -> Stream:
    """A stream of tasks.

    Scenarios, for tasks of k classes:

    - ``task``: the model has one head of k outputs per task, and is told at test which one to use; targets are
      0 .. k-1 within the head.
    - ``domain``: all tasks share k outputs; targets are 0 .. k-1.
    - ``class``: every task brings k outputs of its own, and at test all outputs compete. `training_outputs` says
      which of them the training loss sees: ``all`` there will ever be, those ``seen`` so far, or the ``current``
      task's.

    Args:
        name: see the module; `names()` lists the ready ones.
        data_dir: see `named.load`.
        cache_dir: see `named.load`.
        **options: see `asked.Asked`; `seed` must be given.

    Returns:
        The stream, on the CPU.

    Raises:
        ConfigurationError: if the name is unknown, or an option does not fit it.
        DataError: if a data set cannot be read.
    """
    read = asked.parse(name, list(names()))
    wanted = asked.asked(options)
    wanted.check_fits(read)
    if read.kind == "language":
        return language.sequence(name, read.datasets, wanted, data_dir=data_dir, cache_dir=cache_dir)
    if read.of_text:
        of_texts = texts.options(wanted.text or {})
        cached, tokenizer = texts.load(read.datasets, of_texts, data_dir=data_dir, cache_dir=cache_dir)
    else:
        tokenizer = None
        cached = {
            each: named.load(each, data_dir=data_dir, cache_dir=cache_dir) for each in dict.fromkeys(read.datasets)
        }
    sets = [_padded(cached[each], wanted.pad) if wanted.pad else cached[each] for each in read.datasets]
    mean, std = (_per_channel(kind, getattr(wanted, kind), getattr(sets[0], kind)) for kind in ("mean", "std"))
    stream = assembling.assemble(name, _drafts(read, sets, wanted), wanted, mean=mean, std=std)
    if read.kind == "longtail":
        stream = scarce.long_tail(stream, wanted.imbalance or read.default_imbalance, wanted.seed)
    elif read.shots is not None:
        stream = scarce.few_shots(stream, read.shots, wanted.seed)
    if wanted.class_balance is not None:
        stream = scarce.balanced(stream, wanted.class_balance)
    return dataclasses.replace(stream, tokenizer=tokenizer)


def _drafts(name: Name, sets: list[ImageDataset], wanted: Asked) -> list[Draft]:
    if name.base is not None:
        assert name.classes is not None
        return drafts.base_then(sets[0], name.base, name.classes, wanted.tasks, wanted.class_order, wanted.seed)
    if name.kind == "longtail":
        per_task = wanted.classes_per_task or name.classes or sets[0].num_classes
        return drafts.split(sets[0], per_task, wanted.tasks, wanted.class_order, wanted.seed)
    if name.kind == "split":
        per_task = wanted.classes_per_task or name.classes or 2
        return drafts.split(sets[0], per_task, wanted.tasks, wanted.class_order, wanted.seed)
    if name.kind == "permuted":
        return drafts.permuted(sets[0], wanted.tasks or name.default_tasks, wanted.permutation, wanted.seed)
    return drafts.sequence(sets)


def _per_channel(option: str, value: float | Sequence[float] | None, default: tuple[float, ...]) -> tuple[float, ...]:
    if value is None:
        return default
    values = tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),) * len(default)
    if len(values) != len(default) or (option == "std" and min(values) <= 0):
        expected = "a positive number" if option == "std" else "a number"
        raise ConfigurationError(Option(option), f" is {value}; expected {expected}, or {len(default)} of them")
    return values


def _padded(dataset: ImageDataset, pad: int) -> ImageDataset:
    train, test = (functional.pad(images, (pad,) * 4) for images in (dataset.train_x, dataset.test_x))
    return dataclasses.replace(dataset, train_x=train, test_x=test)
