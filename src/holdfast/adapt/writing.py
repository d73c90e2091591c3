"""The folder of an adapted model: the model itself, a card, the audit as numbers and as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from holdfast.adapt.asked import Asked, Outcome
from holdfast.adapt.opened import Opened
from holdfast.adapt.points import least, shown
from holdfast.auditing import words
from holdfast.bench.data.parts import counted
from holdfast.bench.records.writing import write_whole
from holdfast.bench.report.adapted import Front, front_section
from holdfast.bench.report.auditing import audit_page
from holdfast.files import write_file

__all__ = ["AUDIT", "CARD", "POINTS", "REPORT", "trained_on", "write"]

CARD, REPORT, AUDIT, POINTS = "README.md", "report.html", "audit.json", "candidates.json"


def write(
    folder: Path, asked: Asked, outcome: Outcome, opened: Opened, before: float | None, trained_on: Sequence[str]
) -> None:
    """Write everything.

    Args:
        folder: an empty one.
        asked: what was asked.
        outcome: what came of it.
        opened: the model.
        before: what the model before had on the old data's validation part.
        trained_on: what tells its training parts from any others, so that an audit knows them again.
    """
    opened.write(folder)
    outcome.audit.save(folder / AUDIT)
    points = {
        "before": before, "chosen": outcome.chosen.plain(), "candidates": [point.plain() for point in outcome.points],
        "curve": [point.plain() for point in outcome.curve],
        "trained_on": {"seed": asked.train.seed, "parts": list(trained_on)},
    }  # fmt: skip
    text = json.dumps(points, indent=1) + "\n"
    write_file(folder / POINTS, lambda file: file.write(text.encode()), what="points")
    front = Front(
        outcome.points, outcome.curve,
        best=outcome.best, chosen=outcome.chosen, before=before, least=least(before, asked.hold), holds=outcome.holds,
        unit="minus the loss in nats" if opened.kind == "language" else "accuracy, %",
        figure="perplexity" if opened.kind == "language" else "accuracy, %",
        shown=lambda value: shown(value, opened.kind),
    )  # fmt: skip
    section = front_section(front)
    page = audit_page(
        outcome.audit, title=f"{Path(asked.model).name or asked.model}, adapted", command=asked.command,
        first=[("What was kept and what was learned", section)],
    )  # fmt: skip
    write_whole(folder / REPORT, page, "report")
    write_whole(folder / CARD, _card(asked, outcome, opened, front), "model card")


def trained_on(model: str) -> tuple[int, tuple[str, ...]] | None:
    """The seed by which the data of an adapted model were cut, and what tells its training parts; ``None`` of others.

    Args:
        model: what it is called.
    """
    try:
        noted = json.loads((Path(model) / POINTS).read_text(encoding="utf-8"))["trained_on"]
        return int(noted["seed"]), tuple(map(str, noted["parts"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _card(asked: Asked, outcome: Outcome, opened: Opened, front: Front) -> str:
    """A model card: what it is, how it was made, what it kept and what it learned."""
    train, chosen = asked.train, outcome.chosen
    rate = opened.usual_lr if train.lr is None else train.lr
    library = {"images": "image-classification", "texts": "text-classification", "language": "text-generation"}
    settings = ", ".join(f"{key} {value}" for key, value in chosen.settings.items()) or "defaults"
    weight = f", {chosen.weight:g} of the way from before to after" if chosen.weight != 1 else ""
    lines = [
        "---",
        f"pipeline_tag: {library[opened.kind]}",
        "tags: [holdfast, continual-learning]",
        "---",
        "",
        f"# {Path(asked.model).name or asked.model}, adapted",
        "",
        f"`{asked.model}` was taught new data by [Holdfast](https://pypi.org/project/holdfast/) with the method "
        f"**{chosen.method}** ({settings}{weight}), so that it loses as little as possible of what it knew.",
        "",
        "## What was kept and what was learned",
        "",
        *_table(outcome),
        "",
        *(f"- {data.name}: {words.verdict(data)}" for data in outcome.audit.data),
        "",
        "Measured once, on parts of the data that nothing was trained on or chosen by. `report.html` shows all of it, "
        "`audit.json` has the numbers.",
        "",
        "## How it was made",
        "",
        f"{counted(train.epochs, 'epoch')}, batches of {train.batch_size}, {train.optimizer} at {rate:g} falling to 0, "
        f"seed {train.seed}, precision {train.precision}. Candidates on validation data:",
        "",
        f"| candidate | old ({front.figure}) | new ({front.figure}) |",
        "|---|---|---|",
        *(
            f"| {point.name} | {front.shown(point.kept)} | {front.shown(point.learned)} |"
            for point in [*outcome.points, *([] if outcome.chosen in outcome.points else [outcome.chosen])]
        ),
    ]
    if not outcome.holds and asked.hold is not None:
        lines += ["", f"No candidate lost at most {asked.hold:g}, as was asked; this one lost least."]
    if asked.command:
        lines += ["", "```", asked.command, "```"]
    return "\n".join(lines) + "\n"


def _table(outcome: Outcome) -> Sequence[str]:
    rows = ["| data | | before | after | change |", "|---|---|---|---|---|"]
    for data in outcome.audit.data:
        for what, before, after, change in words.figures(data)[:2]:
            rows.append(f"| {data.name} | {what} | {before} | {after} | {change} |")
    return rows
