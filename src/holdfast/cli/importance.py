"""``holdfast importance``: how importances are spread over the weights, before and after pruning."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import options

__all__ = ["register"]


def _importance(
    context: typer.Context,
    stream: options.StreamName,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Whose importances; default: one method for each kind there is.")
    ] = None,
    prune_to: Annotated[float, typer.Option(help="Percentage of each hidden layer's weights pruned in the end.")] = 85,
    seed: Annotated[int, typer.Option(help="Fixes everything random.")] = 0,
    model: Annotated[str, typer.Option(help="The model.")] = "mlp-64-32",
    lr: Annotated[float, typer.Option(help="The learning rate of plain SGD.")] = 0.1,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs before pruning.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 128,
    threads: options.Threads = None,
    data_dir: options.DataDir = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the record and the report go.")] = None,
) -> None:
    """Learn a stream's first task and show how importances are spread, before and after pruning."""
    from holdfast import registry
    from holdfast.bench import report
    from holdfast.bench.comparing import plan
    from holdfast.bench.data import streams
    from holdfast.bench.jobs.folder import check_writable
    from holdfast.bench.records import spreads as importance_record
    from holdfast.bench.report.importance import extra_sections
    from holdfast.bench.study.importance import check, kinds, study
    from holdfast.cli import show

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    built = streams.build(stream, seed=seed, scenario="task", validation_fraction=0.1, data_dir=data_dir)
    changes = {
        "model": model, "optimizer": "sgd", "lr": lr, "optimizer_between_tasks": "kept", "epochs": epochs,
        "batch_size": batch_size, "validation_fraction": 0.1,
    }  # fmt: skip
    config = plan.plan(built, registry.bound("floor").name, seed=seed, changes=changes)
    words = context.find_root().obj or ["importance", stream]
    folder = out or Path("holdfast-results") / f"{stream}-importance"
    names = kinds() if methods is None else options.names("--methods", methods, "holdfast methods")
    check(names, prune_to)
    check_writable(folder)  # before anything is trained
    found = study(
        config,
        built,
        methods=names,
        prune_to=prune_to,
        tell=show.aside,
        command=shlex.join(["holdfast", *words]),
    )
    importance_record.save(found, folder)
    path = report.write([], folder / "report.html", title="How importance is spread", extra=extra_sections(folder))
    show.spreads(found)
    typer.echo(f"Report: {path}")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("importance", epilog="Example: holdfast importance split-digits --methods ewc,mas,anpyc --prune-to 85")(
        _importance
    )
