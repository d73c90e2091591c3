"""The whole page: one HTML file without scripts, fonts, images or links to anywhere."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from holdfast.bench.records.record import Record
from holdfast.bench.records.writing import write_whole
from holdfast.bench.report import sections
from holdfast.bench.report.charts import series_of
from holdfast.bench.report.columns import PublishedValue
from holdfast.bench.report.document import document
from holdfast.bench.report.history import STEPS
from holdfast.bench.report.summary import CONTROLS, groups
from holdfast.bench.report.svg import el, text
from holdfast.errors import DataError

__all__ = ["render", "write"]


def render(
    records: Sequence[Record],
    *,
    title: str = "What was kept, what was learned",
    commands: Sequence[str] = (),
    published: Sequence[PublishedValue] = (),
    extra: Sequence[tuple[str, str]] = (),
    controls: Collection[str] = CONTROLS,
) -> str:
    """The report of any records, as one HTML page that needs no network and no script.

    Args:
        records: finished, failed and interrupted runs of any streams.
        title: the page's heading.
        commands: what to type to repeat the whole comparison; the command of every run is listed after them.
        published: values that others reported, drawn in beside ours.
        extra: further sections, as pairs of a heading (plain text) and HTML that the caller has escaped.
        controls: methods to mark as controls.

    Returns:
        The text of the file.

    Raises:
        DataError: if there is neither a record nor a further section.
    """
    if not records and not extra:
        raise DataError("there are no records to report on")
    found = groups(records, controls=controls) if records else []
    series = series_of(found)
    parts = [sections.group_section(f"g{k}", group, series, published) for k, group in enumerate(found)]
    parts += [
        el("section", el("h2", text(heading)), html, id=f"extra{k}", class_="extra")
        for k, (heading, html) in enumerate(extra)
    ]
    links = [(f"g{k}", group.title) for k, group in enumerate(found)]
    links += [(f"extra{k}", heading) for k, (heading, _) in enumerate(extra)]
    facts = ""
    if records:
        parts += [sections.repeat(records, commands), sections.environment(records), sections.reading()]
        links += [("repeat", "Repeat it"), ("environment", "Environment"), ("reading", "How to read this")]
        facts = sections.facts(records, found)
    body = el("header", el("h1", text(title)), facts, sections.contents(links))
    body += el("main", *parts)
    body += el("footer", el("p", "Made by holdfast from the records alone. This file loads nothing from anywhere."))
    return document(title, body, _rules(len(series)))


def write(
    records: Sequence[Record],
    path: str | os.PathLike[str],
    *,
    title: str = "What was kept, what was learned",
    commands: Sequence[str] = (),
    published: Sequence[PublishedValue] = (),
    extra: Sequence[tuple[str, str]] = (),
    controls: Collection[str] = CONTROLS,
) -> Path:
    """Write `render`'s page to a file; the old file stays until the new one is whole.

    Args:
        records: as for `render`, and so are the other arguments.
        path: the file; its folder is created where it is missing.
        title: the page's heading.
        commands: what to type to repeat the comparison.
        published: values that others reported.
        extra: further sections.
        controls: methods to mark as controls.

    Returns:
        The path that was written.

    Raises:
        DataError: if there is no record.
        StateError: if the file cannot be written.
    """
    page = render(records, title=title, commands=commands, published=published, extra=extra, controls=controls)
    return write_whole(path, page, "report")


def _rules(series: int) -> list[str]:
    """The style rules that there is one of per shade and per series."""
    rules = []
    for shade in range(STEPS + 1):
        share = 100 * shade // STEPS
        rules.append(f".h{shade} {{ --shade: color-mix(in oklab, var(--hi) {share}%, var(--lo)); }}")
    # Highlighting without a script: a checked radio button fades every other series of its section.
    for index in range(series):
        picked = f'section:has(input[value="{index}"]:checked)'
        rules.append(f"{picked} .chart .s:not(.m{index}) {{ opacity: .18; }}")
        rules.append(f"{picked} .chart .m{index} .line {{ stroke-width: 3; }}")
    return rules
