"""What is asked of a stream beside its name: every option with its meaning, and which of them go together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from holdfast.bench.data import named
from holdfast.bench.data.drafts import Permutation
from holdfast.bench.data.splitting import check_share
from holdfast.bench.records.record import Scenario, TrainingOutputs
from holdfast.checks import check_count, unknown_name
from holdfast.errors import ConfigurationError, Option

__all__ = ["Asked", "Name", "asked", "check_continued", "parse", "usual_scenario"]


@dataclass(frozen=True)
class Name:
    """A stream's name, read: its kind, its data sets, and the numbers that the name itself gives.

    ``classes`` are those of a task; of a few-shot stream the first task has ``base`` of them, and every later class so
    many ``shots``.
    """

    text: str
    kind: str
    datasets: tuple[str, ...]
    classes: int | None = None
    base: int | None = None
    shots: int | None = None

    @property
    def of_text(self) -> bool:
        """Whether it is a stream of texts."""
        return self.datasets[0] in named.names(text=True)

    @property
    def default_tasks(self) -> int:
        """How many tasks permuted data have unless told otherwise."""
        return 5 if self.datasets[0] == "digits" else 10

    @property
    def default_imbalance(self) -> float:
        """How many times as frequent a long tail's first class is as its last."""
        return 20.0 if self.datasets[0] == "digits" else 100.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of a stream.

    Args:
        seed: fixes the validation part, and the order of pixels or of classes where these are seeded.
        scenario: what the model must answer.
        training_outputs: for the ``class`` scenario: the outputs that the training loss sees.
        tasks: how many: for a split the first so many (default: all classes), for permuted data 10 (digits: 5), of a
            few-shot stream with the base task.
        classes_per_task: for a split (default 2) or a long tail (default: all in one task).
        class_order: for a split, a long tail (the most frequent first) or a few-shot stream, the data set's labels in
            order of arrival, or ``"seeded"``; default ascending.
        imbalance: for a long tail, how many times as frequent the first class is as the last: 100 (digits: 20).
        class_balance: β of a training loss that weighs each class by how rare it is (``holdfast.ClassBalanced``).
        permutation: for permuted data. ``seeded``: task 0 has the pixels in order, every other an order drawn from
            `seed`. ``anpyc``: ``random.seed(t); random.shuffle(...)`` for every task t, the published ones.
        validation_fraction: share of every class that is set aside from each task's training data.
        limit_per_class: keep the first so many training samples of every class, for a quick version.
        test_limit_per_class: likewise for the test part.
        mean: replaces the (first) data set's own, per channel or one for all.
        std: likewise.
        pad: black pixels added on every side.
        text: for texts, any of `text.Options`; of texts to be continued, any of `language.Options`.
    """

    seed: int
    scenario: Scenario = "task"
    training_outputs: TrainingOutputs = "all"
    tasks: int | None = None
    classes_per_task: int | None = None
    class_order: Sequence[int] | Literal["seeded"] | None = None
    imbalance: float | None = None
    class_balance: float | None = None
    permutation: Permutation = "seeded"
    validation_fraction: float = 0.1
    limit_per_class: int | None = None
    test_limit_per_class: int | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    pad: int = 0
    text: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for option, choices in (
            ("scenario", get_args(Scenario)),
            ("training_outputs", get_args(TrainingOutputs)),
            ("permutation", get_args(Permutation)),
        ):
            if getattr(self, option) not in choices:
                raise ConfigurationError(
                    Option(option), f" is {getattr(self, option)!r}; expected one of {', '.join(choices)}"
                )
        if self.training_outputs != "all" and self.scenario != "class":
            raise ConfigurationError(
                Option("training_outputs", (self.training_outputs,)),
                " needs ",
                Option("scenario", ("class",)),
                f", got {self.scenario!r}",
            )
        for option in ("tasks", "classes_per_task", "limit_per_class", "test_limit_per_class"):
            check_count(option, getattr(self, option))
        given = self.imbalance
        if given is not None and (isinstance(given, bool) or not isinstance(given, int | float) or not given >= 1):
            raise ConfigurationError(Option("imbalance"), f" is {given!r}; expected a number of at least 1")
        if self.pad < 0:
            raise ConfigurationError(Option("pad"), f" is {self.pad}; expected at least 0")
        check_share("validation_fraction", self.validation_fraction)

    def check_fits(self, name: Name) -> None:
        """Refuse an option that a stream of this name would ignore: it is a mistake of the caller's.

        Raises:
            ConfigurationError: naming the option and what the stream is.
        """
        if self.classes_per_task is not None and name.classes not in (None, self.classes_per_task):
            raise ConfigurationError(
                Option("classes_per_task"),
                f" is {self.classes_per_task}, but the stream {name.text!r} says {name.classes}",
            )
        for option, kinds in _FOR.items():
            if name.kind not in kinds and getattr(self, option) != _DEFAULTS[option]:
                raise ConfigurationError(
                    Option(option), f" does not apply to the stream {name.text!r}, which is {name.kind}"
                )
        if name.kind == "fewshot" and self.scenario != "class":
            raise ConfigurationError(
                f"in the stream {name.text!r} all classes so far compete: it needs ",
                Option("scenario", ("class",)),
                f", got {self.scenario!r}",
            )
        if name.kind == "language":
            check_continued(name.text, self.scenario)
        for option in ("pad", "mean") if name.of_text else ("text",):
            if getattr(self, option):
                held = "texts" if name.of_text else "images"
                raise ConfigurationError(Option(option), f" does not apply to {name.text!r}, a stream of {held}")


_DEFAULTS = {each.name: each.default for each in dataclasses.fields(Asked)}
_OF_CLASSES = ("split", "longtail", "fewshot", "permuted", "sequence")
_FOR = {
    "classes_per_task": ("split", "longtail"),
    "class_order": ("split", "longtail", "fewshot"),
    "imbalance": ("longtail",),
    "permutation": ("permuted",),
    "tasks": ("split", "longtail", "fewshot", "permuted"),
    "class_balance": _OF_CLASSES,
    "limit_per_class": _OF_CLASSES,
    "test_limit_per_class": _OF_CLASSES,
}
"""Option -> the kinds of stream that it means something for, where that is not all of them."""


def check_continued(stream: str, scenario: Scenario) -> None:
    """Refuse a scenario in which texts cannot be continued.

    Raises:
        ConfigurationError: naming the one that fits.
    """
    if scenario != "domain":
        raise ConfigurationError(
            f"all tasks of the stream {stream!r} continue texts with the same words: it needs ",
            Option("scenario", ("domain",)),
            f", got {scenario!r}",
        )


def asked(options: Mapping[str, Any]) -> Asked:
    """The options that a caller gave, checked.

    Raises:
        ConfigurationError: for one that there is not, naming the nearest, or a value out of its range.
    """
    known = [each.name for each in dataclasses.fields(Asked)]
    for option in options:
        if option not in known:
            raise unknown_name("option of a stream", option, known)
    return Asked(**options)


def usual_scenario(name: str) -> Scenario:
    """What a stream's model must answer where nobody says."""
    return {"fewshot": "class", "lm": "domain"}.get(name.partition("-")[0], "task")  # type: ignore[return-value]  # each is one


