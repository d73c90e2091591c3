"""``holdfast tune``: choose a method's settings without the test set, then test once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import carrying, options

__all__ = ["register"]


def _tune(
    context: typer.Context,
    stream: options.StreamName,
    method: Annotated[str, typer.Option(help="A name from 'holdfast methods'.")],
    trials: Annotated[int, typer.Option(metavar="N", min=1, help="Settings to try, the defaults among them.")] = 30,
    tasks: options.SearchTasks = "3",
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Tests what was chosen with the seeds 0 to N-1.")] = 3,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=V", help="A setting that is not searched; repeatable.")
    ] = None,
    scenario: options.Scenario = "task",
    training_outputs: options.TrainingOutputs = "all",
    model: options.Model = None,
    optimizer: options.Optimizer = None,
    lr: options.LearningRate = None,
    optimizer_between_tasks: options.Between = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    validation_fraction: options.ValidationFraction = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    data_dir: options.DataDir = None,
    out: options.Out = None,
    checkpoint_every: options.CheckpointEvery = 60.0,
    executor: options.Executor = "local",
    workers: options.Workers = None,
    ray_address: options.RayAddress = None,
    storage: options.Storage = None,
    track: options.Track = None,
) -> None:
    """Search a method's settings on validation data, then test the best with every seed.

    The search runs with the first seed and sees no test data; the test set is read once, by the chosen setting.
    """
    from holdfast.bench.comparing import plan
    from holdfast.bench.comparing.compare import Comparison, per_method
    from holdfast.cli import show

    changes = carrying.changes(model, optimizer, lr, optimizer_between_tasks, epochs, batch_size, validation_fraction)
    if plan.keep_their_own((method,), changes):
        show.note(f"{method}: an optimizer that is the method; keeps its own learning rate and its state.")
    used = carrying.use_threads(threads, stream)
    built = carrying.stream(stream, 0, scenario, training_outputs, validation_fraction, data_dir)
    comparison = Comparison(
        built,
        (method,),
        tuple(range(seeds)),
        per_method("--set", set_ or [], (method,)),
        changes=changes,
        fields={"device": device},
        threads=threads,
    )
    folder = out or Path("holdfast-results") / f"{stream}-{scenario}-tune-{method}"
    search = carrying.search_for(trials, tasks, storage, folder)
    how = carrying.How(folder, data_dir, checkpoint_every, search, executor, workers, ray_address, track, used)
    carrying.say_untuned(comparison)
    records = carrying.carry_out(comparison, how, context)
    for key, chosen in records[0].config.hyperparameters.items():
        if chosen.source == "tuned":
            show.note(f"{method}.{key} = {chosen.value}: {chosen.story}")
    show.results(records)
    show.warnings(records)
    carrying.say_where(folder)
    if all(record.status != "finished" for record in records):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("tune", epilog="Example: holdfast tune split-digits --method ewc --trials 30 --out tuned")(_tune)
