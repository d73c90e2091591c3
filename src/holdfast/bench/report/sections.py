"""The parts of the page, each from the summary to HTML."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.bench.records.record import Record
from holdfast.bench.report import charts, history, language
from holdfast.bench.report.charts import Series, swatch
from holdfast.bench.report.columns import METRICS, OF_WORDS, Estimate, Metric, PublishedValue
from holdfast.bench.report.standing import standing
from holdfast.bench.report.steepness import steepness
from holdfast.bench.report.summary import BOUNDS, Group, SummaryRow
from holdfast.bench.report.svg import el, text
from holdfast.bench.report.tables import format_estimate, streamed_metrics, streamed_notes

__all__ = ["contents", "environment", "facts", "group_section", "reading", "repeat"]


def facts(records: Sequence[Record], groups: Sequence[Group]) -> str:
    """One line of what the page rests on."""
    labels = {row.label for group in groups for row in group.rows}
    seeds = {record.config.seed for record in records}
    unfinished = sum(record.status != "finished" for record in records)
    dates = sorted(record.environment.date[:10] for record in records)
    first = records[0].environment
    items = [
        _count(len(records), "run") + (f", {unfinished} not finished" if unfinished else ""),
        _count(len(labels), "method"),
        _count(len(seeds), "seed"),
        dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}",
        f"holdfast {first.holdfast}, PyTorch {first.torch}",
    ]
    return el("ul", *(el("li", text(item)) for item in items), class_="facts")


def contents(links: Sequence[tuple[str, str]]) -> str:
    """Links to the sections."""
    items = [el("li", el("a", text(name), href=f"#{target}")) for target, name in links]
    return el("nav", el("ul", *items), aria_label="Contents")


def group_section(identity: str, group: Group, series: dict[str, Series], published: Sequence[PublishedValue]) -> str:
    """Everything about one stream and scenario."""
    common = [f"{name} {value}" for name, value in group.common.items()]
    protocol = [_count(len(group.task_names), "task"), f"the loss sees {group.training_outputs} outputs", *common]
    held = next((record.config.stream_options.get("data") for row in group.rows for record in row.records), None)
    protocol = [str(held), *protocol] if held else protocol  # of one's own data, whose name says nothing
    parts = [el("h2", text(group.title)), el("p", text("; ".join(protocol)), class_="protocol")]
    led = language.lead(group) if language.contained(group) else lead(group)
    parts += [el("p", led, class_="lead"), standing(group), troubles(group)]
    parts.append(summary_table(group, series, published))
    if any(row.records for row in group.rows):
        parts.append(charts.legend(identity, group, series))
        shown = language.shown(identity, group, series) if language.contained(group) else None
        parts += _charts(identity, group, series, published) if shown is None else shown
        parts += _streamed(identity, group, series)
        parts += steepness(group)
    losses = [history.loss(f"{identity}-l{k}", row, series[row.label]) for k, row in enumerate(group.rows)]
    if any(losses):
        note = el(
            "p", "A line for each seed; the area is the share of the loss that the penalty makes up.", class_="note"
        )
        figures = el("div", *(el("figure", chart) for chart in losses if chart), class_="cards")
        parts.append(el("details", el("summary", "Training loss"), note, figures))
    parts.append(chosen_table(group))
    return el("section", *parts, id=identity)


def _charts(identity: str, group: Group, series: dict[str, Series], published: Sequence[PublishedValue]) -> list[str]:
    parts = [el("h3", "What is kept, what is learned, what it costs")]
    parts.append(el("div", *_overview(identity, group, series, published), class_="cards"))
    floor = history.lowest(group)
    parts.append(el("h3", "Accuracy of every task over time"))
    chosen = history.panels(group)
    if len(chosen) < len(group.task_names):
        note = f"{len(chosen)} of the {len(group.task_names)} tasks, evenly spread; the others are in the tables below."
        parts.append(el("p", note, class_="note"))
    drawn = [history.timeline(f"{identity}-all", group, None, series, floor)]
    drawn += [history.timeline(f"{identity}-t{task}", group, task, series, floor) for task in chosen]
    parts.append(el("div", *(el("figure", chart) for chart in drawn), class_="cards"))
    parts.append(_heat_maps(identity, group, series, floor))
    return parts


def lead(group: Group) -> str:
    """The result in two sentences, no stronger than the intervals allow."""
    ranked = [row for row in group.rows if not row.bound and row.estimates["average_accuracy"] is not None]
    if not ranked:
        return "No method to compare has finished yet."
    best, values = ranked[0], [_accuracy(row) for row in ranked]
    place = "an average accuracy of" if len(ranked) == 1 else "the highest average accuracy,"
    words = f"{_strong(best.label)} ends with {place} {_strong(_percent(values[0]))}"
    near = [row.label for row, value in zip(ranked[1:], values[1:], strict=True) if _overlap(values[0], value)]
    if values[0].half is None:
        words += " (one seed: a difference may be chance)."
    elif near:
        others = text(", ".join(near)) if len(near) <= 3 else f"{len(near)} other methods"
        words += f"; its interval overlaps that of {others}."
    else:
        words += "." if len(ranked) == 1 else ", and its interval overlaps no other method's."
    bounds = {row.bound: _accuracy(row) for row in group.rows if row.bound and row.estimates["average_accuracy"]}
    if "floor" in bounds and (bounds["floor"].mean >= values[0].mean or _overlap(bounds["floor"], values[0])):
        words += " No method is clearly better than no protection at all."
    if "floor" in bounds:
        words += f" Plain fine-tuning reaches {text(_percent(bounds['floor']))}"
        words += f", training on all tasks at once {text(_percent(bounds['ceiling']))}." if "ceiling" in bounds else "."
    elif "ceiling" in bounds:
        words += f" Training on all tasks at once reaches {text(_percent(bounds['ceiling']))}."
    return words


def troubles(group: Group) -> str:
    """Runs that did not finish, and warnings, each once."""
    items = [
        f"{row.label}, seed {seed}: {status}{': ' + reason if reason else ''}"
        for row in group.rows
        for seed, status, reason in row.failures
    ]
    for row in group.rows:
        for warning in dict.fromkeys(warning for record in row.every_record for warning in record.warnings):
            seeds = [str(record.config.seed) for record in row.every_record if warning in record.warnings]
            items.append(f"{row.label} (seed {', '.join(seeds)}) warned: {warning}")
    if not items:
        return ""
    entries = el("ul", *(el("li", text(item)) for item in items))
    return el("div", el("strong", "Mind these"), entries, class_="warn", role="note")


def summary_table(group: Group, series: dict[str, Series], published: Sequence[PublishedValue]) -> str:
    """Methods x metrics, and how to read it."""
    known = [m for m in METRICS if not m.streamed and any(row.estimates[m.key] is not None for row in group.rows)]
    known.sort(key=lambda metric: metric.key not in OF_WORDS)  # the accuracy of words says less
    table, sources = _table(group, known, series, published)
    counts = sorted({len(row.seeds) for row in group.rows if row.seeds})
    seeds = " or ".join(str(count) for count in counts) or "no"
    note = f"Mean ± half-width of the 95 % interval (Student's t) over {seeds} seed{'s' * (counts != [1])}. "
    note += (
        f"Bold: best of its column; {' and '.join(BOUNDS)} are bounds and never marked. ↑ higher is better, ↓ lower."
    )
    note += " ◇ published value." if sources else ""
    cited = "".join(el("br") + text(f"[{number}] {source}") for source, number in sources.items())
    return table + el("p", text(note), cited, class_="note")


def _streamed(identity: str, group: Group, series: dict[str, Series]) -> list[str]:
    """What was answered before it was learned; nothing where nobody asked for it."""
    shown = streamed_metrics(group)
    if not shown:
        return []
    note = el("p", text(" ".join(streamed_notes(group))), class_="note")
    caption = el("figcaption", "Mean over seeds. Thin line: repeating the last label, of one seed.")
    chart = el("figure", history.meeting(f"{identity}-first", group, series), caption)
    table, _ = _table(group, shown, series, ())
    return [el("h3", "Answered before it was learned"), table, note, el("div", chart, class_="cards")]


def _table(
    group: Group, shown: Sequence[Metric], series: dict[str, Series], published: Sequence[PublishedValue]
) -> tuple[str, dict[str, int]]:
    """The rows under some metrics, and what their cells cite: source -> number."""
    sources: dict[str, int] = {}
    arrow = {"higher": "↑", "lower": "↓"}
    heads = [el("th", "Method", scope="col")]
    heads += [
        el("th", text(m.title), el("small", text(f"{m.unit} {arrow[m.better]}")), scope="col", title=m.meaning)
        for m in shown
    ]
    most = max(len(row.seeds) for row in group.rows)
    lines = []
    for row in group.rows:
        fewer = len(row.seeds) if row.seeds and len(row.seeds) < most else None
        cells = [el("th", name_cell(row, series[row.label], fewer), scope="row")]
        for metric in shown:
            theirs = row.published(metric.key, published)
            note = ""
            if theirs is not None:
                number = sources.setdefault(theirs.source, len(sources) + 1)
                note = el("small", f"◇ {theirs.value * metric.scale:.{metric.digits}f} [{number}]")
            best = "best" if metric.key in row.best else None
            value = numbers(row.estimates[metric.key], metric)
            cells.append(el("td", value, note, class_=best, data_metric=metric.key))
        lines.append(el("tr", *cells, class_="bound" if row.bound else None, data_label=row.label))
    table = el("table", el("thead", el("tr", *heads)), el("tbody", *lines), class_="results")
    label = f"{'First answers' if any(m.streamed for m in shown) else 'Results'} of {group.title}"
    return el("div", table, class_="scroll", tabindex="0", role="region", aria_label=label), sources


def name_cell(row: SummaryRow, look: Series, fewer: int | None) -> str:
    """A method's mark, name and what must be known about its numbers; ``fewer`` is its seeds where others have more."""
    words = [*row.marks, *([f"only {_count(fewer, 'seed')}"] if fewer else [])]
    chips = [el("span", word, class_="chip") for word in words]
    if row.failures:
        failed = f"{len(row.failures)} of {len(row.every_record)} did not finish"
        chips.append(el("span", failed, class_="chip bad"))
    name = el("div", swatch(look), el("span", text(row.label)), class_="name-cell")
    return name + (el("div", *chips, class_="chips") if chips else "")


