"""The door to the bench: one call compares methods on a stream, and the command line makes the same call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from holdfast.bench import report as reports
from holdfast.bench.comparing import compare as comparing
from holdfast.bench.comparing import given, refusing, studies, tuning
from holdfast.bench.comparing.carrying import REPORT, How, carry_out
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.comparing.protocols import default_threads, protocol
from holdfast.bench.comparing.tuning import Search
from holdfast.bench.data import arranging, finding, streams
from holdfast.bench.data.asked import usual_scenario
from holdfast.bench.data.pretrained import is_pretrained
from holdfast.bench.data.tasks import Stream
from holdfast.bench.jobs.folder import Folder
from holdfast.bench.jobs.handing_out import Executor, Stop, never
from holdfast.bench.jobs.job import Monitor, Silent, Store
from holdfast.bench.jobs.progress import monitor
from holdfast.bench.records.record import Record, Scenario, TrainingOutputs
from holdfast.checks import check_count
from holdfast.errors import ConfigurationError, Option

__all__ = ["Table", "Undertaken", "compare", "use_threads"]


@dataclass(frozen=True)
class Table:
    """What a comparison found.

    Attributes:
        records: of every run that read the test set, method by method and seed by seed.
        folder: where they lie, with the report; ``None``: nothing was written.
    """

    records: tuple[Record, ...]
    folder: Path | None = None

    @property
    def report(self) -> Path | None:
        """The report's file."""
        return None if self.folder is None else self.folder / REPORT

    @property
    def finished(self) -> bool:
        """Whether at least one run came to its end."""
        return any(record.status == "finished" for record in self.records)

    def rows(self) -> list[reports.SummaryRow]:
        """One row a method, its metrics over the seeds."""
        return reports.rows(self.records)

    def to_markdown(self) -> str:
        """The table as Markdown."""
        return reports.to_markdown(self.records)

    def to_csv(self) -> str:
        """The table as CSV."""
        return reports.to_csv(self.records)

    def __str__(self) -> str:
        return self.to_markdown()


@dataclass(frozen=True)
class Undertaken:
    """A comparison, and how its hyperparameters are chosen: what ``carrying.carry_out`` carries out.

    Args:
        comparison: what is compared.
        search: how hyperparameters are searched; ``None``: not at all.
        out: the folder of results, which will be there before a search begins.
    """

    comparison: Comparison
    search: Search | None = None
    out: Path | None = None

    again = ""

    @property
    def title(self) -> str:
        """The stream and its scenario."""
        return f"{self.comparison.stream.name}-{self.comparison.stream.scenario}"

    @property
    def device(self) -> str:
        """Where its runs compute."""
        return str(self.comparison.fields.get("device", "cpu"))

    @property
    def own(self) -> Stream | None:
        """The stream, where it is one of somebody's own tensors."""
        return self.comparison.stream if self.comparison.stream.own else None

    def check(self) -> None:
        """Refuse whatever would be refused later: see ``compare.check``."""
        comparing.check(self.comparison)
        if self.search is not None:
            tuning.check(self.comparison, self.search)
            if self.search.storage is not None:
                studies.check(self.search.storage, made=self.out)

    def say_untuned(self, note: Callable[[str], None]) -> None:
        """Name the methods for which a search has nothing to choose: they run as they are, and are shown as untuned."""
        if self.search is None:
            return
        asked = self.comparison
        names = [name for name in asked.methods if not tuning.space(asked, name) and name not in asked.grids]
        if names:
            note(f"Nothing to search: {', '.join(names)} run{'s' * (len(names) == 1)} untuned.")

    def prepare(self, folder: Folder) -> None:
        """Make the folder, and refuse one that holds another comparison's records."""
        searched = []
        if self.search is not None:
            searched = [config.method for config in tuning.check(self.comparison, self.search)]
        refusing.prepare(folder, self.comparison, searched=searched)

    def run(self, executor: Executor, store: Store, monitor: Monitor) -> list[Record]:
        """Choose where there is something to choose, then run every method on every seed."""
        chosen = None
        if self.search is not None:
            chosen = tuning.search_all(self.comparison, self.search, executor=executor, store=store, monitor=monitor)
        return comparing.run(self.comparison, store, monitor, executor=executor, chosen=chosen)

    def published(self, records: Sequence[Record]) -> Sequence[reports.PublishedValue]:
        """Nothing: a comparison of one's own has no published twin."""
        return ()


