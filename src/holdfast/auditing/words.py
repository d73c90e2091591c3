"""An audit in words: a sentence for each data set, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.auditing.record import Audit, Change, DataAudit, Measured

__all__ = ["as_text", "counts", "figures", "probability", "steepness", "verdict"]

_NORMS = {"quadratic": "curvature along the gradient", "frobenius": "Frobenius norm of the Hessian"}

_CHANCE = 0.05
_SHOWN = 5


def probability(value: float) -> str:
    """A probability as readers want it."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def verdict(data: DataAudit) -> str:
    """What happened to one data set, in a sentence that claims no more than the samples show."""
    if data.perplexity is not None:
        return _of_words(data.perplexity)
    if data.accuracy is None or data.negative_flips is None:
        return _of_loss(data)
    change = data.accuracy.difference
    sure = _sure(data, change)
    points = f"{abs(100 * change.value):.2f} points"
    how = probability(data.mcnemar) if data.mcnemar is not None else f"± {_half(change, 100)}"
    parts = {"sample": "answers", "token": "tokens", "pixel": "pixels", "answer": "answers"}[data.part]
    flips = f"{data.negative_flips:,} right {parts} became wrong, {data.positive_flips:,} wrong ones right"
    if not change.value:
        return f"The accuracy is the same; {flips}."
    if not sure:
        way = "lower" if change.value < 0 else "higher"
        return f"The accuracy is {points} {way}, which may be chance ({how}); {flips}."
    return f"{'Lost' if change.value < 0 else 'Gained'} {points} ({how}): {flips}."


def _sure(data: DataAudit, change: Measured) -> bool:
    if data.mcnemar is not None:
        return data.mcnemar < _CHANCE
    return change.half_width is not None and abs(change.value) > change.half_width


def _of_words(change: Change) -> str:
    sure = change.difference.half_width is not None and abs(change.difference.value) > change.difference.half_width
    way = f"from {change.before.value:.4g} to {change.after.value:.4g}"
    by = f"{change.difference.value:+.3g} ± {_half(change.difference)}"
    if not sure:
        return f"The perplexity went {way} ({by}), which may be chance."
    return f"The perplexity {'rose' if change.difference.value > 0 else 'fell'} {way} ({by})."


def _of_loss(data: DataAudit) -> str:
    if data.loss is None:
        return "One of the models has no finite loss here."
    change = data.loss.difference
    if change.half_width is None or abs(change.value) <= change.half_width:
        return f"The loss changed by {change.value:+.4g} ± {_half(change)}, which may be chance."
    return f"The loss {'rose' if change.value > 0 else 'fell'} by {abs(change.value):.4g} ± {_half(change)}."


def _half(of: Measured, scale: float = 1.0) -> str:
    return "?" if of.half_width is None else f"{scale * of.half_width:.2g}"


def figures(data: DataAudit) -> list[tuple[str, str, str, str]]:
    """The rows of a data set's table: what, before, after, change."""
    rows = []
    if data.accuracy is not None:
        rows.append(_row("accuracy (%)", data.accuracy, 100, ".2f"))
    if data.perplexity is not None:
        rows.append(_row("perplexity", data.perplexity, 1, ".4g"))
    if data.loss is not None:
        rows.append(_row("loss", data.loss, 1, ".4g"))
    pairs = (
        ("confidence (%)", data.confidence, 100),
        ("calibration error (%)", data.calibration_error, 100),
        ("Brier score", data.brier, 1),
    )
    for what, pair, scale in pairs:
        if pair is not None:
            old, new = (scale * value for value in pair)
            digits = ".2f" if scale > 1 else ".4f"
            rows.append((what, f"{old:{digits}}", f"{new:{digits}}", f"{new - old:+{digits}}"))
    return rows


def _row(what: str, change: Change, scale: float, digits: str) -> tuple[str, str, str, str]:
    def shown(of: Measured, sign: str = "") -> str:
        ends = ""
        if of.low is not None and of.high is not None:
            ends = f" [{scale * of.low:{sign}{digits}}, {scale * of.high:{sign}{digits}}]"
        return f"{scale * of.value:{sign}{digits}}{ends}"

    return what, shown(change.before), shown(change.after), shown(change.difference, "+")


def counts(data: DataAudit) -> str:
    """How many samples, tokens or pixels."""
    if data.part == "sample":
        return f"{data.samples:,} samples"
    return f"{data.samples:,} samples, {data.count:,} {data.part}s"


def steepness(found: Audit) -> list[tuple[str, str, str, str]]:
    """The rows of a table: norms of the loss's Hessian around both models, and their ratio; none if not asked for."""
    return [
        (_NORMS.get(kind, kind), f"{old:.4g}", f"{new:.4g}", f"× {new / old:.3g}" if old else "")
        for kind, (old, new) in (found.hessian_norm or {}).items()
    ]


def as_text(found: Audit) -> str:
    """An audit as lines for a terminal: each data set, then the layers that moved most.

    Args:
        found: the audit.

    Returns:
        Lines, without a newline at the end.
    """
    parts = []
    for data in found.data:
        lines = [f"{data.name} ({counts(data)}): {verdict(data)}"]
        lines += _aligned([("", found.before, found.after, "change"), *figures(data)])
        if data.kl is not None:
            lines.append(f"  KL({found.before} ‖ {found.after}) {data.kl:.4g} nats{_relative(data)}")
        lost = [each for each in data.classes if each.change < 0][:_SHOWN]
        if lost:
            shown = (f"{each.name} {100 * each.before:.1f} → {100 * each.after:.1f} ({each.count})" for each in lost)
            lines.append(f"  classes that lost most: {', '.join(shown)}")
        if data.worst:
            lines.append(f"  worst flips: {', '.join(_cut(flip.sample) for flip in data.worst[:_SHOWN])}")
        parts.append("\n".join(lines))
    moved = sorted((each for each in found.layers if each.distance), key=lambda each: -(each.distance or 0))[:_SHOWN]
    if moved:
        parts.append(f"layers that moved most: {', '.join(f'{each.name} {each.distance:.3g}' for each in moved)}")
    if rows := steepness(found):
        lines = _aligned([("", found.before, found.after, "ratio"), *rows])
        parts.append("\n".join([f"how steep the loss is ({found.data[0].name}, first batch):", *lines]))
    return "\n\n".join(parts)


def _relative(data: DataAudit) -> str:
    if data.relative_negative_flips is None:
        return ""
    return (
        f"; {data.relative_negative_flips:.2f} of the negative flips that two unrelated models as accurate would have"
    )


def _cut(name: str, most: int = 60) -> str:
    line = " ".join(name.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if not k else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
