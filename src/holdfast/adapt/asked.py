"""What is asked of an adaptation, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.adapt.points import Point
from holdfast.adapt.training import Settings
from holdfast.auditing import Audit

__all__ = ["Asked", "Outcome"]


@dataclass(frozen=True)
class Asked:
    """What a user asked for.

    Attributes:
        model: what the model is called, as :func:`holdfast.adapt.opening.open_model` takes it.
        data: where the new data are.
        keep: where data of what must not be lost are; ``None``: they are gone.
        methods: names of the registry, or ``wise-ft``; none: the simplest one that can be used.
        settings: settings of methods, by method and name.
        trials: how many settings of each method are tried, the default first.
        hold: how much of the old may be lost: points of accuracy, or per cent of the loss.
        out: the folder to write.
        train: how everything is trained.
        text: the column of texts, where its name does not say so.
        label: the column of labels, likewise.
        classes: what the outputs are called, in order, where the model does not say.
        length: how many tokens of a text the model reads, if not what is usual.
        skip_broken: leave out what cannot be read.
        lora: the rank of adapters that are trained in place of all weights.
        command: what was typed.
    """

    model: str
    data: str
    out: str
    keep: str | None = None
    methods: tuple[str, ...] = ()
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    trials: int = 1
    hold: float | None = None
    train: Settings = field(default_factory=Settings)
    text: str | None = None
    label: str | None = None
    classes: tuple[str, ...] = ()
    length: int | None = None
    skip_broken: bool = False
    lora: int | None = None
    command: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        folder: where the model lies.
        chosen: the point that was chosen, on validation data.
        holds: whether it holds what was asked.
        points: all candidates.
        curve: the line from before to after.
        best: the candidates that no other beats in both, old and new; none without old data.
        audit: before and after on the test parts.
        main: whether this process is the one that wrote, of several.
    """

    folder: Path
    chosen: Point
    holds: bool
    points: tuple[Point, ...]
    curve: tuple[Point, ...]
    best: tuple[Point, ...]
    audit: Audit
    main: bool = True
