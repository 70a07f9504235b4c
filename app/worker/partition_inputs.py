"""What a worker has received of one input partition: of its events, and of the labels that belong to them."""

from __future__ import annotations

from faust.types import TP

from app.adapters.kafka.batch_app import BatchApp, Fetched, SkippedBatchError
from app.adapters.kafka.log_bounds import LogBounds
from schemas.pipeline.spec import Pipeline


class PartitionInputs:
    """The topic partitions of one input partition, in the current assignment.

    Parameters
    ----------
    app
        Fetches them.
    ends
        Asks for their ends.
    """

    def __init__(self, app: BatchApp, ends: LogBounds, pipeline: Pipeline, partition: int) -> None:
        self.events = TP(pipeline.topics.events, partition)
        self.labels = TP(pipeline.topics.labels, partition)
        #: Those that are read.
        self.all = {self.events} | ({self.labels} if pipeline.labels is not None else set())
        #: Offset after the last record received.
        self.next_offsets: dict[TP, int] = {}
        self._app = app
        self._ends = ends
        self._received = dict.fromkeys((self.events, self.labels), 0)
        self._paused: set[TP] = set()

    def note(self, fetched: Fetched) -> TP:
        """Take note of a batch; where it is from."""
        records = fetched.records
        tp = TP(records.topic, records.partition)
        if fetched.sequence != self._received[tp] + 1:
            raise SkippedBatchError(f"{tp} went from fetch {self._received[tp]} to {fetched.sequence}.")
        self._received[tp] = fetched.sequence
        self.next_offsets[tp] = int(records.offsets[-1]) + 1
        return tp

    def begin_anew(self) -> None:
        """A new assignment: fetches are numbered from 1, and nothing is paused."""
        self._received = dict.fromkeys(self._received, 0)
        self._paused.clear()

    def regulate(self, tp: TP, waiting: int, limit: int) -> None:
        """Pause a topic partition of which more than ``limit`` waits; resume it at half of it."""
        if waiting > limit and tp not in self._paused:
            self._paused.add(tp)
            self._app.pause([tp])
        elif waiting <= limit // 2 and tp in self._paused:
            self._paused.discard(tp)
            self._app.resume([tp])

    async def end_offset(self, tp: TP) -> int:
        """Offset after the last committed record, asked of the broker now."""
        return await self._ends.end(tp)

    async def has_received(self, tp: TP, end: int) -> bool:
        """Whether everything before ``end`` has been noted."""
        return await self._app.read_to(tp, end) and self._app.fetches(tp) == self._received[tp]

    async def is_at_its_end(self, tp: TP) -> bool:
        """Whether all that a topic partition holds now has been noted."""
        return await self.has_received(tp, await self.end_offset(tp))
