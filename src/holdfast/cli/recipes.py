"""``holdfast recipe``: list the published protocols, show one, run one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import commands, options

if TYPE_CHECKING:
    from holdfast.bench.recipes import Table

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


@dataclass(kw_only=True)
class _RunOptions:
    name: RecipeName
    variant: Annotated[str | None, typer.Option(help="released, honest or whatever the recipe has.")] = None
    methods: Annotated[str, typer.Option(metavar="A,B,C", help="Only these rows of its table.")] = ""
    parts: Annotated[str, typer.Option(metavar="A,B", help="Only these of its streams.")] = ""
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Seeds 0 to N-1; default: as many as the recipe says.")
    ] = None
    quick: Annotated[bool, typer.Option("--quick", help="A version of minutes: few samples, few epochs.")] = False


@dataclass(kw_only=True)
class _Options(options.Spread, _RunOptions):
    pass


def _run(context: typer.Context, asked: _Options) -> None:
    """Run a published protocol, and put the published numbers beside ours."""
    from holdfast.bench import recipes
    from holdfast.bench.comparing import calling
    from holdfast.bench.comparing.carrying import REPORT, How, carry_out
    from holdfast.bench.jobs import processes
    from holdfast.bench.jobs.interrupt import asked_to_stop
    from holdfast.bench.jobs.progress import monitor
    from holdfast.cli import show

    recipe = recipes.load(asked.name)
    threads = calling.use_threads(asked.threads, next(iter(recipe.parts.values())).stream)
    processes.check(asked.executor, workers=asked.workers, ray_address=asked.ray_address)
    table = recipes.resolve(
        recipe,
        variant=asked.variant,
        labels=options.names("--methods", asked.methods),
        parts=options.names("--parts", asked.parts),
        seeds=asked.seeds,
        quick=asked.quick,
        data_dir=asked.data_dir,
        device=asked.device,
    )
    folder = asked.out or _default(table)
    how = How(
        out=folder,
        data_dir=asked.data_dir,
        checkpoint_every=asked.checkpoint_every,
        executor=asked.executor,
        workers=asked.workers,
        ray_address=asked.ray_address,
        track=asked.track,
        threads=threads,
        keep_weights=asked.keep_weights,
    )
    with monitor(show.progress_console()) as watching, asked_to_stop(show.aside) as stop:
        records = carry_out(
            recipes.Undertaken(table),
            how,
            monitor=watching,
            words=context.find_root().obj,
            warn=show.aside,
            stop=stop,
        )
    show.results(records)
    show.warnings(records)
    typer.echo(f"Report: {folder / REPORT}")
    if all(record.status != "finished" for record in records):
        raise typer.Exit(1)


def _default(table: Table) -> Path:
    # What a quick version gives is no evidence: it stays out of results/.
    root = Path("holdfast-results") / "quick" if table.quick else Path("results")
    return root / table.recipe.name / table.variant


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        cls=commands.Group, no_args_is_help=True, rich_markup_mode=None, help="Published protocols: list, show, run."
    )
    group.command("list", epilog="Example: holdfast recipe list")(_list)
    group.command("show", epilog="Example: holdfast recipe show hsu-split-mnist")(_show)
    commands.add(group, "run", _Options, _run, epilog="Example: holdfast recipe run hsu-split-mnist --quick")
    app.add_typer(group, name="recipe", epilog="Example: holdfast recipe run hsu-split-mnist --quick")