def compare(
    stream: str | Stream,
    methods: Sequence[str],
    *,
    seeds: int | Sequence[int] = 3,
    out: Path | str | None = None,
    scenario: Scenario | None = None,
    training_outputs: TrainingOutputs = "all",
    stream_options: Mapping[str, Any] | None = None,
    model_options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    grids: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
    search: Search | None = None,
    controls: bool = True,
    device: str = "cpu",
    threads: int | None = None,
    data_dir: Path | str | None = None,
    executor: str = "local",
    workers: int | None = None,
    ray_address: str | None = None,
    checkpoint_every: float = 60.0,
    track: str | None = None,
    keep_weights: bool = False,
    progress: bool | Monitor = False,
    note: Callable[[str], None] = warnings.warn,
    warn: Callable[[str], None] = warnings.warn,
    stop: Stop = never,
    words: Sequence[str] = (),
    **training: Any,
) -> Table:
    """Compare methods over a stream under one protocol; every method is trained alike.

    Args:
        stream: a name that ``holdfast streams`` lists; a stream of one's own: ``Stream.from_tensors`` or
            ``holdfast.bench.stream_of``; or the path of one's own data.
        methods: names that ``holdfast methods`` lists.
        seeds: how many, from 0, or which.
        out: folder for records, checkpoints and ``report.html``; ``None``: nothing is written. A second call with the
            same folder keeps what is finished, and goes on at the last checkpoint of what is not.
        scenario: of a stream that is not made yet: see ``streams.build``; ``None``: ``class`` for few shots, else
            ``task``.
        training_outputs: likewise.
        stream_options: what else a named stream is built with, such as ``{"imbalance": 50}``: see ``asked.Asked``;
            texts of one's own take ``text``.
        model_options: what else the model is built with, such as ``{"lora": 8}`` (adapters of that rank,
            of texts to be continued; ``lora_start`` is what they start from): see ``models.named.build``.
        settings: method -> hyperparameter -> value.
        grids: method -> hyperparameter -> candidates, of which validation accuracy on the first seed chooses.
        search: how hyperparameters are searched on validation data; ``None``: not at all.
        controls: whether to add the controls that some of the methods must be held against.
        device: where to compute.
        threads: CPU threads; ``None``: one for small models, else PyTorch's own choice.
        data_dir: where the named data sets are; default: the environment's ``HOLDFAST_DATA``, else the Hub.
        executor: ``local`` (one run after the other), ``processes`` or ``ray``.
        workers: runs at once in processes or on Ray.
        ray_address: of a Ray cluster that runs already.
        checkpoint_every: seconds between checkpoints.
        track: ``tensorboard``, ``mlflow`` or ``wandb``.
        keep_weights: whether to keep the weights of every run that reads the test set, for ``holdfast export``.
        progress: whether to show how it is getting on, on the standard error; or who wants to know.
        note: is told in a sentence, before anything is trained, what was not asked for, such as an added control.
        warn: is told which checkpoint is no good, and what is kept where it was stopped.
        stop: asked after each step; once it says yes, checkpoints are written and `KeyboardInterrupt` raised.
        words: of the command that was typed, after ``holdfast``.
        **training: what replaces a field of the stream's default protocol: ``model``, ``optimizer``, ``lr``,
            ``optimizer_between_tasks``, ``epochs``, ``batch_size``, ``validation_fraction``, ``backbone``, ``outputs``,
            ``prequential`` (a window: each training sample is answered before it is learned), ``diagnose``
            (``"hessian"``: a norm of the loss's Hessian after each task), ``pretrain_epochs`` (the first task is
            learned beforehand), ``memory`` and ``low_perplexity`` (of texts to be continued: what they are remembered
            by, and which words are learned); ``None`` replaces none.

    Returns:
        The table, with the record of every run.

    Raises:
        ConfigurationError: for whatever is wrong, in one sentence, before anything is trained.
        DataError: if a data set cannot be read.
    """
    asked = given.names(methods, controls, note)
    given.check(asked, training, {"settings": settings or {}, "grids": grids or {}}, note)
    numbers = given.numbers(seeds)
    options = given.with_words(given.stream_options(stream_options or {}), stream, training.get("model"))
    learned = _stream(stream, numbers[0], scenario, training_outputs, data_dir, options, note, training)
    comparison = Comparison(
        learned,
        asked,
        numbers,
        *given.as_typed(settings or {}, grids or {}),
        training,
        _fields(device, learned, options, model_options or {}),
        threads,
    )
    undertaken = Undertaken(comparison, search, None if out is None else Path(out))
    undertaken.say_untuned(note)
    with _threads(threads, learned, training.get("model")) as used, _watching(progress) as monitor:
        how = How(
            out=undertaken.out,
            data_dir=None if data_dir is None else Path(data_dir),
            checkpoint_every=checkpoint_every,
            executor=executor,
            workers=workers,
            ray_address=ray_address,
            track=track,
            threads=used,
            keep_weights=keep_weights,
        )
        records = carry_out(undertaken, how, monitor=monitor, words=words, warn=warn, stop=stop)
    return Table(tuple(records), how.out)


