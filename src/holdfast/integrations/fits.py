"""What has to be known of Lightning's ``Trainer``: when it logs, what it trains on, which callback comes last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from holdfast.errors import ConfigurationError
from holdfast.integrations.seen import first
from holdfast.method import Method
from holdfast.objectives import Batch

__all__ = ["check_order", "checked", "is_logged", "place_of", "training_batches"]

# Callbacks that put other weights into the model when training ends: known by their type, wherever it lives.
_AVERAGING: Final = {
    (f"{package}.callbacks.{file}", name)
    for package in ("lightning.pytorch", "pytorch_lightning")
    for file, name in (("weight_averaging", "WeightAveraging"), ("stochastic_weight_avg", "StochasticWeightAveraging"))
}


def is_logged(trainer: Any) -> bool:
    """Whether the step under way is one that the Trainer logs.

    Args:
        trainer: of Lightning.
    """
    every = trainer.log_every_n_steps
    return bool(every) and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0


def checked(batch: Batch, keep: Method) -> Batch:
    """What ``training_step`` was given, if it is a batch.

    Args:
        batch: its argument.
        keep: a method whose term is asked for.

    Raises:
        ConfigurationError: if it is an iterator of batches.
    """
    if isinstance(batch, Iterator):
        raise ConfigurationError(
            f"training_step takes an iterator of batches, so the term of {type(keep).__name__} has no batch to be "
            "computed on: add keep.penalty(batch, outputs) to the loss there"
        )
    return batch


def place_of(callback: object, trainer: Any) -> str:
    """Which of the trainer's callbacks of its class this is.

    Args:
        callback: one of them.
        trainer: of Lightning.
    """
    return str([each for each in trainer.callbacks if isinstance(each, type(callback))].index(callback))


def check_order(callbacks: list[Any], callback: object) -> None:
    """Refuse a callback that would change the weights after this one has remembered them.

    Args:
        callbacks: the Trainer's.
        callback: this one, which consolidates.

    Raises:
        ConfigurationError: naming the other one.
    """
    late = [type(c) for c in callbacks[callbacks.index(callback) :]]
    found = next((k.__name__ for k in late if any((b.__module__, b.__name__) in _AVERAGING for b in k.__mro__)), None)
    if found is not None:
        raise ConfigurationError(
            f"{found} puts the averaged weights into the model when training ends, after Protect has remembered the "
            f"others: give the Trainer callbacks=[{found}(…), Protect(keep, consolidate=True)]"
        )


def training_batches(trainer: Any, samples: int | None) -> Iterator[Batch]:
    """The training batches on their device, at most so many samples.

    Args:
        trainer: of Lightning.
        samples: how many; ``None`` for all.

    Raises:
        ConfigurationError: if it trains on several loaders.
    """
    loader = trainer.train_dataloader
    if isinstance(loader, Mapping | list | tuple) or not isinstance(loader, Iterable):
        raise ConfigurationError(
            f"the training data are a {type(loader).__name__} of loaders, so which of them is to be remembered? "
            "Expected one: leave consolidate=True out, and call keep.consolidate(loader) after fit"
        )
    return first(map(trainer.strategy.batch_to_device, loader), samples)
