"""From a model, new data and what was asked, to a folder with the model that was chosen and an audit of it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from holdfast import registry
from holdfast.adapt import applying, proposing, reading
from holdfast.adapt.applying import Candidate
from holdfast.adapt.asked import Asked, Outcome
from holdfast.adapt.candidates import Data, Workshop
from holdfast.adapt.opened import Kind, Opened
from holdfast.adapt.opening import open_model
from holdfast.adapt.points import Point, choose, front, shown
from holdfast.adapt.samples import Part
from holdfast.adapt.training import Settings
from holdfast.adapt.writing import write
from holdfast.auditing import Audit, audit
from holdfast.bench.data.parts import counted, fingerprint
from holdfast.errors import ConfigurationError, DependencyError, Option, StateError
from holdfast.files import write_file
from holdfast.objectives import CausalLM, Classification, Objective

__all__ = ["Watcher", "adapt", "check_folder"]

_WORK = "checkpoints"  # while it is under way
_WRITING = ".writing-"
_ASKED = "asked.json"  # there: what was asked, for nothing else may go on in that folder


@dataclass(frozen=True)
class Watcher:
    """Who is told.

    Attributes:
        say: of a sentence.
        step: of every step: the candidate, how many are done, of how many, and the loss.
        stop: whether to stop after the step under way.
        begun: called once everything has been checked, before anything is trained.
    """

    say: Callable[[str], None] = lambda sentence: None
    step: Callable[[str, int, int, float], None] = lambda name, done, steps, loss: None
    stop: Callable[[], bool] = lambda: False
    begun: Callable[[], object] = lambda: None


def adapt(asked: Asked, watcher: Watcher | None = None) -> Outcome:
    """Teach a model new data without losing the old: train candidates, choose one, audit it, write it.

    Everything is chosen on validation parts; the test parts are read once, by what was chosen.

    Args:
        asked: what.
        watcher: who is told.

    Returns:
        What came of it.

    Raises:
        ConfigurationError: if something that was asked for cannot be.
        DataError: if data are not what they should be.
        KeyboardInterrupt: if it was stopped; called again, it goes on.
    """
    watcher = watcher or Watcher()
    accelerator = _accelerator(asked.train)
    if not accelerator.is_main_process:
        watcher = Watcher(stop=watcher.stop)
    folder = Path(asked.out)
    opened = open_model(asked.model, classes=asked.classes, length=asked.length)
    request, asked = asked, replace(asked, methods=asked.methods or _simplest(asked, opened))
    objective: Objective = CausalLM(per="token") if opened.kind == "language" else Classification()
    _check(asked, opened, objective)
    check_folder(request)
    data, further = _data(asked, opened, watcher)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _begin(request)
        watcher.begun()
    shop = Workshop(
        open=lambda: open_model(asked.model, classes=asked.classes, length=asked.length),
        further=further, data=data, objective=objective, settings=asked.train, accelerator=accelerator,
        folder=folder / _WORK, stop=watcher.stop, tell=watcher.step, lora=asked.lora,
    )  # fmt: skip
    before = shop.measure(shop.before() if not further else shop.start()).kept
    points = [
        point for method in _trained(asked) for point in _tried(shop, asked, method, before, watcher, opened.kind)
    ]
    base = _base(points)
    curve = [] if base is None else shop.curve(base)
    competing = [point for point in points if point.method in asked.methods]
    if applying.WISE_FT in asked.methods:  # but for its beginning, which has learned nothing
        competing += [point for point in curve if point.weight > 0]
    chosen, holds = choose(competing, before, asked.hold)
    after = shop.finished(chosen, base)
    watcher.say(f"chosen on validation data: {chosen.name}")
    if before is None and len(competing) > 1:
        watcher.say("without old data nobody sees what each lost, so the one that learned most was chosen")
    found = _audited(asked, shop, after, chosen)
    outcome = Outcome(
        folder, chosen, holds, tuple(points), tuple(curve), tuple(front(competing)), found, accelerator.is_main_process
    )
    if accelerator.is_main_process:
        _write(asked, outcome, after, shop, before)
    accelerator.wait_for_everyone()
    return outcome


def _simplest(asked: Asked, opened: Opened) -> tuple[str, ...]:
    """A control that trains, if one can be used: what every other method would have to beat."""
    names = applying.offered(opened, has_old=asked.keep is not None, adapters=asked.lora is not None)
    entries = [registry.lookup(name) for name in names if name != applying.WISE_FT]
    return tuple([entry.name for entry in entries if entry.control and entry.kind == "method"][:1]) or (
        proposing.PLAIN,
    )


def _accelerator(train: Settings) -> Any:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise DependencyError("holdfast adapt needs: pip install 'holdfast[adapt]'") from error
    # Told that there is no other device, it sees several processes on a CPU, too.
    return Accelerator(mixed_precision=train.precision, cpu=not torch.accelerator.is_available())


def _data(asked: Asked, opened: Opened, watcher: Watcher) -> tuple[Data, list[str]]:
    """New and old data in their parts, and the classes of the new ones that the model lacks."""
    reader = reading.Reader(opened.kind, asked.text, asked.label, asked.skip_broken, asked.train.seed, watcher.say)
    read = {place: reader.parts(place) for place in (asked.data, asked.keep) if place is not None}
    trained_on = tuple(fingerprint(parts[0]) for parts in read.values())
    new = _fitted(opened, read[asked.data], asked.data, watcher)
    old = None if asked.keep is None else _fitted(opened, read[asked.keep], asked.keep, watcher)
    known = set(opened.classes)
    further = sorted({label for part in new for label in part.labels} - known) if opened.kind != "language" else []
    if further and not opened.named and not asked.classes:
        raise ConfigurationError(
            f"the new data have classes {', '.join(further[:8])}, but the outputs of {asked.model} have no names, so "
            "that nobody can say whether they are among them: say the names in order with ", Option("classes"),
        )  # fmt: skip
    numbers = [label for label in further if label.isdecimal()]
    if numbers and not any(name.isdecimal() for name in opened.classes):
        raise ConfigurationError(
            f"the new data have classes {', '.join(numbers[:8])}, but the outputs of {asked.model} are called "
            f"{', '.join(opened.classes[:8])}, so that nobody can say whether these are among them: write names in "
            "place of numbers, or name the outputs by their numbers with ", Option("classes"),
        )  # fmt: skip
    if further:
        watcher.say(f"{counted(len(further), 'new class')}: {', '.join(further[:8])}{' …' if len(further) > 8 else ''}")
    data = Data(*new, trained_on=trained_on)
    return data if old is None else replace(data, old=old[0], old_validation=old[1], old_test=old[2]), further


def _fitted(opened: Opened, parts: tuple[Part, Part, Part], place: str, watcher: Watcher) -> tuple[Part, Part, Part]:
    """The parts as long as the model reads them."""
    train, validation, test = (opened.fitted(part) for part in parts)
    if train[1]:
        watcher.say(f"{place}: {train[1]}")
    return train[0], validation[0], test[0]


def _check(asked: Asked, opened: Opened, objective: Objective) -> None:
    """Refuse, before anything is trained, what cannot be.

    Raises:
        ConfigurationError: naming it, and what could be.
    """
    if asked.hold is not None and asked.keep is None:
        raise ConfigurationError(
            Option("hold"), f" is {asked.hold:g}, but there are no old data to see what is lost: give some with ",
            Option("keep"),
        )  # fmt: skip
    can = applying.offered(opened, has_old=asked.keep is not None, adapters=asked.lora is not None)
    for method in asked.methods:
        why = applying.refusal(method, opened, has_old=asked.keep is not None, adapters=asked.lora is not None)
        if why is not None:
            raise ConfigurationError(Option("methods"), f" has {method}, which {why}; there are {', '.join(can)}")
    for method in asked.settings:
        if method not in asked.methods:
            raise ConfigurationError(
                Option("set"), f" is for {method}; the methods asked for are {', '.join(asked.methods)}"
            )
    for method in asked.methods:
        applying.built(Candidate(method, asked.settings.get(method, {})), opened, objective)


def check_folder(asked: Asked) -> None:
    """Refuse a folder that holds anything but this very adaptation under way.

    Raises:
        ConfigurationError: if it does.
    """
    folder = Path(asked.out)
    known = folder / _WORK / _ASKED
    if known.is_file():
        if known.read_text(encoding="utf-8") != _told(asked):
            raise ConfigurationError(
                Option("out"), f" is {folder}, where another adaptation is under way: expected another folder, or "
                f"holdfast resume {folder}",
            )  # fmt: skip
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(Option("out"), f" is {folder}, which is not empty; expected a new folder")


def _begin(asked: Asked) -> None:
    """Make the folder, and note what was asked.

    Raises:
        StateError: if it cannot be written.
    """
    write_file(Path(asked.out) / _WORK / _ASKED, lambda file: file.write(_told(asked).encode()), what="request")


def _told(asked: Asked) -> str:
    return json.dumps({**asdict(asked), "command": "", "out": ""}, indent=1, sort_keys=True) + "\n"


def _trained(asked: Asked) -> list[str]:
    """The methods of which candidates are made: a line begins with plain fine-tuning."""
    names = [name for name in asked.methods if name != applying.WISE_FT]
    plain = proposing.PLAIN
    return names if applying.WISE_FT not in asked.methods or plain in names else [plain, *names]


def _tried(
    shop: Workshop, asked: Asked, method: str, before: float | None, watcher: Watcher, kind: Kind
) -> list[Point]:
    found: list[Point] = []
    for number in range(asked.trials):
        settings = proposing.settings(method, found, number, asked.train.seed, before, asked.settings.get(method, {}))
        if settings is None:
            break
        point = shop.point(Candidate(method, settings))
        old, new = (shown(value, kind) for value in (point.kept, point.learned))
        what = "perplexity of " if kind == "language" else ""
        watcher.say(f"{point.name}: {what}{f'old {old}, ' if old else ''}new {new}")
        found.append(point)
    return found


def _base(points: Sequence[Point]) -> Candidate | None:
    """The end of the line from before: plain fine-tuning if it was trained, else what learned most by training."""
    plain = [point for point in points if point.method == proposing.PLAIN]
    trained = plain or [point for point in points if registry.lookup(point.method).kind != "head"]
    if not trained:
        return None
    best = max(trained, key=lambda point: point.learned)
    return Candidate(best.method, best.settings)


def _audited(asked: Asked, shop: Workshop, after: Opened, chosen: Point) -> Audit:
    """Before and after on the test parts, which nothing read before."""
    parts = [("old data", shop.data.old_test), ("new data", shop.data.new_test)]
    tested: dict[str, Part] = {name: part for name, part in parts if part is not None}
    return audit(
        shop.given().model,
        after.model,
        {name: shop.batches(after, part, name) for name, part in tested.items()},
        objective=shop.objective,
        names={name: part.names for name, part in tested.items()},
        classes=list(after.classes) or None,
        called=(Path(asked.model).name or asked.model, chosen.name),
    )


def _write(asked: Asked, outcome: Outcome, after: Opened, shop: Workshop, before: float | None) -> None:
    """The folder as it shall be: first beside it, then in its place, so that nothing is ever half written."""
    folder = outcome.folder
    for left in folder.glob(f"{_WRITING}*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_WRITING) as temporary:
        place = Path(temporary)
        write(place, asked, outcome, after, before, shop.data.trained_on)
        _check_written(after, place, shop, outcome)
        for path in sorted(place.iterdir()):
            os.replace(path, folder / path.name)
    shutil.rmtree(folder / _WORK, ignore_errors=True)


def _check_written(after: Opened, place: Path, shop: Workshop, outcome: Outcome) -> None:
    """Read the model again: it must answer as the one that was audited.

    Raises:
        StateError: if it does not.
    """
    again = after.reopened(place)
    again.model.to(shop.accelerator.device).eval()
    batch = next(iter(shop.batches(after, shop.data.new_test, "the new data")))
    with torch.no_grad():
        wanted = shop.objective.outputs(after.model.eval(), batch)
        found = shop.objective.outputs(again.model, batch)
    if not torch.equal(wanted, found):
        raise StateError(
            f"the model that was written to {outcome.folder} answers otherwise than the one that was audited: largest "
            f"difference {float((wanted - found).abs().max()):.3g}"
        )
