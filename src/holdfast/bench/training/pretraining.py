"""A first task that was learned beforehand, by plain training: the state that every method of a seed starts from."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from holdfast import registry
from holdfast.bench.records.record import Record, RunConfig
from holdfast.bench.training import adapting
from holdfast.bench.training.snapshot import Keeper
from holdfast.errors import NumericsError

__all__ = ["before", "start"]


def before(config: RunConfig) -> RunConfig:
    """The plain run that a run starts from: the first task alone, by all weights, the same for all methods.

    Args:
        config: of the run that starts, with its ``pretraining``.
    """
    first = config.pretraining
    assert first is not None
    entry = registry.lookup(config.method)
    return RunConfig(
        stream=config.stream,
        scenario=config.scenario,
        training_outputs=config.training_outputs,
        tasks=config.tasks,
        method=registry.bound("floor").name,
        model=config.model,
        model_options=adapting.of_the_model(config.model_options),
        optimizer=first.optimizer,
        lr=first.lr,
        optimizer_between_tasks="kept",
        epochs=first.epochs,
        epochs_per_task=[first.epochs] + [0] * (config.tasks - 1),
        batch_size=config.batch_size,
        shuffle=config.shuffle,
        validation_fraction=config.validation_fraction,
        seed=config.seed,
        device=config.device,
        precision=config.precision,
        stream_options=config.stream_options,
        outputs=config.outputs if entry.kind != "head" and not entry.all_at_once else "fixed",
    )


def start(config: RunConfig, keeper: Keeper, run: Callable[[RunConfig, Keeper], Record]) -> dict[str, Tensor] | None:
    """The weights that a run starts from; ``None`` where it starts from those of its seed.

    Args:
        config: of the run.
        keeper: has them, if another run of the seed was there before.
        run: does a run.

    Raises:
        NumericsError: if plain training already fails.
    """
    if config.pretraining is None:
        return None

    def learn(mine: Keeper) -> None:
        record = run(before(config), mine)
        if record.status != "finished":
            raise NumericsError(f"the first task could not be learned beforehand: {record.failure}")

    return keeper.beforehand(before(config), learn)
