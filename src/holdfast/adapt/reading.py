"""One's own data in parts: to train on, to choose by, to test."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from holdfast.adapt.opened import Kind
from holdfast.adapt.samples import Part
from holdfast.errors import DataError, DependencyError, Option

__all__ = ["Reader"]

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_TABLES = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_TEXTS = ("text", "sentence", "content", "review", "document", "body", "message")
_LABELS = ("label", "labels", "class", "category", "target", "y", "sentiment")
_PARTS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
          "dev": "validation", "test": "test"}  # fmt: skip
_SAVED = ("dataset_dict.json", "dataset_info.json")  # what datasets leaves beside what it saves
_HELD = 0.2  # of what has no part of its own for that


@dataclass(frozen=True)
class Reader:
    """Reads data for a model.

    Attributes:
        kind: what the model reads.
        text: the column of texts, where its name does not say so.
        label: the column of labels, likewise.
        skip_broken: leave out what cannot be read, and say how many.
        seed: of the parts that have to be cut.
        say: is told of what was found.
    """

    kind: Kind
    text: str | None
    label: str | None
    skip_broken: bool
    seed: int
    say: Callable[[str], None] = field(default=lambda sentence: None)

    def parts(self, place: str) -> tuple[Part, Part, Part]:
        """To train on, to choose by, to test.

        What the data have no part for is cut from the training part, class by class.

        Args:
            place: a folder of images by class, a table, a text, or a folder of such in parts.

        Raises:
            DataError: if there are none, or some cannot be read.
        """
        found = self.found(place)
        train = found.get("train") or found.get("all")
        if train is None:
            raise DataError(f"{place} has a part for {', '.join(found)}, but none to train on; expected train")
        test = found.get("test") or None
        if test is None:
            train, test = self._cut(train, place)
        validation = found.get("validation") or None
        if validation is None:
            train, validation = self._cut(train, place)
        self.say(f"{place}: {len(train):,} to train on, {len(validation):,} to choose by, {len(test):,} to test")
        return train, validation, test

    def found(self, place: str) -> dict[str, Part]:
        """What lies at a place: part -> samples; ``all`` where there are no parts.

        Raises:
            DataError: if nothing that could be read does.
        """
        path = Path(place)
        if not path.exists():
            raise DataError(f"there is no {place}; expected a folder of images by class, a table or a text")
        if self.kind == "images":
            return self._pictures(path)
        if path.is_file():
            return {"all": self._written(path)}
        files = sorted(file for file in path.iterdir() if file.suffix in (*_TABLES, ".txt"))
        if not files or any((path / name).is_file() for name in _SAVED):
            return self._saved(path)
        named = {file: _PARTS.get(file.stem.lower()) for file in files}
        if all(named.values()):
            return {str(part): self._written(file) for file, part in named.items()}
        if len(files) > 1:
            shown = ", ".join(file.name for file in files[:4])
            raise DataError(f"{place} holds {shown}; expected one file, or files called train, validation, test")
        return {"all": self._written(files[0])}

    def _pictures(self, path: Path) -> dict[str, Part]:
        if path.is_file():
            raise DataError(f"{path} is a file; expected a folder of images by class: FOLDER/class/image.png")
        folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
        parts = {_PARTS[folder.name.lower()]: folder for folder in folders if folder.name.lower() in _PARTS}
        if parts and len(parts) == len(folders):
            return {part: self._by_class(folder) for part, folder in parts.items()}
        return {"all": self._by_class(path)}

    def _by_class(self, path: Path) -> Part:
        try:
            from PIL import Image
        except ImportError as error:
            raise DependencyError("images need: pip install 'holdfast[adapt]'") from error
        files, labels, broken = list[Path](), list[str](), list[str]()
        classes = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
        if not classes:
            raise DataError(
                f"{path} has no folders; expected one for each class, with its images: {path}/class/image.png"
            )
        for folder in classes:
            mine = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in _IMAGES]
            if not mine:
                raise DataError(
                    f"{folder} holds no image; expected files such as {folder.name}/1.png, or no such folder"
                )
            for file in mine:
                try:
                    with Image.open(file) as image:
                        image.load()
                except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for what is no image
                    if not self.skip_broken:
                        raise DataError(
                            f"{file} is no image that can be read ({_line(error)}); ", Option("skip_broken"),
                            " leaves such out",
                        ) from error  # fmt: skip
                    broken.append(file.name)
                    continue
                files.append(file)
                labels.append(folder.name)
        self._skipped(path, broken)
        return Part(_Images(files), labels, [str(file.relative_to(path)) for file in files])

    def _written(self, file: Path) -> Part:
        if file.suffix == ".txt":
            return self._plain(file)
        if file.suffix not in _TABLES:
            raise DataError(
                f"{file} is a {file.suffix or 'file without an ending'}; expected csv, jsonl, parquet or txt"
            )
        return self._table(_load(_TABLES[file.suffix], file), str(file))

    def _saved(self, path: Path) -> dict[str, Part]:
        """A folder that ``datasets`` wrote."""
        datasets = _datasets()
        try:
            loaded = datasets.load_from_disk(str(path))
        except (FileNotFoundError, OSError, ValueError) as error:
            raise DataError(
                f"{path} holds neither tables (csv, jsonl, parquet), texts nor what datasets saved; expected one"
            ) from error
        if isinstance(loaded, datasets.DatasetDict):
            named = {_PARTS.get(str(name).lower(), str(name)): rows for name, rows in loaded.items()}
            return {name: self._table(rows, f"{path} ({name})") for name, rows in named.items()}
        return {"all": self._table(loaded, str(path))}

    def _table(self, rows: Any, what: str) -> Part:
        text = _column(rows.column_names, self.text, _TEXTS, "text", what)
        texts = rows[text]
        labels: list[str] = []
        if self.kind == "texts":
            label = _column(rows.column_names, self.label, _LABELS, "label", what)
            labels = _names(rows, label, what)
        broken = [k for k, value in enumerate(texts) if not isinstance(value, str) or not value.strip()]
        if broken and not self.skip_broken:
            raise DataError(
                f"row {broken[0] + 1} of {what} has no text in {text!r}; ", Option("skip_broken"), " leaves such out"
            )
        self._skipped(what, broken)
        good = sorted(set(range(len(texts))) - set(broken))
        return Part(
            [texts[k] for k in good], [labels[k] for k in good] if labels else [], [_called(texts[k], k) for k in good]
        )

    def _plain(self, file: Path) -> Part:
        if self.kind != "language":
            raise DataError(f"{file} is a text without labels; expected a table with columns for text and label")
        try:
            whole = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is no text in UTF-8: {error}") from error
        texts = [part.strip() for part in whole.split("\n\n" if "\n\n" in whole else "\n") if part.strip()]
        if not texts:
            raise DataError(f"{file} holds no text")
        return Part(texts, [], [_called(text, k) for k, text in enumerate(texts)])

    def _skipped(self, what: object, broken: Sequence[Any]) -> None:
        if broken:
            self.say(f"{what}: {len(broken)} left out that could not be read, the first {broken[0]}")

    def _cut(self, part: Part, what: str) -> tuple[Part, Part]:
        """A part in two, every class in both.

        Raises:
            DataError: if a class has too few samples.
        """
        groups: dict[str, list[int]] = {}
        for place, label in enumerate(part.labels or [""] * len(part)):
            groups.setdefault(label, []).append(place)
        generator = torch.Generator().manual_seed(self.seed)
        held: list[int] = []
        for label, places in sorted(groups.items()):
            if len(places) < 2:
                named = f"class {label!r} of {what}" if label else what
                raise DataError(
                    f"{named} has {len(places)} sample; expected at least 3: to train on, choose by and test"
                )
            shuffled = [places[k] for k in torch.randperm(len(places), generator=generator).tolist()]
            held += shuffled[: max(1, round(_HELD * len(places)))]
        held = sorted(held)
        kept = sorted(set(range(len(part))) - set(held))
        return _some(part, kept), _some(part, held)


class _Images(Sequence[Any]):
    """Images, opened when they are asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, place: Any) -> Any:
        from PIL import Image

        with Image.open(self._files[place]) as image:
            image.load()
            return image.copy()


