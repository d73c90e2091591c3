"""Old records, read as today's: the one place that knows how records of version 0.1 said things.

They told in a sentence how a value was chosen; its words are frozen here, they are those that lie on disk, whatever is
shown today. And a method had another name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from holdfast.bench.records.choice import Candidate, Choice

__all__ = ["choice_of", "config"]

_GRID = re.compile(r"best of (\d+) by validation accuracy, seed (-?\d+): (.+)", re.DOTALL)
_SEARCH = re.compile(
    r"best of (\d+) trials by validation accuracy over (?:(all tasks)|the first task|the first (\d+) tasks), "
    r"seed (-?\d+): ([\d.]+)% in trial (\d+)"
)
_SCORED = re.compile(r"(.+) (?:([\d.]+)%|failed)", re.DOTALL)


def config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration as they would be written today.

    Args:
        fields: as they were read; what is not as an old record has it is left alone.
    """
    found = dict(fields)
    if isinstance(fields.get("hyperparameters"), dict):
        _rename(found)
        found["hyperparameters"] = _typed(found["hyperparameters"])
    return found


def _rename(fields: dict[str, Any]) -> None:
    """What was a variant of EWC is a method of its own since version 0.2."""
    values = fields["hyperparameters"]
    variant = values.get("variant")
    if fields.get("method") == "ewc" and isinstance(variant, dict) and variant.get("value") == "foreign":
        fields["method"] = "ewc-foreign"
        fields["hyperparameters"] = {key: each for key, each in values.items() if key not in ("variant", "fisher")}


def _typed(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters with their choices, where they have sentences about them."""
    found = dict(hyperparameters)
    plain = {key: fields for key, fields in found.items() if isinstance(fields, dict)}
    searched = {key: fields.get("value") for key, fields in plain.items() if fields.get("source") == "tuned"}
    for key, fields in plain.items():
        choice = choice_of(str(fields.get("source")), str(fields.get("detail", "")), searched)
        if choice is not None:
            found[key] = {**fields, "detail": "", "choice": choice}
    return found


def choice_of(source: str, sentence: str, searched: Mapping[str, Any]) -> Choice | None:
    """The choice that an old sentence tells of.

    Args:
        source: ``grid`` or ``tuned``.
        sentence: what an old record has as the detail of a hyperparameter.
        searched: what a search chose; its sentence does not say it.

    Returns:
        The choice; ``None`` where this is no such sentence.

    Example:
        >>> choice_of("grid", "best of 2 by validation accuracy, seed 0: decay=0.9 91.20%, decay=1.0 failed", {}).count
        2
    """
    try:
        return _grid(sentence) if source == "grid" else _search(sentence, searched) if source == "tuned" else None
    except ValueError:  # numbers that are none, or no accuracies: a text of somebody's own
        return None


def _grid(sentence: str) -> Choice | None:
    found = _GRID.fullmatch(sentence)
    if found is None:
        return None
    candidates: list[Candidate] = []
    values: dict[str, float | int | bool | str | None] = {}
    for piece in found[3].split(", "):
        scored = _SCORED.fullmatch(piece)
        key, equals, text = (scored[1] if scored else piece).partition("=")
        if not equals:
            return None
        values[key] = _value(text)
        if scored:
            score = None if scored[2] is None else float(scored[2]) / 100
            candidates.append(Candidate(values=values, score=score))
            values = {}
    if values:
        return None
    return Choice(
        kind="grid", seed=int(found[2]), candidates=tuple(candidates), unlisted=int(found[1]) - len(candidates)
    )


def _search(sentence: str, values: Mapping[str, Any]) -> Choice | None:
    found = _SEARCH.fullmatch(sentence)
    if found is None:
        return None
    count, everything, first, seed, score, trial = found.groups()
    best = Candidate.model_validate({"values": values, "score": float(score) / 100, "trial": int(trial)})
    tasks = None if everything else int(first or 1)
    return Choice(kind="search", seed=int(seed), tasks=tasks, candidates=(best,), unlisted=int(count) - 1)


def _value(text: str) -> float | int | bool | str | None:
    """A value from its text, of the type that it had."""
    words: dict[str, bool | None] = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
