r"""Sums of per-sample statistics where parameters are sharded by FSDP2, in step with the other processes.

FSDP2 gathers a layer's whole weights around its forward and its backward, and there its rule works as ever. What each
process finds for a whole layer is added up into the shards at once, so that no process ever holds a whole model's sums.

Every forward and every backward is one of all processes, so whatever leads to another one is decided together: a
process with fewer batches runs its last again, one with fewer terms a backward of zeros, and adds neither.

``vmap`` is out of reach (``functional_call`` cannot replace sharded parameters). Where no rule is exact there is one
backward per sample; only those parameters' sums are held whole, until the batch ends.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from holdfast.errors import DataError
from holdfast.importance.capture import Capture, Graph, Layer, layers_of
from holdfast.importance.check import Pull, negligible, scaled, shapes_of, verdict, weights
from holdfast.importance.fallback import close
from holdfast.importance.rule import Room, Rule, Target
from holdfast.importance.sites import Site, site_of
from holdfast.importance.statistic import PLAIN, Statistic, accumulation_dtype
from holdfast.importance.together import WholeParameters, agreed, in_turn, most, on_the_way
from holdfast.importance.untouched import untouched
from holdfast.objectives import Batch
from holdfast.objectives.batches import leading_size
from holdfast.sharding import reshard, summed_into, whole

__all__ = ["sharded_sum"]

_Root = Callable[[nn.Module, Batch], Tensor]
_Terms = Callable[[Tensor, Batch], Iterator[Tensor]]
_Counted = Callable[[Batch, Tensor], int]


def sharded_sum(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    root: _Root,
    terms: _Terms,
    counted: _Counted,
    statistic: Statistic,
    parameters: Mapping[str, nn.Parameter],
    max_bytes: int,
) -> tuple[dict[str, Tensor], int]:
    """The counterpart of :func:`holdfast.importance.engine.per_sample_sum` for a model of FSDP2.

    Args:
        model: the model, without wrappers; it is left as it was.
        batches: this process's data, each batch once.
        root: the forward pass.
        terms: what is differentiated, from the root.
        counted: how many samples a batch holds.
        statistic: what is summed.
        parameters: canonical name -> parameter.
        max_bytes: how much memory per-sample gradients may take at once.

    Returns:
        canonical name -> sum ``[*p]`` over all processes, sharded like the parameter; and this process's number of
        samples. The sum of a parameter that is not sharded is this process's own.

    Raises:
        DataError: if a process has no sample.
    """
    engine = _Engine(model, root, statistic, parameters, max_bytes)
    try:
        with untouched(model, parameters.values()), engine.capture.hooks(), engine.whole.hooks():
            for batch, mine in in_turn((b for b in batches if leading_size(b)), parameters):
                engine.add(batch, terms, counted, mine=mine)
    finally:
        reshard(model)
    if not most([engine.samples], engine.device)[0]:
        raise DataError("the batches hold no sample; expected at least one")
    return engine.totals, engine.samples


class _Engine:
    def __init__(
        self,
        model: nn.Module,
        root: _Root,
        statistic: Statistic,
        parameters: Mapping[str, nn.Parameter],
        max_bytes: int,
    ) -> None:
        self.model = model
        self.root = root
        self.samples = 0
        self.statistic = statistic
        self.parameters = dict(parameters)
        self.max_bytes = max_bytes
        # Modules that share a weight are gathered one by one, and their hooks see one of them at a time.
        self.layers = [layer for layer in layers_of(model, parameters) if len(layer.modules) == 1]
        self.capture = Capture(self.layers)
        self.whole = WholeParameters(model, parameters)
        self.totals = {
            name: torch.zeros_like(p, dtype=accumulation_dtype(p), requires_grad=False)
            for name, p in self.parameters.items()
        }
        self.device = next(iter(self.parameters.values())).device
        self.verified: dict[Hashable, set[str]] = {}  # shapes -> the names whose rules passed
        self.rows_checked: set[Hashable] = set()  # shapes at which every term was seen to be one row per sample
        ruled = {name for layer in self.layers for name in layer.names.values()}
        self.slow = self.parameters.keys() - ruled  # never given to a rule; the same in every process

    def add(self, batch: Batch, terms: _Terms, counted: _Counted, *, mine: bool) -> None:
        """Add one batch, if it is this process's own; else do what the others need for theirs."""
        with self.capture.recording():
            outputs = self.root(self.model, batch)
        if not isinstance(outputs, Tensor):
            raise DataError(f"the objective's outputs are of type {type(outputs).__name__}; expected one tensor [B, K]")
        size = counted(batch, outputs) if mine else 0
        self.samples += size
        if not outputs.requires_grad:
            return
        leaf = outputs.detach().requires_grad_()
        nothing = leaf.flatten(1).sum(1) * 0 if leaf.dim() > 1 else leaf * 0
        columns = _columns(terms(leaf, batch)) if size else iter(())
        term = next(columns, None)
        rules, fast, holding, adding, used = self._plan(outputs, len(nothing if term is None else term))
        shapes = (shapes_of(batch), outputs.shape, *map(shapes_of, self.capture.inputs()))
        loose = {name: self._target(name, True, self._weight(name)) for name in sorted(self.slow & used)}
        moved = False
        while agreed([term is not None], self.device)[0]:
            pull = Pull(outputs, leaf, nothing if term is None else term, fast)
            moved = moved or bool(pull.cotangent.any())
            unsure = self._verify(shapes, pull, own=term is not None)
            for layer in self.layers:
                rule, grads = rules.get(layer), pull.grads.get(layer)
                left_out = layer in unsure or not self.slow.isdisjoint(layer.names.values())
                giving = rule is not None and grads is not None and term is not None and not left_out
                add = functools.partial(rule.add, *grads) if giving and rule is not None and grads is not None else None
                if layer in adding and not left_out:
                    self._flush(layer, rule, add)
                elif add is not None:
                    add()
            rest = self.slow | {n for layer in self.layers if layer in unsure for n in layer.names.values()}
            for name in sorted(rest & used - loose.keys()):
                loose[name] = self._target(name, True, self._weight(name))
            self._one_by_one(pull, {name: loose[name] for name in self.parameters if name in rest & used}, term)
            term = next(columns, None)
        for layer in holding:
            rule = rules.get(layer)
            self._flush(layer, rule, None if rule is None else rule.finish)
        for name in sorted(loose):
            summed_into(self.totals[name], loose[name].total)
        if moved:
            self.rows_checked.add(shapes)

    def _plan(
        self, outputs: Tensor, rows: int
    ) -> tuple[dict[Layer, Rule], list[Site], list[Layer], list[Layer], set[str]]:
        """The rules of this process, and where; then, for all: whose sums come last, whose at each term; what is used.

        Where a rule is not exact, in any process, the layer's parameters become slow.
        """
        graph = Graph(outputs.grad_fn)
        uses = {name: graph.uses.get(id(p), 0) for name, p in self.whole.found.items()}
        sites: dict[Layer, Site] = {}
        rules: dict[Layer, Rule] = {}
        flags = [bool(uses.get(name)) for name in self.parameters]
        for layer in self.layers:
            possible = outputs.shape[0] == rows and self.slow.isdisjoint(layer.names.values())
            site = site_of(layer, self.capture.calls, uses, graph, rows) if possible else None
            if site is not None:
                sites[layer] = site
                rules[layer] = self._rule(site, self.statistic)
            holds = site is not None and rules[layer].held_back
            used_here = any(uses.get(name, 0) for name in layer.names.values())
            flags += [used_here and site is None, holds, site is not None and not holds]
        number = len(self.parameters)
        answers = agreed(flags, self.device)
        each = [answers[number + 3 * index : number + 3 * index + 3] for index in range(len(self.layers))]
        for layer, (slow, _, _) in zip(self.layers, each, strict=True):
            if slow:
                self.slow = self.slow | set(layer.names.values())
                rules.pop(layer, None)
        kept = [(layer, says) for layer, says in zip(self.layers, each, strict=True) if not says[0]]
        holding, adding = ([layer for layer, says in kept if says[kind]] for kind in (1, 2))
        fast = [sites[layer] for layer in self.layers if layer in rules]
        return rules, fast, holding, adding, {name for name, use in zip(self.parameters, answers, strict=False) if use}

    def _rule(self, site: Site, statistic: Statistic, only: str | None = None) -> Rule:
        """A rule without memory for its sums: it is given some when it adds."""
        layer = site.layer
        targets = {key: self._target(name, False, None) for key, name in layer.names.items() if only in (None, key)}
        return layer.rule(layer.modules, site.inputs, targets, statistic, self.max_bytes, Room(0))

    def _weight(self, name: str) -> Tensor | None:
        """The whole weight, gathered; ``None`` where the statistic does not look at it."""
        return None if self.statistic.multiplicative else whole(self.parameters[name].detach())

    def _target(self, name: str, real: bool, weight: Tensor | None) -> Target:
        p = self.parameters[name]
        dtype = accumulation_dtype(p)
        nothing = torch.zeros((), dtype=dtype, device=p.device).expand(p.shape)
        total = torch.zeros(p.shape, dtype=dtype, device=p.device) if real else nothing
        return Target(total, nothing if weight is None else weight)

    def _flush(self, layer: Layer, rule: Rule | None, add: Callable[[], None] | None) -> None:
        """Let a layer's rule add to the shards, in every process; one whose own has nothing to add gives zeros."""
        targets = {key: self._target(name, True, self._weight(name)) for key, name in layer.names.items()}
        if rule is not None and add is not None:
            before = rule.weight, rule.bias
            rule.weight, rule.bias = targets.get("weight"), targets.get("bias")
            add()
            rule.weight, rule.bias = before  # the memory is the next layer's
        for key, name in layer.names.items():
            summed_into(self.totals[name], targets[key].total)

    def _one_by_one(self, pull: Pull, targets: Mapping[str, Target], term: Tensor | None) -> None:
        """Add one term for the parameters without a rule, by one backward per sample, as many in every process."""
        if not targets:
            return
        (number,) = most([0 if term is None else len(term)], self.device)
        present = {name: target for name, target in targets.items() if name in self.whole.found}
        look = [functools.partial(self._add_one, target) for target in present.values()]
        leaves = [self.whole.found[name] for name in present]
        for n in range(number):
            cotangent = torch.zeros_like(pull.cotangent)
            if term is not None and n < len(term):
                (cotangent,) = torch.autograd.grad(term[n], pull.leaf, retain_graph=True)
            on_the_way(pull.outputs, leaves, cotangent, look)

    def _add_one(self, target: Target, gradient: Tensor) -> None:
        self.statistic.add(target.total, gradient.to(target.total.dtype).unsqueeze(0), target.weight)

    def _verify(self, shapes: Hashable, pull: Pull, *, own: bool) -> set[Layer]:
        """Check the rules of parameters that get a gradient for the first time at these shapes, in any process.

        Returns:
            The layers, the same in every process, of which this term shows neither that the rule is right nor that it
            is wrong.
        """
        seen = self.verified.setdefault(shapes, set())
        fast = [site.layer for site in pull.fast if self.slow.isdisjoint(site.layer.names.values())]
        new = [
            layer
            for layer in fast
            if not seen.issuperset(layer.names.values())
            and (grads := pull.grads.get(layer)) is not None
            and any(
                bool(grad.any()) for grad in grads
            )  # from a gradient of zero nothing is learned, and nothing is added
        ]
        wanted = own and (bool(new) or (shapes not in self.rows_checked and bool(pull.cotangent.any())))
        if not agreed([wanted], self.device)[0]:
            return set()
        v = weights(pull.term)
        (weighted,) = torch.autograd.grad((v * pull.term).sum(), pull.leaf, retain_graph=True)
        if agreed([own and not close(scaled(v, pull.cotangent), weighted)], self.device)[0]:
            self.slow = set(self.parameters)  # a term sees other samples' outputs (a contrastive loss)
            return set()
        trial = _Trial(self, v, pull)
        trial.run(weighted)
        flags = [own and layer in said for layer in self.layers for said in (trial.wrong, trial.unsure)]
        answers = agreed(flags, self.device)
        seen.update(trial.right)
        for layer, wrong in zip(self.layers, answers[::2], strict=True):
            if wrong:
                self.slow = self.slow | set(layer.names.values())
        return {layer for layer, unsure in zip(self.layers, answers[1::2], strict=True) if unsure}