def numbers(estimate: Estimate | None, metric: Metric) -> str:
    """Mean and interval, with a true minus sign."""
    shown = text(format_estimate(estimate, metric)).replace("-", "\u2212")
    mean, _, half = shown.partition(" ± ")
    return mean + (el("span", f" ± {half}", class_="half") if half else "")


def _overview(identity: str, group: Group, series: dict[str, Series], published: Sequence[PublishedValue]) -> list[str]:
    accuracy, cheap = "average_accuracy", "↖ better"
    pairs = [
        (charts.forest(f"{identity}-acc", group, accuracy, series, published),
         "Dots: seeds. Bar: 95 % interval." + (" Hollow diamond: published value." if published else "")),
        (charts.scatter(f"{identity}-sp", group, "learning_accuracy", "stability", series, "better ↗"),
         "Learning new tasks against keeping old ones; training on all tasks at once has no place here."),
        (charts.forest(f"{identity}-fgt", group, "forgetting", series, published), "Least forgetting first."),
        (charts.scatter(f"{identity}-time", group, "step_time", accuracy, series, cheap), "Accuracy against time."),
        (charts.scatter(f"{identity}-mem", group, "peak_memory", accuracy, series, cheap), "Accuracy against memory."),
        (charts.scatter(f"{identity}-state", group, "state_bytes", accuracy, series, cheap),
         "Accuracy against what the method must store."),
    ]  # fmt: skip
    return [el("figure", chart, el("figcaption", caption)) for chart, caption in pairs if chart]


