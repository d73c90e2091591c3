"""The page that says which method is for which case: figures and advice are computed from records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast import registry
from holdfast.bench.evidence import texts
from holdfast.bench.evidence.experiments import Experiment, collect
from holdfast.bench.evidence.findings import anchor
from holdfast.bench.evidence.opening import Scene, scenes_of
from holdfast.bench.evidence.tables import line
from holdfast.bench.report import SummaryRow

__all__ = ["page"]

MADE = "<!-- Made by python -m handbook from records alone; do not edit. -->\n"

_MOST = 6  # rows of a table, the two bounds aside
_NEAR = 1.0  # point of accuracy: few seeds tell little apart, so that alone would excuse any loss


@dataclass(frozen=True)
class Case:
    """A reader's case: a question, what it means, where it was measured (recipe and part, the most telling first)."""

    title: str
    about: str
    measured: tuple[tuple[str, str], ...]


_CASES = (
    Case(
        "The model is told which task it is",
        "A head per task, and whoever asks says which: one customer, one language, one sensor. *Task-incremental*.",
        (("hsu-split-mnist", "task"), ("vandeven-fisher", "split-cifar10")),
    ),
    Case(
        "Same outputs, other inputs",
        "Another camera, another year, another writer; nobody says which at the test. *Domain-incremental*.",
        (("subspaces", "domain"), ("hsu-split-mnist", "domain"), ("classp-mnist-fashion", "domain")),
    ),
    Case(
        "New classes beside the old ones",
        "All classes compete at the test. *Class-incremental*. Weights cannot be protected into knowing what they "
        "never compared ([why](guide/class-incremental.md)); a head is computed instead.",
        tuple(("class-incremental", f"split-{name}") for name in ("cifar10", "fashion", "mnist")),
    ),
    Case(
        "A handful of samples of each new class",
        "A base of several classes with hundreds of samples, then new classes with five. *Few-shot class-incremental*.",
        (("list-003", "few-shot-fashion"), ("list-003", "few-shot-mnist")),
    ),
    Case(
        "A good model, few new data",
        "Fine-tuning a trained model on a related, smaller task: here the question is how well the *new* task is "
        "learned, and how much of the old one is left.",
        (("list-003", "tuning"),),
    ),
    Case(
        "Exactly nothing may be lost",
        "Each task owns some weights, which later ones cannot move; the task must be named at the test.",
        (("list-003", "tasks"),),
    ),
)  # fmt: skip


def page(root: Path) -> str:
    """The page, as Markdown."""
    experiments = {(e.recipe.name, e.variant): e for e in collect(root / "results")}
    lines = [
        "# Which method for my case", "",
        "Find the line that is yours. Every figure is the mean accuracy over all tasks at the end, measured here, and "
        "leads to the page of its protocol, which has the records; none was typed by hand. Of texts it is perplexity.",
        "",
        line("your case", "begin with", "it held", "without a method", "all tasks at once"), "|---" * 5 + "|",
    ]  # fmt: skip
    sections: list[str] = []
    for case in _CASES:
        found = [scene for place in case.measured for scene in _scenes(experiments, place)]
        if not found:
            continue
        lines.append(_summary(case, found[0]))
        sections += _section(case, found)
    of_texts = next((e for (name, _), e in experiments.items() if name == _TEXTS), None)
    if of_texts is not None:
        lines.append(_texts_summary(of_texts))
        sections += _texts_section(of_texts)
    return MADE + "\n".join([*lines, "", *_RULES, *sections])


_RULES = [
    f"**How *begin with* is chosen.** Of all rows that are within {_NEAR:g} point of the best one and not told apart "
    "from it, seed by seed at 95 %, the one that remembers least; of those equal in that, the best. A control "
    "(fine-tuning, L2-SP, AdaGrad) counts like any other: where it wins, take it. What wins on small images need not "
    "win on yours: `holdfast compare` ([your own data](own-data.md)) says what does, and `holdfast adapt` ([your own "
    "model](adapt.md)) chooses by itself.",
    "",
]

_TEXTS = "language"
_LANGUAGE = "A language model"


def _texts_summary(experiment: Experiment) -> str:
    """The front that learned most at equal loss of the old text, in perplexities."""
    floor, held, _, ceiling = texts.in_a_line(experiment, next(iter(experiment.recipe.parts)))
    front, _, figure = held.partition(" ")
    method = next((row.method for row in experiment.recipe.methods if row.front == front), "")
    named = f"[{method}](methods/{method}.md), row {front}" if method else ""
    shown = f"perplexity [{figure}](results/{anchor(experiment)}.md)" if figure else ""
    return line(f"[{_LANGUAGE}](#{_slug(_LANGUAGE)})", named, shown, floor.partition(" ")[2], ceiling.partition(" ")[2])


