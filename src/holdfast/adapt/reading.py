"""One's own data in parts, for a model: to train on, to choose by, to test. `bench.data.found` reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.adapt.opened import Kind
from holdfast.bench.data import found
from holdfast.bench.data.parts import Part, cut
from holdfast.errors import DataError

__all__ = ["Reader"]


@dataclass(frozen=True)
class Reader:
    """Reads data for a model.

    Attributes:
        kind: what the model reads.
        text: the column of texts, where its name does not say so.
        label: the column of labels, likewise.
        skip_broken: leave out what cannot be read, and say how many.
        seed: of the parts that have to be cut.
        say: is told of what was found.
    """

    kind: Kind
    text: str | None
    label: str | None
    skip_broken: bool
    seed: int
    say: Callable[[str], None] = field(default=lambda sentence: None)

    def parts(self, place: str) -> tuple[Part, Part, Part]:
        """To train on, to choose by, to test.

        What the data have no part for is cut from the training part, class by class.

        Args:
            place: as :func:`holdfast.bench.data.found.read` takes it.

        Raises:
            DataError: if there are none, or some cannot be read.
        """
        there = self.found(place)
        train = there.get("train") or there.get("all")
        if train is None:
            raise DataError(f"{place} has a part for {', '.join(there)}, but none to train on; expected train")
        held = []
        for part in ("test", "validation"):
            mine = there.get(part)
            if mine is None:
                train, mine = cut(train, found.HELD, seed=self.seed, what=place)
            held.append(mine)
        test, validation = held
        self.say(f"{place}: {len(train):,} to train on, {len(validation):,} to choose by, {len(test):,} to test")
        return train, validation, test

    def found(self, place: str) -> dict[str, Part]:
        """What lies at a place: part -> samples; ``all`` where there are no parts.

        Raises:
            DataError: if nothing that could be read does.
        """
        there = found.read(place, text=self.text, label=self.label, kind=self.kind, skip_broken=self.skip_broken)
        for line in there.left_out:
            self.say(f"{place}: left out: {line}")
        return there.parts()