class _Trial:
    """Each rule beside autograd, at one term whose samples have weights that differ."""

    def __init__(self, engine: _Engine, v: Tensor, pull: Pull) -> None:
        self.engine, self.v, self.pull = engine, v, pull
        self.found: dict[tuple[Layer, str], tuple[str, float]] = {}
        self.right: set[str] = set()
        self.wrong: set[Layer] = set()
        self.unsure: set[Layer] = set()

    def run(self, weighted: Tensor) -> None:
        """Fill ``right``, ``wrong`` and ``unsure``."""
        uses = [(site, key) for site in self.pull.fast for key in site.layer.names]
        given = [self.engine.whole.found[site.layer.names[key]] for site, key in uses]
        on_the_way(self.pull.outputs, given, weighted, [functools.partial(self._look, *use) for use in uses])
        largest = max((size for _, size in self.found.values()), default=0.0)
        for site in self.pull.fast:
            layer = site.layer
            said = {key: self._said(layer, key, largest) for key in layer.names}
            if said.get("weight") == "right" and said.get("bias") in ("noise", "unsure"):
                said["bias"] = "right"  # as in the engine for whole models
            self.right.update(name for key, name in layer.names.items() if said[key] == "right")
            if "wrong" in said.values():
                self.wrong.add(layer)
            elif not {"noise", "unsure"}.isdisjoint(said.values()):
                self.unsure.add(layer)

    def _said(self, layer: Layer, key: str, largest: float) -> str:
        word, size = self.found.get((layer, key), ("nothing", 0.0))
        dtype = accumulation_dtype(self.engine.parameters[layer.names[key]])
        return "wrong" if word == "unsure" and not negligible(size, largest, dtype) else word

    def _look(self, site: Site, key: str, truth: Tensor) -> None:
        engine, layer, grads = self.engine, site.layer, self.pull.grads.get(site.layer)
        target = engine._target(layer.names[key], True, None)
        noise = None
        if grads is not None:
            rule = engine._rule(site, PLAIN, key)
            rule.weight, rule.bias = (target if key == kind else None for kind in ("weight", "bias"))
            rule.add(*(scaled(self.v, grad) for grad in grads))
            rule.finish()
            noise = 16 * torch.finfo(grads[0].dtype).eps * torch.linalg.vector_norm(grads[0])
        said = verdict(target.total, truth, noise if key == "bias" else None, math.inf)
        size = max(float(torch.linalg.vector_norm(t)) for t in (target.total, truth))
        self.found[layer, key] = said, size


def _columns(terms: Iterator[Tensor]) -> Iterator[Tensor]:
    """Terms ``[B]``, one after the other."""
    for together in terms:
        if together.requires_grad:
            yield from together.flatten(1).unbind(1) if together.dim() > 1 else (together,)
