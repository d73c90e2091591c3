"""The pages of the reference: every public name, by what it is for. Their text is that of the docstrings."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import holdfast
from handbook.docstrings import to_markdown
from holdfast import registry

__all__ = ["Page", "documented", "index", "of_method", "pages"]


@dataclass(frozen=True)
class Page:
    """One page: ``stem`` of its file, title, a sentence, the names that it documents, and where to read on."""

    stem: str
    title: str
    about: str
    names: tuple[str, ...]
    further: str = ""

    def markdown(self) -> str:
        """As a page that mkdocstrings fills."""
        about = f"{self.about} {self.further}".rstrip()
        return "\n".join([f"# {self.title}", "", about, "", *(f"::: {name}\n" for name in self.names)])


_SHARED = (
    "What all methods do (`attach`, `consolidate`, `penalty`, `state_dict`, …) is listed under "
    "[`Method`](core.md#holdfast.Method); what each is good for, under [Methods](../methods/index.md)."
)


_FAMILIES = {
    "penalty": ("penalties", "Penalties", "They pull weights back to where they were, each by how much it mattered."),
    "projection": ("projections", "Projections", "They take out of a step what would harm, or hold weights exactly."),
    "distillation": ("distillation", "Distillation", "The new model is held to what the old one would say."),
    "merging": ("merging", "Merging", "Old and new weights are averaged: methods, and functions over state dicts."),
    "optimizer": ("optimizers", "Optimizers", "They are the memory themselves."),
}  # fmt: skip

_WINGS = {
    "heads": ("Heads", "Classifiers in closed form, over features that do not change."),
    "reparam": ("Parametrisations", "What is trained in place of a weight."),
    "objectives": ("Objectives", "What a batch means."),
    "importance": ("Importances", "How much each weight matters: pure functions."),
    "auditing": ("Audits", "What was lost and gained between two models."),
    "prequential": ("Streams without tasks", "Test, then train: how a stream went."),
}

_INTEGRATIONS = {
    "transformers": ("HoldfastCallback", "protect"),
    "lightning": ("Protect",),
    "accelerate": ("register_for_checkpointing",),
    "checkpoint": ("load_memory", "memory_of"),
    "peft": ("start_lora", "check_settings"),
}


def pages() -> list[Page]:
    """All of them."""
    return [_core(), *_methods(), *_wings(), _around(), _integrations(), _bench(), _testing()]


def documented() -> dict[str, str]:
    """Every name that has an entry -> the page's stem."""
    return {name: page.stem for page in pages() for name in page.names}


def _core() -> Page:
    errors = [name for name in holdfast.__all__ if name.endswith(("Error", "Warning"))]
    names = ["Method", "Step", "AutoStrength", "save_state", "load_state", *errors]
    about = "What every method is, what a step shows it, files, and errors."
    return Page("core", "Methods, files, errors", about, _door(names))


def _methods() -> list[Page]:
    by_family: dict[str, list[str]] = {family: [] for family in _FAMILIES}
    for entry in registry.entries():
        if entry.family in by_family and entry.home and entry.home.split(":")[1] in holdfast.__all__:
            by_family[entry.family].append(entry.home.split(":")[1])
    by_family["penalty"].append("OLoRA")
    found = []
    for family, names in by_family.items():
        stem, title, about = _FAMILIES[family]
        further = _public("merging", but=names) if family == "merging" else ()
        shared = "" if family == "optimizer" else _SHARED
        found.append(Page(stem, title, about, (*_door(dict.fromkeys(names)), *further), shared))
    return found


def _wings() -> list[Page]:
    return [Page(wing, title, about, _public(wing)) for wing, (title, about) in _WINGS.items()]


def _around() -> Page:
    names = ["generations", "Generations", "low_perplexity", "hessian_norm", "hessian_init"]
    return Page(
        "around",
        "Own texts, curvature",
        "Texts that a language model writes itself; how steep a loss is.",
        _door(names),
    )


def _integrations() -> Page:
    names = tuple(f"holdfast.integrations.{file}.{name}" for file, found in _INTEGRATIONS.items() for name in found)
    return Page(
        "integrations", "Integrations", "Transformers, TRL, Lightning, Accelerate, PEFT, PyTorch's checkpoints.", names
    )


def _bench() -> Page:
    names = (
        "holdfast.bench.comparing.calling.compare",
        "holdfast.bench.comparing.calling.Table",
        "holdfast.bench.data.arranging.stream_of",
        "holdfast.bench.data.tasks.Stream",
    )
    return Page("bench", "Comparisons", "``holdfast.bench``: one call compares methods on a stream.", names)


def _testing() -> Page:
    about = "For those who write a method of their own: the promises that all of them keep."
    return Page("testing", "Testing one's own method", about, _public("testing"))


def _door(names: Iterable[str] | Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"holdfast.{name}" for name in names)


def _public(wing: str, but: Iterable[str] = ()) -> tuple[str, ...]:
    """What a wing shows, by the shortest name that a user may type."""
    names = importlib.import_module(f"holdfast.{wing}").__all__
    shown = (name for name in names if name not in set(but))
    return tuple(f"holdfast.{name}" if name in holdfast.__all__ else f"holdfast.{wing}.{name}" for name in shown)


def of_method(page: str) -> str:
    """The last line of a method's page: where its arguments are listed; nothing on any other page."""
    family, _, file = page.rpartition("/")
    homes = {f"{entry.name}.md": entry.home for entry in registry.entries() if entry.home}
    if family != "methods" or file not in homes:
        return ""
    module, _, name = homes[file].partition(":")
    known = documented()
    places = [f"holdfast.{name}", f"holdfast.{module.split('.')[1]}.{name}"]
    place = next((each for each in places if each in known), None)
    return "" if place is None else f"\n\n**Reference.** [`{place}`](../reference/{known[place]}.md#{place})\n"


def index() -> str:
    """The page that opens the reference: every name, with the first line of its docstring."""
    lines = ["# Reference", "", "Every public name. What stands here is read from the docstrings of this version.", ""]
    for page in pages():
        lines += [f"## [{page.title}]({page.stem}.md)", "", page.about, "", "| name | what |", "|---|---|"]
        lines += [
            f"| [`{name.rsplit('.', 1)[-1]}`]({page.stem}.md#{name}) | {_first_line(name)} |" for name in page.names
        ]
        lines.append("")
    return "\n".join(lines)


def _first_line(name: str) -> str:
    """What a docstring says first."""
    module, _, attribute = name.rpartition(".")
    said = getattr(importlib.import_module(module), attribute).__doc__ or ""
    return " ".join(to_markdown(said).strip().split("\n\n")[0].split()).replace("|", "\\|")
