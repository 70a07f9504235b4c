"""What the source of a pipeline yields, for `produce` and `model train`: records in the order of their times.

A pipeline file names its source as ``source = "file.py:function"``; the function is a `Records`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Protocol


class SourceRecord(NamedTuple):
    """One record to send.

    ``kind``: "event" and "label" go to their topic under ``key`` (the entity) with ``value`` as JSON; "watermark" has
    no key and no value and goes to every partition of the labels topic: nothing that follows is older than ``time_ms``.
    """

    kind: Literal["event", "label", "watermark"]
    key: str | None
    time_ms: int
    value: dict[str, Any] | None


class Records(Protocol):
    """The function that a pipeline file names as its source."""

    def __call__(
        self, from_ms: int | None = None, to_ms: int | None = None, limit: int | None = None
    ) -> Iterator[list[SourceRecord]]:
        """Yield the records of times from_ms <= t < to_ms; at most ``limit`` events, no labels of those left out."""
        ...
