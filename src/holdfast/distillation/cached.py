r"""What a teacher would say, looked up: its most probable answers, and all others as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError, StateError
from holdfast.objectives.directed import Direction

__all__ = ["PREFIX", "bucketed_divergence", "looked_up", "most_probable", "packed"]

PREFIX = "cached."

_LEAST = -1e4  # log of a probability that is 0 in any precision


def most_probable(outputs: Tensor, count: int, temperature: float) -> tuple[Tensor, Tensor]:
    r"""The most probable answers, with the log of the probability of each and of all others together.

    Args:
        outputs: f, ``[N, K]``.
        count: k, fewer than K.
        temperature: T, > 0.

    Returns:
        Answers ``[N, k]``, int32, and logs of probabilities ``[N, k + 1]`` of softmax(f / T), the others' last.

    Raises:
        ConfigurationError: if k is not below K.
    """
    if count >= outputs.shape[-1]:
        raise ConfigurationError(f"cached is {count}; expected fewer than the {outputs.shape[-1]} outputs there are")
    softened = outputs.to(torch.promote_types(outputs.dtype, torch.float32)) / temperature
    top = softened.topk(count, dim=-1).indices
    log_p = softened.log_softmax(-1)
    rest = log_p.scatter(-1, top, -torch.inf).logsumexp(-1, keepdim=True)
    return top.int(), torch.cat([log_p.gather(-1, top), rest], -1).clamp_(min=_LEAST)


def bucketed_divergence(
    student: Tensor, answers: Tensor, log_probs: Tensor, temperature: float, direction: Direction
) -> Tensor:
    r"""How far a student is from a teacher of whom the most probable answers are known, and the others as one.

    .. math:: \sum_{j \in \text{top}} q_j \log\frac{q_j}{p_j} + q_0 \log\frac{q_0}{p_0}, \qquad
        p_0 = 1 - \sum_{j \in \text{top}} p_j

    and with p and q exchanged in the other direction. It is never more than the divergence over all answers, and equal
    where the student shares out what is left as the teacher does.

    Source: the tail bucket of TRL's distillation. Differs: no.

    Args:
        student: f, ``[N, K]``; p = softmax(f / T).
        answers: as :func:`most_probable` gives them, ``[N, k]``.
        log_probs: log q, ``[N, k + 1]``.
        temperature: T, > 0.
        direction: ``"forward"`` is KL(q ‖ p).

    Returns:
        ``[N]``, in nats, >= 0 but for rounding; without the factor T².
    """
    softened = student.to(torch.promote_types(student.dtype, torch.float32)) / temperature
    log_q = log_probs.to(softened.dtype)
    known = softened.gather(-1, answers.long()) - softened.logsumexp(-1, keepdim=True)
    rest = (-torch.expm1(known.logsumexp(-1, keepdim=True))).clamp(min=torch.finfo(known.dtype).tiny).log()
    log_p = torch.cat([known, rest], -1).clamp(min=_LEAST)
    if direction == "reverse":
        log_p, log_q = log_q, log_p
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def packed(found: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The answers to batches one after the other, as buffers."""
    answers, log_probs = zip(*found, strict=True)
    sizes = torch.tensor([0, *map(len, answers)]).cumsum(0)
    return {
        f"{PREFIX}answers": torch.cat(answers),
        f"{PREFIX}log_probs": torch.cat(log_probs),
        f"{PREFIX}starts": sizes,
    }


def looked_up(buffers: Mapping[str, Tensor], place: int, starts: list[int], size: int) -> tuple[Tensor, Tensor]:
    """The answers to the batch in a place.

    Args:
        buffers: what :func:`packed` returned, among others.
        place: which.
        starts: where that of each batch begins, which spares a look at the device.
        size: how many positions it has now.

    Raises:
        StateError: if the batch is another one.
    """
    if place + 2 > len(starts) or starts[place + 1] - starts[place] != size:
        raise StateError(
            f"batch {place} of the memory has {size} positions, but another number when the teacher was asked: give "
            "the same memory again, or consolidate anew"
        )
    rows = slice(starts[place], starts[place + 1])
    return buffers[f"{PREFIX}answers"][rows], buffers[f"{PREFIX}log_probs"][rows]