def use_threads(threads: int | None, stream: str, holds: str = "", model: str | None = None) -> int:
    """Set the number of CPU threads, by what stream and model are where it is not given, and return it."""
    check_count("threads", threads)
    wanted = default_threads(stream, holds, model) if threads is None else threads
    if wanted is not None:
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


def _stream(
    stream: str | Stream,
    seed: int,
    scenario: Scenario | None,
    training_outputs: TrainingOutputs,
    data_dir: Path | str | None,
    options: Mapping[str, Any],
    note: Callable[[str], None],
    training: Mapping[str, Any],
) -> Stream:
    model, fraction = training.get("model"), training.get("validation_fraction")
    if isinstance(stream, Stream):
        if not stream.own:
            raise ConfigurationError(
                f"the stream {stream.name!r} has a name: give that, or one from Stream.from_tensors or stream_of"
            )
        if (scenario or "task", training_outputs) != ("task", "all"):
            raise ConfigurationError(
                Option("scenario", (scenario or "task",)),
                f" is for named streams; this one was made with scenario={stream.scenario!r}",
            )
        if options:
            raise ConfigurationError(Option("stream_options"), " is for named streams; this one is your own")
        return stream
    if not isinstance(stream, str):
        raise ConfigurationError(f"stream is {stream!r}; expected a name, or one from Stream.from_tensors")
    if finding.is_place(stream):
        if set(options) - {"text"}:
            raise ConfigurationError(
                Option("stream_options"), f" is for named streams, but for text; {stream} is data of your own"
            )
        return arranging.stream_of(
            stream,
            scenario=scenario,
            training_outputs=training_outputs,
            text_options=options.get("text"),
            tokenizer=model if model is not None and is_pretrained(model) else None,
            data_dir=data_dir,
            say=note,
        )
    return streams.build(
        stream,
        seed=seed,
        scenario=scenario or usual_scenario(stream),
        training_outputs=training_outputs,
        validation_fraction=protocol(stream).validation_fraction if fraction is None else fraction,
        data_dir=data_dir,
        **options,
    )


def _fields(
    device: str, stream: Stream, options: Mapping[str, Any], model_options: Mapping[str, Any]
) -> dict[str, Any]:
    """What else every configuration says; of a stream of one's own the stream tells its options itself."""
    return {
        "device": device,
        "stream_options": {} if stream.own else options,
        "model_options": given.model_options(model_options),
    }


@contextmanager
def _threads(threads: int | None, stream: Stream, model: str | None) -> Iterator[int]:
    """Within it as many as are used; whoever calls goes on with as many as before."""
    before = torch.get_num_threads()
    try:
        yield use_threads(threads, stream.name, stream.holds, model)
    finally:
        torch.set_num_threads(before)


@contextmanager
def _watching(progress: bool | Monitor) -> Iterator[Monitor]:
    if isinstance(progress, bool):
        with monitor(Console(stderr=True, highlight=False, emoji=False)) if progress else nullcontext(Silent()) as one:
            yield one
    else:
        yield progress
