"""How a stream is trained unless the user says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.bench.records.record import BetweenTasks, Outputs

__all__ = ["Protocol", "default_threads", "protocol"]


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
    prequential: int | None = None  # window of the sliding accuracy of first answers; None: not asked for


# Small enough that a demo takes seconds, and a step size at which plain fine-tuning visibly forgets.
_DIGITS = Protocol("mlp", "adam", 1e-2, 10, 32)
_GREY = Protocol("mlp", "adam", 1e-3, 2, 128)  # 28x28 grey images: van de Ven 2025 and others train Split-MNIST so
_OWN = Protocol("mlp", "adam", 1e-3, 10, 32)  # of one's own tensors, which may be few
_COLOUR = Protocol("resnet-small", "adam", 1e-3, 5, 128)


_PROTOCOLS = {
    "cifar10": _COLOUR,
    "digits": _DIGITS,
    "mnist": _GREY,
    "fashion_mnist": _GREY,
    "imdb": _GREY,
    "financial_phrasebank": _GREY,
}


def protocol(stream: str) -> Protocol:
    """The default protocol of a stream, by the data sets in its name; of a stream of one's own by none.

    Example:
        >>> protocol("split-mnist").model
        'mlp'
    """
    for dataset in stream.split("-")[1:]:
        if dataset in _PROTOCOLS:
            return _PROTOCOLS[dataset]
    return _OWN


def default_threads(stream: str) -> int | None:
    """CPU threads to use where the user does not say; ``None`` for PyTorch's own choice.

    One for small networks: more gain little there, cost much on a busy machine, and could change the last digits.
    """
    return None if protocol(stream) is _COLOUR else 1
