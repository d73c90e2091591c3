r"""Powerpropagation: weights are powers of what is trained, so that the large grow and the small stay small."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError
from holdfast.names import Select
from holdfast.reparam.weights import Reparametrised, plain_layers, register

__all__ = ["Power", "check_alpha", "inverse_power", "power", "powerpropagate", "register_powers"]

_ALPHA = "parametrizations.weight.0._extra_state"


class _Power(torch.autograd.Function):
    """The power and its derivative in closed form: autograd's is NaN at 0 for 1 < α < 2."""

    generate_vmap_rule = True

    @staticmethod
    def forward(phi: Tensor, alpha: float) -> Tensor:
        """Weights ``[*p]``."""
        return phi * phi.abs().pow(alpha - 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        """Keep φ for the backward pass."""
        phi, ctx.alpha = inputs
        ctx.save_for_backward(phi)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Of the gradient ``[*p]`` in w, that in φ."""
        (phi,) = ctx.saved_tensors
        return grads[0] * _slope(phi, ctx.alpha), None


def _slope(phi: Tensor, alpha: float) -> Tensor:
    # Written so that a second derivative is finite at 0, too: there it is taken to be 0.
    away = torch.where(phi == 0, 1.0, phi).abs().pow(alpha - 1)
    return alpha * torch.where(phi == 0, 1.0 if alpha == 1 else 0.0, away)


def power(phi: Tensor, alpha: float) -> Tensor:
    r"""The weights of parameters.

    .. math:: w = \varphi |\varphi|^{\alpha - 1}, \qquad
        \frac{\partial L}{\partial \varphi} = \alpha |\varphi|^{\alpha - 1} \frac{\partial L}{\partial w}

    so that plain gradient descent moves w by :math:`-\eta \alpha^2 |w|^{2 - 2/\alpha} \, \partial L / \partial w` to
    first order, and 0 is where it stays.

    Source: Schwarz et al. 2021, arXiv:2110.00296, by its released notebook. Differs: the derivative is written in
    closed form.

    Args:
        phi: φ, ``[*p]``.
        alpha: α, >= 1; with 1, w is φ to the last bit.

    Returns:
        w, ``[*p]``; differentiable, twice.

    Example:
        >>> power(torch.tensor([-3.0, 0.0, 2.0]), 2.0)
        tensor([-9.,  0.,  4.])
    """
    found: Tensor = _Power.apply(phi, float(alpha))  # type: ignore[no-untyped-call]  # PyTorch's own
    return found


def inverse_power(weight: Tensor, alpha: float) -> Tensor:
    r"""The parameters that give these weights.

    .. math:: \varphi = \operatorname{sign}(w) |w|^{1/\alpha}

    Source: as :func:`power`. Differs: no.

    Args:
        weight: w, ``[*p]``.
        alpha: α, >= 1.

    Returns:
        φ, ``[*p]``.

    Example:
        >>> inverse_power(torch.tensor([-9.0, 0.0, 4.0]), 2.0)
        tensor([-3.,  0.,  2.])
    """
    return weight.clone() if alpha == 1 else weight.sign() * weight.abs().pow(1 / alpha)


class Power(Reparametrised):
    """A layer's weight as a power of its parameter: see :func:`power`.

    Args:
        alpha: α, >= 1.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, phi: Tensor) -> Tensor:
        """The weight ``[*p]`` of its parameter ``[*p]``."""
        return power(phi, self.alpha)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The parameter ``[*p]`` of a weight ``[*p]``."""
        return inverse_power(weight, self.alpha)

    def take_over(self, state: dict[str, Any], prefix: str, held: nn.Module) -> None:
        """Turn the plain weight in a state dict into φ."""
        super().take_over(state, prefix, held)
        state[f"{prefix}{_ALPHA}"] = self.get_extra_state()

    def fit(self, state: dict[str, Any], prefix: str, held: nn.Module) -> None:
        """Refuse φ of another exponent, which would be other weights.

        Raises:
            ConfigurationError: naming both.
        """
        if f"{prefix}parametrizations.weight.original" not in state:
            return
        theirs = state.setdefault(f"{prefix}{_ALPHA}", self.get_extra_state())  # a state of before 0.2 has none
        if not bool(theirs == self.get_extra_state().to(theirs)):
            raise ConfigurationError(
                f"the state has the weight {prefix + 'weight'!r} as a power with alpha={float(theirs):g}, and the "
                f"model is powerpropagated with {self.alpha:g}: expected the same, or the state of a model that "
                "holdfast.reparam.plain has made plain"
            )

    def get_extra_state(self) -> Tensor:
        """The exponent, ``[]``: without it φ says nothing of the weight."""
        return torch.tensor(self.alpha, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing: :meth:`fit` has seen to it that the exponent is the same."""

    def extra_repr(self) -> str:
        """Its exponent."""
        return f"alpha={self.alpha:g}"


def check_alpha(alpha: float) -> float:
    """A finite number >= 1.

    Raises:
        ConfigurationError: naming it.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha < 1:
        raise ConfigurationError(f"alpha is {alpha!r}; expected a finite number >= 1 (1 is the plain model)")
    return float(alpha)


def powerpropagate(model: nn.Module, alpha: float = 2.0, *, select: Select = None) -> nn.Module:
    r"""Have a model's weights be powers of its parameters, and answer as before.

    .. math:: w = \varphi |\varphi|^{\alpha - 1}, \qquad \varphi = \operatorname{sign}(u) |u|^{1/\alpha}

    where u are the weights as they were. It is for the weights of linear layers and convolutions, not for biases and
    normalisations. The parameters stay the same objects, so an optimizer made before still trains them; one that has
    stepped has momentum of the weights. Make methods of this library afterwards: they then protect φ. Weight decay on φ
    is a penalty on :math:`|w|^{2/\alpha}`; Adam's division by the gradient's size undoes much of the effect. The state
    of a plain model loads; :func:`~holdfast.reparam.plain` is the way back.

    Source: Schwarz et al. 2021, arXiv:2110.00296, by its released notebook. Differs: the output layer is one as any
    other; leave it out with ``select``.

    Args:
        model: any module, wrapped or not; changed.
        alpha: α, >= 1; with 1 it trains as the plain model, to the last bit.
        select: which trainable weights; ``None`` for all of these layers, also frozen ones.

    Returns:
        The model.

    Raises:
        ConfigurationError: for another alpha, a model without such layers, and weights that are computed from
            something already, sharded, or shared with another kind of layer.

    Example:
        >>> model = powerpropagate(nn.Linear(2, 3), alpha=2.0)
        >>> list(model.state_dict())
        ['bias', 'parametrizations.weight.original', 'parametrizations.weight.0._extra_state']
    """
    register_powers(model, check_alpha(alpha), select, again=False)
    return model


def register_powers(model: nn.Module, alpha: float, select: Select, *, again: bool = True) -> None:
    """Powerpropagate what is plain.

    Args:
        model: any module, wrapped or not; changed.
        alpha: α, >= 1.
        select: which weights.
        again: leave those that are computed by something of ours already as they are.
    """
    for modules in plain_layers(model, select, "powerpropagate", again=again).values():
        register(modules, partial(Power, alpha))
