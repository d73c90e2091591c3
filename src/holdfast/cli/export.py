"""``holdfast export`` and ``holdfast evaluate``: a run's model as a folder, and its accuracies from that folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import options

__all__ = ["register"]


def _export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A record: a file in a results folder's records/.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to the Hugging Face Hub.")] = None,
    licence: Annotated[str | None, typer.Option("--license", help="Of the weights, for the model card.")] = None,
    data_dir: options.DataDir = None,
) -> None:
    """Write a run's weights, configuration and model card, its accuracies checked to the last digit.

    The weights are those that --keep-weights kept; without them, the run is repeated.
    """
    import torch

    from holdfast.bench.export import exporting, hub
    from holdfast.bench.jobs.folder import weights_of
    from holdfast.bench.jobs.job import Job
    from holdfast.bench.jobs.progress import monitor
    from holdfast.bench.records import record
    from holdfast.cli import show

    if push is not None:
        hub.check(push)
    loaded = record.load(run)
    torch.set_num_threads(loaded.environment.threads)
    with monitor(show.progress_console()) as watching:
        watching.planned(1)
        watching.starts(Job(loaded.config))
        weights = weights_of(run)
        kept = weights if weights.is_file() else None
        exporting.export(loaded, folder, weights=kept, data_dir=data_dir, observer=watching, licence=licence)
    typer.echo(f"Model: {folder}")
    if push is not None:
        typer.echo(f"Pushed: {hub.push(folder, push)}")


def _evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that 'holdfast export' wrote.")],
    stream: options.StreamName,
    data_dir: options.DataDir = None,
) -> None:
    """Test an exported model on every task of a stream."""
    from holdfast.bench.export import exporting as export

    exported = export.load(folder)
    about = exported.description
    found = export.evaluate(exported, stream, data_dir=data_dir)
    same_stream = stream == about.run.stream
    for number, value in enumerate(found):
        name = about.tasks[number].name if same_stream else f"task {number}"
        typer.echo(f"{name}: {100 * value:.2f} %")
    typer.echo(f"average: {100 * sum(found) / len(found):.2f} %")
    if same_stream:
        equal = found == about.accuracies
        typer.echo("To the last digit as in its record." if equal else "Not as in its record: other data or versions?")
        if not equal:
            raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("export", epilog="Example: holdfast export demo/records/ewc-seed0.json my-model")(_export)
    app.command("evaluate", epilog="Example: holdfast evaluate my-model split-digits")(_evaluate)
