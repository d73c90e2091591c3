r"""The phase term of Anastrophic regularization, and its gradient in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["flat", "gradient_parts", "spectral_coherence", "spectral_coherence_gradient"]

_EPS = 1e-8  # the release's, in the denominator of Φ
_LARGE = 1 << 14  # entries from which the packed transform is the faster one on a CPU (measured with MKL)


def spectral_coherence(w: Tensor) -> Tensor:
    r"""How far the phases of a tensor's spectrum agree, each weighted by its share of the power.

    .. math::
        \Phi(w) = \Big| \sum_j p_j e^{i \arg F_j} \Big|, \qquad p_j = \frac{|F_j|^2}{\sum_k |F_k|^2 + 10^{-8}}

    where F is the discrete Fourier transform of the flattened tensor. F is symmetric, so the sum is real and half the
    spectrum tells all: :math:`\Phi = |\sum_j c_j |F_j| \Re F_j| / D`, where c counts a bin and its mirror image.

    Source: the Anastrophic release. Differs: only how it is computed.

    Args:
        w: a tensor, ``[*p]``; flattened in row-major order, on which Φ depends.

    Returns:
        Φ ``[]``, from 0 to 1, at least float32; differentiable.

    Example:
        >>> round(float(spectral_coherence(torch.tensor([1.0, 0.0, 0.0, 0.0]))), 6)
        1.0
    """
    x = flat(w)
    n = x.numel()
    F = torch.fft.rfft(x)
    terms = F.abs() * F.real
    A: Tensor = 2 * terms.sum() - terms[0]
    if n > 1 and n % 2 == 0:
        A = A - terms[-1]
    return A.abs() / (n * x.square().sum() + _EPS)


@torch.no_grad()
def spectral_coherence_gradient(w: Tensor) -> tuple[Tensor, Tensor]:
    r"""Φ and its gradient in closed form: one forward and one inverse real transform.

    .. math::
        \nabla\Phi = \frac{\operatorname{sign}(A)\, N \operatorname{irfft}(G) - 2 N \Phi w}{D}, \qquad
        G = |F| + \Re F \, \frac{F}{|F|}

    with :math:`A = \sum_j c_j |F_j| \Re F_j`, :math:`D = N \lVert w \rVert^2 + 10^{-8}`, and 0 for 0/0.

    Source: derived for this project; :func:`spectral_coherence` under autograd is its plain twin.

    Args:
        w: a tensor, ``[*p]``.

    Returns:
        ``(phi, gradient)``: ``[]`` and ``[*p]``, at least float32.
    """
    x = flat(w)
    phi, y, along_y, along_x = gradient_parts(x)
    return phi, y.mul_(along_y).addcmul_(x, along_x).view(w.shape)


def gradient_parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""The gradient of Φ as :math:`\alpha y + \beta x`, in parts, so that it can be added to another in place.

    Args:
        x: the flattened tensor, ``[N]``, contiguous, float32 or float64.

    Returns:
        ``(Φ, y, α, β)``: ``[]``, ``[N]``, ``[]``, ``[]``.
    """
    n = x.numel()
    packed = x.device.type == "cpu" and n >= _LARGE and n % 2 == 0
    A, y, unit = _by_half_transforms(x) if packed else _by_real_transforms(x)
    D = n * torch.dot(x, x) + _EPS
    phi = A.abs() / D
    return phi, y, unit * A.sign() / D, -2 * n * phi / D


def flat(w: Tensor) -> Tensor:
    """One axis, in a precision that the transform knows."""
    return w.to(torch.promote_types(w.dtype, torch.float32)).reshape(-1)