class _Some(Sequence[Any]):
    def __init__(self, samples: Sequence[Any], places: Sequence[int]) -> None:
        self._samples, self._places = samples, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: Any) -> Any:
        return self._samples[self._places[place]]


def _some(part: Part, places: Sequence[int]) -> Part:
    labels = [part.labels[k] for k in places] if part.labels else []
    return Part(_Some(part.samples, places), labels, [part.names[k] for k in places])


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DependencyError("tables need: pip install 'holdfast[adapt]'") from error
    return datasets


def _load(kind: str, file: Path) -> Any:
    """A table's rows; read anew each time, so that no cache outlives a file that changed."""
    datasets = _datasets()
    reader = {"csv": datasets.Dataset.from_csv, "json": datasets.Dataset.from_json,
              "parquet": datasets.Dataset.from_parquet}[kind]  # fmt: skip
    options = {"sep": "\t"} if file.suffix == ".tsv" else {}
    try:
        with tempfile.TemporaryDirectory() as cache, _quiet(datasets):
            return reader(str(file), keep_in_memory=True, cache_dir=cache, **options)
    except Exception as error:  # each format has errors of its own
        raise DataError(f"{file} could not be read as {kind}: {_line(error)}") from error


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without the bars that ``datasets`` draws."""
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not shown:
            datasets.enable_progress_bars()


def _column(columns: Sequence[str], asked: str | None, usual: Sequence[str], option: str, what: str) -> str:
    """The column that was asked for, or the one whose name says what it is.

    Raises:
        DataError: if there is none; naming those there are.
    """
    if asked is not None:
        if asked not in columns:
            raise DataError(f"{what} has no column {asked!r}; it has {', '.join(columns)}")
        return asked
    lower = {column.lower(): column for column in reversed(columns)}
    for name in usual:
        if name in lower:
            return lower[name]
    raise DataError(
        f"{what} has columns {', '.join(columns)}, none of which is called {', '.join(usual[:3])} or the like: say "
        "which with ", Option(option),
    )  # fmt: skip


def _names(rows: Any, column: str, what: str) -> list[str]:
    """Each row's class as a name."""
    feature = rows.features[column]
    values = rows[column]
    missing = next((k for k, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise DataError(f"row {missing + 1} of {what} has no label in {column!r}")
    if hasattr(feature, "int2str"):
        return [str(feature.int2str(value)) for value in values]
    odd = next((value for value in values if isinstance(value, float)), None)
    if odd is not None:
        raise DataError(f"the column {column!r} of {what} holds {odd!r}; expected names or whole numbers of classes")
    return [str(value) for value in values]


def _called(text: str, row: int, most: int = 120) -> str:
    """What a text is called: its row, and how it begins."""
    line = " ".join(text.split())
    return f"{row + 1}: {line if len(line) <= most else line[: most - 1] + '…'}"


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
