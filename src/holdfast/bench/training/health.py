"""Numbers going bad: noticed within a few steps, without waiting for the device at each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from holdfast.bench.training.learner import Learner
from holdfast.errors import NumericsError
from holdfast.state import finiteness

__all__ = ["Health"]

_LOOK_EVERY = 25  # steps: each look waits for the device


class Health:
    """Watches the losses and penalties of every step, and at each look the weights and the latest gradients.

    Args:
        learner: the model, optimizer and method of the run.
        explain: ``(what, step)`` -> the sentence about something that is no longer finite.
    """

    def __init__(self, learner: Learner, explain: Callable[[str, int], str]) -> None:
        self._learner = learner
        self._explain = explain
        self._losses: list[Tensor] = []
        self._penalties: list[Tensor] = []

    def note(self, loss: Tensor, step: int) -> None:
        """Keep a step's loss, and its penalty if that stood in the loss; look now and then.

        Args:
            loss: the mean loss, ``[]``, not waited for.
            step: the number of the step just done, from 1.

        Raises:
            NumericsError: if a number was not finite.
        """
        self._losses.append(loss)
        penalty = self._learner.penalty_value
        self._penalties.append(loss if penalty is None else penalty)  # no penalty: nothing more to be found
        if len(self._losses) >= _LOOK_EVERY:
            self.look(step)

    def look(self, step: int) -> None:
        """Wait for what was noted, and stop the run if any of it is not finite.

        Args:
            step: the number of the step just done.

        Raises:
            NumericsError: naming what it was and the first step at which it was seen.
        """
        if not self._losses:
            return
        parameters = list(self._learner.model.parameters())
        noted = torch.stack([*self._losses, *self._penalties]).isfinite()
        weights = _all_finite(parameters, noted)
        gradients = _all_finite((p.grad for p in parameters if p.grad is not None), noted)
        finite = torch.cat([noted, weights, gradients]).tolist()  # the one wait
        count = len(self._losses)
        self._losses.clear()
        self._penalties.clear()
        for offset in range(count):
            for what, ok in (("loss", finite[offset]), ("penalty", finite[count + offset])):
                if not ok:
                    raise NumericsError(self._explain(what, step - count + 1 + offset))
        if not finite[-1]:
            raise NumericsError(self._explain("gradient", step))
        if not finite[-2]:
            raise NumericsError(self._explain("update of the weights", step))

    def state_dict(self) -> dict[str, Any]:
        """What was noted and not looked at yet, so that a resumed run looks when an undisturbed one does."""
        return {"losses": list(self._losses), "penalties": list(self._penalties)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        device = self._learner.config.device
        self._losses = [loss.to(device) for loss in state["losses"]]
        self._penalties = [penalty.to(device) for penalty in state["penalties"]]


def _all_finite(tensors: Iterable[Tensor], like: Tensor) -> Tensor:
    """Whether every entry of every tensor is finite, ``[1]``, on the device of ``like``."""
    verdicts = [finite.to(like.device) for finite in finiteness(tensors)]
    return torch.stack(verdicts).all().reshape(1) if verdicts else like.new_ones(1)
