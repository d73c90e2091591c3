r"""InRank: weights move by a product of two thin factors, of which more and more directions count."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError
from holdfast.names import Select, canonical_modules, canonical_parameters
from holdfast.reparam.spectra import drawn, grown_rank, most_rank, truncated
from holdfast.reparam.weights import Reparametrised, plain_layers, register_several, reparametrised

__all__ = ["LowRank", "Mode", "check_ranks", "check_share", "finalize", "grow", "inrank", "product", "ranks"]

Mode: TypeAlias = Literal["cumulative", "efficient"]


class LowRank(Reparametrised):
    r"""A layer's weight by low rank: :math:`W_0 + B A`, or :math:`B A` alone, of the directions in use.

    Args:
        mode: whether :math:`W_0` is part of it.
        rank: r, of the directions that count.
        buffer: b, those that are trained beyond them.
        max_rank: :math:`r_{\max}`, of the factors.
    """

    rank: int
    buffer: int
    max_rank: int

    def __init__(self, mode: Mode, rank: int, buffer: int, max_rank: int) -> None:
        super().__init__()
        self.mode = mode
        self.rank, self.buffer, self.max_rank = min(rank, max_rank), buffer, max_rank
        self.start: tuple[Tensor, ...] | None = None  # where the factors begin, until they have begun
        self._shape: tuple[int, ...] = ()

    @property
    def used(self) -> int:
        """How many directions are trained."""
        return min(self.rank + self.buffer, self.max_rank)

    def forward(self, *tensors: Tensor) -> Tensor:
        """The weight ``[*p]`` of (:math:`W_0` ``[*p]``,) B ``[m, r_max]`` and A ``[r_max, n]``."""
        update = product(tensors[-2], tensors[-1], self.used).reshape(self._shape)
        return update if self.mode == "efficient" else tensors[0] + update

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Factors that begin at a weight ``[*p]``, or in the efficient form anywhere."""
        self._shape = tuple(weight.shape)
        begun = self.begin(weight, None) if self.start is None else self.start
        return tuple(tensor.clone() for tensor in begun)

    def begin(self, weight: Tensor, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        """As :meth:`right_inverse`, drawn from a generator."""
        rows, columns = weight.flatten(1).shape
        down = drawn(self.max_rank, columns, generator=generator).to(weight)
        if self.mode == "cumulative":
            return weight.detach(), weight.new_zeros(rows, self.max_rank), down
        return drawn(rows, self.max_rank, generator=generator).to(weight), down

    def take_over(self, state: dict[str, Any], prefix: str, held: nn.Module) -> None:
        """Begin at the plain weight in a state dict, with nothing in the factors.

        Raises:
            ConfigurationError: in the efficient form, which cannot.
        """
        if self.mode == "efficient":
            raise ConfigurationError(
                f"the state has a plain weight {prefix + 'weight'!r}, and mode='efficient' is a product of two factors "
                "alone; expected a state of such a model, or mode='cumulative'"
            )
        place = f"{prefix}parametrizations.weight"
        state[f"{place}.original0"] = state.pop(f"{prefix}weight")
        state[f"{place}.original1"] = torch.zeros_like(held.get_parameter("original1"))
        state[f"{place}.original2"] = held.get_parameter("original2").detach()
        state[f"{place}.0._extra_state"] = self.get_extra_state()

    @torch.no_grad()
    def fit(self, state: dict[str, Any], prefix: str, held: nn.Module) -> None:
        """Have as many directions as the factors in a state dict, such as that of a model that was finalised."""
        factors = list(held._parameters.items())[-2:]
        up, down = (state.get(f"{prefix}parametrizations.weight.{name}") for name, _ in factors)
        if up is None or down is None or up.dim() != 2 or down.dim() != 2:
            return
        (_, here_up), (_, here_down) = factors
        assert here_up is not None and here_down is not None
        rank = up.shape[1]
        if down.shape[0] != rank or up.shape[0] != here_up.shape[0] or down.shape[1] != here_down.shape[1]:
            return  # of another layer: PyTorch says so
        self.max_rank = rank
        for here, shape in ((here_up, up.shape), (here_down, down.shape)):
            if here.shape != shape:  # the same object, so layers that share it still do
                here.data, here.grad = here.new_zeros(shape), None

    def get_extra_state(self) -> Tensor:
        """Rank and buffer, ``[2]``: they decide which part of the factors is looked at."""
        return torch.tensor([self.rank, self.buffer])

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what :meth:`get_extra_state` returned."""
        self.rank, self.buffer = state.tolist()

    def extra_repr(self) -> str:
        """Its form and its directions."""
        return f"{self.mode}, rank={self.rank}, buffer={self.buffer}, max_rank={self.max_rank}"


def product(up: Tensor, down: Tensor, used: int) -> Tensor:
    r"""What the first directions of two factors come to: :math:`B_{:, :k} A_{:k}`.

    Args:
        up: B, ``[m, r_max]``.
        down: A, ``[r_max, n]``.
        used: k.

    Returns:
        ``[m, n]``. The other directions have gradients, which are 0.
    """
    return up[:, :used] @ down[:used]


def check_ranks(rank: int, buffer: int, max_rank: int | None) -> None:
    """Whole numbers: a rank of at least 1, a buffer of at least 0, a largest rank of at least 1 if there is one.

    Raises:
        ConfigurationError: naming the one that is none.
    """
    for name, value, least in (("rank", rank, 1), ("buffer", buffer, 0), ("max_rank", max_rank, 1)):
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if not whole and not (name == "max_rank" and value is None):
            raise ConfigurationError(f"{name} is {value!r}; expected a whole number >= {least}")


def check_share(name: str, value: float) -> float:
    """A share, from 0 to 1.

    Raises:
        ConfigurationError: naming it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigurationError(f"{name} is {value!r}; expected a share, from 0 to 1")
    return float(value)


def inrank(
    model: nn.Module,
    *,
    mode: Mode = "cumulative",
    rank: int = 2,
    buffer: int = 8,
    max_rank: int | None = None,
    select: Select = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Have a model's weights move by low rank.

    .. math:: W = W_0 + \sum_{i \le r + b} B_{:, i} A_i \quad \text{(cumulative)}, \qquad
        W = \sum_{i \le r + b} B_{:, i} A_i \quad \text{(efficient)}

    In the cumulative form the weights as they were, :math:`W_0`, stay and are frozen; B begins at 0, so the model
    answers as before. In the efficient one they are dropped, and both factors are drawn: it is for training from the
    beginning. It is for the weights of linear layers and of convolutions (a filter is a row). Call :func:`grow` now and
    then while training: the rank r follows what is learned. The factors are made as large as they may become, so **make
    the optimizer afterwards**, once: a direction that is not in use has a gradient of 0, and in the cumulative form
    nothing in B. :func:`finalize` takes away what does not count, :func:`~holdfast.reparam.plain` bakes the weights in.

    Source: Zhao et al. 2023, arXiv:2306.11250; the efficient form by its code, which has no other. Differs: the
    cumulative form is by its abstract; the buffer is a part of the product there, too. Defaults but the rank are ours.

    Args:
        model: any module, wrapped or not; changed.
        mode: ``"cumulative"`` or ``"efficient"``.
        rank: r, to begin with, >= 1; a layer that is too small has what it can.
        buffer: b, the directions that are trained beyond the rank, >= 0; with 0 the rank is fixed.
        max_rank: the largest rank plus buffer; ``None`` for half of each weight's shorter side.
        select: which weights; ``None`` for those of such layers that are trained.
        generator: the source of randomness; ``None`` for PyTorch's own.

    Returns:
        The model.

    Raises:
        ConfigurationError: for a wrong argument, a model without such layers, and weights that are computed from
            something already, sharded, or shared with another kind of layer.

    Example:
        >>> model = inrank(nn.Linear(4, 6), rank=1, buffer=1)
        >>> [(name, tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad]
        [('bias', (6,)), ('parametrizations.weight.original1', (6, 2)), ('parametrizations.weight.original2', (2, 4))]
    """
    if mode not in ("cumulative", "efficient"):
        raise ConfigurationError(f"mode is {mode!r}; expected 'cumulative' or 'efficient'")
    check_ranks(rank, buffer, max_rank)
    layers = plain_layers(model, select, "inrank")
    if select is None:
        trained = {name for name, p in canonical_parameters(model).items() if p.requires_grad}
        layers = {name: modules for name, modules in layers.items() if name in trained}
    if not layers:
        raise ConfigurationError("the model has no trainable weight for inrank; name frozen ones with select")
    for modules in layers.values():
        weight = modules[0]._parameters["weight"]
        assert weight is not None
        by = LowRank(mode, rank, buffer, most_rank(len(weight), weight[0].numel(), max_rank))
        by.start = by.begin(weight, generator)
        made = register_several(modules, by)
        by.start = None
        for parameter in made:
            parameter.requires_grad_(True)
        if mode == "cumulative":
            made[0].requires_grad_(False)
    return model


def _low_rank(model: nn.Module) -> dict[str, tuple[nn.Module, LowRank]]:
    """Name of a weight -> the first layer that computes it by low rank, and how."""
    found: dict[str, tuple[nn.Module, LowRank]] = {}
    seen: set[int] = set()
    for prefix, module in canonical_modules(model):
        by = reparametrised(module)
        if isinstance(by, LowRank) and id(by) not in seen:
            seen.add(id(by))
            found[f"{prefix}.weight" if prefix else "weight"] = module, by
    if not found:
        raise ConfigurationError("no weight of the model is of low rank; expected a model of reparam.inrank")
    return found


def _factors(module: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    tensors: Any = module.parametrizations["weight"]  # type: ignore[index]  # PyTorch's own
    last: int = tensors.ntensors - 1
    return getattr(tensors, f"original{last - 1}"), getattr(tensors, f"original{last}")


def ranks(model: nn.Module) -> dict[str, int]:
    """The rank of every weight that :func:`inrank` has taken.

    Args:
        model: any module, wrapped or not.

    Returns:
        name -> r.

    Raises:
        ConfigurationError: if there is none.
    """
    return {name: by.rank for name, (_, by) in _low_rank(model).items()}


@torch.no_grad()
def grow(model: nn.Module, *, threshold: float = 0.9) -> dict[str, int]:
    r"""Have ranks follow what was learned: of each weight, the first that explains enough of its factors' product.

    .. math:: r \leftarrow \min \{ k \in r, r + 1, \dots, \min(r + b, r_{\max} - b) - 1 : g(k) > \tau \}

    See :func:`~holdfast.reparam.spectra.next_rank`. Call it every 25 steps or so, once the first 200 are over; it waits
    for the device. Optimizers need not be told.

    Source: the code of Zhao et al. 2023, arXiv:2306.11250. Differs: steps of the optimizer are what the caller counts;
    there, forward passes are counted, those of evaluation too.

    Args:
        model: what :func:`inrank` was called with; its ranks change, and no parameter.
        threshold: τ, from 0 to 1.

    Returns:
        name -> r, of all.

    Raises:
        ConfigurationError: for another threshold, or a model without such weights.
        NumericsError: if factors are not finite.
    """
    check_share("threshold", threshold)
    for name, (module, by) in _low_rank(model).items():
        up, down = _factors(module)
        by.rank = grown_rank(name, up, down, by.rank, buffer=by.buffer, threshold=threshold)
    return ranks(model)


@torch.no_grad()
def finalize(model: nn.Module) -> nn.Module:
    r"""Take away the directions that do not count: factors of rank r, the best that there are.

    .. math:: B A \leftarrow U_r S_r V_r^\top, \quad B = U_r S_r^{1/2}, \quad A = S_r^{1/2} V_r^\top

    of the product of all directions in use. The rank is fixed from then on. The factors are new parameters: **make the
    optimizer anew**.

    Source: the code of Zhao et al. 2023, arXiv:2306.11250, between its two stages. Differs: no.

    Args:
        model: what :func:`inrank` was called with; changed.

    Returns:
        The model.

    Raises:
        ConfigurationError: if no weight of it is of low rank.

    Example:
        >>> model = inrank(nn.Linear(40, 60), rank=3, buffer=5)
        >>> [tuple(p.shape) for p in finalize(model).parameters() if p.requires_grad]
        [(60,), (60, 3), (3, 40)]
    """
    found = _low_rank(model)
    for module, by in found.values():
        up, down = _factors(module)
        new = truncated(up[:, : by.used].double(), down[: by.used].double(), by.rank)
        replaced = {
            id(old): nn.Parameter(tensor.to(old), requires_grad=old.requires_grad)
            for old, tensor in zip((up, down), new, strict=True)
        }
        for _, each in canonical_modules(model):
            if reparametrised(each) is by:  # several, where a weight is shared
                held: Any = each.parametrizations["weight"]  # type: ignore[index]  # PyTorch's own
                for name, parameter in list(held._parameters.items()):
                    held._parameters[name] = replaced.get(id(parameter), parameter)
        by.buffer, by.max_rank = 0, by.rank
    return model
