"""Ctrl-C at a good moment: the step under way is finished and a checkpoint written; a second one stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["asked_to_stop"]


@contextmanager
def asked_to_stop(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into an answer, for as long as the context lasts.

    Args:
        say: is told in a sentence that the signal was seen.

    Yields:
        What tells whether the process was asked to stop.
    """
    asked = False

    def notice(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        say("stopping after this step; once more stops at once")

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's alone
        yield lambda: False
        return
    before = {number: signal.signal(number, notice) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
