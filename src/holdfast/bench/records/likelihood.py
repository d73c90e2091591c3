r"""How well a language model foretells texts: the loss of each word, in records of streams of texts to be continued."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from holdfast import metrics

__all__ = ["MEASURES", "Likelihood", "measures"]

MEASURES = ("perplexity", "old_perplexity", "new_perplexity", "nats_forgotten", "divergence")
"""What `measures` finds."""

Nats = Annotated[float, Field(ge=0.0)]


class Likelihood(BaseModel):
    r"""What a run's record says of words.

    ``matrix[i][j]`` is the mean loss :math:`-\log p` of a word of the test part of task ``j`` after learning task
    ``i``, in nats; ``initial`` is the untrained model's row, ``validation`` has the shape of ``matrix`` and is empty
    where no validation part was split off. ``divergence[i]`` is :math:`\mathrm{KL}(p^* \Vert p)` of the model before
    and after task ``i``, in nats a word of that task's own texts; ``None`` for the first, and for a run that learned
    all tasks at once, unless the model was pretrained. It needs no old data, and foretells forgetting (Shenfeld et al.
    2025, arXiv:2509.04259).
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    initial: list[Nats]
    matrix: list[list[Nats]]
    validation: list[list[Nats]] = []
    divergence: list[float | None] = []

    @property
    def score(self) -> float | None:
        r"""The likelihood :math:`e^{-\ell}` of a validation word at the end, :math:`\ell` the mean over tasks."""
        return math.exp(-_mean(self.validation[-1])) if self.validation else None


def measures(found: Likelihood | None) -> dict[str, float | None]:
    r"""The numbers that tables show, ``None`` for what is not there.

    ``perplexity`` is :math:`e^{\ell}` at the end, :math:`\ell` the mean over tasks; ``old_perplexity`` and
    ``new_perplexity`` those of all tasks but the last, and of the last; ``nats_forgotten`` is the mean over earlier
    tasks of how much worse a word is foretold at the end than at its best before; ``divergence`` the last task's.
    """
    numbers: dict[str, float | None] = dict.fromkeys(MEASURES)
    if found is None or not found.matrix:
        return numbers
    last = found.matrix[-1]
    numbers["perplexity"] = math.exp(_mean(last))
    if len(last) > 1:
        numbers |= {"old_perplexity": math.exp(_mean(last[:-1])), "new_perplexity": math.exp(last[-1])}
    numbers["nats_forgotten"] = metrics.forgetting([[-nats for nats in row] for row in found.matrix])
    if found.divergence:
        numbers["divergence"] = found.divergence[-1]
    return numbers


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known)
