"""What the three importances share: which parameters, means instead of sums, finite or an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.distributed
from torch import Tensor, nn

from holdfast.checks import unknown_name
from holdfast.errors import ConfigurationError, DataError, NumericsError
from holdfast.importance.engine import Counted, Root, Terms
from holdfast.importance.statistic import accumulation_dtype
from holdfast.importance.untouched import untouched
from holdfast.names import canonical_parameters, unwrap
from holdfast.objectives import Batch
from holdfast.objectives.batches import leading_size
from holdfast.processes import in_step, several
from holdfast.sharding import anywhere, check_flat_shards, check_gathers, is_sharded, local

__all__ = ["check_arguments", "choice", "means", "per_batch_sum", "wanted_parameters"]


def choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not one of those allowed."""
    if value not in allowed:
        raise ConfigurationError(f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}")


# float16 reaches no further down than 6e-8: most importances would be rounded to 0.
_DTYPES = (torch.bfloat16, torch.float32, torch.float64)


def check_arguments(
    model: nn.Module,
    batches: Iterable[Batch],
    max_bytes: int | None,
    dtype: torch.dtype | None,
    generator: torch.Generator | None = None,
) -> None:
    """Refuse what all importances share and cannot use.

    Raises:
        ConfigurationError: naming the argument, its value and what was expected.
        DataError: if ``batches`` cannot be gone through.
    """
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"model is {model!r}; expected a torch.nn.Module")
    if not isinstance(batches, Iterable):
        raise DataError(f"batches is {batches!r}; expected an iterable of batches")
    if max_bytes is not None and (isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1):
        raise ConfigurationError(f"max_bytes is {max_bytes!r}; expected a whole number of bytes, >= 1, or None")
    if dtype is not None and dtype not in _DTYPES:
        raise ConfigurationError(
            f"dtype is {dtype!r}; expected torch.bfloat16, torch.float32, torch.float64 or None (float16 would round "
            "small importances to 0)"
        )
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ConfigurationError(f"generator is {generator!r}; expected a torch.Generator or None")


def wanted_parameters(model: nn.Module, names: Iterable[str] | None) -> dict[str, nn.Parameter]:
    """The parameters to look at: those named, or all trainable ones.

    Raises:
        ConfigurationError: if a name is not a parameter's, or there is nothing to look at.
    """
    everything = canonical_parameters(model)
    check_flat_shards("an importance", model.modules())
    check_gathers(everything, model)
    if names is None:
        found = {name: p for name, p in everything.items() if p.requires_grad}
        if not found:
            raise ConfigurationError("the model has no trainable parameter")
        return found
    found = {}
    for name in names:
        if name not in everything:
            raise unknown_name("parameter", name, everything)
        if not everything[name].is_floating_point():
            raise ConfigurationError(f"parameter {name!r} is of {everything[name].dtype}; it can have no gradient")
        found[name] = everything[name]
    return found


def means(sums: Mapping[str, Tensor], number: int, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Sums divided, in place, by how many there were; over all processes of a distributed run, each with its data.

    Raises:
        NumericsError: naming a parameter whose importance is not finite.
    """
    number = _over_all_processes(sums, number)
    found = {name: total.div_(number) for name, total in sums.items()}
    values = list(found.values())
    bad = anywhere([not _finite(local(value)) for value in values], values)
    broken = [name for name, wrong in zip(found, bad, strict=True) if wrong]
    if broken:
        others = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise NumericsError(f"the importance of {broken[0]!r}{others} is not finite: gradients overflow or are NaN")
    return found if dtype is None else {name: value.to(dtype) for name, value in found.items()}


def _finite(value: Tensor) -> bool:
    # The sum is one cheap pass. Where it overflows, look again.
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def _over_all_processes(sums: Mapping[str, Tensor], number: int) -> int:
    """Add up, in place, what the processes have summed; returns how many there were in all."""
    if not several() or not sums:
        return number
    counted = torch.tensor(number, device=next(iter(sums.values())).device)
    # What is sharded was added up when it was sharded.
    for tensor in (*(t for t in sums.values() if not is_sharded(t)), counted):
        torch.distributed.all_reduce(tensor)
    return int(counted)


def per_batch_sum(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    root: Root,
    terms: Terms,
    counted: Counted,
    value: Callable[[Tensor, int, Tensor], Tensor],
    parameters: Mapping[str, nn.Parameter],
) -> tuple[dict[str, Tensor], int]:
    """Sum over batches a function of the gradient of each batch's summed terms: the plain counterpart of the engine.

    Args:
        model: the model; it is left as it was.
        batches: the data, each batch once.
        root: the forward pass.
        terms: what is differentiated, from the root.
        counted: how many samples a batch holds.
        value: ``(gradient [*p], samples in the batch, weight [*p]) -> [*p]``, in at least float32.
        parameters: canonical name -> parameter.

    Returns:
        canonical name -> sum ``[*p]``, and the number of batches.

    Raises:
        DataError: if there is no sample.
    """
    sharded = next((name for name, p in parameters.items() if is_sharded(p)), None)
    if sharded is not None:
        raise ConfigurationError(
            f"parameter {sharded!r} is sharded, and gradients of whole batches are not taken of sharded parameters; "
            "expected an importance per sample (fisher='auto', reduction='sample'), or a model before fully_shard"
        )
    model = unwrap(model)
    sums = {name: torch.zeros_like(p, dtype=accumulation_dtype(p)).detach() for name, p in parameters.items()}
    number = 0
    with in_step(parameters), untouched(model, parameters.values()):
        for batch in batches:
            if not leading_size(batch):
                continue
            outputs = root(model, batch)
            size = counted(batch, outputs)
            number += bool(size)
            if not size or not outputs.requires_grad:
                continue
            total = torch.stack([term.sum() for term in terms(outputs, batch)]).sum()
            gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
            for (name, p), g in zip(parameters.items(), gradients, strict=True):
                if g is not None:
                    dtype = sums[name].dtype
                    sums[name].add_(value(g.to(dtype), size, p.detach().to(dtype)))
        if not number:
            raise DataError("the batches hold no sample; expected at least one")
    return sums, number
