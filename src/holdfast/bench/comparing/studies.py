"""Everything that Optuna does for a search: where values may lie, what to try next, what has been tried.

What a study needs to go on lies in a database. The sampler's state does not: each trial has a sampler of its own, made
from the search's seed and the trial's number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from holdfast.bench.records import seeding
from holdfast.errors import DependencyError, Option, StateError
from holdfast.registry import Choice, Range, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["Finished", "Space", "Study", "Values", "check", "distribution", "file_url", "suggest"]

Values: TypeAlias = Mapping[str, Value]
Finished: TypeAlias = "Mapping[int, tuple[Values, float]]"
"""Trial -> its values and its score."""
Space: TypeAlias = "Mapping[str, BaseDistribution]"


@contextmanager
def _quiet() -> Iterator[Any]:
    """Optuna without its line for each trial, for as long as we use it."""
    try:
        import optuna
    except ImportError as error:
        raise DependencyError("searching needs Optuna: pip install 'holdfast[bench]'") from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield optuna
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _usable(url: str) -> Iterator[Any]:
    """Optuna, while a database is used: what goes wrong with it becomes a sentence without its password."""
    with _quiet() as optuna:
        from sqlalchemy.exc import DatabaseError, SQLAlchemyError

        try:
            yield optuna
        except (SQLAlchemyError, ImportError, OSError, RuntimeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            if type(error) is DatabaseError and url.startswith("sqlite"):  # not one of its subclasses
                reason += "; delete it to go on from the trials' own records"
            raise StateError(
                Option("storage"), f": the database of searches {_shown(url)} cannot be used: {reason}"
            ) from error


def check(url: str, *, made: Path | None = None) -> None:
    """Refuse, before anything is made or trained, a database that cannot be used; nothing is written to it.

    Args:
        url: of the database.
        made: a folder that will be there before the database is opened.

    Raises:
        StateError: naming it, and why.
    """
    with _usable(url):
        import sqlalchemy

        address = sqlalchemy.make_url(url)
        file = address.database if address.get_backend_name() == "sqlite" else None
        if file and file != ":memory:" and not os.path.exists(file):
            folder = Path(os.path.abspath(file)).parent
            if not folder.is_dir() and (made is None or folder != Path(os.path.abspath(made))):
                raise FileNotFoundError(f"there is no folder {folder}")
            return
        engine = sqlalchemy.create_engine(address)
        try:
            sqlalchemy.inspect(engine).get_table_names()
        finally:
            engine.dispose()


def distribution(where: Range | Choice, default: Value) -> BaseDistribution:
    """A range of the registry as Optuna has it; whole numbers where the default is one."""
    with _quiet() as optuna:
        found: BaseDistribution
        if isinstance(where, Choice):
            found = optuna.distributions.CategoricalDistribution(where.values)
        elif isinstance(default, int):
            found = optuna.distributions.IntDistribution(int(where.low), int(where.high), log=where.log)
        else:
            found = optuna.distributions.FloatDistribution(where.low, where.high, log=where.log)
    return found


def suggest(
    space: Space, index: int, *, seed: int, finished: Finished, under_way: Sequence[Values] = ()
) -> dict[str, Value]:
    """The values of one trial, from nothing but the arguments: the tree-structured Parzen estimator's.

    Args:
        space: hyperparameter -> where it is searched.
        index: the number of the trial, from 0.
        seed: of the search.
        finished: what has been tried; only trials before this one count.
        under_way: values that are being tried at this moment.

    Returns:
        Hyperparameter -> value; numbers have three significant digits.
    """
    with _quiet() as optuna:
        sampler = optuna.samplers.TPESampler(
            seed=seeding.derive_seed(seed, "trial", index), constant_liar=bool(under_way)
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for number, (values, score) in sorted(finished.items()):
            if number < index:
                study.add_trial(_trial(optuna, space, values, value=score))
        for values in under_way:
            study.add_trial(_trial(optuna, space, values, state=optuna.trial.TrialState.RUNNING))
        drawn: dict[str, Value] = study.ask(dict(space)).params
    return {key: float(f"{value:.3g}") if isinstance(value, float) else value for key, value in drawn.items()}


def _inside(space: Space, values: Values) -> dict[str, Value]:
    """Values that lie in the space: a default such as ``"auto"`` is tried, but is no point of a range of numbers."""
    with _quiet() as optuna:
        choice = optuna.distributions.CategoricalDistribution
        return {key: value for key, value in values.items() if isinstance(space[key], choice) or value != "auto"}


def _trial(optuna: Any, space: Space, values: Values, **fields: Any) -> Any:
    inside = _inside(space, values)
    return optuna.trial.create_trial(params=inside, distributions={key: space[key] for key in inside}, **fields)


class Study:
    """What is remembered of finished trials: in a database, or by its user alone.

    Args:
        url: of the database; ``None``: none.
        name: of the study in it.
        space: hyperparameter -> where it is searched.

    Raises:
        StateError: if the database cannot be used.
    """

    def __init__(self, url: str | None, name: str, space: Space) -> None:
        self._space = space
        self._study: Any = None
        self._storage: Any = None
        if url is not None:
            self._open(url, name)

    def _open(self, url: str, name: str) -> None:
        try:
            with _usable(url) as optuna:
                self._storage = optuna.storages.RDBStorage(url)
                self._study = optuna.create_study(
                    storage=self._storage, study_name=name, direction="maximize", load_if_exists=True
                )
        except StateError:
            self.close()
            raise

    def finished(self) -> dict[int, tuple[Values, float]]:
        """What earlier calls have finished."""
        found: dict[int, tuple[Values, float]] = {}
        for one in [] if self._study is None else self._study.get_trials(deepcopy=False):
            outside = one.user_attrs.get("outside", {})
            values = MappingProxyType({key: one.params.get(key, outside.get(key)) for key in self._space})
            found.setdefault(one.user_attrs["index"], (values, one.value))
        return found

    def write(self, index: int, values: Values, score: float) -> None:
        """Remember a finished trial: one transaction, so that it is there whole or not at all.

        Args:
            index: its number.
            values: what was tried.
            score: what came of it; higher is better.
        """
        if self._study is not None:
            with _quiet() as optuna:
                inside = _inside(self._space, values)
                attributes = {"index": index, "outside": {key: values[key] for key in values if key not in inside}}
                self._study.add_trial(_trial(optuna, self._space, values, value=score, user_attrs=attributes))

    def close(self) -> None:
        """Let go of the database."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
            self._storage = None


def _shown(url: str) -> str:
    """Without a password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return repr(url)


def file_url(path: Path) -> str:
    """The URL of a database in a file, whatever characters its path has."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=os.path.abspath(path)).render_as_string()
