"""What a method remembers, given to another model of the same weights: renamed, dropped, or met under adapters."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.attaching import Attached
from holdfast.errors import ConfigurationError, StateError
from holdfast.names import canonical_parameters
from holdfast.wrappers import adapters_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Rebinding", "adapters_in", "bare_name", "matched"]

_PREFIX = "base_model.model."  # of a PeftModel, before its base's own names
_INNER = ("base_layer", "original_module")  # where PEFT keeps what it wraps
_COPIES = "modules_to_save"


def bare_name(name: str) -> str:
    """The name that a parameter has in the model that PEFT was given.

    Args:
        name: in a model with adapters.

    Example:
        >>> bare_name("base_model.model.layers.0.q_proj.base_layer.weight")
        'layers.0.q_proj.weight'
        >>> bare_name("base_model.model.classifier.modules_to_save.default.weight")
        'classifier.weight'
    """
    parts = name.removeprefix(_PREFIX).split(".")
    if _COPIES in parts:
        place = parts.index(_COPIES)
        parts = [*parts[:place], *parts[place + 2 :]]
    return ".".join(part for part in parts if part not in _INNER)


def adapters_in(names: Iterable[str], model: nn.Module) -> dict[str, tuple[str, str]]:
    """Whose adapter parameters are, and where: one place is that of all adapters' parameters like it.

    Args:
        names: of parameters.
        model: that has them.

    Returns:
        name -> (the adapter, the name with a star in the adapter's place), of those that are an adapter's.
    """
    found = adapters_of(model)
    words = {word for layer in (found[1] if found else ()) for word in layer.adapter_layer_names}
    inside = {}
    for name in names:
        parts = name.split(".")
        at = next((i + 1 for i, part in enumerate(parts[:-1]) if part in words), None)
        if at is not None:
            inside[name] = parts[at], ".".join([*parts[:at], "*", *parts[at + 1 :]])
    return inside


def matched(names: Iterable[str], model: nn.Module) -> dict[str, str]:
    """What remembered names are called in a model: with adapters or without, whichever they came from.

    Args:
        names: as they are remembered.
        model: the model. Of a layer that it trains a copy of (``modules_to_save``), the active copy is meant.

    Returns:
        remembered name -> name in the model.

    Raises:
        StateError: naming one that the model lacks, and the nearest that it has.
    """
    live = canonical_parameters(model)
    adapted = adapters_of(model) is not None
    by_bare: dict[str, str] = {}
    for name, parameter in live.items():
        bare = bare_name(name) if adapted else name
        if bare not in by_bare or parameter.requires_grad:
            by_bare[bare] = name
    found = {}
    for name in names:
        here = name if name in live and name not in by_bare else by_bare.get(name) or by_bare.get(bare_name(name))
        if here is None:
            near = difflib.get_close_matches(name, list(by_bare), n=1, cutoff=0.0)
            raise StateError(
                f"the model has no parameter {name!r}, which is remembered; the nearest is "
                f"{near[0] if near else None!r}: rename({{old: new}}) or drop(names) what is remembered first"
            )
        found[name] = here
    return found


class Rebinding(Attached):
    """The part of a :class:`~holdfast.Method` that changes what it remembers things of."""

    state: dict[str, dict[str, Tensor]]

    def rename(self, names: Mapping[str, str]) -> Self:
        """Have what is remembered go by other names: the parameters were renamed since.

        Args:
            names: remembered name -> new name; the others stay.

        Returns:
            The method itself.

        Raises:
            ConfigurationError: if one is not remembered, or two would have one name.
        """
        self._check_known(names)
        new = [names.get(name, name) for name in self.state]
        if len(set(new)) < len(new):
            twice = next(name for name in new if new.count(name) > 1)
            raise ConfigurationError(f"rename would give two things the name {twice!r}; expected names of their own")
        self._move({name: names.get(name, name) for name in self.state})
        return self

    def drop(self, names: str | Iterable[str]) -> Self:
        """Forget what is remembered of some parameters: they are free from now on.

        Args:
            names: one or more remembered names.

        Returns:
            The method itself.

        Raises:
            ConfigurationError: if one is not remembered.
        """
        gone = [names] if isinstance(names, str) else list(names)
        self._check_known(gone)
        self._move({name: name for name in self.state if name not in gone})
        return self

    def rebind(self, model: nn.Module, *, on: Literal["weights", "effective"] = "weights") -> Self:
        r"""Protect the same weights in another model: the same network with adapters (PEFT), without, or a new copy.

        It lets go of the optimizers: attach to those of the new model.

        Args:
            model: it has a parameter for each that is remembered, by the same name but for what PEFT adds to names.
            on: ``"weights"``: what is remembered acts on parameters that are trained. ``"effective"``: it acts on
                :math:`W = W_0 + \sum s B A` of each layer with adapters, and the gradient is pulled back to A and B,
                so that what leaves the function as it is costs nothing. For penalties on weights.

        Returns:
            The method itself.

        Raises:
            ConfigurationError: if it cannot act on effective weights, or there are none; or for a selection of rows.
            StateError: naming a parameter that the model lacks, or of another shape.
        """
        if on not in ("weights", "effective"):
            raise ConfigurationError(f"on is {on!r}; expected 'weights' or 'effective'")
        if not isinstance(model, nn.Module):
            raise ConfigurationError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
        if self._rows:
            raise ConfigurationError(
                f"rebind of a selection of rows ({next(iter(self._rows))}); expected whole parameters"
            )
        names, live = matched(self.state, model), canonical_parameters(model)
        for name, here in names.items():
            for kind, tensor in self.state[name].items():
                grown = tensor.dim() == live[here].dim() and all(
                    a <= b for a, b in zip(tensor.shape, live[here].shape, strict=True)
                )
                if not grown:
                    raise StateError(
                        f"{name!r} is remembered with {kind} {tuple(tensor.shape)}, but the model has "
                        f"{tuple(live[here].shape)}"
                    )
        if on == "effective" and adapters_of(model) is None:
            raise ConfigurationError("on='effective' is for a model with adapters of PEFT, and this one has none")
        self._take_effect(model, effective=on == "effective")
        self.detach()
        self.model = model
        self._select = None
        self._move(names)
        self._resolve(())
        return self

    def _take_effect(self, model: nn.Module, *, effective: bool) -> None:
        """Have what is remembered act on effective weights, or no longer.

        Raises:
            ConfigurationError: by default, for it cannot.
        """
        if effective:
            raise ConfigurationError(
                f"{type(self).__name__} has no penalty on weights that could act on those that adapters give; expected "
                "on='weights'"
            )

    def _as_computed(self) -> AbstractContextManager[None]:
        """The model with the weights that it computes with as its parameters, while they are remembered."""
        return nullcontext()

    def _resolve(self, optimizers: Sequence[Optimizer]) -> None:
        if self.state and adapters_of(self.model) is not None:
            self._check_bound()
            self._mind_adapters()
        super()._resolve(optimizers)

    def _check_bound(self) -> None:
        """Refuse a model into which adapters were put after it was remembered.

        Raises:
            StateError: naming a parameter whose name they changed.
        """
        live = canonical_parameters(self.model)
        renamed = {bare_name(name) for name in live} - live.keys()
        lost = next((name for name in self.state if name in renamed), None)
        if lost is not None:
            raise StateError(
                f"{lost!r} is remembered, and adapters were put into the model since: rebind(model, on='effective') to "
                "protect what layers compute with them (or on='weights'), then attach"
            )

    def _mind_adapters(self) -> None:
        """Warn of an adapter that is trained while another one is what is remembered."""
        known = {adapter for adapter, _ in adapters_in(self.state, self.model).values()}
        trained = [name for name, p in canonical_parameters(self.model).items() if p.requires_grad]
        new = {name: adapter for name, (adapter, _) in adapters_in(trained, self.model).items() if adapter not in known}
        if known and new:
            name, adapter = next(iter(new.items()))
            self._warn(
                f"{type(self).__name__} remembers the adapter {min(known)!r}, and nothing of {adapter!r}, which is "
                f"trained now (such as {name!r}) and is not protected before the next consolidate: to protect what "
                "layers compute whatever their adapter, remember the base and rebind(model, on='effective')"
            )

    def _check_known(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.state:
                near = difflib.get_close_matches(name, list(self.state), n=3, cutoff=0.4) or list(self.state)[:5]
                raise ConfigurationError(f"nothing is remembered of {name!r}; there are {', '.join(near) or 'none'}")

    def _saved_meta(self) -> dict[str, Any]:
        starts = {name: rows[0] for name, rows in self._rows.items() if rows[0] > 0}
        return {**self.meta, "rows": starts} if starts else self.meta

    def _move(self, names: Mapping[str, str]) -> None:
        """Keep what is remembered of these names, under their new ones."""
        known = list(self.state)
        self.state = {new: self.state[old] for old, new in names.items()}
        moved = {}
        for key, buffer in self.buffers.items():
            of = next((name for name in known if key.endswith(f".{name}")), None)
            if of is None:
                moved[key] = buffer
            elif of in names:
                moved[key.removesuffix(of) + names[of]] = buffer
        self.buffers = moved
        self._loaded()
