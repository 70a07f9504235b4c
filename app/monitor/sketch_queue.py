"""Batches of sketches between their fetch and the core, and where each partition goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from faust.types import TP

from app.adapters.kafka.batch_app import BatchApp
from app.adapters.kafka.batch_handler import Fetched
from app.monitor.block_writer import HELD_BYTES


class SketchQueue:
    """The batches that wait; their partitions are paused while they hold too many bytes.

    Parameters
    ----------
    starts
        First offset to handle of each partition that is ours.
    """

    def __init__(self, app: BatchApp, starts: Mapping[TP, int]) -> None:
        self._app = app
        self._waiting: deque[Fetched] = deque()
        self._paused: set[TP] = set()
        self.held_bytes = 0
        #: Next offset of each partition that is not handled yet.
        self.positions = dict(starts)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, fetched: Fetched) -> None:
        """Queue a batch."""
        tp = TP(fetched.records.topic, fetched.records.partition)
        self._waiting.append(fetched)
        self.held_bytes += fetched.size_bytes
        if self.held_bytes > HELD_BYTES and tp not in self._paused:
            self._paused.add(tp)
            self._app.pause([tp])

    def take(self) -> Fetched | None:
        """The next batch; None: there is none."""
        return self._waiting.popleft() if self._waiting else None

    def handled(self, fetched: Fetched) -> None:
        """Note that a batch is in the core, and read on where that makes room."""
        records = fetched.records
        self.positions[TP(records.topic, records.partition)] = int(records.offsets[-1]) + 1
        self.held_bytes -= fetched.size_bytes
        if self._paused and self.held_bytes <= HELD_BYTES // 2:
            self._app.resume(list(self._paused))
            self._paused.clear()
