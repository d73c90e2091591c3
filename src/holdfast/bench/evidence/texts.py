"""What the records say where texts are continued: how much of the new is learned for how much of the old is lost.

Methods are fronts there, several strengths of which nobody chose one, and compare at equal loss of the old text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from holdfast import registry
from holdfast.bench.evidence.experiments import Experiment, distinct
from holdfast.bench.evidence.findings import Links
from holdfast.bench.evidence.tables import failures, line, seeds_of, settings
from holdfast.bench.records.likelihood import measures
from holdfast.bench.records.record import Record
from holdfast.bench.report import Estimate

__all__ = [
    "SHARES",
    "at_equal_loss",
    "at_share",
    "contained",
    "findings",
    "fronts",
    "in_a_line",
    "on_common_front",
    "tables_of",
]

SHARES = (0.1, 0.25, 0.5)
"""Where fronts are compared: shares of what plain fine-tuning forgets of the old text, in nats a word."""

_FIRST = 0.25  # the one that sentences are about
_BETWEEN = (
    "Perplexity of the new text where so much of what plain fine-tuning forgets of the old is forgotten (in nats a "
    "word), between the two nearest strengths; –: not all seeds come to lie there."
)


def contained(experiment: Experiment, part: str) -> bool:
    """Whether a part's finished runs are of texts to be continued."""
    rows = experiment.rows(part)
    return any(record.likelihood is not None for row in rows for record in experiment.finished(part, row.label))


def fronts(experiment: Experiment, part: str) -> dict[str, list[str]]:
    """The labels of every front of several strengths that have finished runs, by its name."""
    found: dict[str, list[str]] = {}
    for row in experiment.rows(part):
        if row.front and experiment.finished(part, row.label):
            found.setdefault(row.front, []).append(row.label)
    return found


def _bound(experiment: Experiment, part: str, which: str) -> list[Record]:
    """The finished runs of the row that is the floor, or the ceiling, of the comparison."""
    labels = [
        row.label
        for row in experiment.rows(part)
        if not row.front and registry.lookup(row.method).bound == which and experiment.finished(part, row.label)
    ]
    return experiment.finished(part, labels[0]) if labels else []


def _nats(record: Record) -> tuple[float, float]:
    """The loss of an old word and of a new one at the end."""
    assert record.likelihood is not None
    *old, new = record.likelihood.matrix[-1]
    return math.fsum(old) / len(old), new


def at_share(experiment: Experiment, part: str, labels: Sequence[str], share: float) -> dict[int, float]:
    r"""The loss of a new word where a front has lost a share of what plain fine-tuning loses of the old text, by seed.

    On the straight line between the two points of the front beside that place, in nats: the place is
    :math:`\ell_0 + s\,(\ell_f - \ell_0)` with the old word's loss :math:`\ell_0` after the first task and
    :math:`\ell_f` after fine-tuning. The lowest such line counts where several lie there, and a front is not continued
    beyond its ends.

    Args:
        experiment: the records.
        part: where.
        labels: the points of the front.
        share: s.

    Returns:
        Seed -> nats; a seed whose front does not reach there is left out.
    """
    found: dict[int, float] = {}
    runs = {label: {record.config.seed: record for record in experiment.finished(part, label)} for label in labels}
    for plain in _bound(experiment, part, "floor"):
        assert plain.likelihood is not None
        *before, _ = plain.likelihood.matrix[0]
        start = math.fsum(before) / len(before)
        place = start + share * (_nats(plain)[0] - start)
        seed = plain.config.seed
        points = sorted(_nats(mine[seed]) for mine in runs.values() if seed in mine)
        values = [
            low[1] + (place - low[0]) / (high[0] - low[0]) * (high[1] - low[1])
            for low, high in pairwise(points)
            if low[0] <= place <= high[0] and low[0] < high[0]
        ]
        if values:
            found[seed] = min(values)
    return found


def on_common_front(experiment: Experiment, part: str) -> list[str]:
    """The rows beside which no other has, on average, lost less of the old and learned more of the new."""
    means = {}
    for row in experiment.rows(part):
        found = [_nats(record) for record in experiment.finished(part, row.label)]
        if found and registry.lookup(row.method).bound != "ceiling":
            means[row.label] = tuple(sum(column) / len(column) for column in zip(*found, strict=True))
    return [
        label
        for label, (old, new) in means.items()
        if not any(o <= old and n <= new and (o, n) != (old, new) for o, n in means.values())
    ]


