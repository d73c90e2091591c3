"""Which settings of a method are tried: its default first, then what a search proposes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast import registry
from holdfast.adapt.points import Point
from holdfast.errors import DependencyError

__all__ = ["PLAIN", "settings"]

PLAIN = registry.bound("floor").name
"""Plain fine-tuning: what a line from before to after ends at."""


def settings(
    method: str, tried: Sequence[Point], number: int, seed: int, before: float | None, given: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The settings of a method's next trial.

    The first has what was given, and defaults else. Of later ones, what protects more or less (the method's dial) is
    searched between the bounds that the registry has, so that old and new are as good as they can be together.

    Args:
        method: its name.
        tried: its earlier trials.
        number: of this one, from 0.
        seed: of the search.
        before: what the model before had on the old data, if there are any.
        given: settings that are not searched.

    Returns:
        What differs from the defaults; ``None`` where nothing is left to try.
    """
    entry = registry.lookup(method)
    if number == 0:
        return dict(given)
    if entry.dial is None or entry.dial in given or not isinstance(entry.search.get(entry.dial), registry.Range):
        return None
    try:
        import optuna
    except ImportError as error:
        raise DependencyError("more than one trial needs: pip install 'holdfast[adapt]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    bounds = entry.search[entry.dial]
    assert isinstance(bounds, registry.Range)
    space = optuna.distributions.FloatDistribution(bounds.low, bounds.high, log=bounds.log)
    study = optuna.create_study(
        directions=["maximize", "maximize"], sampler=optuna.samplers.TPESampler(seed=seed + number, n_startup_trials=4)
    )
    for point in tried:
        if entry.dial in point.settings:
            study.add_trial(
                optuna.trial.create_trial(
                    params={entry.dial: point.settings[entry.dial]},
                    distributions={entry.dial: space},
                    values=[point.kept if point.kept is not None else 0.0, point.learned],
                )
            )
    trial = study.ask({entry.dial: space})
    return {**given, entry.dial: float(trial.params[entry.dial])}
