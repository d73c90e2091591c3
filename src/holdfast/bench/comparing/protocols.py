"""How a stream is trained unless the user says otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace

from holdfast.bench.data.language import HOLDS
from holdfast.bench.data.pretrained import is_pretrained
from holdfast.bench.records.record import BetweenTasks, Memory, Outputs
from holdfast.bench.records.steepness import Diagnose

__all__ = ["TEXT_MODEL", "Protocol", "default_threads", "protocol"]


@dataclass(frozen=True)
class Protocol:
    """How a stream is trained unless the user says otherwise; every method of a comparison is trained alike."""

    model: str
    optimizer: str
    lr: float
    epochs: int
    batch_size: int
    optimizer_between_tasks: BetweenTasks = "kept"
    validation_fraction: float = 0.1
    backbone: str = "random-patches"  # of closed-form heads
    outputs: Outputs = "fixed"
    diagnose: Diagnose | None = None
    memory: Memory | None = None  # of texts; None: each method's own
    low_perplexity: float | None = None  # of the words that are learned, to the model before; None: all words
    pretrain_epochs: int | None = None  # of the first task, before any method; None: it is learned like the others
    prequential: int | None = None  # window of the sliding accuracy of first answers; None: not asked for


# Small enough that a demo takes seconds, and a step size at which plain fine-tuning visibly forgets.
_DIGITS = Protocol("mlp", "adam", 1e-2, 10, 32)
_GREY = Protocol("mlp", "adam", 1e-3, 2, 128)  # 28x28 grey images: van de Ven 2025 and others train Split-MNIST so
_OWN = Protocol("mlp", "adam", 1e-3, 10, 32)  # of one's own tensors, which may be few
_COLOUR = Protocol("resnet-small", "adam", 1e-3, 5, 128)
_OWN_COLOUR = replace(_COLOUR, epochs=10, batch_size=32)
TEXT_MODEL = {"width": 128, "heads": 4}
"""Of a transformer for one's own texts, which may be few; the published protocol's is five times as wide."""

_LANGUAGE = Protocol("gpt-tiny", "adam", 1e-3, 1, 32)
_PRETRAINED = replace(_LANGUAGE, optimizer="adamw", lr=5e-5)  # as usual: more would soon undo what it brings
_ADAPTED = replace(_PRETRAINED, lr=2e-4)
_BY_HOLDS = {
    HOLDS: _LANGUAGE,
    "grey": _OWN,
    "colour": _OWN_COLOUR,
    "texts": replace(_OWN, model="transformer", backbone="first-task"),
    "features": replace(_OWN, backbone="pixels"),
}
"""What one's own data hold -> how they are trained; a head stands on features as they are."""


_PROTOCOLS = {
    "cifar10": _COLOUR,
    "digits": _DIGITS,
    "mnist": _GREY,
    "fashion_mnist": _GREY,
    "imdb": _GREY,
    "financial_phrasebank": _GREY,
}


def protocol(stream: str, holds: str = "", model: str | None = None, *, adapters: bool = False) -> Protocol:
    """The default protocol of a stream, by the data sets in its name; of one's own data by what they hold.

    Args:
        stream: its name.
        holds: as in `Stream.holds`; empty: a named stream, or one of one's own tensors.
        model: what is trained, where that is said: a pretrained model is trained otherwise.
        adapters: whether it is adapters that are trained.

    Example:
        >>> protocol("split-mnist").model, protocol("reviews", "texts").model
        ('mlp', 'transformer')
    """
    if model is not None and is_pretrained(model):
        return replace(_ADAPTED if adapters else _PRETRAINED, model=model)
    if holds:
        return _BY_HOLDS[holds]
    if stream.startswith("lm-"):
        return _LANGUAGE
    for dataset in stream.split("-")[1:]:
        if dataset in _PROTOCOLS:
            return _PROTOCOLS[dataset]
    return _OWN


def default_threads(stream: str, holds: str = "", model: str | None = None) -> int | None:
    """CPU threads to use where the user does not say; ``None`` for PyTorch's own choice.

    One for small networks: more gain little there, cost much on a busy machine, and could change the last digits.
    """
    large = protocol(stream, holds).model == "resnet-small" or (model is not None and is_pretrained(model))
    return None if large else 1
