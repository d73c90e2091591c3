"""Options that several commands share: each stands here once, in the groups that commands are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

__all__ = [
    "DataDir",
    "MethodName",
    "Out",
    "Placed",
    "Read",
    "Searched",
    "Spread",
    "StreamName",
    "StreamOrData",
    "Threads",
    "Trained",
    "names",
]

StreamName: TypeAlias = Annotated[str, typer.Argument(metavar="STREAM", help="A name from 'holdfast streams'.")]
StreamOrData: TypeAlias = Annotated[
    str, typer.Argument(metavar="STREAM", help="A name from 'holdfast streams', or your own data: a folder or a file.")
]
MethodName: TypeAlias = Annotated[str, typer.Option("--method", help="A name from 'holdfast methods'.")]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(help="CPU threads; default 1 for small models, else all.", min=1)
]
DataDir: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder with the data sets; default: HOLDFAST_DATA, else the Hugging Face Hub.")
]
Out: TypeAlias = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for records and report.html.")]


@dataclass(kw_only=True)
class Read:
    """How one's own data are read and dealt out; a named stream takes none of it."""

    classes_per_task: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="Own data without tasks: classes of each task; default 2.")
    ] = None
    image_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Own images become N pixels wide and high.")
    ] = None
    words: Annotated[int | None, typer.Option(metavar="N", min=1, help="Own texts: the first N words; default 30.")] = (
        None
    )
    text: Annotated[str | None, typer.Option(metavar="COL", help="Own table: the column of texts.")] = None
    label: Annotated[str | None, typer.Option(metavar="COL", help="Own table: the column of labels.")] = None
    task: Annotated[str | None, typer.Option(metavar="COL", help="Own table: the column of tasks.")] = None
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Own data: leave out what cannot be read, and say how much.")
    ] = False

    @property
    def reading(self) -> dict[str, Any]:
        """These options, by name, where they were given."""
        names = ("classes_per_task", "image_size", "words", "text", "label", "task", "skip_broken")
        return {name: value for name in names if (value := getattr(self, name))}


@dataclass(kw_only=True)
class Trained(Read):
    """What is learned, and how: the stream and the protocol."""

    stream: StreamOrData
    scenario: Annotated[
        str | None,
        typer.Option(
            help="task (a head per task, told which at test: the default), domain (shared outputs) or class (the "
            "default of few shots)."
        ),
    ] = None
    training_outputs: Annotated[
        str, typer.Option(help="Class-incremental: outputs that the training loss sees: all, seen or current.")
    ] = "all"
    imbalance: Annotated[
        float | None,
        typer.Option(help="Long tails: times as frequent as its last the first class is; default 100, digits 20."),
    ] = None
    class_balance: Annotated[
        float | None,
        typer.Option(metavar="BETA", help="Weigh each class in the training loss by how rare it is, such as 0.9999."),
    ] = None
    stream_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V", help="Another option of the stream, such as limit_per_class=100; repeatable."),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            help="mlp, mlp-A-B, cnn-classp, resnet-small, gpt-small, package.module:factory; for texts to be continued "
            "a folder of Transformers or an id of the Hub."
        ),
    ] = None
    model_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V", help="Another option of the model, such as lora=8; repeatable."),
    ] = None
    outputs: Annotated[
        str | None, typer.Option(help="Class-incremental: fixed (all from the start) or growing with each task.")
    ] = None
    backbone: Annotated[
        str | None,
        typer.Option(help="What closed-form heads stand on: random-patches, first-task, random, given or pixels."),
    ] = None
    optimizer: Annotated[str | None, typer.Option(help="sgd, adam, adamw, rmsprop, adagrad, classp or golden-sgd.")] = (
        None
    )
    lr: Annotated[float | None, typer.Option(help="Its learning rate.")] = None
    optimizer_between_tasks: Annotated[
        str | None, typer.Option(help="fresh or kept: the optimizer's state at a new task.")
    ] = None
    epochs: Annotated[int | None, typer.Option(help="Epochs per task.", min=1)] = None
    pretrain_epochs: Annotated[
        int | None,
        typer.Option(help="Learn the first task beforehand, plainly: once per seed, and all methods start from there."),
    ] = None
    batch_size: Annotated[int | None, typer.Option(help="Samples per training step.")] = None
    validation_fraction: Annotated[
        float | None, typer.Option(help="Share of the training data set aside; a grid chooses by it.")
    ] = None
    memory: Annotated[
        str | None, typer.Option(help="data or generations: what texts are remembered by; default: the method's own.")
    ] = None
    low_perplexity: Annotated[
        float | None,
        typer.Option(metavar="P", help="Texts: learn only words of at most that perplexity to the model before."),
    ] = None
    prequential: Annotated[
        int | None,
        typer.Option(
            metavar="WINDOW", help="Also answer each training sample before it is learned; accuracy over a window."
        ),
    ] = None

    diagnose: Annotated[
        str | None,
        typer.Option(
            metavar="NORM", help="After each task, the Hessian's norm: hessian, hessian-frobenius or hessian-spectral."
        ),
    ] = None

    @property
    def scenes(self) -> dict[str, Any]:
        """What the stream is asked for, by name."""
        options = _valued("--stream-option", self.stream_option)
        given = {name: getattr(self, name) for name in ("imbalance", "class_balance")}
        options |= {name: value for name, value in given.items() if value is not None}
        return {"scenario": self.scenario, "training_outputs": self.training_outputs, "stream_options": options}

    @property
    def model_options(self) -> dict[str, Any]:
        """What else the model is built with, by name."""
        return _valued("--model-option", self.model_option)

    @property
    def training(self) -> dict[str, Any]:
        """What replaces fields of the stream's default protocol, by name."""
        names = ("model", "outputs", "backbone", "optimizer", "lr", "optimizer_between_tasks", "epochs", "batch_size")
        further = ("pretrain_epochs", "validation_fraction", "memory", "low_perplexity", "prequential", "diagnose")
        return {name: getattr(self, name) for name in (*names, *further)}


