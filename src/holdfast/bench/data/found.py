"""One's own data, read by what they are: whatever lies at a path, or is behind a name, as samples with their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.bench.data import finding, placed
from holdfast.bench.data.columns import Meaning
from holdfast.bench.data.parts import Kind, Part, cut, in_order, joined, natural
from holdfast.bench.data.placed import Placed
from holdfast.errors import DataError, Option

__all__ = ["HELD", "SHOWN", "Found", "FoundTask", "read"]

HELD = 0.2
"""The share that is held out as a test part of data that have none."""


@dataclass(frozen=True, eq=False)
class FoundTask:
    """One task of what was found.

    Attributes:
        name: empty where the data say nothing of tasks.
        parts: ``train``, ``validation``, ``test``, or ``all`` where the data have no parts.
    """

    name: str
    parts: Mapping[str, Part]


@dataclass(frozen=True, eq=False)
class Found:
    """What lies at a place.

    Attributes:
        place: as it was given.
        kind: ``images``, ``texts`` (with labels), ``language`` (texts without), ``answers`` (pairs of a prompt and its
            answer) or ``features``.
        tasks: in natural order of their names; one without a name where the data say nothing of tasks.
        classes: the names of all classes in order: as the source says, else whole numbers by value, names by letter.
        columns: of a table: what a column is used for (``text``, ``label``, ``task``, …) -> its name.
        left_out: a sentence for each kind of thing that is not among the samples.
        called: what a reader calls it, if that is not what its place is called.
    """

    place: str
    kind: Kind
    tasks: tuple[FoundTask, ...]
    classes: tuple[str, ...]
    columns: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    called: str = ""

    @property
    def name(self) -> str:
        """What a reader calls it: the folder's, the file's or the data set's own name, on any machine."""
        if self.called:
            return self.called
        path = Path(self.place).expanduser()
        return (path.resolve().name if path.is_dir() else path.stem) if path.exists() else self.place.split("/")[-1]

    @property
    def has_tasks(self) -> bool:
        """Whether the data say which task a sample belongs to."""
        return any(task.name for task in self.tasks)

    def parts(self) -> dict[str, Part]:
        """Part -> the samples of all tasks; ``all`` where there are no parts."""
        names = dict.fromkeys(name for task in self.tasks for name in task.parts)
        return {name: joined(*(task.parts[name] for task in self.tasks if name in task.parts)) for name in names}

    def with_test(self, *, fraction: float = HELD, seed: int = 0) -> Found:
        """The same, every task with a part to train on and one to test, which is held out where the data have none.

        Args:
            fraction: the share that is held out, of every class; at least one sample.
            seed: draws which.

        Raises:
            DataError: for a class with one sample, or a task without a training part.
        """
        return replace(self, tasks=tuple(self._held(task, fraction, seed) for task in self.tasks))

    def _held(self, task: FoundTask, fraction: float, seed: int) -> FoundTask:
        what = f"{self.place}{f', {task.name}' if task.name else ''}"
        train = task.parts.get("train") or task.parts.get("all")
        if train is None:
            raise DataError(f"{what} has a part for {', '.join(task.parts)}, but none to train on; expected train")
        kept = {name: part for name, part in task.parts.items() if name not in ("train", "all")}
        if "test" not in kept:
            train, kept["test"] = cut(train, fraction, seed=seed, what=what)
        return FoundTask(task.name, {"train": train, **kept})