def _heat_maps(identity: str, group: Group, series: dict[str, Series], floor: float) -> str:
    figures, tables = [], []
    for k, row in enumerate(group.rows):
        chart = history.heat(f"{identity}-h{k}", group, row, floor)
        if chart:
            heading = el("h4", swatch(series[row.label]), text(row.label))
            figures.append(el("figure", heading, chart))
            tables.append(_matrix_table(group, row))
    if not figures:
        return ""
    ramp = el("div", el("span", f"{floor:.0f} %"), el("i"), el("span", "100 %"), class_="ramp", aria_hidden="true")
    words = "Mean over seeds, per cent. Colour fades as a task is forgotten; faint cells: not learned yet."
    note = el("p", words, class_="note")
    numbers_below = el("details", el("summary", "The same as tables, with intervals"), *tables)
    return el("h3", "Accuracy matrix") + note + ramp + el("div", *figures, class_="cards") + numbers_below


def _matrix_table(group: Group, row: SummaryRow) -> str:
    matrix = history.mean_matrix(row)
    accuracy = METRICS[0]
    heads = [el("th", text(row.label), scope="col")]
    names = enumerate(group.task_names)
    heads += [el("th", f"Task {j + 1}", el("small", text(name)), scope="col") for j, name in names]
    joint = len(matrix) == 1 and len(group.task_names) > 1
    lines = []
    for i, line in enumerate(matrix):
        first = el("th", "after all tasks" if joint else f"after task {i + 1}", scope="row")
        lines.append(el("tr", first, *(el("td", numbers(cell, accuracy)) for cell in line)))
    table = el("table", el("thead", el("tr", *heads)), el("tbody", *lines))
    return el("div", table, class_="scroll", tabindex="0", role="region", aria_label=f"Matrix of {row.label}")