@dataclass(kw_only=True)
class Placed:
    """Where it is computed, where the data are, and where results go."""

    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu"
    threads: Threads = None
    data_dir: DataDir = None
    out: Out = None
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Keep every run's weights, so that export need not train anew.")
    ] = False
    checkpoint_every: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.0, help="Time between checkpoints; at most 3 % of the time is spent on them."
        ),
    ] = 60.0
    track: Annotated[
        str | None, typer.Option(help="Send measurements to tensorboard, mlflow or wandb while runs are under way.")
    ] = None


@dataclass(kw_only=True)
class Spread(Placed):
    """The same, where runs may be done elsewhere."""

    executor: Annotated[
        str, typer.Option(help="local (one run after the other), processes (of this machine) or ray.")
    ] = "local"
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at once in processes or on Ray; default: one per CPU core.")
    ] = None
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="A Ray cluster that runs already; default: a local one."),
    ] = None


@dataclass(kw_only=True)
class Searched:
    """By what a search chooses, and where it is kept."""

    tasks: Annotated[
        str,
        typer.Option(
            metavar="K|all|auto",
            help="A search averages over the first K tasks, after learning them; auto: 3, or all of a shorter stream.",
        ),
    ] = "auto"
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Database of the searches; default: a file in the results' folder."),
    ] = None


def _valued(option: str, typed: list[str] | None) -> dict[str, Any]:
    """Name -> value of a repeatable option."""
    from holdfast.bench.comparing.typed import pairs

    return {key: _value(text) for key, text in pairs(option, typed or [])}


def _value(text: str) -> Any:
    """What was typed as a number, a list or a truth value, if it is one; else the word."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def names(option: str, text: str, listed: str = "") -> tuple[str, ...]:
    """Names with commas between them, each once.

    Args:
        option: that they were given to, for the message.
        text: as typed; empty: none were given.
        listed: the command that lists them; empty: there is none, and they may be left out.

    Raises:
        ConfigurationError: for a text that names nothing.
    """
    from holdfast.errors import ConfigurationError

    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if (text or listed) and not found:
        of = f" from '{listed}'" if listed else ""
        raise ConfigurationError(f"{option} is {text!r}; expected names{of} with commas between them")
    return found
