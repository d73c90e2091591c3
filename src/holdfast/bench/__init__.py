"""The bench: named data, streams of tasks, models, one plain training loop, records and reports.

``from holdfast.bench import Stream, compare, stream_of`` is the door. Importing this package imports none of its wings,
and so none of the optional packages that they need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.bench import moved

if TYPE_CHECKING:
    from holdfast.bench.comparing.calling import compare as compare
    from holdfast.bench.data.arranging import stream_of as stream_of
    from holdfast.bench.data.tasks import Stream as Stream

__all__ = ["Stream", "compare", "stream_of"]

moved.install()


def __getattr__(name: str) -> Any:
    if name == "compare":
        from holdfast.bench.comparing.calling import compare

        return compare
    if name == "stream_of":
        from holdfast.bench.data.arranging import stream_of

        return stream_of
    if name == "Stream":
        from holdfast.bench.data.tasks import Stream

        return Stream
    raise AttributeError(f"module 'holdfast.bench' has no attribute {name!r}")
