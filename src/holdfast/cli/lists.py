"""Commands that show what there is: ``holdfast methods``, ``streams``, ``report`` and ``doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import commands, options

__all__ = ["register"]


def _methods(
    name: Annotated[str | None, typer.Argument(help="Show one method's settings instead.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Show the memory each takes for this model instead: resnet18, mlp, ..., or a configuration of "
            "Transformers, a folder or an id; no weights are loaded."
        ),
    ] = None,
    shape: Annotated[str | None, typer.Option("--input", help="One sample's shape, such as 3,224,224.")] = None,
    outputs: Annotated[int | None, typer.Option(help="The model's number of outputs.", min=1)] = None,
    importance_dtype: Annotated[
        str | None, typer.Option(help="Of importances: float32 or bfloat16; default: both are shown.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of weights: float32 or bfloat16; default: as the configuration says.")
    ] = None,
    processes: Annotated[int, typer.Option(help="Over how many processes FSDP2 cuts the model.", min=1)] = 1,
    offload: Annotated[
        bool, typer.Option("--offload", help="Penalties keep their state in the host's memory: state_device='cpu'.")
    ] = False,
) -> None:
    """List the methods, the settings of one, or the memory that they take for a model."""
    from holdfast import registry
    from holdfast.cli import show

    if model is not None:
        from holdfast.cli import sizes

        asked = registry.entries() if name is None else (registry.lookup(name),)
        sizes.show(asked, sizes.Asked(model, shape, outputs, importance_dtype, weights, processes, offload))
    elif name is None:
        show.methods(registry.entries())
    else:
        show.settings(registry.lookup(name))


@dataclass(kw_only=True)
class _StreamsOptions(options.Read):
    place: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="Your own data, a folder or a file: what was found of them."),
    ] = None
    scenario: Annotated[str | None, typer.Option(help="Of a comparison of your own data: task, domain or class.")] = (
        None
    )


def _streams(context: typer.Context, asked: _StreamsOptions) -> None:
    """List the ready streams of tasks; or say what was found of your own data, and what a comparison would do."""
    from holdfast.bench.data import streams
    from holdfast.cli import data, show

    if asked.place is None:
        show.streams({**streams.names(), **streams.by_path()})
    elif not data.describe(asked.place, asked, {"scenario": asked.scenario}):
        raise typer.Exit(1)


def _report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a comparison.")],
    table: Annotated[
        str, typer.Option(help="The table on the screen: text, or markdown, csv, latex for another file.")
    ] = "text",
) -> None:
    """Make the report of a folder's records again, and show their table."""
    from holdfast.bench import recipes, report
    from holdfast.bench.records import record
    from holdfast.bench.report.importance import extra_sections
    from holdfast.cli import show
    from holdfast.errors import ConfigurationError, StateError

    exports = {"markdown": report.to_markdown, "csv": report.to_csv, "latex": report.to_latex}
    if table != "text" and table not in exports:
        raise ConfigurationError(f"--table is {table!r}; expected text, {', '.join(exports)}")
    records = record.load_all(folder / "records" if (folder / "importance.json").is_file() else folder)
    extra = extra_sections(folder)
    if not records and not extra:
        raise StateError(f"{folder} holds no records; a comparison writes them to DIR/records")
    path = report.write(records, folder / "report.html", published=recipes.markers_of(records), extra=extra)
    if table == "text":
        show.results(records)
    else:
        typer.echo(exports[table](records), nl=False)
    typer.echo(f"Report: {path}", err=table != "text")


def _doctor(data_dir: options.DataDir = None) -> None:
    """Say what is installed, what is missing for what, and where it would run."""
    from holdfast import doctor

    for line in doctor.report(data_dir):
        typer.echo(line)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("methods", epilog="Example: holdfast methods ewc")(_methods)
    commands.add(app, "streams", _StreamsOptions, _streams, epilog="Example: holdfast streams pets")
    app.command("report", epilog="Example: holdfast report demo")(_report)
    app.command("doctor", epilog="Example: holdfast doctor --data-dir data")(_doctor)