def read(
    place: str | Path,
    *,
    text: str | None = None,
    label: str | None = None,
    task: str | None = None,
    kind: Kind | None = None,
    skip_broken: bool = False,
    data_dir: Path | str | None = None,
    cache_dir: Path | str | None = None,
) -> Found:
    """What lies at a place, recognised.

    Args:
        place: a folder of images or of texts (.txt) by class (``FOLDER/class/file``; ``train``, ``test`` and
            ``validation`` above the classes; or tasks, ``FOLDER/task-1/class/file``); a table (CSV, TSV, JSON lines,
            Parquet), a text, or features (safetensors, npz), or a folder of such called ``train`` and ``test``, or
            ``task-1`` and so on; what ``datasets`` saved; a named data set of the bench; an id of the Hub; or several
            of these, a task each: ``lm-sequence-A-B-…`` (texts) and ``instruct-A-…`` (prompts with answers).
        text: the column of texts, where its name does not say so.
        label: the column of labels, likewise.
        task: the column of tasks, likewise.
        kind: what it has to be; ``None``: whatever it is.
        skip_broken: leave out what cannot be read, and say so in `Found.left_out`.
        data_dir: where named data sets are: see `named.load`.
        cache_dir: where facts about the files are kept: see `cache.default_directory`.

    Raises:
        DataError: if there is nothing, it cannot be read, or is not what it has to be; in one sentence.
    """
    several = placed.read(str(place))
    if several is not None:
        reading: dict[str, Any] = {
            "text": text,
            "label": label,
            "task": task,
            "skip_broken": skip_broken,
            "data_dir": data_dir,
        }
        if kind not in (None, several.kind):
            raise DataError(f"{place} holds {SHOWN[several.kind]}; expected {SHOWN[kind or several.kind]}")
        return _together(str(place), several, [read(each, kind=several.kind, **reading) for each in several.places])
    told = Meaning(text, label, task)
    sources = finding.sources(str(place), told, kind, skip_broken=skip_broken, data_dir=data_dir, cache_dir=cache_dir)
    kinds = list(dict.fromkeys(samples.kind for _, samples in sources))
    if len(kinds) > 1:
        raise DataError(f"{place} holds {' and '.join(kinds)}; expected one kind")
    if kind is not None and kinds[0] != kind:
        raise DataError(f"{place} holds {SHOWN[kinds[0]]}; expected {SHOWN[kind]}")
    if not any(samples.columns for _, samples in sources):
        for option, column in (("text", text), ("label", label), ("task", task)):
            if column is not None:
                raise DataError(
                    f"{place} holds {SHOWN[kinds[0]]}, and no table with a column {column!r}; expected no ",
                    Option(option),
                )
    tasks: dict[str, dict[str, list[Part]]] = {}
    for (outer_task, outer_part), samples in sources:
        for (inner_task, inner_part), part in samples.parts.items():
            key = inner_part if outer_part == "all" else outer_part
            tasks.setdefault(outer_task or inner_task, {}).setdefault(key, []).append(part)
    found = [
        FoundTask(name, {key: joined(*parts) for key, parts in tasks[name].items()})
        for name in sorted(tasks, key=natural)
    ]
    labels = dict.fromkeys(label for _, samples in sources for label in samples.classes)
    ordered = all(samples.ordered for _, samples in sources)
    return Found(
        str(place),
        kinds[0],
        tuple(found),
        tuple(labels if ordered else in_order(labels)),
        dict(sources[0][1].columns),
        tuple(line for _, samples in sources for line in samples.left_out),
    )


def _together(name: str, asked: Placed, sets: list[Found]) -> Found:
    """Several data sets as tasks in the order in which they were named; one that has tasks keeps them."""
    tasks: list[FoundTask] = []
    for each in sets:
        for task in each.tasks:
            own = "/".join(part for part in (each.name if len(sets) > 1 or not task.name else "", task.name) if part)
            twins = sum(other.name.partition(" (")[0] == own for other in tasks)
            tasks.append(FoundTask(f"{own} ({twins + 1})" if twins else own, task.parts))
    return Found(
        name,
        asked.kind,
        tuple(tasks),
        (),
        sets[0].columns,
        tuple(line for each in sets for line in each.left_out),
        called="-".join([asked.family, *(each.name for each in sets)]),
    )


SHOWN: Mapping[Kind, str] = {
    "images": "images by class",
    "texts": "texts with labels",
    "language": "texts without labels",
    "answers": "prompts and answers",
    "features": "saved features",
}
"""Kind -> what a reader calls such data."""