def chosen_table(group: Group) -> str:
    """How every hyperparameter was chosen, and which settings differ between rows."""
    lines = []
    for row in group.rows:
        chosen = "; ".join(f"{name} = {value}" for name, value in row.hyperparameters) or "none"
        names = dict(row.hyperparameters)
        other = [f"{k} {v}" for k, v in row.settings.items() if k not in group.common and k not in names]
        seeds = ", ".join(map(str, row.seeds)) or "none finished"
        cells = (el("td", text(value)) for value in (chosen, "; ".join(other) or "as all", seeds))
        lines.append(el("tr", el("th", text(row.label), scope="row"), *cells))
    heads = ("Method", "Hyperparameters, and how they were chosen", "Settings of its own", "Seeds")
    head = el("thead", el("tr", *(el("th", name, scope="col") for name in heads)))
    table = el("table", head, el("tbody", *lines), class_="words")
    box = el("div", table, class_="scroll", tabindex="0", role="region", aria_label=f"Settings of {group.title}")
    return el("h3", "How each was set") + box


def repeat(records: Sequence[Record], commands: Sequence[str]) -> str:
    """The exact commands."""
    each = [command for command in dict.fromkeys(record.command for record in records) if command]
    parts = [el("h2", "Repeat it")]
    if commands:
        parts.append(el("pre", el("code", text("\n".join(commands))), tabindex="0", aria_label="Commands"))
    if each:
        listing = el("pre", el("code", text("\n".join(each))), tabindex="0", aria_label="Command of every run")
        words = f"Every run on its own ({_count(len(each), 'command')})"
        parts.append(el("details", el("summary", words), listing, open=None if commands else "open"))
    if not commands and not each:
        parts.append(el("p", "The records hold no commands.", class_="note"))
    return el("section", *parts, id="repeat")


def environment(records: Sequence[Record]) -> str:
    """Where the runs were made; times of different machines are not comparable, so that is said."""
    names = [name for name in type(records[0].environment).model_fields if name != "date"]
    values = {name: list(dict.fromkeys(str(getattr(r.environment, name)) for r in records)) for name in names}
    items = [el("dt", text(name.replace("_", " "))) + el("dd", text(" | ".join(values[name]))) for name in names]
    dates = sorted(record.environment.date for record in records)
    items.append(el("dt", "date (UTC)") + el("dd", text(" to ".join(dict.fromkeys((dates[0], dates[-1]))))))
    warning = ""
    if any(len(found) > 1 for found in values.values()):
        words = "The runs come from different environments: compare their times and memory with care."
        warning = el("p", words, class_="warn")
    return el("section", el("h2", "Environment"), warning, el("dl", *items), id="environment")


def reading() -> str:
    """What the words mean."""
    items = [el("dt", text(metric.title)) + el("dd", text(_meaning(metric))) for metric in METRICS]
    items += [
        el("dt", name) + el("dd", meaning)
        for name, meaning in (
            ("Control", "what a method must beat before it has shown anything"),
            ("Auto", "a strength found on the first steps of each task, from the training data alone"),
            ("Default, untuned", "the documented default, not chosen for this stream"),
            (", ".join(BOUNDS), "no protection at all, and all tasks at once: the floor and the ceiling"),
        )
    ]
    return el("section", el("h2", "How to read this"), el("dl", *items), id="reading")


def _meaning(metric: Metric) -> str:
    return f"{metric.meaning} ({metric.unit})" if metric.unit else metric.meaning


def _accuracy(row: SummaryRow) -> Estimate:
    estimate = row.estimates["average_accuracy"]
    assert estimate is not None
    return estimate


def _overlap(a: Estimate, b: Estimate) -> bool:
    return abs(a.mean - b.mean) <= (a.half or 0.0) + (b.half or 0.0)


def _percent(estimate: Estimate) -> str:
    return f"{format_estimate(estimate, METRICS[0])} %"


def _strong(words: str) -> str:
    return el("strong", text(words))


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
