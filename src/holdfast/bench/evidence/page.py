"""The pages of results, as Markdown and pictures: one that opens, one for each protocol; all computed from records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast.bench import recipes
from holdfast.bench.evidence import opening, pictures, tables, texts
from holdfast.bench.evidence.experiments import Experiment, collect, distinct
from holdfast.bench.evidence.findings import Links, anchor, behind, found, incomplete, title
from holdfast.bench.evidence.opening import Scene
from holdfast.bench.recipes import Part

__all__ = ["MADE", "render"]

MADE = "<!-- Made by holdfast results from records alone; do not edit. -->\n"
"""How every file begins that is made here."""

_READING = """\
## How to read this

Every number is computed from the records in `{folder}/`, or is a published one, as its recipe has it with its source;
`holdfast results` (or `make results`) makes these pages, `holdfast results --check` says whether they are up to date.

Accuracy is in percent after the last task: the mean over seeds ± half the width of its 95 % interval (Student's t).
Two rows are compared seed by seed, and *told apart* where the interval of their differences leaves zero out; of pairs
that are equal, one in twenty is told apart by chance. A *control* needs no idea of what matters: it holds every weight
alike, or is a plain optimizer that a method generalises. *Inside* means that a published number lies in our interval,
which fewer than three seeds cannot say; *3 of 10* seeds, that 10 are to be run and 3 have finished, which alone count.
A strength that was chosen was chosen by validation accuracy on the first seed, before the test set was read; where the
best candidate lay at an end of its grid, further ones were tried. *State* is what a method remembers, in bytes per
parameter of the model.
"""


def render(folder: Path, *, name: str = "results", root: str = "../results", stem: str = "results") -> dict[str, str]:
    """All pages and pictures.

    Args:
        folder: of results.
        name: what the pages call it.
        root: where it is, from the page that opens.
        stem: of that page's name; the other files are in a folder of that name beside it.

    Returns:
        Path, from the folder of the page that opens -> text; the same for the same records.

    Raises:
        StateError: if a file in it is not a record, or a record belongs to no recipe.
    """
    experiments = collect(folder) if folder.is_dir() else []
    files: dict[str, str] = {}
    lines = ["# Results", ""]
    if not experiments:
        lines += ["There are no records yet.", ""]
    scenes = opening.scenes(experiments)
    if scenes:
        panels = [(scene.scenario, opening.WORDS[scene.scenario][0], scene.group) for scene in scenes]
        files[f"{stem}/overview.svg"] = MADE + pictures.overview(panels, scenes[0].experiment)
        lines += [f"![{_overview_in_words(scenes)}]({stem}/overview.svg)", ""]
    lines += _listed(opening.sentences(scenes, experiments))
    lines += [*_protocols(experiments, stem), *_absent(experiments), _READING.format(folder=name)]
    files[f"{stem}.md"] = MADE + "\n".join(lines)
    for experiment in experiments:
        drawn = _drawn(experiment)
        files |= {f"{stem}/{file}": MADE + text for file, text in drawn.items()}
        page = _page(experiment, drawn, f"../{stem}.md", f"../{root}")
        files[f"{stem}/{anchor(experiment)}.md"] = MADE + page
    return files


def _overview_in_words(scenes: Sequence[Scene]) -> str:
    names = ", ".join(scene.scenario for scene in scenes)
    return f"Average accuracy of every method on {scenes[0].group.stream} at the end, by scenario: {names}"


def _protocols(experiments: Sequence[Experiment], stem: str) -> list[str]:
    """A line for every part in which rows stand side by side, with a link to its page."""
    head = ("protocol", "scenario", "no method", "held most", "beside the best control", "all tasks at once")
    lines = []
    for experiment in experiments:
        mark = f'<a id="{anchor(experiment)}"></a>'  # where links to a section of the one long page lead
        link = f"[{title(experiment)}]({stem}/{anchor(experiment)}.md)"
        scenes = opening.scenes_of(experiment)
        for scene in [each for each in scenes if len(each.finished) > 1] or scenes:  # one row alone shows little
            where = f"{mark}{link}" + (f": {scene.part}" if len(experiment.recipe.parts) > 1 else "")
            of_texts = texts.contained(experiment, scene.part)
            said = texts.in_a_line(experiment, scene.part) if of_texts else opening.in_a_line(scene)
            lines.append(tables.line(where, scene.scenario, *said))
            mark = ""
        if mark:
            lines.append(tables.line(f"{mark}{link}", "", "no run finished", "", "", ""))
    return ["## Every protocol", "", tables.line(*head), "|---" * len(head) + "|", *lines, ""] if lines else []


def _absent(experiments: Sequence[Experiment]) -> list[str]:
    """The published protocols that have no records, by name and variant."""
    known = {(experiment.recipe.name, experiment.variant) for experiment in experiments}
    absent = [
        f"{name}" + (f", {variant}" if variant else "")
        for name in recipes.names()
        for variant in recipes.load(name).variants or [""]
        if (name, variant) not in known
    ]
    return [f"Not run yet: {'; '.join(absent)}.", ""] if absent and experiments else []


def _drawn(experiment: Experiment) -> dict[str, str]:
    """The pictures of its parts: file name -> text."""
    drawn = {part: pictures.of_part(experiment, part) for part in experiment.recipe.parts}
    return {_picture(experiment, part): text for part, text in drawn.items() if text is not None}


def _picture(experiment: Experiment, part: str) -> str:
    return f"{anchor(experiment)}-{part}.svg"


def _page(experiment: Experiment, drawn: Mapping[str, str], front: str, root: str) -> str:
    recipe, links = experiment.recipe, Links(root)
    lines = [f"# {recipe.title}", "", f"[All results]({front}) · {title(experiment)} · Source: {recipe.source}.", ""]
    lines += [" ".join(recipe.about.split()), ""]
    if experiment.variant:
        lines += [" ".join(recipe.variants[experiment.variant].about.split()), ""]
    lines += [text, ""] if (text := incomplete(experiment)) else []
    for name, part in recipe.parts.items():
        lines += _part(experiment, name, part, _picture(experiment, name) in drawn, links)
    if recipe.notes:
        lines += ["## What to know of the protocol", "", *_listed([" ".join(note.split()) for note in recipe.notes])]
    return "\n".join([*lines, *_foot(experiment, root)])


def _part(experiment: Experiment, name: str, part: Part, drawn: bool, links: Links) -> list[str]:
    cells = list(experiment.cells(name, part))
    if not any(cell.records or cell.failed for cell in cells):
        return [f"## {name}: not run yet", ""] if cells else []
    outputs = f", training sees the outputs {part.training_outputs}" if part.scenario == "class" else ""
    lines = [f"## {name}: {part.stream}, {part.scenario}-incremental{outputs}", ""]
    if drawn:
        alt = f"Average accuracy of every row of {name}: seeds, mean and 95 % interval; rings are published numbers"
        beside = []
        if texts.contained(experiment, name):
            alt = f"Perplexity of the new text against that of the old for the rows of {name}; a line joins a front"
            beside = ["Rows that lost more than plain fine-tuning and learned less are in the table alone.", ""]
        lines += [f"![{alt}]({_picture(experiment, name)})", "", *beside]
    if texts.contained(experiment, name):
        return lines + _listed(texts.findings(experiment, name, links)) + texts.tables_of(experiment, name)
    lines += _listed(found(experiment, name, links))
    lines += tables.of_rows(cells)
    shown = tables.published(experiment, cells)
    lines += ["Published numbers beside ours:", "", *shown] if shown else []
    return lines + _listed(behind(experiment, name, links))


def _listed(sentences: Sequence[str]) -> list[str]:
    return [*(f"- {sentence}" for sentence in sentences), ""] if sentences else []


def _foot(experiment: Experiment, root: str) -> list[str]:
    environments = [record.environment for record in experiment.records]
    machines = distinct(
        [f"{e.processor if e.device_name == 'cpu' else e.device_name}, {e.threads} CPU thread"
         f"{'s' * (e.threads != 1)} a run" for e in environments]
    )  # fmt: skip
    versions = distinct([f"Python {e.python}, PyTorch {e.torch}, holdfast {e.holdfast}" for e in environments])
    seconds = sum(record.costs.seconds_total for record in experiment.records)
    return [
        "## Again",
        "",
        "```",
        *experiment.commands,
        "```",
        "",
        f"Records: [{len(experiment.records)}]({root}/{experiment.folder}/records), "
        f"{seconds / 3600:.1f} hours in all. Ran on {'; '.join(sorted(machines))}; {'; '.join(sorted(versions))}.",
        "",
    ]