def parse(name: str, ready: Sequence[str] = ()) -> Name:
    """A stream's name, read.

    Args:
        name: as typed.
        ready: names to suggest where it is none.

    Raises:
        ConfigurationError: naming the nearest names.
    """
    kind, *rest = name.split("-")
    numbered = kind in ("split", "longtail") and len(rest) == 2 and rest[1].isdecimal()
    classes = int(rest.pop()) if numbered else None
    known = [*named.names(), *named.names(text=kind == "sequence")]
    if all(each in known for each in rest):
        if kind == "sequence" and len(rest) >= 2:
            return Name(name, "sequence", tuple(rest))
        if kind in ("split", "longtail", "permuted") and len(rest) == 1:
            if classes == 0:
                raise ConfigurationError(f"the stream {name!r} has 0 classes per task; expected at least 1")
            return Name(name, kind, tuple(rest), classes)
    if kind == "fewshot":
        return _few_shots(name, rest, known)
    texts = named.names(text=True)
    if kind == "lm" and rest[:1] == ["sequence"] and len(rest) >= 3 and all(each in texts for each in rest[1:]):
        return Name(name, "language", tuple(rest[1:]))
    raise unknown_name("stream", name, list(ready))


def _few_shots(name: str, rest: Sequence[str], known: Sequence[str]) -> Name:
    """``fewshot-DATA-BASE-WAYxSHOT``, read."""
    ways, _, shots = rest[2].partition("x") if len(rest) == 3 else ("", "", "")
    numbers = [int(text) if text.isdecimal() else 0 for text in (*rest[1:2], ways, shots)]
    if len(rest) != 3 or min(numbers) < 1:
        raise ConfigurationError(
            f"the stream {name!r} must read fewshot-DATA-BASE-WAYxSHOT, such as fewshot-mnist-4-2x5: 4 base classes, "
            "then 2 a task with 5 samples each"
        )
    if rest[0] not in known:
        raise unknown_name("data set", rest[0], known)
    return Name(name, "fewshot", (rest[0],), numbers[1], base=numbers[0], shots=numbers[2])
