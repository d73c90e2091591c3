r"""A language model's own texts as memory: what it says by itself is a sample of what it knows.

.. math:: x_{t+1} \sim \mathrm{softmax}\bigl(f(x_{\le t}) / T\bigr)

Every method that asks for old data takes them: importances are means over them, a teacher is asked on them.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast.checks import check_count, check_positive
from holdfast.distillation.base import without_adapters
from holdfast.errors import ConfigurationError, NumericsError
from holdfast.files import bytes_of, load_state, save_state
from holdfast.importance.untouched import untouched
from holdfast.names import canonical_buffers, canonical_parameters, unwrap
from holdfast.objectives import Batch, CausalLM, ModelLoss
from holdfast.objectives.distributions import IGNORED
from holdfast.objectives.heads import innermost, objective_of
from holdfast.objectives.plain import logits_of
from holdfast.sharding import anywhere, whole
from holdfast.wrappers import adapters_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Generations", "drawn", "generations"]


@dataclass(frozen=True, eq=False)
class Generations:
    """Texts that a language model wrote, as batches: ``consolidate(texts)``, ``LwF(model, memory=texts)``, any loop.

    Attributes:
        tokens: the words, integers ``[N, T]``; behind a text's end stands padding.
        lengths: how many of a row are text, ``[N]``.
        given: how many of these were given to begin with, ``[N]``: they are no words of the model's, and no labels.
        batch_size: rows of a batch.
        pairs: whether a batch is ``(words, labels)``, for a model that is called so, in place of a dict.
    """

    tokens: Tensor
    lengths: Tensor
    given: Tensor
    batch_size: int = 16
    pairs: bool = False

    def __len__(self) -> int:
        """How many batches there are."""
        return -(-len(self.tokens) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Batches of ``input_ids``, ``labels`` and ``attention_mask``, each as long as its longest text; in order."""
        for start in range(0, len(self.tokens), self.batch_size):
            rows = slice(start, start + self.batch_size)
            lengths, given = self.lengths[rows, None], self.given[rows, None]
            words = self.tokens[rows, : int(lengths.max())]
            place = torch.arange(words.shape[1], device=words.device)
            labels = words.masked_fill((place < given) | (place >= lengths), IGNORED)
            mask = (place < lengths).long()
            yield (words, labels) if self.pairs else {"input_ids": words, "labels": labels, "attention_mask": mask}

    def to(self, device: torch.device | str) -> Self:
        """The same, elsewhere."""
        tensors = {name: getattr(self, name).to(device) for name in ("tokens", "lengths", "given")}
        return replace(self, **tensors)

    def batched(self, size: int) -> Self:
        """The same, in batches of another size."""
        check_count("size", size)
        return replace(self, batch_size=size)


