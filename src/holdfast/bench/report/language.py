"""What the page shows of texts to be continued: perplexities, old against new, in place of accuracies."""

from __future__ import annotations

import math

from holdfast.bench.report import charts
from holdfast.bench.report.charts import Series, swatch
from holdfast.bench.report.columns import Estimate
from holdfast.bench.report.summary import Group, SummaryRow
from holdfast.bench.report.svg import el, text

__all__ = ["contained", "lead", "shown"]


def contained(group: Group) -> bool:
    """Whether a group's rows are of such texts."""
    return any(row.estimates["perplexity"] is not None for row in group.rows)


def lead(group: Group) -> str:
    """The result in two sentences, no stronger than the intervals allow; names are marked up."""
    ranked = [(row, e) for row in group.rows if not row.bound and (e := row.estimates["perplexity"]) is not None]
    if not ranked:
        return "No method to compare has finished yet."
    (best, value), others = ranked[0], ranked[1:]
    words = f"{el('strong', text(best.label))} ends with the lowest perplexity over all tasks, {_shown(value)}"
    near = [row.label for row, e in others if e.mean - value.mean <= (e.half or 0.0) + (value.half or 0.0)]
    if value.half is None:
        words += " (one seed: a difference may be chance)."
    elif near:
        words += f"; its interval overlaps that of {text(', '.join(near[:3]))}{' and others' * (len(near) > 3)}."
    else:
        words += ", and its interval overlaps no other method's." if others else "."
    bounds = {row.bound: e for row in group.rows if row.bound and (e := row.estimates["perplexity"]) is not None}
    if "floor" in bounds:
        words += f" Plain fine-tuning reaches {_shown(bounds['floor'])}"
        words += f", training on all tasks at once {_shown(bounds['ceiling'])}." if "ceiling" in bounds else "."
    return words + " Methods compare at equal perplexity of the old texts, never at one strength: see the first chart."


def shown(identity: str, group: Group, series: dict[str, Series]) -> list[str]:
    """The charts and tables of a group."""
    cheap = "↙ better"
    pairs = [
        (charts.scatter(f"{identity}-front", group, "old_perplexity", "new_perplexity", series, cheap, joined=True),
         "What is left of the old against what was learned of the new; a line joins the settings of one method."),
        (charts.scatter(f"{identity}-moved", group, "divergence", "nats_forgotten", series, cheap),
         "How far the new task moved the model on the new texts, against what was forgotten of the old."),
        (charts.forest(f"{identity}-ppl", group, "perplexity", series, ()), "Dots: seeds. Bar: 95 % interval."),
        (charts.forest(f"{identity}-fgt", group, "nats_forgotten", series, ()), "Least forgetting first."),
        (charts.scatter(f"{identity}-time", group, "step_time", "perplexity", series, cheap), "Against time."),
        (charts.scatter(f"{identity}-state", group, "state_bytes", "perplexity", series, cheap),
         "Against what the method must store."),
    ]  # fmt: skip
    cards = [el("figure", chart, el("figcaption", caption)) for chart, caption in pairs if chart]
    told = ", ".join(f"{k} {name}" for k, name in enumerate(group.task_names, start=1))
    tables = [_matrix(group, row, series[row.label]) for row in group.rows if row.records]
    return [
        el("h3", "What is kept, what is learned, what it costs"),
        el("div", *cards, class_="cards"),
        el("h3", "Perplexity matrix"),
        el("p", text(f"Of the test texts of every task ({told}); exp of the mean over seeds. Comparable within one "
                     "vocabulary only."), class_="note"),
        el("div", *tables, class_="cards"),
    ]  # fmt: skip


def _matrix(group: Group, row: SummaryRow, look: Series) -> str:
    found = [record.likelihood.matrix for record in row.records if record.likelihood is not None]
    height = min(map(len, found))
    names = enumerate(group.task_names, start=1)
    heads = [el("th", "", scope="col"), *(el("th", f"Task {k}", scope="col", title=name) for k, name in names)]
    lines = []
    if all("digest" in record.config.model_options for record in row.records):  # a pretrained model knew something
        initial = [record.likelihood.initial for record in row.records if record.likelihood is not None]
        knew = [math.exp(sum(each[j] for each in initial) / len(initial)) for j in range(len(group.task_names))]
        lines.append(el("tr", el("th", "before", scope="row"), *(el("td", f"{cell:.1f}") for cell in knew)))
    for i in range(height):
        cells = [math.exp(sum(matrix[i][j] for matrix in found) / len(found)) for j in range(len(group.task_names))]
        first = "after all tasks" if height == 1 < len(cells) else f"after task {i + 1}"
        lines.append(el("tr", el("th", text(first), scope="row"), *(el("td", f"{cell:.1f}") for cell in cells)))
    table = el("table", el("thead", el("tr", *heads)), el("tbody", *lines))
    box = el("div", table, class_="scroll", tabindex="0", role="region", aria_label=f"Perplexities of {row.label}")
    return el("figure", el("h4", swatch(look), text(row.label)), box)


def _shown(estimate: Estimate) -> str:
    half = "" if estimate.half is None else f" ± {estimate.half:.1f}"
    return text(f"{estimate.mean:.1f}{half}")
