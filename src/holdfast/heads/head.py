"""The one interface of closed-form classifiers: it learns in ``consolidate`` alone, and answers like a last layer."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, DataError, StateError
from holdfast.heads.maps import FeatureMap, device_after
from holdfast.heads.moments import Moments
from holdfast.heads.reading import Labelled, ahead, checked, features_of, fit, labelled
from holdfast.heads.representation import Backbone
from holdfast.heads.together import add_up, meeting
from holdfast.objectives import Batch, Classification
from holdfast.objectives.distributions import IGNORED
from holdfast.processes import in_step

__all__ = ["Head"]


class Head(nn.Module, abc.ABC):
    """A classifier over fixed features that is computed, not trained: sums are remembered, and no sample.

    A subclass fills :meth:`_parts` (which sums), :meth:`_solve` (what is derived from them, at the first question after
    a ``consolidate``) and :meth:`_score`. Since sums do not depend on the order of their terms, neither does any
    answer: one batch or a thousand, class after class or mixed, all at once or over years, the head is the same.
    Nothing is forgotten; what is lost against joint training is what the fixed representation cannot tell apart.

    The model behind ``features`` is only looked at, in evaluation mode and without gradients; it is not among the
    head's parameters, nor in its state. Its weights are hashed, because features of another model would not fit the
    sums.

    Args:
        features: ``x -> [B, D]``: a module, a method of one or any callable; a feature map; ``None`` for the inputs
            themselves, flattened.
        layer: the name of a module within ``features`` whose output is taken instead of the model's.
        expand: a feature map over them: :class:`RandomProjection` and others.
        objective: what a batch means, where it is no pair ``(x, y)`` and no dict with ``labels``: a
            :class:`Classification`, of which the ``forward`` counts.
        dtype: of the sums: float64, or float32 for half the memory and precision to 1e-5 or so.

    Attributes:
        expand: the feature map, if there is one.
        meta: plain values: how many tasks, and the hashes of the model's weights.
    """

    backbone: Backbone
    objective: Classification
    version: ClassVar[int] = 1
    needs_data: ClassVar[bool] = True

    def __init__(
        self,
        features: nn.Module | Callable[..., Any] | None = None,
        *,
        layer: str | None = None,
        expand: FeatureMap | None = None,
        objective: Classification | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if isinstance(features, FeatureMap):
            if expand is not None:
                raise ConfigurationError(
                    f"features and expand are both feature maps ({features}, {expand}); expected one"
                )
            features, expand = None, features
        if expand is not None and not isinstance(expand, FeatureMap):
            raise ConfigurationError(f"expand is a {type(expand).__name__}; expected a feature map or None")
        self.backbone = Backbone(features, layer)
        self.expand = expand
        self.objective = checked(objective, type(self).__name__)
        self.dtype = dtype
        self.meta: dict[str, Any] = {"num_tasks": 0, "weights": {}}
        self._moments: dict[str, Moments] = self._parts()
        self._solved: dict[str, Tensor] | None = None
        self._versions: tuple[tuple[int, int], ...] | None = None

    @abc.abstractmethod
    def _parts(self) -> dict[str, Moments]:
        """Empty accumulators, by name."""

    @abc.abstractmethod
    def _solve(self) -> dict[str, Tensor]:
        """What the answers need, derived from the accumulators."""

    @abc.abstractmethod
    def _score(self, features: Tensor, solved: Mapping[str, Tensor]) -> Tensor:
        """Scores ``[B, C]`` of features ``[B, D]``."""

    def _shares(self, inputs: Any, features: Tensor) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        """Which accumulator takes what: ``(name, features [B, D], which samples [B] or None for all)``."""
        yield next(iter(self._moments)), features, None

    def _keys(self, inputs: Any, features: Tensor) -> Tensor | None:
        """A number for each sample that depends on its inputs alone, int64 ``[B]``, if an accumulator asks for such."""
        return None

    @property
    def num_tasks(self) -> int:
        """How often it was told something new."""
        return int(self.meta["num_tasks"])

    @property
    def classes(self) -> tuple[int, ...]:
        """The labels met so far, ascending: the columns of the scores."""
        return tuple(sorted({label for part in self._moments.values() for label in part.labels}))

    @property
    def counts(self) -> dict[int, int]:
        """How many samples there were of each class."""
        found = dict.fromkeys(self.classes, 0)
        for part in self._counted():
            for label, number in zip(part.labels, part.counts.tolist(), strict=True):
                found[label] += number
        return found

    def _counted(self) -> Iterable[Moments]:
        """The accumulators that hold each sample once between them."""
        return self._moments.values()

    @property
    def state_bytes(self) -> int:
        """Bytes that the head remembers: its sums, and the tensors of its feature map."""
        tensors = [t for part in self._moments.values() for t in part.tensors().values()]
        tensors += [] if self.expand is None else list(self.expand.tensors.values())
        return sum(t.numel() * t.element_size() for t in tensors)

    def state_size(self, size: int, classes: int) -> int:
        """Bytes that it will remember of C classes and D features, known before a sample was seen."""
        parts = self._moments.values()
        return sum(part.square_bytes(size, classes) + 8 * classes * (size + 1) for part in parts)

    def memory(self, size: int, classes: int) -> int:
        """The most bytes that it will hold at any time, known before a sample was seen.

        Sums and what is added to them (only from the second large ``consolidate`` on are there both), the matrix that
        is solved, and a chunk of rows; without the features of a batch and without the model.

        Args:
            size: D, of the features (after ``expand``).
            classes: C.
        """
        held = sum(part.square_bytes(size, classes) for part in self._moments.values())
        work = self._work_bytes(size, classes)
        sums = 8 * classes * size * (3 * len(self._moments) + 6)
        rows = sum(part.row_bytes(size) for part in self._moments.values())
        return int(1.02 * max(2 * held, held + work)) + sums + rows

    def _work_bytes(self, size: int, classes: int) -> int:
        """What solving needs beside the sums: a copy of the Gram matrix to work in."""
        return size * size * self.dtype.itemsize

    def width(self, batches: Iterable[Batch]) -> int:
        """D of some samples, which are looked at and not learned: what ``consolidate`` would refuse of them is refused.

        Args:
            batches: as for :meth:`consolidate`; a few samples will do, for :meth:`memory`, before there is a run.

        Raises:
            DataError: if there is no sample, or labels or features have another form.
        """
        fresh = self.expand is not None and not self.expand.fitted
        size = 0
        try:
            stream = labelled(batches, self.objective, self.backbone, self.expand)
            first = ahead(stream, self.expand)
            fit(self.expand, first)
            for inputs, raw, _ in itertools.chain(first, stream):
                for _, rows, _ in self._shares(inputs, raw if self.expand is None else self.expand(raw)):
                    size = rows.shape[1]
        finally:
            if fresh and self.expand is not None:
                self.expand.reset()
        if not size:
            raise DataError(f"{type(self).__name__} has the width of its samples; it got none")
        return size

    def consolidate(
        self,
        batches: Iterable[Batch] = (),
        *,
        objective: Classification | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Learn samples: all that the head ever learns.

        In a distributed run each process gives its part of them, and all end with the sums of all.

        Args:
            batches: pairs ``(x, y)`` or dicts with ``labels``, y any integers ``[B]`` (-100: no label); read once.
                Classes may be new or known, and there may be one sample or millions.
            objective: what a batch means, if it is not what the constructor was told.
            generator: not used, for nothing is drawn here; a feature map has its own seed.

        Raises:
            DataError: if there is no sample, or labels or features have another form. Nothing has changed then.
            NumericsError: if a feature is not finite. Nothing has changed then.
            ProtectionError: if the model behind the features is no longer what it was. Nothing has changed then.
        """
        name = type(self).__name__
        fresh = self.expand is not None and not self.expand.fitted
        try:
            with in_step(meeting()):
                if generator is not None and not isinstance(generator, torch.Generator):
                    raise ConfigurationError(f"generator is {generator!r}; expected a torch.Generator or None")
                known = self.objective if objective is None else checked(objective, name)
                if not isinstance(batches, Iterable):
                    raise DataError(f"batches is a {type(batches).__name__}; {name} expects an iterable of them")
                self.backbone.check_whole(name)
                if self.num_tasks:
                    self.backbone.check(self.meta["weights"], name)
                stream = labelled(batches, known, self.backbone, self.expand)
                first = ahead(stream, self.expand)
            fit(self.expand, first)
            with in_step(meeting()):
                added, device = self._read(itertools.chain(first, stream))
            add_up(added, device)
        except BaseException:
            if fresh and self.expand is not None:
                self.expand.reset()
            raise
        if not self.num_tasks:
            self.meta["weights"] = self.backbone.fingerprint()
        self._versions = self.backbone.versions()
        for part, new in added.items():
            self._moments[part].merge(new)
        self._solved = None
        self.meta["num_tasks"] = self.num_tasks + 1

    def _read(self, stream: Iterable[Labelled]) -> tuple[dict[str, Moments], torch.device]:
        """The sums of some batches by themselves, so that what fails half way changed nothing; and where they lie."""
        added = {name: part.like() for name, part in self._moments.items()}
        seen, device = 0, torch.device("cpu")
        for inputs, raw, labels in stream:
            features = raw if self.expand is None else self.expand(raw)
            known, device, keys = labels != IGNORED, features.device, self._keys(inputs, features)
            for part, rows, chosen in self._shares(inputs, features):
                taken = known if chosen is None else known & chosen
                if bool(taken.any()):
                    told = (rows, labels) if keys is None else (rows, labels, keys)
                    added[part].add(*(told if bool(taken.all()) else (each[taken] for each in told)))
            seen += int(known.sum())
        if not seen:
            raise DataError(f"{type(self).__name__} learns from samples; consolidate got none")
        for name, new in added.items():
            size, before = new.size, self._moments[name].size
            if size is not None and before is not None and size != before:
                raise DataError(f"the features have {size} entries per sample; expected {before}, as before")
        return added, device

    def forward(self, inputs: Any) -> Tensor:
        """Scores of each class met so far: ``[B, len(self.classes)]``, columns in ascending order of label, float64.

        Args:
            inputs: x, as in the batches of ``consolidate``; a dict of tensors goes to the model by name.

        Raises:
            DataError: before the first ``consolidate``.
            ProtectionError: if the model behind the features is no longer what it was.
        """
        return self.answer(self.represent(inputs))

    @torch.no_grad()
    def represent(self, inputs: Any) -> Tensor:
        """The features of inputs, ``[B, D]``: from the first ``consolidate`` on they never change, and may be kept.

        Raises:
            DataError, ProtectionError: as :meth:`forward`, which is :meth:`answer` of these.
        """
        self._check_told()
        versions = self.backbone.versions()
        if versions != self._versions:  # hashing every weight at every question would cost as much as the answer
            self.backbone.check(self.meta["weights"], type(self).__name__)
            self._versions = versions
        features = features_of((inputs, None), self.objective, self.backbone, self.expand)
        return features if self.expand is None else self.expand(features)

    @torch.no_grad()
    def answer(self, features: Tensor) -> Tensor:
        """The scores, as of :meth:`forward`, of features that :meth:`represent` returned."""
        self._check_told()
        size = next(iter(self._moments.values())).size
        if features.shape[1] != size:
            raise DataError(f"the inputs have {features.shape[1]} features; expected {size}, as in consolidate")
        if self._solved is None:
            self._solved = self._solve()
        return self._score(features.to(next(iter(self._solved.values())).device, torch.float64), self._solved)

    def _check_told(self) -> None:
        if not self.num_tasks:
            raise DataError(f"{type(self).__name__} knows no class yet; expected a consolidate(batches) first")

    def predict(self, inputs: Any) -> Tensor:
        """The label with the highest score: int64 ``[B]``."""
        scores = self(inputs)
        return torch.tensor(self.classes, device=scores.device)[scores.argmax(1)]

    def get_extra_state(self) -> dict[str, Any]:
        """Everything remembered: tensors and plain values. It stands in ``state_dict()`` beside a feature map's own."""
        return {
            "head": type(self).__name__,
            "version": self.version,
            "meta": {**self.meta, "weights": dict(self.meta["weights"])},
            "moments": {name: part.state_dict() for name, part in self._moments.items()},
        }

    def set_extra_state(self, state: Any) -> None:
        """Take over a copy of what another head of the same kind remembered; ``load_state_dict`` calls it.

        Raises:
            StateError: for another head's or version's state.
            ProtectionError: if the model behind the features is another one.
        """
        name = type(self).__name__
        if not isinstance(state, Mapping) or not {"head", "version", "meta", "moments"} <= state.keys():
            raise StateError(f"the state is not what {name}.state_dict() returns")
        if (state["head"], state["version"]) != (name, self.version):
            raise StateError(
                f"the state is of {state['head']} version {state['version']}; expected {name} {self.version}"
            )
        moments = self._parts()
        if not isinstance(state["moments"], Mapping) or state["moments"].keys() != moments.keys():
            raise StateError(f"the state of {name} holds other sums; expected {', '.join(moments)}: see its arguments")
        if state["meta"]["num_tasks"]:
            self.backbone.check(state["meta"]["weights"], name)
        device = next((tensor.device for tensor in self.backbone.weights().values()), torch.device("cpu"))
        for part, saved in state["moments"].items():
            moments[part].load_state_dict(saved, device)
        self.meta = {"num_tasks": int(state["meta"]["num_tasks"]), "weights": dict(state["meta"]["weights"])}
        self._moments, self._solved, self._versions = moments, None, None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # Only to another device: what is summed keeps its precision, and the model its weights.
        device = device_after(fn, next(iter(self._moments.values())).counts.device)
        for part in self._moments.values():
            part.to(device)
        if self.backbone.module is not None:
            self.backbone.module.to(device)
        self._solved = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own gap