def _turn(F: Tensor) -> tuple[Tensor, Tensor]:
    r"""Replace F by :math:`G = |F| + \Re F \cdot F / |F|`, in place; return :math:`|F| \Re F`, summed, and at the ends.

    Returns:
        ``(sum over all entries [], |F| Re F in the first and the last column [rows, 2])``.
    """
    a, b = torch.view_as_real(F).unbind(-1)
    m = F.abs().clamp_min_(torch.finfo(a.dtype).tiny)  # so that 0 / 0 is 0
    cosine = a.clone(memory_format=torch.contiguous_format)
    total = torch.dot(m.view(-1), cosine.view(-1))
    ends = m[:, [0, -1]] * a[:, [0, -1]]
    cosine.div_(m)
    torch.addcmul(m, a, cosine, out=a)
    b.mul_(cosine)
    return total, ends


def _by_real_transforms(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """``(A [], y [N], u)`` with u·y = N·irfft(G), as the equation reads."""
    n = x.numel()
    F = torch.fft.rfft(x).unsqueeze(0)
    total, ends = _turn(F)
    A = 2 * total - ends[0, 0]
    if n > 1 and n % 2 == 0:
        A = A - ends[0, 1]
    return A, torch.fft.irfft(F[0], n=n, norm="forward"), 1.0


def _by_half_transforms(x: Tensor) -> tuple[Tensor, Tensor, float]:
    r"""The same for even N, by complex transforms of half the length: on a CPU about twice as fast.

    The even and odd entries make one complex signal z with M = N/2 entries; from its transform Z,

    .. math::
        F_k = E_k + W^k O_k, \quad \overline{F_{M-k}} = E_k - W^k O_k, \qquad
        E_k = \tfrac12 (Z_k + \overline{Z_{M-k}}), \quad O_k = \tfrac{1}{2i} (Z_k - \overline{Z_{M-k}}),

    with :math:`W = e^{-2\pi i/N}` and k from 0 to M/2: those two rows hold every bin. The way back is the same,
    read from right to left. Everything here is twice E, O and F, which G follows, being homogeneous. All of it is done
    in place, for fresh memory costs as much as the arithmetic.
    """
    n = x.numel()
    M = n // 2
    h = M // 2 + 1
    if x.storage_offset() % 2:
        x = x.clone()  # a complex view needs an even offset
    Z = torch.fft.fft(torch.view_as_complex(x.view(M, 2)))
    W = _twiddles(n, h, Z.dtype)
    mirrored = Z[M - h + 1 :].flip(0).conj_physical_()
    F = torch.empty((2, h), dtype=Z.dtype)
    F[:, 0] = torch.stack((2 * Z[0].real, 2j * Z[0].imag))
    torch.add(Z[1:h], mirrored, out=F[0, 1:])
    torch.sub(Z[1:h], mirrored, out=F[1, 1:])
    F[1].mul_(W)
    _add_and_subtract(F)

    total, ends = _turn(F)
    A = 2 * total - ends[:, 0].sum()  # bins 0 and M have no mirror image
    if M % 2 == 0:
        A = A - ends[:, 1].sum()  # bin M/2 is in both rows

    _add_and_subtract(F)
    F[1].mul_(W.conj_physical_())
    _add_and_subtract(F)
    Z[:h] = F[0]
    Z[h:] = F[1, 1 : M - h + 1].flip(0).conj_physical_()
    y = torch.view_as_real(torch.fft.ifft(Z, norm="forward")).view(-1)
    return A / 4, y, 0.5


def _add_and_subtract(F: Tensor) -> None:
    """Replace two rows by their sum and their difference."""
    F[0].add_(F[1])
    torch.sub(F[0], F[1], alpha=2, out=F[1])


def _twiddles(n: int, count: int, dtype: torch.dtype) -> Tensor:
    r""":math:`-i e^{-2\pi i k/n}` for k < count, by two short tables: keeping the whole one would cost P/2."""
    columns = math.isqrt(count - 1) + 1
    step = -2 * math.pi / n
    fine = torch.arange(columns, dtype=torch.float64) * step - math.pi / 2
    coarse = torch.arange(columns, dtype=torch.float64) * (step * columns)
    table = [torch.complex(angle.cos(), angle.sin()).to(dtype) for angle in (coarse, fine)]
    return torch.outer(*table).view(-1)[:count]
