"""A model that learns a stream, and what protects it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from holdfast import registry
from holdfast.bench.data.pretrained import is_pretrained
from holdfast.bench.data.tasks import Split, Stream, Task
from holdfast.bench.models import adapters
from holdfast.bench.models import named as models
from holdfast.bench.models.heads import Heads
from holdfast.bench.records import seeding
from holdfast.bench.records.by_class import ByClass
from holdfast.bench.records.record import RunConfig
from holdfast.bench.training import adapting, choosing, growing, optimizers
from holdfast.bench.training.closed import Closed
from holdfast.bench.training.material import Material
from holdfast.bench.training.session import Part, Session, rows_of
from holdfast.bench.training.words import Moved, marked
from holdfast.errors import ConfigurationError
from holdfast.method import Method
from holdfast.objectives import Batch, CausalLM, SharedForward
from holdfast.optim import Consolidating
from holdfast.travelling import without_memory

__all__ = ["Learner"]

_EVALUATION_BATCH = 1000
_EVALUATION_WORDS = 4000  # each has an output for every word that there is


class Learner:
    """Model, optimizer and method of one run, and the few things that are done with them.

    Args:
        config: what was asked for.
        stream: the tasks, on the device.
        start: the model's state to begin with; ``None``: as it is built.
    """

    entry: registry.Entry
    closed: Closed | None
    optimizer: torch.optim.Optimizer
    moved: Moved

    def __init__(self, config: RunConfig, stream: Stream, start: Mapping[str, Tensor] | None = None) -> None:
        self.config = config
        self.stream = stream
        self.entry = registry.lookup(config.method)
        self._growing = config.outputs == "growing" and self.entry.kind != "head" and not self.entry.all_at_once
        model = models.build(
            config.model,
            stream.input_shape,
            len(stream.tasks[0].seen) if self._growing else stream.outputs,
            seed=seeding.derive_seed(config.seed, "model"),
            **adapting.of_the_model(config.model_options),
        )
        if start is not None:
            model.load_state_dict(start)
        self.model: nn.Module = adapting.put_in(model, config).to(config.device)
        if self._growing and not isinstance(model, Heads):
            raise ConfigurationError(f"outputs='growing' needs a model of the bench's own; got {config.model!r}")
        self._material = Material(config, stream)
        self._learned = 0  # the place of the task that is learned
        self._show_heads(0)
        values: Mapping[str, Any] = {key: chosen.value for key, chosen in config.hyperparameters.items()}
        self._values = values
        self.method: Method | None = None
        if self.entry.kind == "method":
            assert self.entry.build is not None
            own = config.memory == "generations" and self.entry.takes_memory
            texts = {"memory": lambda model: self._material.own_texts(model, self._learned)} if own else {}
            self.method = self.entry.build(self.model, **values, **texts)
        self.closed = Closed(config, self.entry, values, self.model, stream) if self.entry.kind == "head" else None
        self.optimizer = self._new_optimizer()
        self.penalty_value: Tensor | None = None  # of a penalty in the loss, at the latest step
        self.class_accuracies: list[float] = []  # of every task's classes, at the latest test
        self.nats: list[float] = []  # likewise, the mean loss of every task's words
        self.moved = Moved()
        self._labels: list[Tensor] = []  # of the words that are learned, where not all are

    def _new_optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        if self.entry.kind == "optimizer":
            assert self.entry.build is not None
            optimizer: torch.optim.Optimizer = self.entry.build(self.model.parameters(), **self._values)
            return optimizer
        return optimizers.build(config.optimizer, self.model.parameters(), config.lr, config.optimizer_options)

    def _show_heads(self, latest: int) -> None:
        """Only heads of tasks that have arrived can be trained: a later one would be protected in its random state."""
        if self.entry.all_at_once or not isinstance(self.model, Heads) or self.model.single:
            return
        for index, head in enumerate(self.model.heads):
            for parameter in head.parameters():
                parameter.requires_grad_(index <= latest)

    def _grow(self, outputs: int) -> None:
        """Give a head that grows so many outputs; whatever optimizer there is goes on with its state."""
        if not self._growing:
            return
        assert isinstance(self.model, Heads)
        (head,) = self.model.heads
        assert isinstance(head, nn.Linear)
        if outputs > head.out_features:
            growing.grow(head, outputs, seeding.generator(self.config.seed, "outputs", outputs))
            before, self.optimizer = self.optimizer, self._new_optimizer()
            growing.carry_over(before, self.optimizer)

    def _add_adapters(self, wanted: int) -> None:
        """Give the model so many adapters, where each task has its own: a new optimizer trains the latest alone."""
        if self.entry.needs_adapters and adapting.again(self.model, self.config, wanted):
            self.optimizer = self._new_optimizer()

    def begin(self, session: Session) -> None:
        """Get ready for a session: its head, a fresh or the kept optimizer, the method attached to it."""
        self._learned = session.last.index
        self._show_heads(session.last.index)
        self._grow(len(session.last.seen))
        self._add_adapters(session.index + 1)
        if session.index > 0 and self.config.optimizer_between_tasks == "fresh":
            self.optimizer = self._new_optimizer()
        if not self.knows(session):
            self.protect()
        self.moved.begin(self.model, session, self.stream.holds, pretrained=is_pretrained(self.config.model))

    def start(self, sessions: Sequence[Session]) -> None:
        """What a run that begins anew does first: its adapters' start, by own texts and the first session to learn."""
        first = next((each for each in sessions if not self.knows(each)), sessions[0])
        adapting.started(
            self.model, self.config, keep=self._material.own_words(self.model, 0),
            new=chain.from_iterable(map(self._material.samples, first.tasks)), objective=first.last.training_objective,
        )  # fmt: skip

    def choose(self, session: Session) -> None:
        """Decide, by the model as it is now, which words of a session are learned."""
        threshold = self.config.low_perplexity
        self._labels = []
        if threshold is not None and not self.knows(session):
            self._labels = choosing.chosen(self.model, session, threshold)

    def as_chosen(self, session: Session) -> Session:
        """A session with the words that are learned of it."""
        return choosing.with_labels(session, self._labels) if self._labels else session

    def knows(self, session: Session) -> bool:
        """Whether a session was learned beforehand; whatever protects what it taught begins after it."""
        return self.config.pretraining is not None and session.index == 0 and not self.entry.all_at_once

    def protect(self) -> None:
        """From here on every step is the method's, too."""
        if self.method is not None:
            self.method.attach(self.optimizer)

    def prepared(self, session: Session) -> Session:
        """A session with what it is to be learned with besides, if the method asks for such."""
        return session if self.closed is None else self.closed.prepared(session)

    def trains(self, session: Session) -> bool:
        """Whether a session is learned by steps of the optimizer."""
        return self.entry.trains if self.closed is None else self.closed.trains(session)

    def set_learning_rate(self, epoch: int) -> None:
        """The learning rate of an epoch, from nothing but its number."""
        config = self.config
        if config.lr_decay_every:
            for group in self.optimizer.param_groups:
                group["lr"] = config.lr * config.lr_decay ** (epoch // config.lr_decay_every)

    def step(self, parts: list[Part]) -> Tensor:
        """One training step.

        Args:
            parts: the batch, task by task.

        Returns:
            The mean loss, ``[]``, without any penalty's share; not yet waited for.
        """
        inputs = parts[0].inputs if len(parts) == 1 else torch.cat([part.inputs for part in parts])
        raw = self.model(inputs)
        total, start = None, 0
        answers: int | Tensor = 0
        for part in parts:
            rows = raw if len(parts) == 1 else rows_of(raw, start, start + len(part.inputs))
            # All tasks are there at once for joint training, so all of their outputs compete as they will at test.
            wanted = part.task.objective if self.entry.all_at_once else part.task.training_objective
            outputs = cast("SharedForward", wanted).select(rows)  # asking a protocol costs as much as a small layer
            each = wanted.losses(outputs, (part.inputs, part.targets)).sum()
            each = each if part.weight == 1 else each * part.weight
            total = each if total is None else total + each
            start += len(part.inputs)
            answers = answers + part.task.answers_in(part.targets)
        assert total is not None
        loss: Tensor = total / answers
        trained = loss
        if self.method is not None and self.method.needs_penalty:
            penalty = self.method.penalty((parts[0].inputs, parts[0].targets), raw)
            trained = loss + penalty
            self.penalty_value = penalty.detach()
        self.optimizer.zero_grad()
        torch.autograd.backward(trained)
        self.optimizer.step()
        return loss.detach()

    def penalty(self) -> float:
        """The penalty now, whatever its coupling; 0 for a method that has none."""
        return 0.0 if self.method is None else float(self.method.value().detach())

    def next_round(self, session: Session, round_: int, *, last: bool) -> bool:
        """Whether the session's task must be retrained for another round."""
        if self.method is None:
            return False
        again = self.method.next_round(
            self.importance_batches(session.last), objective=session.last.training_objective, last=last
        )
        if again and round_ == 0 and self.knows(session):
            self.protect()
        return again

    def consolidate(self, session: Session) -> None:
        """Remember what was just learned."""
        task = session.last
        draw = seeding.generator(self.config.seed, "consolidate", task.index)
        if self.closed is not None:
            self.closed.consolidate(task)
        elif self.method is not None:
            self.method.consolidate(self.importance_batches(task), objective=task.training_objective, generator=draw)
        elif isinstance(self.optimizer, Consolidating) and task.index < len(self.config.optimizer_phases):
            self.optimizer.consolidate(**self.config.optimizer_phases[task.index])

    def importance_batches(self, task: Task) -> Iterator[Batch]:
        """What importances of a task are estimated from: its training samples, or what the model writes itself."""
        return self._material.asked(self.model, task)

    def accuracies(self, part: str) -> list[float]:
        """Accuracy on one part (``"test"``, ``"valid"`` or ``"train"``) of every task, fractions in [0, 1].

        Where the configuration says so, the training data stand in for the test part, or dropout stays on.
        """
        config = self.config
        self.class_accuracies, self.nats = [], []
        if part == "test":
            part = config.evaluate_on
        if config.evaluate_mode == "eval":
            return [self.accuracy(task, getattr(task, part)) for task in self.stream.tasks]
        device = torch.device(config.device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seeding.derive_seed(config.seed, "dropout in tests"))
            return [self.accuracy(task, getattr(task, part)) for task in self.stream.tasks]

    @torch.no_grad()
    def accuracy(self, task: Task, split: Split) -> float:
        """Share of a part's samples whose largest output is the right one, in eval mode."""
        was_training = self.model.training
        self.model.eval()
        if self.config.evaluate_mode == "train":  # dropout alone: no statistic may learn from a test
            for module in self.model.modules():
                if isinstance(module, _DropoutNd):
                    module.train()
        objective = task.objective
        assert isinstance(objective, SharedForward)
        answers, nats = [torch.zeros(0, dtype=torch.bool, device=split.targets.device)], 0.0
        protected = self.method is not None and task.index < self.method.num_tasks
        context = self.method.task(task.index) if self.method is not None and protected else nullcontext()
        with context:
            for outputs, targets in self._answered(task, split):
                chosen = objective.select(outputs)
                if isinstance(objective, CausalLM):
                    right, losses = marked(objective, chosen, targets)
                    nats += float(losses.sum(dtype=torch.float64))
                else:
                    right = chosen.argmax(1) == targets
                answers.append(right)
        self.model.train(was_training)
        right = torch.cat(answers)
        self.nats.append(nats / max(1, len(right)))
        if self.stream.by_class:
            mine = [right[split.targets == column] for column in task.classes]
            self.class_accuracies += [int(each.sum()) / max(1, len(each)) for each in mine]
        return int(right.sum()) / max(1, len(right))

    def by_class(self, accuracies: list[list[float]]) -> ByClass | None:
        """What the record says of each class; ``None`` where all have as many samples.

        Args:
            accuracies: of every class, for each row of the matrix.
        """
        if not self.stream.by_class:
            return None
        numbers = [task.train.targets.bincount().tolist() for task in self.stream.tasks]
        samples = [[numbers[task.index][k] for k in task.classes] for task in self.stream.tasks]
        return ByClass(samples=samples, accuracies=accuracies)

    def _answered(self, task: Task, split: Split) -> Iterator[tuple[Any, Tensor]]:
        """What the model, or the head in its place, answers to each batch of a part; and the targets."""
        if self.closed is not None:
            return self.closed.answered(task, split, _EVALUATION_BATCH)
        size = _EVALUATION_BATCH if split.targets.dim() == 1 else max(1, _EVALUATION_WORDS // split.targets.shape[1])
        return ((self.model(inputs), targets) for inputs, targets in task.batches(split, size))

    def state_dict(self) -> dict[str, Any]:
        """Model, optimizer and method, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": without_memory(self.optimizer.state_dict()),  # the method's is saved on its own
            "method": None if self.method is None else self.method.state_dict(),
            "head": None if self.closed is None else self.closed.state_dict(),
            "before": None if self.moved.before is None else self.moved.before.state_dict(),
            "labels": self._labels,
        }

    def load_state_dict(self, state: Mapping[str, Any], *, with_optimizer: bool) -> None:
        """Take over what :meth:`state_dict` returned; a fresh optimizer of the next task needs none of it."""
        if self._growing:
            self._grow(len(state["model"]["heads.0.weight"]))
        self._add_adapters(adapters.saved(state["model"]))
        self.model.load_state_dict(state["model"])
        if self.method is not None:
            self.method.load_state_dict(state["method"])
        if self.closed is not None:
            self.closed.load_state_dict(state["head"])
        if self.moved.before is not None and state.get("before") is not None:
            self.moved.before.load_state_dict(state["before"])
        self._labels = list(state.get("labels") or ())
        if with_optimizer:
            self.optimizer.load_state_dict(state["optimizer"])

    def state_bytes(self) -> int:
        """Bytes that the method remembers, or the state of an optimizer that is itself the memory."""
        if self.closed is not None:
            return self.closed.state_bytes()
        if self.method is not None:
            tensors = [t for held in self.method.state.values() for t in held.values()]
            tensors += self.method.buffers.values()
        elif self.entry.keeps_optimizer:
            tensors = [t for held in self.optimizer.state.values() for t in held.values() if isinstance(t, Tensor)]
        else:
            tensors = []
        return sum(t.numel() * t.element_size() for t in tensors)
