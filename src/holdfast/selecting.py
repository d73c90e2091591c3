r"""Learning only what a language model finds likely already: what it finds strange pulls it farthest from itself.

.. math:: \text{kept: } \exp\bigl(-\log p_0(x_{t+1} \mid x_{\le t})\bigr) \le \tau
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.checks import check_positive
from holdfast.distillation.base import without_adapters
from holdfast.errors import ConfigurationError, DataError
from holdfast.importance.untouched import untouched
from holdfast.names import unwrap
from holdfast.objectives import Batch, CausalLM, Objective, as_objective
from holdfast.objectives.distributions import IGNORED
from holdfast.objectives.heads import objective_of
from holdfast.objectives.tokens import Tokens
from holdfast.wrappers import adapters_of

__all__ = ["low_perplexity", "token_perplexity"]


def token_perplexity(logits: Tensor, targets: Tensor) -> Tensor:
    r"""How many words a model is undecided between, at each position.

    .. math:: \exp(-\log p(y)), \qquad p = \mathrm{softmax}(f)

    Args:
        logits: f, ``[..., K]``.
        targets: y, ``[...]``; -100 is none, whose perplexity is 1.

    Returns:
        ``[...]``, >= 1, at least in float32.
    """
    rows = logits.to(torch.promote_types(logits.dtype, torch.float32)).reshape(-1, logits.shape[-1])
    return F.cross_entropy(rows, targets.reshape(-1), ignore_index=IGNORED, reduction="none").exp().view(targets.shape)


@torch.no_grad()
def low_perplexity(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    threshold: float = 2.5,
    objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    base: bool = False,
) -> list[Batch]:
    r"""Batches in which the words that a model finds unlikely are no labels any more; say it before training.

    .. math:: y_t \leftarrow -100 \quad \text{where } \exp(-\log p_0(y_t \mid x_{<t})) > \tau

    Source: Wu et al. 2025, arXiv:2501.14315, selective token masking. Differs: no. Where the model finds a whole domain
    strange, hardly a word is left, and nothing is learned.

    Args:
        model: as it is before it learns the new text.
        batches: with labels; read once.
        threshold: τ, > 0.
        objective: what a batch means; by default that of a Transformers model's class, else :class:`CausalLM`.
        base: with adapters of PEFT: ask the model with its adapters off.

    Returns:
        The batches, with other labels.

    Raises:
        ConfigurationError: for a wrong argument, or an objective without words.
        DataError: if a batch has no labels, or no label is left in any.
    """
    check_positive("threshold", threshold)
    known = objective if objective is not None else objective_of(model) or CausalLM(per="token")
    asked = as_objective(known, model)
    if not isinstance(asked, Tokens):
        raise ConfigurationError(f"objective is {asked!r}; expected one of words, such as CausalLM(per='token')")
    inner = unwrap(model)
    if base and adapters_of(inner) is None:
        raise ConfigurationError("base=True asks a model with its adapters off, but this one has none of PEFT's")
    answering: AbstractContextManager[None] = without_adapters(inner) if base else nullcontext()
    found, left = [], 0
    with untouched(inner, ()), answering, torch.no_grad():
        for batch in batches:
            outputs = asked.outputs(inner, batch)
            asked.check(outputs, batch)
            labels = asked.targets(batch)
            if labels is None:
                raise DataError(f"a batch of type {type(batch).__name__} has no labels; expected some to choose from")
            targets = asked.at_positions(outputs, labels)
            dear = token_perplexity(asked.positions(outputs), targets) > threshold
            chosen = asked.as_targets(outputs, targets.masked_fill(dear, IGNORED))
            left += int((chosen != IGNORED).sum())
            found.append({**batch, "labels": chosen} if isinstance(batch, Mapping) else (batch[0], chosen))
    if left == 0:
        raise DataError(f"no word has a perplexity of at most {threshold:g}, so nothing is left to learn")
    return found
