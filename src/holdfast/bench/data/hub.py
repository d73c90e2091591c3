"""The Hub of Hugging Face: asked once and shortly whether it is there, before a library waits for it for minutes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["asked"]

_SECONDS = 5.0


@contextmanager
def asked() -> Iterator[bool]:
    """Within it, libraries look for a name on the Hub; if that cannot be reached, only among what they loaded before.

    Without it each of their requests is tried six times, for half a minute and with as many lines of warnings.

    Yields:
        Whether the Hub can be reached.
    """
    from huggingface_hub import constants

    reached = not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)
    # The libraries read these when they ask, and have no argument for it that reaches all their requests.
    switches: list[Any] = [constants]
    try:
        from datasets import config

        switches.append(config)
    except ImportError:
        pass
    before = [each.HF_HUB_OFFLINE for each in switches]
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    try:
        if not reached:
            logger.setLevel(logging.ERROR)
            for each in switches:
                each.HF_HUB_OFFLINE = True
        yield reached
    finally:
        logger.setLevel(level)
        for each, value in zip(switches, before, strict=True):
            each.HF_HUB_OFFLINE = value


def _answers(endpoint: str) -> bool:
    """Whether anything answers there, whatever it says."""
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=_SECONDS, follow_redirects=True)
    except Exception:  # no name, no route, no certificate: errors of the client that the library happens to use
        return False
    return True
