"""Commands that train: ``holdfast run``, ``holdfast compare``, and ``holdfast resume`` to go on with either."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import carrying, options
from holdfast.errors import ConfigurationError

__all__ = ["register"]


def _run(
    context: typer.Context,
    stream: options.StreamName,
    method: Annotated[str, typer.Option(help="A name from 'holdfast methods'.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=V", help="A setting; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Fixes everything random.")] = 0,
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
    track: options.Track = None,
) -> None:
    """Run one method over a stream once, and show the accuracy on every task after every task."""
    from holdfast import registry
    from holdfast.bench.comparing.compare import Comparison, per_method
    from holdfast.cli import show

    entry = registry.lookup(method)
    changes = carrying.changes(model, optimizer, lr, optimizer_between_tasks, epochs, batch_size, validation_fraction)
    if entry.kind == "optimizer":
        for name in ("optimizer", "lr"):
            if changes[name] is not None:
                raise ConfigurationError(
                    f"--{name} does not apply to {method}, which is itself the optimizer: use --set, such as "
                    f"--set lr={entry.defaults['lr']}"
                )
    if entry.keeps_optimizer and optimizer_between_tasks == "fresh":
        raise ConfigurationError(f"{method} remembers in its optimizer: --optimizer-between-tasks must be kept")
    used = carrying.use_threads(threads, stream)
    built = carrying.stream(stream, seed, scenario, training_outputs, validation_fraction, data_dir)
    comparison = Comparison(
        built,
        (method,),
        (seed,),
        per_method("--set", set_ or [], (method,)),
        changes=changes,
        fields={"device": device},
        threads=threads,
    )
    how = carrying.How(out, data_dir, checkpoint_every, track=track, threads=used)
    (record,) = carrying.carry_out(comparison, how, context)
    if record.status != "finished":
        raise typer.Exit(1)
    show.matrix(record)
    show.results([record])
    show.warnings([record])
    carrying.say_where(out)
    if out is None:
        typer.echo("Nothing was written; --out DIR keeps the record and a report.")


def _compare(
    context: typer.Context,
    stream: options.StreamName,
    methods: Annotated[str, typer.Option(metavar="A,B,C", help="Names from 'holdfast methods'.")],
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Runs each method with the seeds 0 to N-1.")] = 3,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="METHOD.KEY=V", help="A method's setting; repeatable.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD.KEY=V1,V2", help="Choose a setting by validation accuracy on the first seed; repeatable."
        ),
    ] = None,
    tune: Annotated[
        int, typer.Option(metavar="N", min=0, help="Choose every method's settings by a search of N trials each.")
    ] = 0,
    tasks: options.SearchTasks = "3",
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Add the controls that a method must be held against.")
    ] = True,
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
    """Compare methods over a stream under one protocol, and write a report."""
    from holdfast.bench.comparing import plan
    from holdfast.bench.comparing.compare import Comparison, per_method, with_controls
    from holdfast.cli import show

    asked, added = with_controls(name.strip() for name in methods.split(",") if name.strip())
    if not asked:
        raise ConfigurationError(f"--methods is {methods!r}; expected names from 'holdfast methods' with commas")
    if added and controls:
        role = "a control" if len(added) == 1 else "controls"
        show.note(f"Added {' and '.join(added)} as {role} (--no-controls does without).")
        asked += added
    changes = carrying.changes(model, optimizer, lr, optimizer_between_tasks, epochs, batch_size, validation_fraction)
    own = plan.keep_their_own(asked, changes)
    if own:
        show.note(f"{', '.join(own)}: an optimizer that is the method; keeps its own learning rate and its state.")
    grids = {
        name: {key: text.split(",") for key, text in found.items()}
        for name, found in per_method("--grid", grid or [], asked).items()
    }
    used = carrying.use_threads(threads, stream)
    built = carrying.stream(stream, 0, scenario, training_outputs, validation_fraction, data_dir)
    comparison = Comparison(
        built,
        asked,
        tuple(range(seeds)),
        per_method("--set", set_ or [], asked),
        grids,
        changes,
        {"device": device},
        threads,
    )
    folder = out or Path("holdfast-results") / f"{stream}-{scenario}"
    how = carrying.How(
        folder,
        data_dir,
        checkpoint_every,
        carrying.search_for(tune, tasks, storage, folder) if tune else None,
        executor,
        workers,
        ray_address,
        track,
        used,
    )
    if tune:
        carrying.say_untuned(comparison)
    records = carrying.carry_out(comparison, how, context)
    show.results(records)
    show.untuned(records)
    show.warnings(records)
    carrying.say_where(folder)
    if all(record.status != "finished" for record in records):
        raise typer.Exit(1)


def _resume(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of results of the command.")],
) -> None:
    """Go on with a command that was stopped, killed or unplugged, from where it was."""
    from holdfast.bench.jobs import manifest

    folder = folder.absolute()
    asked = manifest.read(folder)
    before = Path.cwd()
    if Path(asked.here).is_dir():  # relative paths in the command are as seen from there
        os.chdir(asked.here)
    try:
        context.find_root().command.main(args=asked.words_for(folder), prog_name="holdfast")
    finally:
        os.chdir(before)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("run", epilog="Example: holdfast run split-digits --method ewc --set strength=1e4 --out one-run")(_run)
    app.command(
        "compare",
        epilog="Example: holdfast compare split-digits --methods finetune,ewc,joint --seeds 3 "
        "--grid ewc.strength=1e2,1e3,1e4 --out demo",
    )(_compare)
    app.command("resume", epilog="Example: holdfast resume demo")(_resume)
