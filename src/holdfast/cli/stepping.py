"""How an adaptation is getting on: a bar with the time left on a terminal, a line per candidate everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from holdfast.adapt.running import Watcher

__all__ = ["watching"]


@contextmanager
def watching(console: Console) -> Iterator[Callable[[Callable[[], bool], Callable[[], object]], Watcher]]:
    """What tells of an adaptation, for as long as the context lasts.

    Args:
        console: where it goes.

    Yields:
        ``(stop, begun) -> watcher``.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=None, visible=False)

        def step(name: str, done: int, steps: int, loss: float) -> None:
            bars.update(task, description=f"{name}, loss {loss:.3g}", total=steps, completed=done, visible=True)

        def say(sentence: str) -> None:
            console.print(Text(f"holdfast: {sentence}"), soft_wrap=True)

        yield lambda stop, begun: Watcher(say, step, stop, begun)
