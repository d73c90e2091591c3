"""The record of a study of importances, frozen and typed, on disk as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast.bench.records.measured import Environment
from holdfast.bench.records.record import RunConfig
from holdfast.bench.records.writing import write_whole
from holdfast.errors import StateError

__all__ = ["FILE_NAME", "ImportanceRecord", "Spread", "load", "save"]

FILE_NAME = "importance.json"


class _Frozen(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Spread(_Frozen):
    """How the importances of one layer (or of ``all``) are spread, by one method, before or after pruning."""

    method: str
    layer: str
    pruned: bool
    count: int
    zeros: float
    skewness: float | None
    kurtosis: float | None
    density: list[float]


class ImportanceRecord(_Frozen):
    """One study: a task is learned, importances are measured, weights are pruned, importances are measured again.

    ``low`` and ``high`` are the powers of ten between which the densities lie; accuracies are on the validation part.
    """

    schema_version: Literal[1] = 1
    kind: Literal["importance"] = "importance"
    config: RunConfig
    environment: Environment
    methods: list[str]
    prune_to: float
    pruned_share: float
    accuracy_before: float
    accuracy_after: float
    low: float
    high: float
    spreads: list[Spread]
    command: str = ""


def save(record: ImportanceRecord, folder: Path) -> Path:
    """Write the record into a folder, atomically."""
    return write_whole(folder / FILE_NAME, record.model_dump_json(indent=1) + "\n", "record")


def load(folder: Path) -> ImportanceRecord | None:
    """The study in a folder, if there is one.

    Raises:
        StateError: if the file is not such a record.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        return ImportanceRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StateError(f"{path} is not a holdfast study of importances (schema version 1)") from error
