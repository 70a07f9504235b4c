"""What comes in for one input partition: how far its topics were received, and the events that wait to be processed."""

from __future__ import annotations

from collections import deque
from typing import Any

from faust.types import TP

from app.adapters.kafka.batch_app import BatchApp
from app.adapters.kafka.batch_handler import FetchCount, Fetched
from app.adapters.kafka.log_bounds import LogBounds
from app.core.batches import RecordBatch
from app.core.intake.merge import TimeMerge
from schemas.pipeline.spec import Pipeline

#: The events topic is paused when more than this waits to be processed, and resumed at half of it.
INBOX_BYTES = 8 << 20
#: Labels that may wait for their events before their topic is paused.
INBOX_LABELS = 100_000


class Inbox:
    """The inbox of one partition in the current assignment: its events, and the labels that belong to them.

    Parameters
    ----------
    app
        Fetches the records, and is told to pause and to resume.
    logs
        Knows where the topics end.
    """

    def __init__(self, app: BatchApp, logs: LogBounds, pipeline: Pipeline, partition: int) -> None:
        self.events = TP(pipeline.topics.events, partition)
        self.labels = TP(pipeline.topics.labels, partition)
        #: The topic partitions that are read.
        self.all = {self.events} | ({self.labels} if pipeline.labels is not None else set())
        #: Offset after the last record received.
        self.next_offsets: dict[TP, int] = {}
        self._app = app
        self._logs = logs
        self._fetches = FetchCount()
        self._paused: set[TP] = set()
        self._waiting: deque[tuple[RecordBatch, int]] = deque()
        self._waiting_bytes = 0
        #: Events that wait to be taken.
        self.events_waiting = 0

    @property
    def is_empty(self) -> bool:
        """Whether no events wait to be taken."""
        return not self._waiting

    def put(self, fetched: Fetched) -> TP:
        """Take note of a fetch, and keep its records if they are events; return where they are from."""
        tp = self._fetches.note(fetched)
        self.next_offsets[tp] = int(fetched.records.offsets[-1]) + 1
        if tp != self.labels:
            self._waiting.append((fetched.records, fetched.size_bytes))
            self._waiting_bytes += fetched.size_bytes
            self.events_waiting += len(fetched.records)
        return tp

    def take(self, most: int) -> RecordBatch:
        """The oldest events that wait, at most so many; not from an empty inbox.

        Many small fetches are taken as one: what a step costs depends little on how many events it has.
        """
        taken: list[RecordBatch] = []
        left = most
        while self._waiting and left:
            records, size_bytes = self._waiting[0]
            if len(records) > left:
                taken_bytes = size_bytes * left // len(records)
                self._waiting[0] = records.cut(left, len(records)), size_bytes - taken_bytes
                records, size_bytes = records.cut(0, left), taken_bytes
            else:
                self._waiting.popleft()
            taken.append(records)
            left -= len(records)
            self._waiting_bytes -= size_bytes
        self.events_waiting -= most - left
        return RecordBatch.join(taken)

    def place(self, events: int | None, labels: int | None) -> dict[TP, int]:
        """Offsets of events and labels by topic partition, without those of which nothing was read yet."""
        offsets = (self.events, events), (self.labels, labels)
        return {tp: offset for tp, offset in offsets if offset is not None}

    def begin_anew(self) -> None:
        """A new assignment: fetches are numbered from 1, and nothing is paused."""
        self._fetches.begin_anew()
        self._paused.clear()

    def regulate(self, merge: TimeMerge[Any]) -> None:
        """Pause a topic when enough of it waits, and resume it when little is left."""
        self._regulate(self.events, self._waiting_bytes, INBOX_BYTES)
        # While events wait for labels, labels must come, however many are queued.
        self._regulate(self.labels, 0 if merge.holds_back else merge.queued_labels, INBOX_LABELS)

    def _regulate(self, tp: TP, waiting: int, limit: int) -> None:
        if waiting > limit and tp not in self._paused:
            self._paused.add(tp)
            self._app.pause([tp])
        elif waiting <= limit // 2 and tp in self._paused:
            self._paused.discard(tp)
            self._app.resume([tp])

    async def end_offset(self, tp: TP) -> int:
        """Offset after the last committed record, asked of the broker now."""
        return await self._logs.end(tp)

    async def has_received(self, tp: TP, end: int) -> bool:
        """Whether everything before offset ``end`` has been received."""
        return await self._app.read_to(tp, end) and self._app.fetches(tp) == self._fetches.of(tp)

    async def is_at_its_end(self, tp: TP) -> bool:
        """Whether all that a topic partition holds now has been received."""
        return await self.has_received(tp, await self.end_offset(tp))
