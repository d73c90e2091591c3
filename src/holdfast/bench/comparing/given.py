"""What was given to a comparison, checked before anything is made of it: methods, seeds, settings and grids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from holdfast.bench.comparing import compare as comparing
from holdfast.bench.comparing import plan
from holdfast.bench.data import finding
from holdfast.bench.data.pretrained import is_pretrained
from holdfast.checks import unknown_name
from holdfast.errors import ConfigurationError, Option

__all__ = ["as_typed", "check", "model_options", "names", "numbers", "stream_options", "with_words"]


def names(methods: Sequence[str], controls: bool, note: Callable[[str], None]) -> tuple[str, ...]:
    """The methods that are compared, each once.

    Args:
        methods: as they were given.
        controls: whether to add those that some of them must be held against.
        note: is told which were added.

    Raises:
        ConfigurationError: for what is no list of names.
    """
    if isinstance(methods, str) or not isinstance(methods, Iterable):
        raise ConfigurationError(Option("methods"), f" is {methods!r}; expected a list of names")
    methods = list(methods)
    for method in methods:
        if not isinstance(method, str):
            raise ConfigurationError(Option("methods"), f" has {method!r}; expected names from 'holdfast methods'")
    asked, added = comparing.with_controls(methods)
    if not asked:
        raise ConfigurationError(Option("methods"), " is empty; expected names from 'holdfast methods'")
    if added and controls:
        role = "a control" if len(added) == 1 else "controls"
        note(f"Added {' and '.join(added)} as {role} (controls=False, or --no-controls, does without).")
        asked += added
    return asked


def check(
    asked: tuple[str, ...],
    training: Mapping[str, Any],
    by_option: Mapping[str, Mapping[str, Any]],
    note: Callable[[str], None],
) -> None:
    """Refuse names that are none, and say which methods some of the training's fields do not reach.

    Args:
        asked: the methods.
        training: what replaces fields of the protocol.
        by_option: ``settings`` and ``grids``, as they were given.
        note: is told which methods keep their own.

    Raises:
        ConfigurationError: naming what is no name, or no value.
    """
    plan.check_changes(training)
    for option, by_method in by_option.items():
        _check_settings(option, by_method, asked)
    plan.check_backbone(asked, training.get("backbone"))
    own = plan.keep_their_own(asked, training)
    if own:
        note(f"{', '.join(own)}: an optimizer that is the method; keeps its own learning rate and its state.")


def numbers(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds: so many from 0, or those that are listed.

    Raises:
        ConfigurationError: for none, one twice, or what is no whole number.
    """
    number = isinstance(seeds, int) and not isinstance(seeds, bool)
    found = tuple(range(seeds)) if isinstance(seeds, int) and number else ()
    if not number and isinstance(seeds, Sequence) and not isinstance(seeds, str):
        found = tuple(seeds)
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in found)
    if not found or not whole or len(set(found)) < len(found):
        raise ConfigurationError(
            Option("seeds"), f" is {seeds!r}; expected at least one: how many, or a list of different ones"
        )
    return found


def stream_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What else a named stream is built with.

    Raises:
        ConfigurationError: for what a comparison is told by itself.
    """
    for name in ("seed", "scenario", "training_outputs", "validation_fraction"):
        if name in options:
            raise ConfigurationError(
                Option("stream_options"),
                f" has {name!r}, which is told by ",
                Option("seeds" if name == "seed" else name),
            )
    return dict(options)


def as_typed(
    settings: Mapping[str, Mapping[str, Any]], grids: Mapping[str, Mapping[str, Sequence[Any]]]
) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, list[str]]]]:
    """Settings and grids as a command line has them."""
    return (
        {method: {key: str(value) for key, value in found.items()} for method, found in settings.items()},
        {method: {key: list(map(str, v)) for key, v in found.items()} for method, found in grids.items()},
    )


def with_words(options: Mapping[str, Any], stream: Any, model: str | None) -> dict[str, Any]:
    """The same options; a named stream of texts is read with a pretrained model's own words, unless told otherwise.

    Args:
        options: of the stream.
        stream: its name, or one that is made already.
        model: what is trained; ``None``: the stream's usual.
    """
    named = isinstance(stream, str) and stream.startswith("lm-") and not finding.is_place(stream)
    if not named or model is None or not is_pretrained(model):
        return dict(options)
    return {**options, "text": {"tokenizer": model, **options.get("text", {})}}


def model_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What else the model is built with.

    Raises:
        ConfigurationError: for an option that there is not, naming the nearest.
    """
    for name in options:
        if name not in _OF_MODELS:
            raise unknown_name("option of a model", name, list(_OF_MODELS))
    return dict(options)


_OF_MODELS = ("lora", "lora_start", "dropout", "text", "digest")


def _check_settings(option: str, given: Mapping[str, Any], asked: Sequence[str]) -> None:
    for method, found in given.items():
        if method not in asked:
            raise ConfigurationError(Option(option), f" names the method {method!r}; this compares {', '.join(asked)}")
        if not isinstance(found, Mapping):
            raise ConfigurationError(Option(option), f" has {found!r} for {method}; expected hyperparameter -> value")
        for key, values in found.items() if option == "grids" else ():
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise ConfigurationError(
                    Option(option), f" has {values!r} for {method}.{key}; expected a list of candidates"
                )
