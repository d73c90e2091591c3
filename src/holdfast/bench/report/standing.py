"""Why a head that is computed, not trained, forgets nothing, and what it lacks instead."""

from __future__ import annotations

from holdfast import registry
from holdfast.bench.report.summary import Group, SummaryRow
from holdfast.bench.report.svg import el, text

__all__ = ["standing"]


def standing(group: Group) -> str:
    """A paragraph on a group's closed-form heads, in HTML; empty where it has none that finished."""
    heads = [row for row in group.rows if row.records and row.method in _COMPUTED]
    if not heads:
        return ""
    backbones = dict.fromkeys(record.config.backbone for row in heads for record in row.records)
    names = ", ".join(row.label for row in heads)
    several = len(heads) > 1
    subject = f"{names} are computed, not trained: they" if several else f"{names} is computed, not trained: it"
    words = (
        f"{subject} remember{'' if several else 's'} sums over the features of a fixed representation "
        f"({', '.join(map(str, backbones))}), and sums do not depend on the order of the tasks. So all tasks at once "
        "would give the same head, and nothing is forgotten: where the accuracy on an old task falls, there are more "
        "classes to choose from."
    )
    return el("p", text(words + _gap(group, heads[0])), class_="note")


_COMPUTED = frozenset(entry.name for entry in registry.entries() if not entry.trains and entry.kind == "head")


def _gap(group: Group, best: SummaryRow) -> str:
    """How far the best head is from training on everything at once, and what that distance is made of."""
    ceilings = [row.estimates["average_accuracy"] for row in group.rows if row.bound == "ceiling"]
    mine = best.estimates["average_accuracy"]
    if not ceilings or ceilings[0] is None or mine is None:
        return " What such a head lacks is what its representation cannot tell apart, not memory."
    gap = 100 * (ceilings[0].mean - mine.mean)
    if gap <= 0:
        return (
            f" {best.label} ends {-gap:.1f} points above the model trained on all tasks at once: here the "
            "representation tells the classes apart at least as well as that model does."
        )
    return (
        f" The {gap:.1f} points that {best.label} lacks to the model trained on all tasks at once are what the fixed "
        "representation cannot tell apart, not lost memory."
    )