def drawn(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    r"""The answer at which the cumulated probability passes a number drawn between 0 and 1.

    .. math:: x = \min \{k : \textstyle\sum_{j \le k} p_j > u\}, \qquad p = \mathrm{softmax}(f / T)

    With u given, nothing of a draw depends on what else is in the batch.

    Args:
        logits: f, ``[B, V]``.
        uniform: u, ``[B]``, in [0, 1).
        temperature: T, > 0.

    Returns:
        Answers ``[B]``, int64.

    Raises:
        NumericsError: if an answer has no probability.

    Example:
        >>> drawn(torch.tensor([[0.0, 0.0], [0.0, -torch.inf]]), torch.tensor([0.6, 0.6]))
        tensor([1, 0])
    """
    held = logits.cpu() if logits.device.type == "mps" else logits  # which has no float64
    total = (held.double() / temperature).softmax(-1).cumsum(-1)
    if not bool(total[:, -1].isfinite().all()):
        raise NumericsError("the model's outputs are not finite, so that no word can be drawn from them")
    found = torch.searchsorted(total, uniform.to(total)[:, None] * total[:, -1:], right=True).squeeze(-1)
    return found.to(logits.device)


@torch.no_grad()
def generations(
    model: nn.Module,
    start: Any,
    *,
    samples: int,
    length: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    batch_size: int = 16,
    stop: int | None = None,
    base: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> Generations:
    r"""Texts by a causal language model itself, word by word from its own distribution.

    .. math:: x_{t+1} \sim \mathrm{softmax}\bigl(f(x_{\le t}) / T\bigr)

    The same generator's state gives the same texts on one machine, whatever the batch size: the random numbers of a
    text are its own (up to the rounding of a matrix product, which can tip a draw that lies on an edge). The model runs
    in evaluation mode and is left as it was. In a distributed run every process writes all texts, by equal generators.

    Source: common practice; own samples in place of old data: Shin et al. 2017, arXiv:1705.08690. Differs: the model is
    its own generator.

    Args:
        model: a causal language model of Transformers, with or without adapters of PEFT, or any module that gives
            logits ``[B, T, V]`` (or an output that has them) for words ``[B, T]``.
        start: where a text begins: a tokenizer (its begin-of-text token, else its end-of-text token), a word's number,
            or words to go on from, ``[P]``, ``[M, P]`` or M lists of them, which are taken in turn.
        samples: how many texts.
        length: how many words are drawn for a text at most.
        temperature: T, > 0; 1 is the model's own distribution.
        generator: on the CPU; ``None`` for PyTorch's own.
        batch_size: texts that are written at once, and rows of a batch of the result.
        stop: the word that ends a text; by default a tokenizer's end-of-text token, else none.
        base: with adapters of PEFT: ask the model with its adapters off, for what its base knew.
        cache: a folder in which the texts are kept, in a file named by a digest of the weights and of all else that
            they depend on; what is there already is read.

    Returns:
        The texts, on the device of the model's weights.

    Raises:
        ConfigurationError: for a wrong argument, a model that is no causal language model, or a text that is longer
            than the model takes.
        NumericsError: if the model's outputs are not finite.

    Example:
        >>> class Bigrams(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.table = nn.Embedding.from_pretrained(9.0 * torch.eye(3).roll(1, 1))
        ...     def forward(self, words):
        ...         return self.table(words)
        >>> texts = generations(Bigrams(), 0, samples=2, length=4, generator=torch.Generator().manual_seed(0))
        >>> texts.tokens
        tensor([[0, 1, 2, 0, 1],
                [0, 1, 2, 0, 1]])
    """
    for name, value in (("samples", samples), ("length", length), ("batch_size", batch_size)):
        if value is None:
            raise ConfigurationError(f"{name} is None; expected a whole number")
        check_count(name, value)
    check_positive("temperature", temperature)
    if generator is not None and (not isinstance(generator, torch.Generator) or generator.device.type != "cpu"):
        raise ConfigurationError(f"generator is {generator!r}; expected a torch.Generator on the CPU")
    inner = unwrap(model)
    if base and adapters_of(inner) is None:
        raise ConfigurationError("base=True asks a model with its adapters off, but this one has none of PEFT's")
    prompts = [prompt.tolist() for prompt in _prompts(start)]
    stop = getattr(start, "eos_token_id", None) if stop is None and _is_tokenizer(start) else stop
    writer = _Writer(inner, length, temperature, stop)
    writer.check(max(map(len, prompts)))
    uniform = torch.rand((samples, length), generator=generator, dtype=torch.float64)
    prompts = [prompts[i % len(prompts)] for i in range(samples)]
    answering: AbstractContextManager[None] = without_adapters(inner) if base else nullcontext()
    with untouched(inner, ()), answering, torch.no_grad():
        file = None
        if cache is not None:
            file = Path(cache) / f"generations-{writer.digest(prompts, uniform, base)}.safetensors"
        if file is None or any(anywhere([not file.is_file()], [writer.first])):
            rows = writer.write(prompts, uniform, batch_size)
            if file is not None:
                save_state(rows, file)
        else:
            rows = load_state(file)
    return Generations(**rows, batch_size=batch_size, pairs=not writer.named).to(writer.first.device)


def _is_tokenizer(start: Any) -> bool:
    return not isinstance(start, int | Tensor | Sequence)


def _prompts(start: Any) -> list[Tensor]:
    """What each text goes on from, ``[P]``."""
    if _is_tokenizer(start):
        ends = [getattr(start, name, None) for name in ("bos_token_id", "eos_token_id")]
        start = next((token for token in ends if token is not None), None)
        if start is None:
            raise ConfigurationError(
                "start has neither a begin-of-text nor an end-of-text token; expected a tokenizer that has one, the "
                "number of a word, or words to go on from"
            )
    try:
        rows = [start] if isinstance(start, int) else list(start) if isinstance(start, Sequence) else start
        nested = isinstance(rows, list) and any(isinstance(row, Sequence | Tensor) for row in rows)
        known = [torch.as_tensor(row) for row in rows] if nested else torch.as_tensor(rows)
        found = [known] if isinstance(known, Tensor) and known.dim() == 1 else list(known)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"start is no list of words: {error}") from error
    for prompt in found:
        if prompt.dim() != 1 or len(prompt) == 0 or prompt.is_floating_point() or bool((prompt < 0).any()):
            raise ConfigurationError(
                f"start holds {prompt.tolist()!r}; expected the numbers of words, at least one for each text"
            )
    if not found:
        raise ConfigurationError("start is empty; expected at least one word")
    return found


class _Writer:
    """A model that goes on with texts, all of one batch at the same length, so that nothing is ever padded in it."""

    def __init__(self, model: nn.Module, length: int, temperature: float, stop: int | None) -> None:
        self.model, self.length, self.temperature, self.stop = model, length, temperature, stop
        adapted = adapters_of(model)
        takes = inspect.signature(innermost(model).forward).parameters
        self.named = "input_ids" in takes
        # Adapters that prepend prompts put them where the cache is.
        self.caches = {"past_key_values", "use_cache"} <= takes.keys() and not (adapted and adapted[0])
        self.first = next(iter(canonical_parameters(model).values()), torch.zeros(()))

    def check(self, given: int) -> None:
        """Refuse a model that is made for something else, or for shorter texts."""
        known = innermost(self.model)
        task = objective_of(known)
        if task is not None and not isinstance(task, CausalLM | ModelLoss):
            raise ConfigurationError(
                f"{type(known).__name__} is a model for {type(task).__name__}; expected a causal language model"
            )
        most = getattr(getattr(known, "config", None), "max_position_embeddings", None)
        if isinstance(most, int) and given + self.length > most:
            raise ConfigurationError(
                f"a text of {given} given words and length={self.length} is longer than the {most} that "
                f"{type(known).__name__} takes"
            )

    def digest(self, prompts: list[list[int]], uniform: Tensor, base: bool) -> str:
        """Of the weights and of all else that the texts depend on."""
        found = hashlib.sha256(repr((prompts, self.length, self.temperature, self.stop, base)).encode())
        tensors = {**canonical_parameters(self.model), **canonical_buffers(self.model), "uniform": uniform}
        for name, tensor in sorted(tensors.items()):
            held = whole(tensor.detach()).cpu().contiguous()
            found.update(f"{name} {held.dtype} {tuple(held.shape)}".encode())
            found.update(bytes_of(held))
        return found.hexdigest()[:32]

    def write(self, prompts: list[list[int]], uniform: Tensor, batch_size: int) -> dict[str, Tensor]:
        """All texts, those of one batch with prompts of one length."""
        given = torch.tensor([len(prompt) for prompt in prompts])
        tokens = torch.full((len(prompts), int(given.max()) + self.length), self.stop or 0)
        lengths = given + self.length
        for size in sorted(set(given.tolist())):
            for rows in (given == size).nonzero().squeeze(1).split(batch_size):
                known = torch.tensor([prompts[i] for i in rows.tolist()], device=self.first.device)
                words = self._go_on(known, uniform[rows].to(known.device)).cpu()
                tokens[rows, : words.shape[1]] = words
                if self.stop is not None:
                    ends = (words[:, size:] == self.stop).long()
                    lengths[rows] = torch.where(ends.any(1), size + ends.argmax(1) + 1, lengths[rows])
        place = torch.arange(tokens.shape[1])
        return {
            "tokens": tokens.masked_fill(place >= lengths[:, None], self.stop or 0)[:, : int(lengths.max())],
            "lengths": lengths,
            "given": given,
        }

    def _go_on(self, words: Tensor, uniform: Tensor) -> Tensor:
        """Words ``[B, P]`` -> ``[B, P + length]``, or fewer where all texts have ended."""
        ended = torch.zeros(len(words), dtype=torch.bool, device=words.device)
        held: Any = None  # what the model computed of the words before
        for step in range(self.length):
            logits, held = self._asked(words, held)
            new = drawn(logits, uniform[:, step], self.temperature)
            words = torch.cat([words, new[:, None]], 1)
            if self.stop is not None:
                ended |= new == self.stop
                if bool(ended.all()):
                    break
        return words

    def _asked(self, words: Tensor, held: Any) -> tuple[Tensor, Any]:
        """The outputs at the last word ``[B, V]``, and what need not be computed again."""
        if not self.caches:
            raw = self.model(input_ids=words) if self.named else self.model(words)
        elif held is None:
            raw = self.model(input_ids=words, use_cache=True)
        else:
            raw = self.model(input_ids=words[:, -1:], past_key_values=held, use_cache=True)
        logits = logits_of(raw)
        if logits.dim() != 3 or len(logits) != len(words):
            raise ConfigurationError(
                f"the model gives outputs of shape {tuple(logits.shape)} for words {tuple(words.shape)}; expected "
                "logits [B, T, V]"
            )
        if not self.caches:
            return logits[:, -1], None
        if raw.past_key_values is None:  # switched off, or none of its own
            self.caches = False
        return logits[:, -1], raw.past_key_values
