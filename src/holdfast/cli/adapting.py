"""``holdfast adapt`` and ``holdfast audit``: one's own model and data."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from holdfast import registry
from holdfast.cli import commands, options
from holdfast.errors import ConfigurationError
from holdfast.registry import Value

__all__ = ["register"]

_Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder or hub id of Transformers, timm:NAME, an export of ours, or package.module:factory.",
    ),
]
_Text = Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of texts; default: found by its name.")]
_Label = Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of labels; default: found by its name.")]
_Classes = Annotated[
    str, typer.Option(metavar="A,B,C", help="What the outputs are called, in order, where the model does not say.")
]
_Length = Annotated[
    int | None,
    typer.Option(metavar="TOKENS", min=2, help="Of a text at most; default what the model reads, up to 512."),
]
_Broken = Annotated[bool, typer.Option("--skip-broken", help="Leave out what cannot be read, and say how much.")]


@dataclass(kw_only=True)
class _AdaptOptions:
    model: _Model
    data: Annotated[
        str, typer.Option(metavar="NEW", help="New data: a folder of images by class, a table, a text, saved datasets.")
    ]
    keep: Annotated[
        str | None, typer.Option(metavar="OLD", help="Data of what must not be lost; default: they are gone.")
    ] = None
    methods: Annotated[
        str, typer.Option("--methods", "--method", metavar="A,B,C", help="Names from 'holdfast methods', or wise-ft.")
    ] = ""
    set: Annotated[list[str] | None, typer.Option(metavar="METHOD.KEY=V", help="A method's setting; repeatable.")] = (
        None
    )
    trials: Annotated[int, typer.Option(metavar="N", min=1, help="Settings of each method to try.")] = 1
    hold: Annotated[
        float | None,
        typer.Option(metavar="POINTS", min=0.0, help="At most so much of the old may be lost, on validation data."),
    ] = None
    lora: Annotated[int | None, typer.Option(metavar="RANK", min=1, help="Train adapters in place of all weights.")] = (
        None
    )
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the new data.")] = 3
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 32
    lr: Annotated[float | None, typer.Option(help="Learning rate; default 5e-5 of Transformers, else 1e-3.")] = None
    optimizer: Annotated[str, typer.Option(help="sgd, adam, adamw or rmsprop.")] = "adamw"
    accumulation: Annotated[int, typer.Option(min=1, help="Micro-batches per step.")] = 1
    precision: Annotated[str, typer.Option(help="no or bf16.")] = "no"
    seed: Annotated[int, typer.Option(help="Fixes everything random.")] = 0
    text: _Text = None
    label: _Label = None
    classes: _Classes = ""
    length: _Length = None
    skip_broken: _Broken = False
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the model, its card and report.html.")] = Path(
        "adapted"
    )


@dataclass(kw_only=True)
class _AuditOptions:
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="The model before, as for 'holdfast adapt'.")]
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The model after.")]
    data: Annotated[list[str], typer.Option(metavar="DATA", help="What both are asked; repeatable.")]
    fail_above: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS", min=0.0,
            help="Exit with 1 if more was lost on any data: points of accuracy, else per cent of the loss.",
        ),
    ] = None  # fmt: skip
    whole: Annotated[bool, typer.Option("--whole", help="All the data, not their test part alone.")] = False
    hessian: Annotated[
        bool, typer.Option("--hessian", help="Also how steep the loss is around both: the Hessian's norm.")
    ] = False
    text: _Text = None
    label: _Label = None
    classes: _Classes = ""
    length: _Length = None
    skip_broken: _Broken = False
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per forward pass.")] = 32
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for audit.json and report.html.")] = None


def _settings(texts: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Value]]:
    """What was typed for each method, as values of the types that it expects."""
    from holdfast.adapt.applying import WISE_FT
    from holdfast.bench.comparing import typed

    if texts and not methods:
        raise ConfigurationError(f"--set needs --methods: it got {texts[0]}, and no method is named")
    found: dict[str, dict[str, Value]] = {}
    for method, given in typed.per_method("--set", list(texts), methods).items():
        if method == WISE_FT:
            raise ConfigurationError(
                f"{WISE_FT} has no setting {next(iter(given))!r}; its weight is chosen among eleven"
            )
        entry = registry.lookup(method)
        found[method] = {key: typed.typed(entry, key, value) for key, value in given.items()}
    return found


def _adapt(context: typer.Context, asked: _AdaptOptions) -> None:
    """Teach your own model new data without losing the old, and write it with an audit of both."""
    from holdfast.adapt.asked import Asked
    from holdfast.adapt.running import adapt, check_folder
    from holdfast.adapt.training import Settings
    from holdfast.auditing import as_text
    from holdfast.bench.jobs import manifest
    from holdfast.bench.jobs.interrupt import asked_to_stop
    from holdfast.cli import show
    from holdfast.cli.stepping import watching

    methods = options.names("--methods", asked.methods)
    settings = _settings(asked.set or [], methods)
    words = context.find_root().obj or ["adapt", asked.model]
    wanted = Asked(
        model=asked.model, data=asked.data, keep=asked.keep, out=str(asked.out), methods=methods,
        settings=settings, trials=asked.trials, hold=asked.hold,
        train=Settings(
            asked.epochs, asked.batch_size, asked.lr, asked.optimizer, asked.accumulation,
            asked.precision,  # type: ignore[arg-type]  # which is checked there
            asked.seed,
        ),
        text=asked.text, label=asked.label, classes=options.names("--classes", asked.classes),
        length=asked.length, skip_broken=asked.skip_broken, lora=asked.lora, command=shlex.join(["holdfast", *words]),
    )  # fmt: skip
    check_folder(wanted)
    begun: list[Path] = []

    def begin() -> None:
        manifest.write(asked.out, words)
        begun.append(asked.out)

    try:
        with watching(show.progress_console()) as watcher, asked_to_stop(show.aside) as stop:
            outcome = adapt(wanted, watcher(stop, begin))
    except KeyboardInterrupt:
        for folder in begun:
            show.aside(f"to go on: holdfast resume {folder}")
        raise
    if not outcome.main:
        return
    typer.echo(as_text(outcome.audit))
    if not outcome.holds:
        show.aside(f"no candidate lost at most {asked.hold:g}; {outcome.chosen.name} lost least")
    typer.echo(f"\nModel: {outcome.folder}\nReport: {outcome.folder / 'report.html'}")


def _audit(context: typer.Context, asked: _AuditOptions) -> None:
    """Say what was lost and what was gained between two models, on any data."""
    from holdfast.adapt.comparing import audit_of
    from holdfast.auditing import as_text
    from holdfast.bench.report.auditing import write_audit
    from holdfast.cli import show

    words = context.find_root().obj or ["audit", asked.before, asked.after]
    found = audit_of(
        asked.before, asked.after, asked.data, text=asked.text, label=asked.label,
        classes=options.names("--classes", asked.classes), length=asked.length, skip_broken=asked.skip_broken,
        whole=asked.whole, batch_size=asked.batch_size, hessian=asked.hessian, say=show.aside,
    )  # fmt: skip
    typer.echo(as_text(found))
    if asked.out is not None:
        found.save(asked.out / "audit.json")
        path = write_audit(found, asked.out / "report.html", command=shlex.join(["holdfast", *words]))
        typer.echo(f"\nReport: {path}")
    if asked.fail_above is not None:
        too_much = found.exceeding(asked.fail_above)
        for data in too_much:
            unit = "points" if data.accuracy is not None and data.perplexity is None else "% of the loss"
            show.aside(f"{data.name} lost {data.lost:.2f} {unit}, more than {asked.fail_above:g}")
        if too_much:
            raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    commands.add(
        app, "adapt", _AdaptOptions, _adapt,
        epilog="Example: holdfast adapt my-model --data new-images --keep old-images --methods finetune,l2sp,lwf "
        "--hold 2 --out better",
    )  # fmt: skip
    commands.add(
        app, "audit", _AuditOptions, _audit,
        epilog="Example: holdfast audit my-model better --data old-images --data new-images --fail-above 1",
    )  # fmt: skip
