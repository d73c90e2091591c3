"""``holdfast recipe``: list the published protocols, show one, run one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import options
from holdfast.errors import ConfigurationError, HoldfastError

if TYPE_CHECKING:
    from holdfast.bench.recipes import Table
    from holdfast.bench.record import Record

__all__ = ["register"]

RecipeName = Annotated[str, typer.Argument(metavar="NAME", help="A name from 'holdfast recipe list'.")]


def _list() -> None:
    """List the published protocols."""
    from holdfast.bench import recipes
    from holdfast.cli import show

    show.recipes([recipes.load(name) for name in recipes.names()])


def _show(name: RecipeName) -> None:
    """Show what a protocol does, where its values are from, and what was published."""
    from holdfast.bench import recipes
    from holdfast.cli import show

    show.recipe(recipes.load(name))


def _run(
    context: typer.Context,
    name: RecipeName,
    variant: Annotated[str | None, typer.Option(help="released, honest or whatever the recipe has.")] = None,
    methods: Annotated[str, typer.Option(metavar="A,B,C", help="Only these rows of its table.")] = "",
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Seeds 0 to N-1; default: as many as the recipe says.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A version of minutes: few samples, few epochs.")] = False,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    data_dir: options.DataDir = None,
    out: options.Out = None,
    checkpoint_every: options.CheckpointEvery = 60.0,
) -> None:
    """Run a published protocol, and put the published numbers beside ours."""
    import torch

    from holdfast.bench import plan, recipes
    from holdfast.cli import show

    recipe = recipes.load(name)
    wanted = threads or next((plan.threads(part.stream) for part in recipe.parts.values()), None)
    if wanted is not None:
        torch.set_num_threads(wanted)
    labels = tuple(dict.fromkeys(label.strip() for label in methods.split(",") if label.strip()))
    if methods and not labels:
        raise ConfigurationError(f"--methods is {methods!r}; expected rows of {name} with commas between them")
    table = recipes.resolve(
        recipe, variant=variant, labels=labels, seeds=seeds, quick=quick, data_dir=data_dir, device=device
    )
    recipes.check(table)
    folder = out or _default(table)
    records = _carry_out(table, folder, data_dir, checkpoint_every, context)
    show.results(records)
    show.warnings(records)
    typer.echo(f"Report: {folder / 'report.html'}")
    if all(record.status != "finished" for record in records):
        raise typer.Exit(1)


def _default(table: Table) -> Path:
    # What a quick version gives is no evidence: it stays out of results/.
    root = Path("holdfast-results") / "quick" if table.quick else Path("results")
    return root / table.recipe.name / table.variant


def _carry_out(
    table: Table, out: Path, data_dir: Path | None, checkpoint_every: float, context: typer.Context
) -> list[Record]:
    from holdfast.bench import manifest, recipes
    from holdfast.bench.folder import Folder
    from holdfast.bench.interrupt import asked_to_stop
    from holdfast.bench.progress import monitor
    from holdfast.cli import show

    markers = recipes.markers(table.recipe, table.variant)
    with monitor(show.progress_console()) as watching, asked_to_stop(show.aside) as stop:
        folder = Folder(out, every=checkpoint_every, warn=show.aside, stop=stop)
        folder.make()
        why_not = recipes.differing(table, folder.records())
        if why_not is not None:
            raise ConfigurationError(
                f"the folder {out} holds records of another experiment ({why_not}): name another folder with --out, or "
                "delete that one"
            )
        manifest.write(out, context.find_root().obj)
        try:
            return recipes.run(table, folder, watching, data_dir=data_dir)
        except (KeyboardInterrupt, HoldfastError):
            show.aside(f"to go on: holdfast resume {out}")
            raise
        finally:
            folder.write_report([table.command], published=markers)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Published protocols: list, show, run.")
    group.command("list", epilog="Example: holdfast recipe list")(_list)
    group.command("show", epilog="Example: holdfast recipe show hsu-split-mnist")(_show)
    group.command("run", epilog="Example: holdfast recipe run hsu-split-mnist --quick")(_run)
    app.add_typer(group, name="recipe")
