"""Commands that train: ``holdfast run``, ``compare`` and ``tune``, and ``resume`` to go on with any of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import commands, data, options
from holdfast.errors import ConfigurationError

if TYPE_CHECKING:
    from holdfast.bench.comparing.calling import Table
    from holdfast.bench.comparing.tuning import Search
    from holdfast.bench.data.tasks import Stream

__all__ = ["register"]


@dataclass(kw_only=True)
class _RunOptions(options.Placed, options.Trained):
    method: options.MethodName
    set: Annotated[list[str] | None, typer.Option(metavar="KEY=V", help="A setting; repeatable.")] = None
    seed: Annotated[int, typer.Option(help="Fixes everything random.")] = 0


@dataclass(kw_only=True)
class _CompareOptions(options.Spread, options.Searched, options.Trained):
    methods: Annotated[str, typer.Option(metavar="A,B,C", help="Names from 'holdfast methods'.")]
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Runs each method with the seeds 0 to N-1.")] = 3
    set: Annotated[list[str] | None, typer.Option(metavar="METHOD.KEY=V", help="A method's setting; repeatable.")] = (
        None
    )
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD.KEY=V1,V2", help="Choose a setting by validation accuracy on the first seed; repeatable."
        ),
    ] = None
    tune: Annotated[
        int, typer.Option(metavar="N", min=0, help="Choose every method's settings by a search of N trials each.")
    ] = 0
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Add the controls that a method must be held against.")
    ] = True


@dataclass(kw_only=True)
class _TuneOptions(options.Spread, options.Searched, options.Trained):
    method: options.MethodName
    trials: Annotated[int, typer.Option(metavar="N", min=1, help="Settings to try, the defaults among them.")] = 30
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Tests what was chosen with the seeds 0 to N-1.")] = 3
    set: Annotated[
        list[str] | None, typer.Option(metavar="KEY=V", help="A setting that is not searched; repeatable.")
    ] = None


def _run(context: typer.Context, asked: _RunOptions) -> None:
    """Run one method over a stream once, and show the accuracy on every task after every task."""
    from holdfast import registry
    from holdfast.cli import show

    entry = registry.lookup(asked.method)
    if entry.kind == "optimizer":
        for name in ("optimizer", "lr"):
            if asked.training[name] is not None:
                raise ConfigurationError(
                    f"--{name} does not apply to {asked.method}, which is itself the optimizer: use --set, such as "
                    f"--set lr={entry.defaults['lr']}"
                )
    if entry.keeps_optimizer and asked.optimizer_between_tasks == "fresh":
        raise ConfigurationError(f"{asked.method} remembers in its optimizer: --optimizer-between-tasks must be kept")
    stream = data.stream_of(asked, asked.data_dir)
    table = _call(context, asked, stream, (asked.method,), seeds=[asked.seed], out=asked.out, controls=False)
    if not table.finished:
        raise typer.Exit(1)
    show.matrix(table.records[0])
    _show(table)
    if asked.out is None:
        typer.echo("Nothing was written; --out DIR keeps the record and a report.")


def _compare(context: typer.Context, asked: _CompareOptions) -> None:
    """Compare methods over a stream under one protocol, and write a report."""
    from holdfast.bench.comparing import typed
    from holdfast.cli import show

    methods = options.names("--methods", asked.methods, "holdfast methods")
    stream = data.stream_of(asked, asked.data_dir)
    folder = asked.out or Path("holdfast-results") / data.titled(asked, stream)
    grids = {
        name: {key: text.split(",") for key, text in found.items()}
        for name, found in typed.per_method("--grid", asked.grid or [], methods).items()
    }
    table = _call(
        context,
        asked,
        stream,
        methods,
        seeds=asked.seeds,
        out=folder,
        controls=asked.controls,
        grids=grids,
        search=_search(asked.tune, asked, folder) if asked.tune else None,
        **_spread(asked),
    )
    _show(table, untuned=show.untuned)
    if not table.finished:
        raise typer.Exit(1)


def _tune(context: typer.Context, asked: _TuneOptions) -> None:
    """Search a method's settings on validation data, then test the best with every seed.

    The search runs with the first seed and sees no test data; the test set is read once, by the chosen setting.
    """
    from holdfast.cli import show

    stream = data.stream_of(asked, asked.data_dir)
    folder = asked.out or Path("holdfast-results") / f"{data.titled(asked, stream)}-tune-{asked.method}"
    table = _call(
        context,
        asked,
        stream,
        (asked.method,),
        seeds=asked.seeds,
        out=folder,
        controls=False,
        search=_search(asked.trials, asked, folder),
        **_spread(asked),
    )
    for key, chosen in table.records[0].config.hyperparameters.items():
        if chosen.source == "tuned":
            show.note(f"{asked.method}.{key} = {chosen.value}: {chosen.story}")
    _show(table)
    if not table.finished:
        raise typer.Exit(1)


def _call(
    context: typer.Context,
    asked: _RunOptions | _CompareOptions | _TuneOptions,
    stream: str | Stream,
    methods: tuple[str, ...],
    **further: Any,
) -> Table:
    """Make the call that anyone can make from Python, and say on the terminal how it is getting on."""
    from holdfast.bench import compare
    from holdfast.bench.comparing import typed
    from holdfast.bench.jobs.interrupt import asked_to_stop
    from holdfast.bench.jobs.progress import monitor
    from holdfast.cli import show

    settings = typed.per_method("--set", asked.set or [], methods)
    with monitor(show.progress_console()) as watching, asked_to_stop(show.aside) as stop:
        return compare(
            stream,
            methods,
            settings=settings,
            model_options=asked.model_options,
            device=asked.device,
            threads=asked.threads,
            data_dir=asked.data_dir,
            checkpoint_every=asked.checkpoint_every,
            track=asked.track,
            keep_weights=asked.keep_weights,
            progress=watching,
            note=show.note,
            warn=show.aside,
            stop=stop,
            words=context.find_root().obj,
            **further,
            **(asked.scenes if isinstance(stream, str) else {}),  # data of one's own are made for theirs
            **asked.training,
        )


def _spread(asked: options.Spread) -> dict[str, Any]:
    return {"executor": asked.executor, "workers": asked.workers, "ray_address": asked.ray_address}


def _search(trials: int, asked: options.Searched, folder: Path) -> Search:
    """A search as the options have it; its studies lie in the results' folder unless told otherwise."""
    from holdfast.bench.comparing import studies, tuning

    words = asked.tasks.strip().lower().removeprefix("k=")
    if words not in ("all", "auto") and not words.isdecimal():
        raise ConfigurationError(f"--tasks is {asked.tasks!r}; expected a number of tasks, all or auto")
    url = asked.storage or studies.file_url(folder / "search.db")
    return tuning.Search(trials, {"all": None, "auto": "auto"}[words] if words.isalpha() else int(words), url)


def _show(table: Table, untuned: Any = None) -> None:
    from holdfast.cli import show

    show.results(table.records)
    if untuned is not None:
        untuned(table.records)
    show.warnings(table.records)
    if table.report is not None:
        typer.echo(f"Report: {table.report}")


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
    commands.add(
        app,
        "run",
        _RunOptions,
        _run,
        epilog="Example: holdfast run split-digits --method ewc --set strength=1e4 --out one-run",
    )
    commands.add(
        app,
        "compare",
        _CompareOptions,
        _compare,
        epilog="Example: holdfast compare split-digits --methods finetune,ewc,joint --seeds 3 "
        "--grid ewc.strength=1e2,1e3,1e4 --out demo",
    )
    app.command("resume", epilog="Example: holdfast resume demo")(_resume)
    commands.add(
        app,
        "tune",
        _TuneOptions,
        _tune,
        epilog="Example: holdfast tune split-digits --method ewc --trials 30 --out tuned",
    )