def _texts_section(experiment: Experiment) -> list[str]:
    """Fronts at equal loss of the old text."""
    part = next(iter(experiment.recipe.parts))
    return [
        f"## {_LANGUAGE}", "",
        "Fine-tuned on new text, with the old one gone. Texts that the model writes itself stand in for it: [language "
        "models](language.md), and [how to stay near the base](anchored.md). "
        f"**{experiment.recipe.parts[part].stream}**, every method as a front of several strengths:", "",
        *texts.at_equal_loss(experiment, part),
        f"Every row: [{experiment.recipe.title}](results/{anchor(experiment)}.md).", "",
    ]  # fmt: skip


def _scenes(experiments: dict[tuple[str, str], Experiment], place: tuple[str, str]) -> list[Scene]:
    """The measured part, in the variant with most records; none where nothing has finished."""
    recipe, part = place
    of = sorted((e for (name, _), e in experiments.items() if name == recipe), key=lambda e: -len(e.records))
    return [scene for e in of for scene in scenes_of(e) if scene.part == part and len(scene.finished) > 1][:1]


def _first(scene: Scene) -> SummaryRow:
    """The row to begin with: the cheapest that is not told from the best."""
    rows = [row for row in scene.finished if row.bound != "ceiling" and row.label not in scene.failed]
    best = rows[0]
    alike = [
        row for row in rows if row is best or (_points(best) - _points(row) <= _NEAR and not scene.more(best, row))
    ]
    return min(alike, key=lambda row: round(_state(row), 1))


def _points(row: SummaryRow) -> float:
    found = row.estimates["average_accuracy"]
    assert found is not None
    values = [100 * value for value in found.values]
    return sum(values) / len(values)


def _state(row: SummaryRow) -> float:
    found = row.estimates["state_bytes"]
    return 0.0 if found is None else found.mean


def _summary(case: Case, scene: Scene) -> str:
    row = _first(scene)
    bounds = ["" if bound is None else _figure(bound, scene) for bound in (scene.floor, scene.ceiling)]
    return line(f"[{case.title}](#{_slug(case.title)})", _named(row), _figure(row, scene), *bounds)


def _section(case: Case, found: Sequence[Scene]) -> list[str]:
    lines = [f"## {case.title}", "", case.about, ""]
    for scene in found:
        first = _first(scene)
        lines += [
            f"**{scene.group.stream}**, {_seeds(scene)}: begin with {_named(first)}. {_why(first, scene)}", "",
            line("", "accuracy (%)", "forgotten (points)", "state (bytes a parameter)", "beside the best control"),
            "|---" * 5 + "|",
            *(_row(row, scene) for row in _shown(scene, first)), "",
            f"Every row: [{scene.experiment.recipe.title}](results/{anchor(scene.experiment)}.md).", "",
        ]  # fmt: skip
    return lines


def _seeds(scene: Scene) -> str:
    return f"{len(scene.group.task_names)} tasks, {scene.seeds} seed{'s' * (scene.seeds != 1)}"


def _why(first: SummaryRow, scene: Scene) -> str:
    """Why that one."""
    rows = [row for row in scene.finished if row.bound != "ceiling" and row.label not in scene.failed]
    if first is not rows[0]:
        return f"It is not told apart from the best row, {_named(rows[0])}, and remembers less."
    if first.bound == "floor":
        return "No method held more than none."
    return (
        "It held most."
        if scene.more(first, rows[1])
        else f"It held most, though {_named(rows[1])} is not told apart from it."
    )


def _shown(scene: Scene, first: SummaryRow) -> list[SummaryRow]:
    """The best rows, the one to begin with, the best control, and the bounds."""
    wanted = [row for row in scene.finished if row.bound is None][:_MOST]
    wanted += [
        row for row in (first, scene.control, scene.floor, scene.ceiling) if row is not None and row not in wanted
    ]
    return [row for row in scene.finished if row in wanted]


def _row(row: SummaryRow, scene: Scene) -> str:
    forgetting, control = row.estimates["forgetting"], scene.control
    beside = ""
    if control is not None and row is not control and row.bound != "ceiling":
        beside = {True: "more", None: "not told apart", False: "less"}[scene.more(row, control)]
    mark = " (control)" if row.control or row.bound else ""
    mark += " (never learned some task)" if row.label in scene.failed else ""
    lost = "" if forgetting is None or row.bound == "ceiling" else f"{100 * forgetting.mean:.1f}"
    state = "" if row.bound == "ceiling" else f"{_state(row):.1f}"
    return line(f"{_named(row)}{mark}", _figure(row, scene), lost, state, beside)


def _named(row: SummaryRow) -> str:
    """A row's method, as a link to its page, and what the row is called where that is something else."""
    known = {entry.name for entry in registry.entries() if entry.listed}
    method = f"[{row.method}](methods/{row.method}.md)" if row.method in known else row.method
    return method if row.label == row.method else f"{method}, row {row.label}"


def _figure(row: SummaryRow, scene: Scene) -> str:
    """A row's accuracy, as a link to the page that has its records."""
    return f'[{_points(row):.2f} %](results/{anchor(scene.experiment)}.md "{scene.part} {row.label}")'


def _slug(title: str) -> str:
    return title.lower().replace(",", "").replace(" ", "-")
