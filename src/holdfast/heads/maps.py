r"""Random feature maps: what makes a linear head answer like a kernel machine, at a size that is chosen beforehand."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.checks import check_interval, check_positive
from holdfast.errors import ConfigurationError, DataError, StateError

__all__ = ["FeatureMap", "RandomFourier", "RandomProjection", "device_after", "random_fourier", "random_projection"]


class FeatureMap(nn.Module, abc.ABC):
    """A fixed map from features to more features, drawn from a seed and fitted at most once, to the first samples.

    A subclass fills :meth:`_draw` and :meth:`_apply_to`. Its tensors are in ``tensors``, not among its parameters:
    nothing trains them.

    Args:
        seed: of all that is drawn.

    Attributes:
        fit_samples: how many samples it is fitted to: the first that come; 0 for a map that is drawn alone.
        tensors: what it drew and fitted, float32; empty before.
    """

    fit_samples: int = 0

    def __init__(self, seed: int) -> None:
        super().__init__()
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigurationError(f"seed is {seed!r}; expected a whole number")
        self.seed = seed
        self.tensors: dict[str, Tensor] = {}

    @property
    def fitted(self) -> bool:
        """Whether it is drawn and fitted."""
        return bool(self.tensors)

    @torch.no_grad()
    def fit(self, samples: Tensor) -> None:
        """Draw it, and fit it to the first samples, ``[B, ...]``."""
        generator = torch.Generator().manual_seed(self.seed)
        found = self._draw(samples, generator)
        self.tensors = {name: tensor.to(samples.device, torch.float32) for name, tensor in found.items()}

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """The features of inputs: ``[B, ...] -> [B, size]``, in the type of the inputs.

        Raises:
            DataError: before it is fitted, or for inputs of another shape than those that it was fitted to.
        """
        if not self.tensors:
            raise DataError(f"{type(self).__name__} is not drawn yet; expected a consolidate(batches) first")
        return self._apply_to(inputs, {name: tensor.to(inputs.dtype) for name, tensor in self.tensors.items()})

    def reset(self) -> None:
        """As before it was fitted."""
        self.tensors = {}

    @abc.abstractmethod
    def _draw(self, samples: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """All tensors of the map; what is random comes from a generator on the CPU."""

    @abc.abstractmethod
    def _apply_to(self, inputs: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """The features."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        for name, tensor in self.tensors.items():  # to another device, but never to another type
            self.tensors[name] = tensor.to(device_after(fn, tensor.device))
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own gap

    def get_extra_state(self) -> dict[str, Tensor]:
        """Its tensors: drawn again they might differ under another release of PyTorch."""
        return dict(self.tensors)

    def set_extra_state(self, state: Any) -> None:
        """Take over a copy of the tensors of another map of the same kind."""
        if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise StateError(f"the state of a {type(self).__name__} is a {type(state).__name__}; expected its tensors")
        self.tensors = {name: tensor.detach().clone() for name, tensor in state.items()}


def device_after(fn: Any, device: torch.device) -> torch.device:
    """Where what ``Module.to`` and its like apply to tensors leaves one that is on a device now."""
    found: torch.device = fn(torch.empty(0, dtype=torch.int64, device=device)).device
    return found


def random_projection(inputs: Tensor, weight: Tensor) -> Tensor:
    r"""Rectified random projection.

    .. math:: z = \max(0, x P)

    Source: McDonnell et al. 2023 (RanPAC), arXiv:2307.02251, eq. 4, as in its release. Differs: no.

    Args:
        inputs: x, ``[B, d]``.
        weight: P, ``[d, M]``, standard normal.

    Returns:
        z, ``[B, M]``.
    """
    return (inputs @ weight).relu_()


class RandomProjection(FeatureMap):
    r"""Rectified random projection of features: :math:`z = \max(0, x P)`, with P standard normal.

    Source: McDonnell et al. 2023 (RanPAC), arXiv:2307.02251. Differs: P is divided by the root of d, so that the size
        of
    what comes out is that of what goes in; neither a ridge nor a covariance relative to its own size can tell.

    Args:
        size: M, how many features come out. A Gram matrix has its square.
        seed: of P.
    """

    def __init__(self, size: int = 5000, *, seed: int = 0) -> None:
        super().__init__(seed)
        self.size: int = check_interval("size", size)

    def _draw(self, samples: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        width = samples.flatten(1).shape[1]
        return {"weight": torch.randn(width, self.size, generator=generator) / math.sqrt(width)}

    def _apply_to(self, inputs: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        return random_projection(_rows(inputs, tensors["weight"]), tensors["weight"])


def random_fourier(inputs: Tensor, frequencies: Tensor, phases: Tensor) -> Tensor:
    r"""Random Fourier features of a Gaussian kernel.

    .. math:: \phi(x) = \sqrt{2 / D}\, \cos(x \omega + b), \qquad
        \phi(x)^\top \phi(x') \approx \exp(-\gamma \lVert x - x' \rVert^2)

    Source: Rahimi and Recht 2007; the features of KLDA, arXiv:2412.15571. Differs: no.

    Args:
        inputs: x, ``[B, d]``.
        frequencies: ω, ``[d, D]``, normal with variance 2γ.
        phases: b, ``[D]``, uniform from 0 to 2π.

    Returns:
        φ, ``[B, D]``.
    """
    return (inputs @ frequencies).add_(phases).cos_().mul_(math.sqrt(2 / len(phases)))


class RandomFourier(FeatureMap):
    r"""Random Fourier features of a Gaussian kernel :math:`\exp(-\gamma \lVert x - x' \rVert^2)`.

    Source: Rahimi and Recht 2007; as the features of KLDA, arXiv:2412.15571. Differs: the width of the kernel is
        relative
    to the data's own scale: :math:`\gamma = 1 / (2 (w m)^2)`, where m is the median distance between two of the first
    samples.

    Args:
        size: D, how many features come out.
        width: w, of the kernel, in median distances.
        seed: of ω and b.
    """

    size: int
    width: float
    fit_samples = 1000

    def __init__(self, size: int = 2000, *, width: float = 0.5, seed: int = 0) -> None:
        super().__init__(seed)
        self.size, self.width = check_interval("size", size), check_positive("width", width)

    def _draw(self, samples: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        rows = samples.flatten(1).double().cpu()
        distances = torch.pdist(rows)
        median = float(distances[distances > 0].median()) if bool((distances > 0).any()) else 1.0
        omega = torch.randn(rows.shape[1], self.size, generator=generator) / (self.width * median)
        phase = torch.rand(self.size, generator=generator) * (2 * math.pi)
        return {"frequencies": omega, "phases": phase}

    def _apply_to(self, inputs: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        return random_fourier(_rows(inputs, tensors["frequencies"]), tensors["frequencies"], tensors["phases"])


def _rows(inputs: Tensor, weight: Tensor) -> Tensor:
    rows = inputs.flatten(1)
    if rows.shape[1] != len(weight):
        raise DataError(f"the inputs have {rows.shape[1]} entries per sample; expected {len(weight)}, as at first")
    return rows
