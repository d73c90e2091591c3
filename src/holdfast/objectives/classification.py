"""One class out of several."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives.base import Batch, Forward, Plain, logits_of, multinomial, targets_of

__all__ = ["Classification"]

_IGNORED = -100  # PyTorch's label for "no loss here"


class Classification(Plain):
    r"""One class out of ``K`` per sample: softmax and cross-entropy.

    .. math:: \ell = -\log p(y \mid x), \qquad p = \mathrm{softmax}(f(x))

    Args:
        classes: the columns of the model's outputs that compete, when not all do. Targets are column
            numbers of the model's full outputs.
        head: which of several outputs to use, when the model returns a sequence or a dict of them.
            Targets count within the head.
        forward: ``(model, batch) -> whatever the model returns``, when ``model(inputs)`` is not the call.

    Example:
        >>> objective = Classification(classes=(2, 3))
        >>> batch = (torch.eye(4)[:2], torch.tensor([2, 3]))
        >>> objective.losses(objective.outputs(torch.nn.Identity(), batch), batch).shape
        torch.Size([2])
    """

    def __init__(
        self,
        classes: Sequence[int] | None = None,
        *,
        head: int | str | None = None,
        forward: Forward | None = None,
    ) -> None:
        super().__init__(forward)
        self.classes = None if classes is None else _columns_of(classes)
        self.head = head
        self._tables: dict[torch.device, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_tables": {}}  # what can be made again is not saved, least of all on a device

    def __repr__(self) -> str:
        return f"Classification(classes={self.classes}, head={self.head!r})"

    def select(self, raw: Any) -> Tensor:
        """The columns ``classes`` of the head ``head``, ``[B, K]``."""
        if self.head is not None:
            try:
                raw = raw[self.head]
            except (KeyError, IndexError, TypeError) as error:
                raise DataError(f"the model's outputs have no head {self.head!r}: {error}") from error
        logits = logits_of(raw)
        if self.classes is None:
            return logits
        if max(self.classes) >= logits.shape[-1]:
            raise DataError(f"classes={self.classes} needs more than the model's {logits.shape[-1]} outputs")
        first, last = self.classes[0], self.classes[-1]
        if self.classes == tuple(range(first, last + 1)):
            return logits[:, first : last + 1]
        return logits[:, self._table(logits.device)]

    def _table(self, device: torch.device) -> Tensor:
        """The columns ``classes`` as a tensor, ``[K]``: copied to a device once, for each copy would wait."""
        found = self._tables.get(device)
        if found is None:
            assert self.classes is not None
            with torch.inference_mode(False):  # a tensor from inference mode could not be used in training
                found = torch.tensor(self.classes, device=device)
            # One made within a transformation (vmap, tracing) must not outlive it.
            if type(found) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(found):
                self._tables[device] = found
        return found

    def _columns(self, targets: Tensor, number: int) -> Tensor:
        """Targets as positions among the ``number`` outputs used, ``[B]``."""
        if targets.is_floating_point() or targets.dim() != 1:
            raise DataError(
                f"targets have shape {tuple(targets.shape)} and dtype {targets.dtype}; Classification expects "
                "integers [B]: use Regression or MultiLabel, or a callable of your own"
            )
        if self.classes is None:
            # On another device the check would have to wait, and PyTorch's own is made there.
            if targets.device.type == "cpu" and len(targets) and not _within(targets, number):
                wrong = (targets >= number) | ((targets < 0) & (targets != _IGNORED))
                if bool(wrong.any()):
                    raise DataError(
                        f"target {int(targets[wrong][0])} is not among the model's {number} outputs, from 0"
                    )
            return targets
        table = self._table(targets.device)
        hit = targets[:, None] == table
        if targets.device.type == "cpu" and not bool(hit.any(1).all()):
            missing = int(targets[~hit.any(1)][0])
            raise DataError(f"target {missing} is not among classes={self.classes}")
        return hit.to(torch.int8).argmax(1)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy per sample, ``[B]``, in nats."""
        columns = self._columns(targets_of(batch), _competing(outputs))
        return F.cross_entropy(outputs, columns, reduction="none")

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Batch:
        """Targets drawn from the softmax of the outputs."""
        _competing(outputs)
        drawn = multinomial(outputs.detach().softmax(-1), generator)
        if self.classes is not None:
            drawn = self._table(drawn.device)[drawn]
        return (None, drawn)

    def factors(self, outputs: Tensor) -> Iterator[Tensor]:
        r"""K − 1 terms :math:`\sum_j L_{jk} z_j`, ``[B]``, with the logits z and L held constant.

        L is the Cholesky factor of the Fisher information of the logits, :math:`\operatorname{diag}(p) - p p^\top`,
        whose rank is K − 1: with :math:`s_k = \sum_{j > k} p_j`,

        .. math:: L_{kk} = \sqrt{p_k s_k / (p_k + s_k)}, \qquad L_{jk} = -L_{kk}\, p_j / s_k \quad (j > k)

        So it takes one backward pass less than there are classes: for two classes, one. Nothing is subtracted, so it
        stays accurate where the model is all but sure.
        """
        number = _competing(outputs)
        p = outputs.detach().to(torch.promote_types(outputs.dtype, torch.float32)).softmax(-1)
        rest = p.flip(-1).cumsum(-1).flip(-1)  # p_k + s_k
        tiny = torch.finfo(p.dtype).tiny
        for k in range(number - 1):
            diagonal = (p[:, k] * (rest[:, k + 1] / rest[:, k].clamp_min(tiny))).sqrt()
            # The quotient first: the product of two small numbers would be 0.
            below = -diagonal[:, None] * (p[:, k + 1 :] / rest[:, k + 1, None].clamp_min(tiny))
            column = torch.cat([diagonal[:, None], below], 1)
            # Where L is 0, an output may be minus infinity.
            yield torch.where(column == 0, 0.0, column * outputs[:, k:]).sum(1)


def _within(targets: Tensor, number: int) -> bool:
    """Whether all are from 0 to ``number`` - 1: one pass, for it is asked at every step."""
    low, high = torch.aminmax(targets)
    return int(low) >= 0 and int(high) < number


def _columns_of(classes: Sequence[int]) -> tuple[int, ...]:
    """Columns as plain numbers.

    Raises:
        ConfigurationError: if they are none, twice the same, negative or no whole numbers.
    """
    try:
        found = tuple(operator.index(c) for c in classes)
    except TypeError:
        found = ()
    if not found or min(found) < 0 or len(set(found)) != len(found):
        raise ConfigurationError(
            f"classes is {classes!r}; expected column numbers from 0, at least one, none of them twice"
        )
    return found


def _competing(outputs: Tensor) -> int:
    """How many outputs compete.

    Raises:
        DataError: if one stands alone: its softmax is 1 whatever the weights, and nothing would be protected.
    """
    if outputs.dim() != 2 or outputs.shape[1] < 2:
        raise DataError(
            f"the outputs have shape {tuple(outputs.shape)}; Classification expects [B, K] with at least two classes: "
            "use MultiLabel for yes/no outputs, Regression for real ones, or a forward= that gives [B, K]"
        )
    return outputs.shape[1]
