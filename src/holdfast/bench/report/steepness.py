"""How steep the loss was after each task, as tables of the page."""

from __future__ import annotations

from holdfast.bench.records.steepness import Steepness
from holdfast.bench.report.columns import Estimate
from holdfast.bench.report.summary import Group, SummaryRow
from holdfast.bench.report.svg import el, text

__all__ = ["steepness"]

_WORDS = {
    "quadratic": "the curvature along the gradient, gᵀHg/‖g‖²",
    "frobenius": "the Frobenius norm, estimated",
    "spectral": "the largest eigenvalue by magnitude",
}


def steepness(group: Group) -> list[str]:
    """Norms of the Hessian, whole and per tensor, task by task; nothing where nobody asked for them."""
    rows = [(row, found) for row in group.rows if (found := _found(row))]
    if not rows:
        return []
    example = next(iter(rows[0][1].values()))[0]
    tasks = range(len(group.task_names))
    heads = [el("th", f"Task {task + 1}", el("small", text(group.task_names[task])), scope="col") for task in tasks]
    whole = [
        el("tr", el("th", text(row.label), scope="row"), *(_cell([s.whole for s in found.get(t, [])]) for t in tasks))
        for row, found in rows
    ]
    note = (
        f"The norm of the Hessian of the training loss after each task, on {example.samples} samples of it: "
        f"{_WORDS[example.kind]}; mean over seeds. The larger it is, the smaller a step the loss bears: plain gradient "
        "descent lowers it up to a learning rate of two over the curvature. It says nothing about forgetting."
    )
    tables = [el("h4", text(row.label)) + _tensors(found, heads) for row, found in rows]
    return [
        el("h3", "How steep the loss is"),
        _table([el("th", "Method", scope="col"), *heads], whole, f"Norm of the Hessian, {group.title}"),
        el("p", text(note), class_="note"),
        el("details", el("summary", "Tensor by tensor"), *tables),
    ]


def _found(row: SummaryRow) -> dict[int, list[Steepness]]:
    """Task -> what each seed measured after it."""
    found: dict[int, list[Steepness]] = {}
    for record in row.records:
        for task, noted in record.diagnostics.get("hessian", {}).items():
            found.setdefault(int(task), []).append(Steepness.model_validate(noted))
    return found


def _tensors(found: dict[int, list[Steepness]], heads: list[str]) -> str:
    names = list(dict.fromkeys(name for noted in found.values() for each in noted for name in each.tensors))
    lines = []
    for name in names:
        values = [[s.tensors[name] for s in found.get(t, []) if name in s.tensors] for t in range(len(heads))]
        lines.append(el("tr", el("th", text(name), scope="row"), *map(_cell, values)))
    return _table([el("th", "Tensor", scope="col"), *heads], lines, "Norm of the Hessian by tensor")


def _table(heads: list[str], lines: list[str], label: str) -> str:
    table = el("table", el("thead", el("tr", *heads)), el("tbody", *lines), class_="results")
    return el("div", table, class_="scroll", tabindex="0", role="region", aria_label=text(label))


def _cell(values: list[float]) -> str:
    estimate = Estimate.of(values)
    if estimate is None:
        return el("td", "–")
    half = "" if estimate.half is None else el("span", f" ± {estimate.half:.2g}", class_="half")
    return el("td", f"{estimate.mean:.3g}".replace("-", "\u2212"), half)
