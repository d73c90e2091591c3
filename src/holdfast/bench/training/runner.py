"""The plain loop: tasks, epochs, batches; then consolidate, then test.

Everything random derives from the run's seed and the place in the run, so a run that is stopped and resumed makes
the same numbers as one that was not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.bench.data.language import HOLDS
from holdfast.bench.data.tasks import Stream
from holdfast.bench.records import seeding
from holdfast.bench.records.likelihood import Likelihood
from holdfast.bench.records.measured import Costs, Curves
from holdfast.bench.records.record import Record, RunConfig
from holdfast.bench.training import building, environment, memory, pretraining
from holdfast.bench.training.diagnostics import Diagnosis, noting
from holdfast.bench.training.health import Health
from holdfast.bench.training.learner import Learner
from holdfast.bench.training.observer import Observer, Silent
from holdfast.bench.training.session import Session, sessions
from holdfast.bench.training.snapshot import Cursor, Forgetful, Keeper, Ledger, Snapshot
from holdfast.bench.training.steepness import Slope
from holdfast.bench.training.streaming import Streaming
from holdfast.errors import NumericsError, ProtectionError, StateError

__all__ = ["Cursor", "Keeper", "Ledger", "Snapshot", "run"]

_CURVE_POINTS = 200
_TIMED_STEPS = 5000  # more would not move the median, but would weigh on every checkpoint


def run(
    config: RunConfig,
    *,
    stream: Stream | None = None,
    data_dir: Path | str | None = None,
    read_test: bool = True,
    observer: Observer | None = None,
    keeper: Keeper | None = None,
    command: str = "",
) -> Record:
    """One run: learn every task of a stream, and test after each.

    Args:
        config: what is asked for.
        stream: its stream, if it is built already.
        data_dir: where the data sets are.
        read_test: ``False`` while hyperparameters are chosen: then only the validation parts are looked at, and the
            record's matrix is theirs.
        observer: who wants to know how it is getting on.
        keeper: who keeps checkpoints.
        command: how to repeat it, for the record.

    Returns:
        The record: finished, or failed with the reason: a number stopped being finite, or nothing was to be protected.
    """
    stream = stream or building.build_stream(config, data_dir=data_dir)
    if not read_test:
        stream = stream.without_test()
    observer, keeper = observer or Silent(), keeper or Forgetful()

    def before(plain: RunConfig, its_keeper: Keeper) -> Record:
        with _seeded(plain):
            return _Run(plain, stream, read_test, Silent(), its_keeper, "").record()

    try:
        start = pretraining.start(config, keeper, before)
    except NumericsError as error:
        return _Run(config, stream, read_test, observer, keeper, command).failed(str(error))
    with _seeded(config):
        return _Run(config, stream, read_test, observer, keeper, command, start).record()


@contextmanager
def _seeded(config: RunConfig) -> Iterator[None]:
    with torch.random.fork_rng(devices=_cuda_devices(config)):
        torch.manual_seed(seeding.derive_seed(config.seed, "training"))
        yield


def _cuda_devices(config: RunConfig) -> list[torch.device]:
    device = torch.device(config.device)
    return [device] if device.type == "cuda" else []


class _Run:
    def __init__(
        self,
        config: RunConfig,
        stream: Stream,
        read_test: bool,
        observer: Observer,
        keeper: Keeper,
        command: str,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.config, self.stream, self.read_test = config, stream, read_test
        self.observer, self.keeper, self.command = observer, keeper, command
        self.learner = Learner(config, stream, start)
        self.diagnosis = Diagnosis(self.learner)
        self.streaming = Streaming(self.learner, config.prequential if read_test else None)
        self.slope = Slope(self.learner, config.diagnose if read_test else None)
        self.cursor, self.ledger = Cursor(), Ledger()
        self.sessions = list(sessions(stream, joint=self.learner.entry.all_at_once))
        self.health = Health(self.learner, self.diagnosis.explain)

    def record(self) -> Record:
        """Run, from wherever the keeper left off, to the end."""
        memory.reset_peak(torch.device(self.config.device))
        status, failure = "finished", ""
        snapshot = self.keeper.load()
        if snapshot is not None:
            try:
                self._go_on_from(snapshot)
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                # Of the same code and configuration, so it is the user's own model that has changed, or its data.
                first = str(error).strip().split("\n")[0]
                raise StateError(f"the checkpoint of {self.config.method} does not fit this run: {first}") from error
        self.clock = time.perf_counter()
        if snapshot is None:
            self.learner.start(self.sessions)
        if self.cursor.session == 0:
            self.sessions[0] = self.learner.prepared(self.sessions[0])
        planned = self._planned_steps()
        self.point_every = max(1, planned // _CURVE_POINTS)
        self.observer.begin(self.config, planned)
        self.observer.advance(self.ledger.steps)
        try:
            if not self.ledger.initial:
                self.ledger.initial = self._tested("initial", "test" if self.read_test else "valid")
            for session in self.sessions[self.cursor.session :]:
                self._learn(session)
                self._remember_and_test(session)
            self.keeper.finish(self.learner.state_dict)
        except (NumericsError, ProtectionError) as error:
            status, failure = "failed", str(error)
        self._tick()
        return self._record(status, failure)

    def failed(self, why: str) -> Record:
        """What is left of a run that could not begin."""
        return self._record("failed", why)

    def _go_on_from(self, snapshot: Snapshot) -> None:
        self.cursor, self.ledger = snapshot.cursor, snapshot.ledger
        within = not self.cursor.between_sessions
        if within:
            session = self.sessions[self.cursor.session]
            self.learner.begin(session)
            if self.learner.knows(session):
                self.learner.protect()
        kept = within or self.config.optimizer_between_tasks == "kept"
        self.learner.load_state_dict(snapshot.learner, with_optimizer=kept)
        self.diagnosis.load_state_dict(snapshot.diagnosis)
        self.health.load_state_dict(snapshot.health)
        torch.set_rng_state(snapshot.random_states["cpu"])
        for device in _cuda_devices(self.config):
            torch.cuda.set_rng_state(snapshot.random_states[str(device)], device)

    def _take(self) -> Snapshot:
        self._tick()
        states = {"cpu": torch.get_rng_state()}
        states |= {str(device): torch.cuda.get_rng_state(device) for device in _cuda_devices(self.config)}
        learner, diagnosis, health = self.learner, self.diagnosis, self.health
        return Snapshot(
            self.cursor, self.ledger, learner.state_dict(), diagnosis.state_dict(), health.state_dict(), states
        )

    def _tick(self) -> None:
        """Book the time since the last look; a resumed run goes on counting."""
        now = time.perf_counter()
        self.ledger.seconds["total"] += now - self.clock
        self.clock = now
        self.ledger.peak_memory = max(self.ledger.peak_memory, memory.peak_bytes(torch.device(self.config.device)))

    def _epochs(self, session: Session, round_: int) -> int:
        config = self.config
        if not self.learner.trains(session) or (round_ == 0 and self.learner.knows(session)):
            return 0
        if round_ > 0 and config.retrain_epochs is not None:
            return config.retrain_epochs
        return config.epochs_per_task[session.index] if config.epochs_per_task else config.epochs

    def _planned_steps(self) -> int:
        return sum(self._epochs(s, 0) * s.num_batches(self.config.batch_size) for s in self.sessions)

    def _learn(self, session: Session) -> None:
        cursor, learner = self.cursor, self.learner
        if cursor.between_sessions:
            learner.begin(session)
            learner.choose(session)
        session = learner.as_chosen(session)
        last = session.index == len(self.sessions) - 1
        while True:
            for epoch in range(cursor.epoch, self._epochs(session, cursor.round)):
                cursor.epoch = epoch
                self._epoch(session)
                cursor.batch = 0
                if self._low_enough(session):
                    break
            cursor.epoch, cursor.batch = 0, 0
            with self._explaining():
                again = learner.next_round(session, cursor.round, last=last)
            if not again:
                return
            cursor.round += 1

    def _low_enough(self, session: Session) -> bool:
        stops, loss = self.config.stop_losses, self.ledger.epoch_loss
        return bool(stops) and loss is not None and loss <= stops[session.index]

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Say when and why, where a method says only what is no longer finite."""
        try:
            yield
        except NumericsError as error:
            cause = self.diagnosis.likely_cause()
            raise NumericsError(f"{error}, after step {self.ledger.steps}: {cause}") from error

    def _epoch(self, session: Session) -> None:
        cursor, learner, size = self.cursor, self.learner, self.config.batch_size
        learner.set_learning_rate(cursor.epoch)
        order = session.order(self.config, cursor.round, cursor.epoch)
        learner.model.train()
        for batch in range(cursor.batch, session.num_batches(size)):
            parts = session.parts(order[batch * size : (batch + 1) * size])
            self.streaming.meet(parts, cursor, self.ledger)
            watched = self.diagnosis.before_step(self.ledger.steps)
            start = time.perf_counter()
            with self._explaining():
                loss = learner.step(parts)
            seconds = time.perf_counter() - start
            self.diagnosis.after_step()
            cursor.batch = batch + 1
            self._note(session, loss, seconds, watched)
            self.observer.advance(1)
            self.keeper.keep(self._take, must=False)
        self.health.look(self.ledger.steps)

    def _note(self, session: Session, loss: Tensor, seconds: float, watched: bool) -> None:
        ledger = self.ledger
        ledger.steps += 1
        ledger.seconds["training"] += seconds
        if not watched and len(ledger.step_seconds) < _TIMED_STEPS:
            ledger.step_seconds.append(seconds)
        self.health.note(loss, ledger.steps)
        if self.config.stop_losses and self.cursor.batch == session.num_batches(self.config.batch_size):
            ledger.epoch_loss = float(loss) + self.learner.penalty()
        if ledger.steps % self.point_every == 0:  # the one other place where a step waits for the device
            point = (session.last.index, ledger.steps, float(loss), self.diagnosis.latest_share)
            for column, value in zip(("task", "step", "loss", "penalty_share"), point, strict=True):
                ledger.curves[column].append(value)
            self.observer.measured(*point)

    def _remember_and_test(self, session: Session) -> None:
        cursor, ledger, learner = self.cursor, self.ledger, self.learner
        self.streaming.pass_over(session, ledger)
        start = time.perf_counter()
        self.diagnosis.end_of_task(session.last.index, ledger.diagnostics)
        with self._explaining(), noting(ledger.warnings, self.config.method):
            learner.consolidate(session)
        self.diagnosis.consolidated(session.last.index, ledger.diagnostics)
        tested = time.perf_counter()
        ledger.seconds["consolidate"] += tested - start
        self.slope.learned(session, ledger.diagnostics)
        ledger.nats["divergence"].append(learner.moved.measure(learner.model, session.last))
        if self.config.validation_fraction > 0:
            ledger.validation.append(self._tested("validation", "valid"))
        if self.read_test:
            ledger.matrix.append(self._tested("matrix", "test"))
        else:
            ledger.matrix.append(ledger.validation[-1])
            ledger.nats["matrix"].append(ledger.nats["validation"][-1])
        ledger.by_class += [learner.class_accuracies] if self.stream.by_class else []
        ledger.seconds["evaluate"] += time.perf_counter() - tested
        self.observer.tested(session.last.index, ledger.matrix[-1])
        cursor.session, cursor.round, cursor.epoch, cursor.batch = session.index + 1, 0, 0, 0
        self._tick()
        self.keeper.keep(self._take, must=True)

    def _tested(self, kind: str, part: str) -> list[float]:
        """The accuracies on a part, and beside them what words were worth."""
        found = self.learner.accuracies(part)
        row = list(self.learner.nats)
        self.ledger.nats[kind] += row if kind == "initial" else [row]
        return found

    def _likelihood(self) -> Likelihood | None:
        return Likelihood(**self.ledger.nats) if self.stream.holds == HOLDS else None

    def _record(self, status: Any, failure: str) -> Record:
        config, ledger, learner, seconds = self.config, self.ledger, self.learner, self.ledger.seconds
        return Record(
            status=status,
            failure=failure,
            config=config,
            environment=environment.describe(config.device),
            task_names=[task.name for task in self.stream.tasks],
            initial=ledger.initial,
            matrix=ledger.matrix,
            validation=ledger.validation,
            by_class=learner.by_class(ledger.by_class),
            likelihood=self._likelihood(),
            curves=Curves(**ledger.curves),
            first_answers=self.streaming.found(ledger),
            costs=Costs(
                steps=ledger.steps,
                seconds_total=seconds["total"],
                seconds_training=seconds["training"],
                seconds_per_step=statistics.median(ledger.step_seconds) if ledger.step_seconds else 0.0,
                seconds_consolidate=seconds["consolidate"],
                seconds_evaluate=seconds["evaluate"],
                peak_memory_bytes=ledger.peak_memory,
                parameters=sum(p.numel() for p in learner.model.parameters()),
                state_bytes=learner.state_bytes(),
            ),
            diagnostics=ledger.diagnostics,
            warnings=list(dict.fromkeys(ledger.warnings + self.diagnosis.warnings())),
            command=self.command,
        )
