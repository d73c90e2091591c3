"""``holdfast recipe``: list the published protocols, show one, run one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import options
from holdfast.errors import ConfigurationError, HoldfastError

if TYPE_CHECKING:
    from holdfast.bench.recipes import Table
    from holdfast.bench.records.record import Record
    from holdfast.cli.carrying import How

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
    parts: Annotated[str, typer.Option(metavar="A,B", help="Only these of its streams.")] = "",
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Seeds 0 to N-1; default: as many as the recipe says.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A version of minutes: few samples, few epochs.")] = False,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    executor: options.Executor = "local",
    workers: options.Workers = None,
    data_dir: options.DataDir = None,
    out: options.Out = None,
    checkpoint_every: options.CheckpointEvery = 60.0,
) -> None:
    """Run a published protocol, and put the published numbers beside ours."""
    import torch

    from holdfast.bench import recipes
    from holdfast.bench.comparing import plan
    from holdfast.bench.jobs import processes as executors
    from holdfast.cli import show
    from holdfast.cli.carrying import How

    recipe = recipes.load(name)
    wanted = threads or next((plan.threads(part.stream) for part in recipe.parts.values()), None)
    if wanted is not None:
        torch.set_num_threads(wanted)
    executors.check(executor, workers=workers)
    table = recipes.resolve(
        recipe,
        variant=variant,
        labels=_names("--methods", methods),
        parts=_names("--parts", parts),
        seeds=seeds,
        quick=quick,
        data_dir=data_dir,
        device=device,
    )
    recipes.check(table)
    folder = out or _default(table)
    how = How(folder, data_dir, checkpoint_every, executor=executor, workers=workers, threads=torch.get_num_threads())
    records = _carry_out(table, how, context)
    show.results(records)
    show.warnings(records)
    typer.echo(f"Report: {folder / 'report.html'}")
    if all(record.status != "finished" for record in records):
        raise typer.Exit(1)


def _names(option: str, text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if text and not names:
        raise ConfigurationError(f"{option} is {text!r}; expected names with commas between them")
    return names


def _default(table: Table) -> Path:
    # What a quick version gives is no evidence: it stays out of results/.
    root = Path("holdfast-results") / "quick" if table.quick else Path("results")
    return root / table.recipe.name / table.variant


def _carry_out(table: Table, how: How, context: typer.Context) -> list[Record]:
    from holdfast.bench import recipes
    from holdfast.bench.comparing import compare
    from holdfast.bench.jobs import manifest
    from holdfast.bench.jobs import processes as executors
    from holdfast.bench.jobs.folder import Folder
    from holdfast.bench.jobs.interrupt import asked_to_stop
    from holdfast.bench.jobs.progress import monitor
    from holdfast.bench.jobs.work import Elsewhere
    from holdfast.cli import show

    assert how.out is not None
    with monitor(show.progress_console()) as watching, asked_to_stop(show.aside) as stop:
        folder = Folder(how.out, every=how.checkpoint_every, warn=show.aside, stop=stop)
        folder.make()
        why_not = recipes.differing(table, folder.records())
        if why_not is not None:
            raise ConfigurationError(
                f"the folder {how.out} holds records of another experiment ({why_not}): name another with --out, "
                "or delete that folder"
            )
        manifest.write(how.out, context.find_root().obj)
        work = compare.here(folder, watching, data_dir=how.data_dir)
        if how.executor != "local":
            data_dir = None if how.data_dir is None else how.data_dir.absolute()
            work = Elsewhere(how.out.absolute(), data_dir, how.threads, how.checkpoint_every)
        try:
            with executors.build(how.executor, work, workers=how.workers, stop=stop) as executor:
                return recipes.run(table, folder, watching, executor)
        except (KeyboardInterrupt, HoldfastError):
            show.aside(f"to go on: holdfast resume {how.out}")
            raise
        finally:
            folder.write_report([table.command], published=recipes.markers_of(folder.records()))


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Published protocols: list, show, run.")
    group.command("list", epilog="Example: holdfast recipe list")(_list)
    group.command("show", epilog="Example: holdfast recipe show hsu-split-mnist")(_show)
    group.command("run", epilog="Example: holdfast recipe run hsu-split-mnist --quick")(_run)
    app.add_typer(group, name="recipe", epilog="Example: holdfast recipe run hsu-split-mnist --quick")
