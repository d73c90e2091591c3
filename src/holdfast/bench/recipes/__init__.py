"""Published protocols, one YAML file each: what was done, what was reported, and how to do it again."""

from holdfast.bench.recipes.markers import markers, markers_of
from holdfast.bench.recipes.running import Table, Undertaken, check, command, differing, resolve, run
from holdfast.bench.recipes.schema import (
    Method,
    Paired,
    Part,
    Published,
    Quick,
    Recipe,
    Training,
    Variant,
    load,
    names,
    read,
)
from holdfast.bench.recipes.settling import Row, as_planned

__all__ = [
    "Method",
    "Paired",
    "Part",
    "Published",
    "Quick",
    "Recipe",
    "Row",
    "Table",
    "Undertaken",
    "Training",
    "Variant",
    "as_planned",
    "check",
    "command",
    "differing",
    "load",
    "markers",
    "markers_of",
    "names",
    "read",
    "resolve",
    "run",
]
