"""Commands that train: ``holdfast run``, ``holdfast compare``, and ``holdfast resume`` to go on with either."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import options
from holdfast.errors import ConfigurationError, HoldfastError

if TYPE_CHECKING:
    from holdfast.bench.compare import Comparison
    from holdfast.bench.record import Record
    from holdfast.bench.tasks import Stream

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
) -> None:
    """Run one method over a stream once, and show the accuracy on every task after every task."""
    from holdfast import registry
    from holdfast.bench.compare import Comparison, per_method
    from holdfast.cli import show

    entry = registry.lookup(method)
    changes = _changes(model, optimizer, lr, optimizer_between_tasks, epochs, batch_size, validation_fraction)
    if entry.kind == "optimizer":
        for name in ("optimizer", "lr"):
            if changes[name] is not None:
                raise ConfigurationError(
                    f"--{name} does not apply to {method}, which is itself the optimizer: use --set, such as "
                    f"--set lr={entry.defaults['lr']}"
                )
    if entry.keeps_optimizer and optimizer_between_tasks == "fresh":
        raise ConfigurationError(f"{method} remembers in its optimizer: --optimizer-between-tasks must be kept")
    _use_threads(threads, stream)
    built = _stream(stream, seed, scenario, training_outputs, validation_fraction, data_dir)
    comparison = Comparison(
        built,
        (method,),
        (seed,),
        per_method("--set", set_ or [], (method,)),
        changes=changes,
        fields={"device": device},
        threads=threads,
    )
    (record,) = _carry_out(comparison, out, data_dir, checkpoint_every, context)
    if record.status != "finished":
        raise typer.Exit(1)
    show.matrix(record)
    show.results([record])
    show.warnings([record])
    _say_where(out)
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
) -> None:
    """Compare methods over a stream under one protocol, and write a report."""
    from holdfast.bench import plan
    from holdfast.bench.compare import Comparison, per_method, with_controls
    from holdfast.cli import show

    asked, added = with_controls(name.strip() for name in methods.split(",") if name.strip())
    if not asked:
        raise ConfigurationError(f"--methods is {methods!r}; expected names from 'holdfast methods' with commas")
    if added and controls:
        role = "a control" if len(added) == 1 else "controls"
        show.note(f"Added {' and '.join(added)} as {role} (--no-controls leaves out).")
        asked += added
    changes = _changes(model, optimizer, lr, optimizer_between_tasks, epochs, batch_size, validation_fraction)
    own = plan.keep_their_own(asked, changes)
    if own:
        show.note(f"{', '.join(own)}: an optimizer that is the method; keeps its own learning rate and its state.")
    grids = {
        name: {key: text.split(",") for key, text in found.items()}
        for name, found in per_method("--grid", grid or [], asked).items()
    }
    _use_threads(threads, stream)
    built = _stream(stream, 0, scenario, training_outputs, validation_fraction, data_dir)
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
    records = _carry_out(comparison, folder, data_dir, checkpoint_every, context)
    show.results(records)
    show.untuned(records)
    show.warnings(records)
    _say_where(folder)
    if all(record.status != "finished" for record in records):
        raise typer.Exit(1)


def _changes(*values: Any) -> dict[str, Any]:
    names = ("model", "optimizer", "lr", "optimizer_between_tasks", "epochs", "batch_size", "validation_fraction")
    return dict(zip(names, values, strict=True))


def _use_threads(threads: int | None, stream: str) -> None:
    import torch

    from holdfast.bench import plan

    wanted = plan.threads(stream) if threads is None else threads
    if wanted is not None:
        torch.set_num_threads(wanted)


def _stream(
    name: str, seed: int, scenario: Any, training_outputs: Any, validation: float | None, data_dir: Path | None
) -> Stream:
    from holdfast.bench import plan, streams

    fraction = plan.protocol(name).validation_fraction if validation is None else validation
    return streams.build(
        name,
        seed=seed,
        scenario=scenario,
        training_outputs=training_outputs,
        validation_fraction=fraction,
        data_dir=data_dir,
    )


def _carry_out(
    comparison: Comparison, out: Path | None, data_dir: Path | None, checkpoint_every: float, context: typer.Context
) -> list[Record]:
    """Check everything, run everything, and leave a report of what is finished whatever happens."""
    from holdfast.bench import compare, manifest
    from holdfast.bench.folder import Folder, Memory
    from holdfast.bench.interrupt import asked_to_stop
    from holdfast.bench.progress import monitor
    from holdfast.cli import show

    compare.check(comparison)
    if out is None:
        with monitor(show.progress_console()) as watching:
            return compare.run(comparison, Memory(), watching, data_dir=data_dir)
    words = context.find_root().obj
    command = shlex.join(["holdfast", *words])
    with monitor(show.progress_console()) as watching, asked_to_stop(show.aside) as stop:
        folder = Folder(out, every=checkpoint_every, warn=show.aside, stop=stop)
        folder.prepare(comparison)
        manifest.write(out, words)
        try:
            records = compare.run(comparison, folder, watching, data_dir=data_dir)
        except (KeyboardInterrupt, HoldfastError):
            _keep_what_is_finished(folder, command)
            raise
    folder.write_report([command])
    return records


def _keep_what_is_finished(folder: Any, command: str) -> None:
    count = len(folder.records())
    folder.write_report([command])
    kept = f"{count} finished run{'s' * (count != 1)} and their report are" if count else "no finished run is yet"
    typer.echo(f"Stopped; {kept} in {folder.path}. To go on: holdfast resume {folder.path}", err=True)


def _say_where(folder: Path | None) -> None:
    if folder is not None:
        typer.echo(f"Report: {folder / 'report.html'}")


def _resume(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of results of the command.")],
) -> None:
    """Go on with a command that was stopped, killed or unplugged, from where it was."""
    from holdfast.bench import manifest

    folder = folder.absolute()
    asked = manifest.read(folder)
    # Relative paths in the command, and modules of the user's own, are where the command was given.
    if Path(asked.here).is_dir():
        os.chdir(asked.here)
    context.find_root().command.main(args=asked.words_for(folder), prog_name="holdfast")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("run", epilog="Example: holdfast run split-digits --method ewc --set strength=1e4 --out one-run")(_run)
    app.command(
        "compare",
        epilog="Example: holdfast compare split-digits --methods finetune,ewc,joint --seeds 3 "
        "--grid ewc.strength=1e2,1e3,1e4 --out demo",
    )(_compare)
    app.command("resume", epilog="Example: holdfast resume demo")(_resume)
