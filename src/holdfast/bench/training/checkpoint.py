"""Checkpoints of one run: on a time budget, the previous one kept, none of other code or another configuration used.

A checkpoint is one file of `holdfast.files`. A run that finds a damaged one says so and goes on from the one before;
a run without any good one begins anew. Either way it ends with the record of a run that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from holdfast._version import __version__
from holdfast.bench.records.record import RunConfig
from holdfast.bench.training.snapshot import Cursor, Keeper, Ledger, Snapshot
from holdfast.errors import StateError
from holdfast.files import NewerFileError, load_state, remove_leftovers, save_state

__all__ = ["EVERY", "SHARE", "Checkpoints", "OtherRunError", "finished", "identity"]

EVERY = 60.0
"""Seconds between checkpoints, beside those at every task's end."""

SHARE = 0.03
"""Share of the run's time that checkpoints may take."""

_NAME = re.compile(r"checkpoint-(\d{6,12})\.safetensors")
_KEPT = 2
_CURSOR: TypeAdapter[Cursor] = TypeAdapter(Cursor)
_LEDGER: TypeAdapter[Ledger] = TypeAdapter(Ledger)


def identity(config: RunConfig) -> dict[str, Any]:
    """What a checkpoint's numbers depend on: the code, in its versions, and the configuration."""
    return {"holdfast": __version__, "torch": torch.__version__, "config": _told(config)}


def _told(config: RunConfig) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(config.without_story().model_dump_json())
    return fields


class OtherRunError(StateError):
    """The checkpoint is whole, but of other code or another configuration."""


class Checkpoints:
    """Keeps the checkpoints of one run in a folder of their own; the runner's `Keeper`.

    Args:
        folder: the folder; made where it is missing.
        config: the run's configuration.
        every: seconds between checkpoints, beside those at every task's end.
        share: share of the run's time, from now on, that they may take: one that would take more is left out, be it
            at a task's end. The first is always written, for its cost is not known before.
        warn: is told in a sentence which checkpoint is no good.
        stop: asked after each step; once it says yes, a checkpoint is written and `KeyboardInterrupt` raised.
        clock: seconds, from anywhere.
        weights: file for model and method at the end of the run; ``None``: they are not kept.
        starts: folder for the weights that runs start from; ``None``: beside that of the checkpoints.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        *,
        every: float = EVERY,
        share: float = SHARE,
        warn: Callable[[str], None] = warnings.warn,
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.perf_counter,
        weights: Path | None = None,
        starts: Path | None = None,
    ) -> None:
        self._folder, self._weights = folder, weights
        self._starts = folder.parent / "starts" if starts is None else starts
        self._identity, self._chosen = identity(config), config.chosen
        self._every, self._share = every, share
        self._warn, self._stop, self._clock = warn, stop, clock
        self._begun = self._latest = clock()
        self._cost, self._spent = 0.0, 0.0  # seconds: of the latest checkpoint, of all of them
        self._good: list[Path] = []  # oldest first

    def _files(self) -> list[Path]:
        """The checkpoints, oldest first."""
        names = {path: match for path in self._folder.glob("*") if (match := _NAME.fullmatch(path.name))}
        return sorted(names, key=lambda path: int(names[path][1]))

    def load(self) -> Snapshot | None:
        """The latest good checkpoint; ``None`` where there is none, and the run begins anew.

        Raises:
            StateError: if a checkpoint is of another configuration, or of another version of holdfast or PyTorch.
        """
        for path in reversed(self._files()):
            try:
                state = load_state(path)
                _check_identity(path, state, self._identity, self._chosen)
                snapshot = _unpack(path, state)
            except (NewerFileError, OtherRunError):
                raise
            except StateError as error:
                self._warn(f"{error} The checkpoint before it is used, or the run begins anew if there is none.")
                continue
            self._good = [path]
            return snapshot
        return None

    def check(self) -> None:
        """Refuse what :meth:`load` would refuse, without a word about damage: that is said when the run begins.

        Raises:
            StateError: if a checkpoint is of another configuration, or of another version of holdfast or PyTorch.
        """
        for path in reversed(self._files()):
            try:
                return _check_identity(path, load_state(path), self._identity, self._chosen)
            except (NewerFileError, OtherRunError):
                raise
            except StateError:
                continue

    def keep(self, take: Callable[[], Snapshot], *, must: bool) -> None:
        """Write a checkpoint if it is time for one and there is time for it.

        Args:
            take: makes the snapshot.
            must: whether this place is worth one however short ago the latest was.

        Raises:
            StateError: if it cannot be written; those before it are intact.
            KeyboardInterrupt: if the run was asked to stop; the checkpoint is written then.
        """
        stopping = self._stop()
        now = self._clock()
        if not stopping:
            if not must and now - self._latest < self._every:
                return
            if self._spent + self._cost > self._share * (now - self._begun):
                return
        self._write(take())
        self._latest = self._clock()
        self._cost = self._latest - now
        self._spent += self._cost
        if stopping:
            raise KeyboardInterrupt

    def finish(self, learner: Callable[[], dict[str, Any]]) -> None:
        """Write model, method and head down, if they are to be kept.

        Raises:
            StateError: if they cannot be written.
        """
        if self._weights is not None:
            state = {key: value for key, value in learner().items() if key != "optimizer"}
            save_state({"identity": json.dumps(self._identity), **state}, self._weights)

    def beforehand(self, config: RunConfig, learn: Callable[[Keeper], None]) -> dict[str, Any]:
        """The model's state at the end of another run: kept in a file that all runs which start from it share.

        Whoever comes first learns it, in however many processes runs are under way; the others wait.
        """
        digest = hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:16]
        path = self._starts / f"{digest}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._alone(path.with_suffix(".lock")):
            if not path.is_file():
                mine = Checkpoints(
                    self._starts / digest, config, every=self._every, share=self._share, warn=self._warn,
                    stop=self._stop, weights=path,
                )  # fmt: skip
                learn(mine)
                mine.clear()
        found: dict[str, Any] = finished(path, config)["model"]
        return found

    @contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        lock = FileLock(path)
        while True:
            try:
                with lock.acquire(timeout=0.5):
                    yield
                return
            except Timeout:
                if self._stop():
                    raise KeyboardInterrupt from None

    def _write(self, snapshot: Snapshot) -> None:
        present = self._files()
        number = int(_NAME.fullmatch(present[-1].name)[1]) + 1 if present else 1  # type: ignore[index]  # matched above
        path = self._folder / f"checkpoint-{number:06d}.safetensors"
        save_state({"identity": json.dumps(self._identity), **_pack(snapshot)}, path)
        self._good = [*self._good, path][-_KEPT:]
        for old in present:
            if old not in self._good:
                with suppress(OSError):
                    old.unlink()

    def clear(self) -> None:
        """Delete the checkpoints of a run whose record is written."""
        remove_leftovers(self._folder)
        for path in self._files():
            with suppress(OSError):
                path.unlink()
        for folder in (self._folder, self._folder.parent):
            with suppress(OSError):  # not empty, or not there
                folder.rmdir()


def finished(path: Path, config: RunConfig) -> dict[str, Any]:
    """Model, method and head at the end of a run, as :meth:`Checkpoints.finish` wrote them.

    Args:
        path: the file.
        config: the run's.

    Raises:
        StateError: if it cannot be read, or is of another run or version.
    """
    state = load_state(path)
    _check_identity(path, state, identity(config), config.chosen)
    return {"model": _mapping(state.get("model")), "method": state.get("method"), "head": state.get("head")}


def _check_identity(path: Path, state: Mapping[str, Any], expected: Mapping[str, Any], chosen: Collection[str]) -> None:
    text = state.get("identity")
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise StateError(f"{path} is not a checkpoint of a run.")
    with suppress(ValidationError):  # an older one says in its own way what is the same today
        found["config"] = _told(RunConfig.model_validate(found["config"]))
    if found == expected:
        return
    differing = dict(_differences(found, expected, ""))
    if all(f"{place}.".startswith(_follow(chosen)) for place in differing):
        raise StateError(f"{path} has what was chosen before: {'; '.join(differing.values())}.")
    shown = "; ".join([*differing.values()][:3]) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")
    raise OtherRunError(
        f"{path} is a checkpoint of another run: {shown}. Ask for what it was made with, or delete {path.parent} to "
        "begin this run anew."
    )


def _follow(chosen: Collection[str]) -> tuple[str, ...]:
    """Where values that were chosen anew may differ: at their own places, and an optimizer's learning rate at its."""
    own = [f"config.hyperparameters.{key}." for key in chosen]
    return (*own, *(["config.lr."] if "lr" in chosen else []))