def findings(experiment: Experiment, part: str, links: Links) -> list[str]:
    """The order of fronts at one place, the recipe's pairs there, and the common front."""
    known = fronts(experiment, part)
    reached = _reached(experiment, part, known, _FIRST)
    sentences = []
    if reached:
        sentences.append(_order(experiment, part, known, reached, links))
    for pair in experiment.recipe.paired:
        if all(label in reached for label in pair.rows):
            sentences.append(_pair(pair.rows, reached, pair.why))
    common = on_common_front(experiment, part)
    if len(common) > 1:
        sentences.append(f"No other row both kept more and learned more: {', '.join(common)}.")
    return sentences


def _reached(
    experiment: Experiment, part: str, known: Mapping[str, Sequence[str]], share: float
) -> dict[str, dict[int, float]]:
    """The fronts that have a value at a share of the forgetting in every seed, lowest loss of the new text first."""
    seeds = {record.config.seed for record in _bound(experiment, part, "floor")}
    found = {name: at_share(experiment, part, labels, share) for name, labels in known.items()}
    whole = {name: values for name, values in found.items() if seeds and values.keys() == seeds}
    return dict(sorted(whole.items(), key=lambda pair: sum(pair[1].values())))


def _order(
    experiment: Experiment,
    part: str,
    known: Mapping[str, Sequence[str]],
    reached: Mapping[str, Mapping[int, float]],
    links: Links,
) -> str:
    best, *others = reached
    shown = links.to(experiment, part, known[best][0], name=best)
    said = (
        f"Where a quarter of what plain fine-tuning forgets is forgotten, {shown} learns most: perplexity "
        f"{_perplexity(reached[best].values())} of the new text."
    )
    behind = [name for name in others if _apart(reached[name], reached[best])]
    close = [name for name in others if name not in behind]
    if close:
        said += f" Not told apart from it: {', '.join(_more(name, reached, best) for name in close)}."
    if behind:
        said += f" Behind it, in nats a word: {', '.join(_more(name, reached, best) for name in behind)}."
    absent = [name for name in known if name not in reached]
    return said + (f" No strength that was run comes to lie there: {', '.join(absent)}." if absent else "")


def _more(name: str, reached: Mapping[str, Mapping[int, float]], best: str) -> str:
    return f"{name} ({_signed(_difference(reached[name], reached[best]))})"


def _pair(rows: tuple[str, str], reached: Mapping[str, Mapping[int, float]], why: str) -> str:
    one, other = rows
    found = _difference(reached[one], reached[other])
    seeds = len(found.values)
    over = f"{_signed(found)} nats a word of the new text at equal loss of the old, paired over {seeds} seeds"
    if found.half is None:
        return f"{one} is {_signed(found)} nats from {other} in one run, which shows nothing yet."
    reason = f" {why[0].upper()}{why[1:]}." if why else ""
    if not _apart(reached[one], reached[other]):
        return f"{one} and {other} are not told apart ({over}).{reason}"
    return f"{one} is {'better' if found.mean < 0 else 'worse'} than {other} ({over}).{reason}"


def _difference(one: Mapping[int, float], other: Mapping[int, float]) -> Estimate:
    found = Estimate.of(one[seed] - other[seed] for seed in sorted(one.keys() & other.keys()))
    assert found is not None
    return found


def _apart(one: Mapping[int, float], other: Mapping[int, float]) -> bool:
    found = _difference(one, other)
    return found.half is not None and abs(found.mean) > found.half


def _signed(found: Estimate) -> str:
    return f"{found.mean:+.3f}" + (f" ± {found.half:.3f}" if found.half is not None else "")


def _perplexity(nats: Iterable[float]) -> str:
    return _shown(Estimate.of(math.exp(value) for value in nats))


def _shown(found: Estimate | None, digits: int = 1) -> str:
    if found is None:
        return ""
    return f"{found.mean:.{digits}f}" + (f" ± {found.half:.{digits}f}" if found.half is not None else "")


