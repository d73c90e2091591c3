"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

__all__ = [
    "BatchSize",
    "Between",
    "CheckpointEvery",
    "DataDir",
    "Device",
    "Epochs",
    "Executor",
    "LearningRate",
    "Model",
    "Optimizer",
    "Out",
    "RayAddress",
    "Scenario",
    "SearchTasks",
    "Storage",
    "StreamName",
    "Threads",
    "Track",
    "TrainingOutputs",
    "ValidationFraction",
    "Workers",
]

StreamName: TypeAlias = Annotated[str, typer.Argument(metavar="STREAM", help="A name from 'holdfast streams'.")]
Scenario: TypeAlias = Annotated[
    str, typer.Option(help="task (a head per task, told which at test), domain (shared outputs) or class.")
]
TrainingOutputs: TypeAlias = Annotated[
    str, typer.Option(help="Class-incremental: outputs that the training loss sees: all, seen or current.")
]
Model: TypeAlias = Annotated[
    str | None, typer.Option(help="mlp, mlp-A-B, cnn-classp, resnet-small or package.module:factory.")
]
Optimizer: TypeAlias = Annotated[str | None, typer.Option(help="sgd, adam, adamw, rmsprop, adagrad or classp.")]
LearningRate: TypeAlias = Annotated[float | None, typer.Option("--lr", help="Its learning rate.")]
Between: TypeAlias = Annotated[
    str | None, typer.Option("--optimizer-between-tasks", help="fresh or kept: the optimizer's state at a new task.")
]
Epochs: TypeAlias = Annotated[int | None, typer.Option(help="Epochs per task.", min=1)]
BatchSize: TypeAlias = Annotated[int | None, typer.Option(help="Samples per training step.")]
ValidationFraction: TypeAlias = Annotated[
    float | None, typer.Option(help="Share of the training data set aside; a grid chooses by it.")
]
Device: TypeAlias = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(help="CPU threads; default 1 for small models, else all.", min=1)
]
DataDir: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder with the data sets; default: HOLDFAST_DATA, else the Hugging Face Hub.")
]
Out: TypeAlias = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for records and report.html.")]
CheckpointEvery: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", min=0.0, help="Time between checkpoints; at most 3 % of the time is spent on them."
    ),
]
SearchTasks: TypeAlias = Annotated[
    str, typer.Option("--tasks", metavar="K|all", help="A search averages over the first K tasks, after learning them.")
]
Storage: TypeAlias = Annotated[
    str | None, typer.Option(metavar="URL", help="Database of the searches; default: a file in the results' folder.")
]
Executor: TypeAlias = Annotated[
    str, typer.Option(help="local (one run after the other), processes (of this machine) or ray.")
]
Workers: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Runs at once in processes or on Ray; default: one per CPU core.")
]
RayAddress: TypeAlias = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="A Ray cluster that runs already; default: a local one.")
]
Track: TypeAlias = Annotated[
    str | None, typer.Option(help="Send measurements to tensorboard, mlflow or wandb while runs are under way.")
]
