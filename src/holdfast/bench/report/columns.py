"""The columns of the summary: their words, units and direction, and a value over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from holdfast import metrics
from holdfast.bench.records.by_class import MEASURES
from holdfast.bench.records.likelihood import MEASURES as OF_WORDS

__all__ = ["BY_CLASS", "METRICS", "OF_WORDS", "Estimate", "Metric", "PublishedValue"]


@dataclass(frozen=True)
class Metric:
    """A column: its words, its unit on the page, and the direction in which it is better."""

    key: str
    title: str
    short: str
    unit: str
    better: Literal["higher", "lower"]
    scale: float
    digits: int
    signed: bool
    meaning: str
    exact: bool = False  # not a measurement: no interval where all seeds agree
    streamed: bool = False  # of answers before learning: in a table of its own


METRICS: tuple[Metric, ...] = (
    Metric("average_accuracy", "Average accuracy", "Avg. acc.", "%", "higher", 100, 2, False,
           "mean test accuracy over all tasks after the last one"),
    Metric("forgetting", "Forgetting", "Forgetting", "points", "lower", 100, 2, False,
           "mean drop of each earlier task from its best accuracy"),
    Metric("backward_transfer", "Backward transfer", "Backward", "points", "higher", 100, 2, True,
           "mean change of each earlier task since it was learned"),
    Metric("learning_accuracy", "Learning accuracy", "Learning", "%", "higher", 100, 2, False,
           "mean accuracy on each task right after learning it"),
    Metric("worst_case_accuracy", "Worst-case accuracy", "Worst case", "%", "higher", 100, 2, False,
           "the last task as it is, and each earlier one at its worst after any later task (WC-ACC)"),
    Metric("forward_transfer", "Forward transfer", "Forward", "points", "higher", 100, 2, True,
           "mean gain on each task before learning it, over the untrained model"),
    Metric("many", "Many samples", "Many", "%", "higher", 100, 2, False,
           "accuracy at the end on the classes with many training samples, where the stream's classes are unequal"),
    Metric("medium", "Medium", "Medium", "%", "higher", 100, 2, False, "likewise, on those in between"),
    Metric("few", "Few samples", "Few", "%", "higher", 100, 2, False, "likewise, on those with few training samples"),
    Metric("last_session", "Last session", "Last", "%", "higher", 100, 2, False,
           "accuracy over all classes after the last task, each class alike, where the stream's classes are unequal"),
    Metric("session_mean", "Mean of sessions", "Sessions", "%", "higher", 100, 2, False,
           "the mean over tasks of the accuracy over all classes so far"),
    Metric("performance_drop", "Performance drop", "PD", "points", "lower", 100, 2, False,
           "the accuracy after the first task less that over all classes after the last (PD)"),
    Metric("perplexity", "Perplexity", "Perplexity", "", "lower", 1, 1, False,
           "of the test texts of all tasks after the last one: exp of the mean loss of a word, in nats, averaged over "
           "tasks"),
    Metric("old_perplexity", "Perplexity, old", "Old", "", "lower", 1, 1, False,
           "likewise, of all tasks but the last"),
    Metric("new_perplexity", "Perplexity, new", "New", "", "lower", 1, 1, False, "likewise, of the last task"),
    Metric("nats_forgotten", "Forgotten per word", "Forgotten", "nats", "lower", 1, 3, True,
           "mean rise of each earlier task's loss of a word over its lowest before"),
    Metric("divergence", "Moved by the last task", "KL on new", "nats", "lower", 1, 3, False,
           "KL of the model before the last task from the model after it, a word of that task's own texts: it needs no "
           "old data, and foretells forgetting"),
    Metric("step_time", "Time per step", "Step time", "\u00d7 finetune", "lower", 1, 2, False,
           "median time of a training step, as a multiple of plain fine-tuning"),
    Metric("consolidate_seconds", "Consolidation", "Consolidate", "s", "lower", 1, 2, False,
           "seconds spent remembering, over the whole run"),
    Metric("peak_memory", "Peak memory", "Peak mem.", "MiB", "lower", 2**-20, 0, False,
           "largest memory in use during the run"),
    Metric("state_bytes", "State per parameter", "State", "bytes", "lower", 1, 1, False,
           "bytes that the method remembers for each parameter of the model", exact=True),
    Metric("prequential_accuracy", "Prequential accuracy", "Prequential", "%", "higher", 100, 2, False,
           "right answers to training samples when they were first met, before they were learned", streamed=True),
    Metric("no_change_accuracy", "Repeating the last label", "Last label", "%", "higher", 100, 2, False,
           "what answering each of these samples with the label of the one before would get", streamed=True),
    Metric("temporal_kappa", "Temporal kappa", "Kappa", "%", "higher", 100, 1, True,
           "share of what repeating the last label gets wrong that is got right; below 0: worse", streamed=True),
    Metric("worst_window", "Worst window", "Worst window", "%", "higher", 100, 2, False,
           "the lowest prequential accuracy of a whole window", streamed=True),
)  # fmt: skip


BY_CLASS = MEASURES
"""Those of streams whose classes have unequal numbers of samples."""


@dataclass(frozen=True)
class Estimate:
    """One value per seed, their mean, and the half-width of the 95 % interval (``None`` for one seed)."""

    mean: float
    half: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Estimate | None:
        """Summarise the values that exist; ``None`` where none does."""
        known = tuple(value for value in values if value is not None)
        return cls(*metrics.interval(known), known) if known else None


@dataclass(frozen=True)
class PublishedValue:
    """A number that somebody else reported, in the unit of the record (accuracies as fractions).

    ``method`` matches a row's method or its whole label. ``stream`` and ``scenario`` narrow it where given.
    """

    method: str
    metric: str
    value: float
    source: str
    stream: str | None = None
    scenario: str | None = None