def _differences(found: Any, expected: Any, path: str) -> Iterator[tuple[str, str]]:
    """What differs, by its place."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in {**expected, **found}:
            yield from _differences(found.get(key), expected.get(key), f"{path}.{key}" if path else str(key))
    elif found != expected:
        yield path, f"{path.removeprefix('config.')} was {found!r} and is {expected!r} now"


# The long columns of a ledger: as a tensor a number costs eight bytes or one.
_COLUMNS = {"step_seconds": torch.float64, "hits": torch.bool, "labels": torch.int64}


def _pack(snapshot: Snapshot) -> dict[str, Any]:
    ledger = vars(snapshot.ledger)
    columns = {name: torch.tensor(ledger[name], dtype=kind) for name, kind in _COLUMNS.items()}
    return {**vars(snapshot), "cursor": vars(snapshot.cursor), "ledger": {**ledger, **columns}}


def _unpack(path: Path, state: Mapping[str, Any]) -> Snapshot:
    try:
        cursor = _CURSOR.validate_python(state["cursor"])
        if min(vars(cursor).values()) < 0:
            raise ValueError("a place before the beginning")
        ledger = dict(state["ledger"])
        ledger |= {name: ledger[name].tolist() for name in _COLUMNS if name in ledger}
        return Snapshot(
            cursor=cursor,
            ledger=_LEDGER.validate_python(ledger),
            learner=_mapping(state["learner"]),
            diagnosis=_mapping(state["diagnosis"]),
            health=_mapping(state["health"]),
            random_states=_mapping(state["random_states"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StateError(f"{path} is not a checkpoint of a run ({type(error).__name__}).") from error


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(value)
    return value
