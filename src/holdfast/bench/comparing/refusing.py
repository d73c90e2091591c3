"""Whether a folder can take a comparison's records: those of another comparison in one table would mislead."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from holdfast.bench.comparing.compare import Comparison, candidates, jobs
from holdfast.bench.jobs.folder import Folder
from holdfast.bench.jobs.job import Job
from holdfast.bench.records import record as records
from holdfast.bench.records.record import RunConfig
from holdfast.errors import ConfigurationError, Option

__all__ = ["prepare"]

# What all records of one folder share, so that its table compares like with like.
_SHARED = (
    "stream",
    "stream_options",
    "scenario",
    "training_outputs",
    "outputs",
    "prequential",
    "diagnose",
    "tasks",
    "model",
    "model_options",
    "epochs",
    "pretraining",
    "batch_size",
    "validation_fraction",
)


def prepare(folder: Folder, comparison: Comparison, *, searched: Collection[str] = ()) -> None:
    """Make sure, before anything is trained, that the folder can take this comparison's records.

    Records of an earlier call with the same settings are welcome: they are not run again.

    Args:
        folder: the folder.
        comparison: what is to be run.
        searched: methods whose hyperparameters are not known yet.

    Raises:
        ConfigurationError: if it cannot be written, or holds records of another comparison.
        StateError: if a file in it is not a record, or a checkpoint in it is of another run.
    """
    folder.make()
    _refuse_others(folder, comparison, searched)
    trials = candidates(comparison)
    known = [job for job in jobs(comparison) if job.config.method not in {*trials, *searched}]
    for job in itertools.chain(known, *trials.values()):
        folder.keeper(job).check()


def _refuse_others(folder: Folder, comparison: Comparison, searched: Collection[str]) -> None:
    planned = {job.config.method + str(job.config.seed): job.config for job in jobs(comparison)}
    trials = candidates(comparison)
    anyone = next(iter(planned.values()))
    unchosen = [name for name in RunConfig.model_fields if name != "hyperparameters"]
    for old in folder.records():
        config = planned.get(old.config.method + str(old.config.seed))
        differing: Sequence[str]
        if config is None:
            differing = _differing(old.config, anyone, _SHARED)
        elif config.method in trials:
            same = _chosen_among(old.config, trials[config.method], comparison.grids[config.method])
            differing = _differing(old.config, config, unchosen) or ([] if same else ["hyperparameters"])
        else:
            fields = unchosen if config.method in searched else list(RunConfig.model_fields)
            differing = _differing(old.config, config, fields)
        if differing:
            raise ConfigurationError(
                f"the folder {folder.path} holds records of another comparison ({records.filename(old.config)} differs "
                f"in {', '.join(differing)}): name another folder with ",
                Option("out"),
                ", or delete that one",
            )


def _differing(old: RunConfig, new: RunConfig, fields: Sequence[str]) -> list[str]:
    old, new = old.without_story(), new.without_story()
    changed = [name for name in fields if getattr(old, name) != getattr(new, name)]
    if "stream_options" in changed and old.stream_options.get("own") != new.stream_options.get("own"):
        changed[changed.index("stream_options")] = "the data themselves"
    return [name.replace("_", " ") for name in changed]


def _chosen_among(old: RunConfig, trials: Sequence[Job], keys: Collection[str]) -> bool:
    """Whether a grid chose the values of an old run among just these candidates."""
    wanted = {job.label for job in trials}
    choices = [old.hyperparameters[key].choice for key in keys]
    return all(
        choice is not None and choice.count == len(wanted) and {each.label for each in choice.candidates} == wanted
        for choice in choices
    )
