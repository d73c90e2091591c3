"""Which packages the core and each extra need, and which of them are there: read from metadata, nothing is imported."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

__all__ = ["OWN", "USES", "Need", "Package", "extra_of", "needs"]

USES = {
    "": "the methods, in your own training loop",
    "bench": "every command but doctor, and holdfast.bench",
    "adapt": "holdfast adapt and audit, for models of Transformers and adapters",
    "vision": "holdfast adapt and audit, for models of timm (with bench)",
    "transformers": "holdfast.integrations.transformers",
    "trl": "the same, in TRL's trainers",
    "peft": "adapters: holdfast.OLoRA, keep.rebind, holdfast.integrations.peft",
    "lightning": "holdfast.integrations.lightning",
    "ray": "--executor ray",
    "tensorboard": "--track tensorboard",
    "mlflow": "--track mlflow",
    "wandb": "--track wandb",
}
"""Extra -> what it is for; the core is the empty one."""

OWN = ("dev", "docs")
"""Extras that only work on Holdfast itself takes."""

_BUILT = {"vision": "torchvision"}
"""Extra -> what it brings along that must be of the same build as PyTorch: an index has that of its own alone."""

_MODULES = {"yaml": "pyyaml", "sklearn": "scikit-learn", "PIL": "pillow", "mlflow": "mlflow-skinny"}
"""Module -> the package that has it, where their names differ."""

_NAME = re.compile(r"[\w.-]+(?:\[[\w,\s-]+\])?")


@dataclass(frozen=True)
class Package:
    """A package that something needs.

    Attributes:
        name: on the package index.
        floor: the oldest version that will do.
        found: the version that is installed; ``None``: it is not.
        lacks: what it needs itself and what is not there, as torchvision for timm where that was installed alone.
    """

    name: str
    floor: str
    found: str | None
    lacks: tuple[str, ...] = ()

    @property
    def is_fine(self) -> bool:
        """Whether it is there, and new enough."""
        return self.found is not None and _numbers(self.found) >= _numbers(self.floor) and not self.lacks

    def __str__(self) -> str:
        wanted = f"{self.name}>={self.floor}"
        if self.found is None:
            return wanted
        if self.lacks:
            return f"{', '.join(self.lacks)} (which {self.name} {self.found} needs)"
        return f"{self.name} {self.found}" if self.is_fine else f"{wanted}, not {self.found}"


@dataclass(frozen=True)
class Need:
    """What one extra is for, and what it needs.

    Attributes:
        extra: its name; empty: the core.
        packages: all that it needs, whatever other extras it takes in.
        first: what to type before that, where the package index has no build that fits; mostly nothing.
    """

    extra: str
    packages: tuple[Package, ...]
    first: str = ""

    def lines(self) -> Iterator[str]:
        """What to say of it: whether it is ready, and if not, what to type."""
        missing = [package for package in self.packages if not package.is_fine]
        ready = not missing and not self.first
        yield f"{'ready' if ready else 'missing':10}{self.extra or 'core':14}{USES[self.extra]}"
        if self.first:
            yield from _wrapped(
                f"needs {_BUILT[self.extra]} of this CPU build of PyTorch; the package index has another"
            )
            yield from _wrapped(self.first)
        if missing:
            wanted = f'"holdfast[{self.extra}]"' if self.extra else "holdfast"
            yield from _wrapped(f"needs {', '.join(map(str, missing))}")
            yield from _wrapped(f"pip install {wanted}")
        if ready:
            yield from _wrapped(", ".join(map(str, self.packages)))


def needs() -> tuple[Need, ...]:
    """What the core and every extra for users need; empty where Holdfast is no installed package."""
    declared = _declared()
    return tuple(
        Need(extra, tuple(_package(name, floor) for name, floor in _needed(declared, extra)), _first(extra))
        for extra in USES
        if extra in declared
    )


def extra_of(module: str) -> str | None:
    """The extra that a module comes with; ``None`` for a module that is none of Holdfast's business.

    Args:
        module: the name that could not be imported, dotted or not.

    Example:
        >>> extra_of("no_such_module") is None
        True
    """
    top = module.partition(".")[0]
    name = _MODULES.get(top, top).replace("_", "-").lower()
    declared = _declared()
    for extra in USES:
        if name in {package.replace("_", "-").lower() for package, _ in declared.get(extra, ())}:
            return extra
    return None


def _declared() -> dict[str, list[tuple[str, str]]]:
    """Extra -> (package, floor) as declared; extras that it takes in stand as ``holdfast[…]``."""
    try:
        lines = metadata.requires("holdfast") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[tuple[str, str]]] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        of = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        name, floor = _NAME.match(line), re.search(r">=\s*([\w.]+)", requirement)
        assert name is not None, f"a requirement without a name: {line!r}"
        found.setdefault(of[1] if of else "", []).append((name[0], floor[1] if floor else "0"))
    return found


def _needed(declared: dict[str, list[tuple[str, str]]], extra: str) -> Iterator[tuple[str, str]]:
    for name, floor in declared[extra]:
        if name.startswith("holdfast["):
            inner = name[len("holdfast[") : -1].split(",")
            yield from itertools.chain.from_iterable(_needed(declared, each.strip()) for each in inner)
        else:
            yield name, floor


def _package(name: str, floor: str) -> Package:
    try:
        there = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return Package(name, floor, None)
    # What stands under a marker is left out: only pip reads markers, and most of them name extras.
    asked = [
        match[0].partition("[")[0] for line in there.requires or () if ";" not in line and (match := _NAME.match(line))
    ]
    return Package(name, floor, there.version, tuple(each for each in asked if not _is_there(each)))


def _first(extra: str) -> str:
    """What to type where PyTorch is the CPU build of its own index, and what must fit it is not."""
    name, torch = _BUILT.get(extra), _version("torch") or ""
    there = None if name is None else _version(name)
    if name is None or not torch.endswith("+cpu") or (there or "").endswith("+cpu"):
        return ""
    again = "--force-reinstall --no-deps " if there else ""
    return f"pip install {again}{name} --index-url https://download.pytorch.org/whl/cpu"


def _is_there(name: str) -> bool:
    return _version(name) is not None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, to compare: what follows its numbers (``+cpu``, ``rc1``) does not count."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and numbers[-1] == 0:  # 2.6 is 2.6.0
        numbers.pop()
    return tuple(numbers)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent=" " * 24, subsequent_indent=" " * 24, break_on_hyphens=False)
