r"""Sums over samples of a function of each sample's own gradient, without one backward per sample.

.. math:: S = \sum_n \sum_r \varphi\!\left(\frac{\partial t_{n,r}}{\partial \theta}\right)

for terms :math:`t_{n,r}` (a loss, a norm, one factor per class) of sample :math:`n`. Per batch there is one
forward pass, and per term one backward pass that stops at the layers' outputs; layer rules turn inputs and output
gradients into the sums. Parameters for which no rule is exact go through ``vmap``, and where that fails through one
backward per sample. Which way a parameter goes is decided twice:

- *Structure*, every batch. A rule counts only where its layer was called once, the autograd graph uses the
  parameter once, and input and output have one leading row per sample.
- *Numbers*, once per parameter and shapes of the batch, at the first term that gives the parameter a gradient. For
  weights :math:`v_n` that differ, :math:`\sum_n v_n g_n` from the rules must agree with autograd's gradient of
  :math:`\sum_n v_n t_n`. It does not if rows are not samples, if samples see each other, or if the layer does not
  compute what its type says. A gradient as small as rounding errors shows neither: that term goes the slow way.

A parameter that once failed is never given to the rules again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from holdfast.errors import DataError
from holdfast.importance.capture import Capture, Graph, Layer, layers_of
from holdfast.importance.check import Pull, followed, negligible, scaled, shapes_of, verdict, weights
from holdfast.importance.fallback import NotSeparable, Work, alone, close, loop, vectorized
from holdfast.importance.rule import Room, Rule, Target
from holdfast.importance.sharded import sharded_sum
from holdfast.importance.sites import Site, site_of
from holdfast.importance.statistic import PLAIN, Statistic, accumulation_dtype
from holdfast.importance.together import on_the_way
from holdfast.importance.untouched import untouched
from holdfast.names import unwrap
from holdfast.objectives import Batch
from holdfast.objectives.batches import leading_size
from holdfast.processes import in_step
from holdfast.sharding import is_sharded

__all__ = ["MAX_BYTES", "Counted", "Root", "Terms", "per_sample_sum"]

MAX_BYTES = 256 * 2**20

# (model, batch) -> the tensor [B, ...] that terms are computed from: a task's outputs, or its losses.
Root: TypeAlias = Callable[[nn.Module, Batch], Tensor]
# (root, batch) -> terms of shape [B], or [B, T] for T terms.
Terms: TypeAlias = Callable[[Tensor, Batch], Iterator[Tensor]]
# (batch, root) -> how many samples a batch holds.
Counted: TypeAlias = Callable[[Batch, Tensor], int]


def per_sample_sum(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    root: Root,
    terms: Terms,
    counted: Counted,
    statistic: Statistic,
    parameters: Mapping[str, nn.Parameter],
    max_bytes: int | None = None,
) -> tuple[dict[str, Tensor], int]:
    """Sum a statistic of per-sample gradients over all samples and terms.

    Args:
        model: the model; it is left as it was.
        batches: the data, each batch once.
        root: the forward pass; it runs again for samples alone.
        terms: what is differentiated, from the root.
        counted: how many samples a batch holds.
        statistic: what is summed.
        parameters: canonical name -> parameter.
        max_bytes: how much memory per-sample gradients may take at once, though one sample's at least, and what is
            kept from one term to the next as much again (default 256 MiB).

    Returns:
        canonical name -> sum ``[*p]`` in at least float32 (zeros where there is no gradient), and the number of
        samples.

    Raises:
        DataError: if there is no sample.
    """
    model = unwrap(model)
    limit = MAX_BYTES if max_bytes is None else max_bytes
    if any(map(is_sharded, parameters.values())):
        return sharded_sum(
            model,
            batches,
            root=root,
            terms=terms,
            counted=counted,
            statistic=statistic,
            parameters=parameters,
            max_bytes=limit,
        )
    with in_step(parameters), untouched(model, parameters.values()):
        engine = _Engine(model, root, statistic, parameters, limit)
        with engine.capture.hooks():
            for batch in batches:
                if leading_size(batch):
                    engine.add(batch, terms, counted)
        if not engine.samples:
            raise DataError("the batches hold no sample; expected at least one")
    return {name: target.total for name, target in engine.targets.items()}, engine.samples


class _Engine:
    def __init__(
        self,
        model: nn.Module,
        root: Root,
        statistic: Statistic,
        parameters: Mapping[str, nn.Parameter],
        max_bytes: int,
    ) -> None:
        self.model = model
        self.root = root
        self.statistic = statistic
        self.parameters = dict(parameters)
        self.max_bytes = max_bytes
        self.samples = 0
        self.targets = _targets(self.parameters)
        self.layers = layers_of(model, parameters)
        self.capture = Capture(self.layers)
        self.verified: dict[Hashable, set[str]] = {}  # shapes -> the names whose rules passed
        self.rows_checked: set[Hashable] = set()  # shapes at which every term was seen to be one row per sample
        self.slow: set[str] = set()  # never given to a rule again
        self.ways: list[Callable[[Work], None]] = [vectorized, alone]  # of the slow ones, those not yet seen to fail

    def add(self, batch: Batch, terms: Terms, counted: Counted) -> None:
        """Add one batch."""
        with self.capture.recording():
            outputs = self.root(self.model, batch)
        if not isinstance(outputs, Tensor):
            raise DataError(f"the objective's outputs are of type {type(outputs).__name__}; expected one tensor [B, K]")
        size = counted(batch, outputs)
        self.samples += size
        if not size or not outputs.requires_grad:
            return
        graph = Graph(outputs.grad_fn)
        leaf = outputs.detach().requires_grad_()
        used = {name for name, p in self.parameters.items() if graph.uses.get(id(p), 0)}
        shapes = (shapes_of(batch), outputs.shape, *map(shapes_of, self.capture.inputs()))
        fast: list[Site] | None = None
        rules: dict[Layer, Rule] = {}
        waiting: list[tuple[Tensor, Tensor]] = []  # terms not yet added for ...
        others: dict[str, nn.Parameter] = {}  # ... these parameters
        moved = False
        for several, more in followed(term for term in terms(leaf, batch) if term.requires_grad):
            columns = several.flatten(1).unbind(1) if several.dim() > 1 else (several,)
            if fast is None:
                fast = self._plan(graph, used, several.shape[0], outputs)
                room = Room(self.max_bytes if more or len(columns) > 1 else 0)
                rules = {site.layer: self._rule(site, self.targets, self.statistic, room) for site in fast}
            pull = Pull(outputs, leaf, several if len(columns) == 1 else several.flatten(1).sum(1), fast)
            moved = moved or (shapes not in self.rows_checked and bool(pull.cotangent.any()))
            unsure = self._verify(shapes, pull)
            fast = [site for site in fast if not self.slow.intersection(site.layer.names.values())]
            sure = [site for site in fast if site.layer not in unsure]
            rest = self._rest(sure, used)
            if rest.keys() != others.keys():
                self._slowly(batch, outputs, leaf, waiting, others)
                waiting, others = [], rest
            for term in columns:
                each = pull if len(columns) == 1 else Pull(outputs, leaf, term, sure)
                for site in sure:
                    if (grads := each.grads.get(site.layer)) is not None:
                        rules[site.layer].add(*grads)
                if rest:
                    waiting.append((term, each.cotangent))
                    if (len(waiting) + 1) * each.cotangent.nbytes > self.max_bytes:
                        self._slowly(batch, outputs, leaf, waiting, rest)
                        waiting = []
        for rule in rules.values():  # also of layers that became slow: what they were given before was right
            rule.finish()
        self._slowly(batch, outputs, leaf, waiting, others)
        if moved:
            self.rows_checked.add(shapes)

    def _plan(self, graph: Graph, used: set[str], size: int, outputs: Tensor) -> list[Site]:
        """The layers for which a rule is exact in this batch; the wanted parameters of the others become slow."""
        fast = []
        uses = {name: graph.uses.get(id(p), 0) for name, p in self.parameters.items()}
        for layer in self.layers:
            names = layer.names.values()
            if not used.intersection(names) or self.slow.intersection(names):
                continue
            rows = _rows(outputs, size)
            site = site_of(layer, self.capture.calls, uses, graph, size) if rows else None
            if site is None:
                self.slow.update(names)
            else:
                fast.append(site)
        return fast

    def _rest(self, fast: list[Site], used: set[str]) -> dict[str, nn.Parameter]:
        """The parameters that have a gradient and no rule."""
        ruled = {name for site in fast for name in site.layer.names.values()}
        return {name: p for name, p in self.parameters.items() if name in used and name not in ruled}

    def _rule(self, site: Site, targets: Mapping[str, Target], statistic: Statistic, room: Room) -> Rule:
        layer = site.layer
        local = {key: targets[name] for key, name in layer.names.items()}
        return layer.rule(layer.modules, site.inputs, local, statistic, self.max_bytes, room)

    def _verify(self, shapes: Hashable, pull: Pull) -> set[Layer]:
        """Check the rules of parameters that get a gradient for the first time at these shapes.

        Those that fail become slow.

        Returns:
            The layers of which this term shows neither that the rule is right nor that it is wrong, because their
            gradients are as small as rounding errors.
        """
        term, outputs = pull.term, pull.outputs
        seen = self.verified.setdefault(shapes, set())
        new = [
            (site, grads)
            for site in pull.fast
            if not seen.issuperset(site.layer.names.values())
            and (grads := pull.grads.get(site.layer)) is not None
            and any(
                bool(grad.any()) for grad in grads
            )  # from a gradient of zero nothing is learned, and nothing is added
        ]
        if not new and shapes in self.rows_checked:
            return set()
        v = weights(term)
        (weighted,) = torch.autograd.grad((v * term).sum(), pull.leaf, retain_graph=True)
        if not _rows(outputs, term.shape[0]) or not close(scaled(v, pull.cotangent), weighted):
            # Outputs are not rows of samples, or a term sees other samples' outputs (a contrastive loss).
            self.slow.update(self.parameters)
            self.ways = []
            return set()
        said = self._beside_autograd(new, v, outputs, weighted) if new else {}
        unsure = set()
        for layer in (site.layer for site, _ in new):
            verdicts = {key: said[layer, key] for key in layer.names}
            if verdicts.get("weight") == "right" and verdicts.get("bias") in ("noise", "unsure"):
                # A gradient of zero in theory (the bias of attention keys) and of rounding errors in fact: the
                # weight's has shown what was to be shown.
                verdicts["bias"] = "right"
            seen.update(name for key, name in layer.names.items() if verdicts[key] == "right")
            self.slow.update(name for key, name in layer.names.items() if verdicts[key] == "wrong")
            if "unsure" in verdicts.values():
                unsure.add(layer)
        return unsure

    def _beside_autograd(
        self, new: list[tuple[Site, tuple[Tensor, ...]]], v: Tensor, outputs: Tensor, weighted: Tensor
    ) -> dict[tuple[Layer, str], str]:
        """What each rule's sum says beside autograd's, one parameter after the other: all at once would be a model."""
        found: dict[tuple[Layer, str], tuple[str, float, float]] = {}

        def look(site: Site, grads: tuple[Tensor, ...], key: str, truth: Tensor) -> None:
            layer, name = site.layer, site.layer.names[key]
            target = _targets({name: self.parameters[name]})[name]
            rule = layer.rule(layer.modules, site.inputs, {key: target}, PLAIN, self.max_bytes, Room(0))
            rule.add(*(scaled(v, grad) for grad in grads))
            rule.finish()
            noise = 16 * torch.finfo(grads[0].dtype).eps * torch.linalg.vector_norm(grads[0])
            said = verdict(target.total, truth, noise if key == "bias" else None, math.inf)
            sizes = [float(torch.linalg.vector_norm(t)) for t in (truth, target.total)]
            found[layer, key] = said, sizes[0], max(sizes)

        uses = [(site, grads, key) for site, grads in new for key in site.layer.names]
        wanted = [self.parameters[site.layer.names[key]] for site, _, key in uses]
        on_the_way(outputs, wanted, weighted, [functools.partial(look, *use) for use in uses])
        for (site, grads, key), parameter in zip(uses, wanted, strict=True):
            if (site.layer, key) not in found:  # it takes no part in the outputs
                look(site, grads, key, torch.zeros_like(parameter))
        largest = max((size for _, size, _ in found.values()), default=0.0)
        return {
            (layer, key): "wrong"
            if said == "unsure" and not negligible(size, largest, self.parameters[layer.names[key]].dtype)
            else said
            for (layer, key), (said, _, size) in found.items()
        }

    def _slowly(
        self,
        batch: Batch,
        outputs: Tensor,
        leaf: Tensor,
        held: list[tuple[Tensor, Tensor]],
        rest: Mapping[str, nn.Parameter],
    ) -> None:
        """Add terms (each with its cotangent) for the parameters without a rule."""
        if not held:
            return
        work = Work(
            self.model,
            self.root,
            batch,
            outputs,
            leaf,
            [term for term, _ in held],
            [cotangent for _, cotangent in held],
            rest,
            {name: self.targets[name] for name in rest},
            self.statistic,
            self.max_bytes,
        )
        while self.ways:
            try:
                self.ways[0](work)
            except NotSeparable:
                del self.ways[0]
            else:
                return
        loop(work)


def _rows(outputs: Tensor, size: int) -> bool:
    return outputs.dim() > 0 and outputs.shape[0] == size


def _targets(parameters: Mapping[str, nn.Parameter]) -> dict[str, Target]:
    return {
        name: Target(torch.zeros_like(p, dtype=accumulation_dtype(p), requires_grad=False), p)
        for name, p in parameters.items()
    }
