"""Where the bench's modules were until version 0.1: their old names keep working for one release, with a warning.

Only this file knows them. ``holdfast.bench.runner`` is found by :class:`OldNames`, which the bench puts behind Python's
own finders; a name that is now a wing's (``holdfast.bench.data``) hands on what its old module held.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "OldNames", "install", "names_of"]

MOVED: dict[str, tuple[str, ...]] = {
    "holdfast.bench.cache": ("holdfast.bench.data.cache",),
    "holdfast.bench.card": ("holdfast.bench.export.card",),
    "holdfast.bench.checkpoint": ("holdfast.bench.training.checkpoint",),
    "holdfast.bench.cluster": ("holdfast.bench.jobs.ray",),
    "holdfast.bench.compare": (
        "holdfast.bench.comparing.compare",
        "holdfast.bench.comparing.typed",
        "holdfast.bench.jobs.work",
    ),
    "holdfast.bench.data": ("holdfast.bench.data.named", "holdfast.bench.data.sets", "holdfast.bench.data.splitting"),
    "holdfast.bench.diagnostics": ("holdfast.bench.training.diagnostics",),
    "holdfast.bench.distribution": ("holdfast.bench.study.distribution",),
    "holdfast.bench.drafts": ("holdfast.bench.data.drafts",),
    "holdfast.bench.environment": ("holdfast.bench.training.environment",),
    "holdfast.bench.executing": ("holdfast.bench.jobs.handing_out",),
    "holdfast.bench.executors": ("holdfast.bench.jobs.processes", "holdfast.bench.jobs.handing_out"),
    "holdfast.bench.export": ("holdfast.bench.export.exporting",),
    "holdfast.bench.folder": ("holdfast.bench.jobs.folder",),
    "holdfast.bench.footprint": ("holdfast.bench.study.footprint",),
    "holdfast.bench.grids": ("holdfast.bench.comparing.grids",),
    "holdfast.bench.health": ("holdfast.bench.training.health",),
    "holdfast.bench.hub": ("holdfast.bench.export.hub",),
    "holdfast.bench.importance_record": ("holdfast.bench.records.spreads",),
    "holdfast.bench.importance_study": ("holdfast.bench.study.importance",),
    "holdfast.bench.interrupt": ("holdfast.bench.jobs.interrupt",),
    "holdfast.bench.jobs": ("holdfast.bench.jobs.job",),
    "holdfast.bench.learner": ("holdfast.bench.training.learner",),
    "holdfast.bench.manifest": ("holdfast.bench.jobs.manifest",),
    "holdfast.bench.memory": ("holdfast.bench.training.memory",),
    "holdfast.bench.metrics": ("holdfast.metrics",),
    "holdfast.bench.model_folder": ("holdfast.bench.export.folder",),
    "holdfast.bench.models": ("holdfast.bench.models.named", "holdfast.bench.models.heads"),
    "holdfast.bench.optimizers": ("holdfast.bench.training.optimizers",),
    "holdfast.bench.plan": (
        "holdfast.bench.comparing.plan",
        "holdfast.bench.comparing.protocols",
        "holdfast.bench.comparing.typed",
        "holdfast.bench.comparing.rehearsal",
    ),
    "holdfast.bench.progress": ("holdfast.bench.jobs.progress",),
    "holdfast.bench.record": ("holdfast.bench.records.record", "holdfast.bench.records.writing"),
    "holdfast.bench.residual": ("holdfast.bench.models.residual",),
    "holdfast.bench.results": ("holdfast.bench.evidence.experiments",),
    "holdfast.bench.results_check": ("holdfast.bench.evidence.check",),
    "holdfast.bench.results_found": ("holdfast.bench.evidence.findings",),
    "holdfast.bench.results_page": ("holdfast.bench.evidence.page",),
    "holdfast.bench.runner": ("holdfast.bench.training.runner",),
    "holdfast.bench.seeding": ("holdfast.bench.records.seeding",),
    "holdfast.bench.session": ("holdfast.bench.training.session",),
    "holdfast.bench.snapshot": ("holdfast.bench.training.snapshot",),
    "holdfast.bench.sources": ("holdfast.bench.data.sources",),
    "holdfast.bench.store": ("holdfast.bench.records.query",),
    "holdfast.bench.streams": ("holdfast.bench.data.streams", "holdfast.bench.data.asked"),
    "holdfast.bench.studies": ("holdfast.bench.comparing.studies",),
    "holdfast.bench.tasks": ("holdfast.bench.data.tasks",),
    "holdfast.bench.text_data": ("holdfast.bench.data.text",),
    "holdfast.bench.text_models": ("holdfast.bench.models.transformer",),
    "holdfast.bench.trackers": ("holdfast.bench.jobs.trackers",),
    "holdfast.bench.tuning": ("holdfast.bench.comparing.tuning",),
    "holdfast.bench.work": ("holdfast.bench.jobs.work",),
}
"""Old module -> the modules that hold today what it held."""


def names_of(old: str) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that hands on what an old module held.

    Args:
        old: a key of :data:`MOVED`.
    """

    def get(name: str) -> Any:
        if not name.startswith("__") and not _is_room(old, name):
            for home in MOVED[old]:
                module = importlib.import_module(home)
                if name in vars(module):
                    warnings.warn(
                        f"{old}.{name} is {home}.{name} now; the old name goes with version 0.3",
                        DeprecationWarning,
                        stacklevel=2,
                    )
                    return vars(module)[name]
        raise AttributeError(f"module {old!r} has no attribute {name!r}")

    return get


def _is_room(package: str, name: str) -> bool:
    """Whether a name is a module of today's: ``from package import module`` asks the package before it looks."""
    return hasattr(sys.modules[package], "__path__") and importlib.util.find_spec(f"{package}.{name}") is not None


class _Callable(ModuleType):
    """``import holdfast.bench.compare`` puts a module where the function ``compare`` is: it answers as that does."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return importlib.import_module("holdfast.bench.comparing.calling").compare(*args, **options)

    @property
    def __wrapped__(self) -> Any:
        """That function, for whoever asks what can be given to it: its signature, and its help."""
        if self.__name__ != "holdfast.bench.compare":
            raise AttributeError(f"module {self.__name__!r} has no attribute '__wrapped__'")
        return importlib.import_module("holdfast.bench.comparing.calling").compare


class OldNames(MetaPathFinder, Loader):
    """Finds a module by the name that it had before the bench had wings."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The old name's module, if it is one; asked only where nobody else found it."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A module that can be called, if its name is that of a function now."""
        return _Callable(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Hand on whatever is asked of it."""
        vars(module)["__getattr__"] = names_of(module.__name__)


def install() -> None:
    """Put the old names behind Python's own finders, once."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