def tables_of(experiment: Experiment, part: str) -> list[str]:
    """Fronts side by side at equal loss of the old text, then every row."""
    return at_equal_loss(experiment, part) + _rows(experiment, part)


def at_equal_loss(experiment: Experiment, part: str) -> list[str]:
    """Fronts side by side where they lost as much of the old text: a table and what it shows; empty without fronts."""
    known = fronts(experiment, part)
    lines = []
    if known:
        head = ("front", *(f"new, {share:.0%} forgotten" for share in SHARES), "strengths")
        lines += [line(*head), "|---" * len(head) + "|"]
        columns = [_reached(experiment, part, known, share) for share in SHARES]
        place = {name: k for k, name in enumerate(_reached(experiment, part, known, _FIRST))}
        for name in sorted(known, key=lambda name: place.get(name, len(known))):
            cells = [_perplexity(column[name].values()) if name in column else "–" for column in columns]
            lines.append(line(name, *cells, ", ".join(label.removeprefix(f"{name}-") for label in known[name])))
        lines += ["", _BETWEEN, ""]
    return lines


def _rows(experiment: Experiment, part: str) -> list[str]:
    head = ("row", "seeds", "old", "new", "forgotten (nats)", "KL on new (nats)", "s per run", "state", "settings")
    lines = [line(*head), "|---" * len(head) + "|"]
    absent, unfinished = [], []
    for cell in (each for each in experiment.cells(part, experiment.recipe.parts[part]) if each.is_average):
        if not cell.records:
            absent += [] if cell.failed else [cell.label]
        else:
            found = [measures(record.likelihood) for record in cell.records]
            numbers = {key: Estimate.of(each[key] for each in found) for key in found[0]}
            old, new = numbers["old_perplexity"], numbers["new_perplexity"]
            costs = [record.costs for record in cell.records]
            lines.append(
                line(
                    cell.label, seeds_of(cell), _shown(old), _shown(new), _shown(numbers["nats_forgotten"], 3),
                    _shown(numbers["divergence"], 3), f"{sum(each.seconds_total for each in costs) / len(costs):.0f}",
                    f"{costs[0].state_bytes_per_parameter:.1f}", settings(cell.records[0]),
                )
            )  # fmt: skip
        unfinished += [f"{cell.label} did not finish: {failures(cell.failed)}."] if cell.failed else []
    lines += ["", f"Perplexities at the end; after the first task alone: {_before(experiment, part)}.", ""]
    lines += [f"Not run yet: {', '.join(distinct(absent))}.", ""] if absent else []
    return lines + [text for each in unfinished for text in (each, "")]


def _before(experiment: Experiment, part: str) -> str:
    """What the model knew before the last task."""
    plain = _bound(experiment, part, "floor")
    names = plain[0].task_names if plain else []
    columns = zip(*(record.likelihood.matrix[0] for record in plain if record.likelihood is not None), strict=True)
    return ", ".join(f"{_perplexity(column)} of {name}" for name, column in zip(names, columns, strict=True))


def in_a_line(experiment: Experiment, part: str) -> tuple[str, str, str, str]:
    """No method, the front that learned most, that one beside the best control, all at once; empty where missing."""
    known = fronts(experiment, part)
    reached = _reached(experiment, part, known, _FIRST)
    controls = {row.front for row in experiment.rows(part) if row.front and row.control}
    best = next((name for name in reached if name not in controls), None)
    control = next((name for name in reached if name in controls), None)
    held = "" if best is None else f"{best} {_perplexity(reached[best].values())} (new, a quarter forgotten)"
    beside = ""
    if best is not None and control is not None:
        told = "less than" if _apart(reached[best], reached[control]) else "not told from"
        beside = f"{told} {control} {_perplexity(reached[control].values())}"
    ends = []
    for which in ("floor", "ceiling"):
        found = _bound(experiment, part, which)
        old, new = (_perplexity(_nats(record)[k] for record in found) for k in (0, 1))
        ends.append(f"{found[0].config.extra['label']} {old} (old), {new} (new)" if found else "")
    return ends[0], held, beside, ends[1]
