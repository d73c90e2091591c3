r"""HFT: in every round a half of the layers, drawn anew, stays exactly as it is."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError
from holdfast.names import Select, canonical_modules, owners
from holdfast.objectives import Batch, Objective
from holdfast.projections.masks import HoldsExactly, HoldsStatistics, hold, zero
from holdfast.sharding import local
from holdfast.state import anchor_of

__all__ = ["HFT", "drawn_half"]

_NUMBER = re.compile(r"\d+")


def drawn_half(layers: Mapping[str, bool], generator: torch.Generator) -> set[str]:
    """Half of the layers, drawn so that each block of a model has its half, and each kind of layer.

    Within a block (layers of one parent: the projections of an attention, say) half are drawn, matrices and
    normalisations apart. Where a block's number is odd, the one over is drawn against those of the same kind in other
    blocks; one that is alone of its kind (an output layer) is none of the half.

    Args:
        layers: the path of each ``"model.layers.0.self_attn.q_proj"`` -> whether it has a matrix.
        generator: the source of the draw.

    Returns:
        The paths drawn.

    Example:
        >>> layers = {f"layers.{i}.{name}": True for i in range(2) for name in ("a.q", "a.k", "b.up")}
        >>> half = drawn_half(layers, torch.Generator().manual_seed(0))
        >>> [sum(name.startswith(part) for name in half) for part in ("layers.0.a", "layers.1.a")], len(half)
        ([1, 1], 3)
    """
    blocks: dict[Any, list[str]] = defaultdict(list)
    for path, matrix in layers.items():
        blocks[path.rpartition(".")[0], matrix].append(path)
    found: set[str] = set()
    over: dict[Any, list[str]] = defaultdict(list)
    for (block, matrix), paths in blocks.items():
        turned = [paths[i] for i in torch.randperm(len(paths), generator=generator).tolist()]
        half = len(turned) // 2
        found |= set(turned[:half])
        if len(turned) % 2:
            over[_NUMBER.sub("#", block), len(turned), matrix].append(turned[-1])
    for paths in over.values():
        turned = [paths[i] for i in torch.randperm(len(paths), generator=generator).tolist()]
        found |= set(turned[: len(turned) // 2])
    return found


class HFT(HoldsStatistics, HoldsExactly):
    r"""Half fine-tuning: each round trains one half of the layers and holds the other; ``consolidate`` draws anew.

    .. math:: g_i \leftarrow 0, \quad \theta_i \leftarrow \theta_i^* \qquad \text{for the half that was drawn}

    Source: Hui et al. 2024, arXiv:2404.18466, category by category. Differs: a layer's bias goes with its matrix; what
    is over where a block has an odd number of layers is drawn among blocks, see :func:`drawn_half`; weights are put
    back after each step, for decay and momentum move them without a gradient.

    Embeddings are trained, and so is what is tied to one. With few layers the draw decides much: it is a lottery in a
    model of two, see ``docs/methods/hft.md``.

    Args:
        model: the model to protect.
        seed: of the draws, round by round; ``None`` for the generator that ``consolidate`` is given, else 0. Equal in
            all processes of a distributed run.
        select: which trainable parameters take part.
        objective: not used; here so that methods can be exchanged.

    Raises:
        ConfigurationError: for a wrong argument; at ``consolidate``, for a model of which no half can be drawn.
    """

    on_shards: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    prunes: ClassVar[bool] = False
    acts_on_gradients: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        seed: int | None = None,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise ConfigurationError(f"seed is {seed!r}; expected a whole number or None")
        self.seed = seed
        self.meta["frozen"] = []

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the parameters that are held in this round."""
        return tuple(self.meta["frozen"])

    def project_gradient(self, step: Step) -> None:
        """No gradient for the half that is held: the optimizer's own state then learns nothing of it either."""
        frozen = set(self.meta["frozen"])
        names = [name for name in self.live(step) if name in frozen]
        zero([self.part(name, grad) for name in names if (grad := self.params[name].grad) is not None])

    def restore_weights(self, step: Step) -> None:
        """Undo what momentum and weight decay did."""
        frozen = set(self.meta["frozen"])
        names = [name for name in self._owned.get(id(step.optimizer), ()) if name in frozen]
        hold([self.part(name) for name in names], [local(self.state[name]["anchor"]) for name in names])
        self._restore_statistics()

    def _stopped(self) -> Collection[str]:
        return self.frozen

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        embeddings = {path for path, module in canonical_modules(self.model) if isinstance(module, nn.Embedding)}
        owner = {name: path for name, path in owners(self.model).items() if name in self.params}
        layers: dict[str, bool] = {}
        for name, path in owner.items():
            if path not in embeddings:
                layers[path] = layers.get(path, False) or self.params[name].dim() > 1
        if self.seed is not None or generator is None:
            generator = torch.Generator().manual_seed((self.seed or 0) * 1_000_003 + self.num_tasks)
        half = drawn_half(layers, generator)
        if not half:
            raise ConfigurationError(
                f"HFT draws half of the layers, but of these no two are alike: {', '.join(layers) or 'none'}; expected "
                "a model of several"
            )
        self.state: dict[str, dict[str, Tensor]] = {
            name: {"anchor": anchor_of(self.scope(name))} for name in self.params
        }
        self.meta["frozen"] = [name for name, path in owner.items() if path in half]
        self.buffers: dict[str, Tensor] = {}
        self._remember_statistics()
