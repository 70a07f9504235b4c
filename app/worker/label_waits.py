"""When events that wait for labels may go: what the records alone cannot tell."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiokafka.errors import KafkaError

from app.adapters.patience import Patience
from app.pipeline import PartitionPipeline
from app.worker.inbox import Inbox
from schemas.pipeline.spec import Labels

log = logging.getLogger("streamgauge.worker")

_LOOK_S = 0.005
_LOOK_AGAIN_S = 0.02
#: Kafka answers for a partition within this, or not at all for now.
_ANSWER_S = 3.0


class LabelWaits:
    """The waits of one partition: its events wait for labels, and its promised watermarks wait for events.

    Parameters
    ----------
    keep_promise
        Called with a watermark (ms) when all events before it are processed.
    wake
        Has the partition's task look again.
    """

    def __init__(
        self,
        flow: PartitionPipeline,
        labels: Labels,
        inbox: Inbox,
        keep_promise: Callable[[int], None],
        wake: Callable[[], None],
    ) -> None:
        #: Events that went without their labels, by their running numbers in the merge.
        self.stale = range(0)
        self._flow = flow
        self._labels = labels
        self._inbox = inbox
        self._keep = keep_promise
        self._wake = wake
        self._waiting: asyncio.Task[None] | None = None

    def look(self, *, is_ready: bool, is_empty: bool) -> None:
        """Start what has become due; called when the flow has nothing to do.

        ``is_ready``: events could be scored. ``is_empty``: no event waits to be merged.
        """
        if self._waiting is not None and not self._waiting.done():
            return
        merge = self._flow.merge
        if merge.holds_back and is_ready:
            self._waiting = asyncio.create_task(self._release())
        elif is_empty and not merge.has_events:
            promised = merge.newest_watermark_record_ms()
            if promised is not None:
                self._waiting = asyncio.create_task(self._keep_promise(promised))

    async def stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)

    async def _release(self) -> None:
        """Let events go once the labels topic is read to its end, as it was after they had arrived.

        That may take long: when a worker is behind, its labels are not missing. Waiting is in vain while Kafka answers
        for the events and not for the labels.
        """
        merge, patience = self._flow.merge, Patience(self._labels.max_wait_ms)
        received, taken = merge.events_received, merge.events_taken
        reading = asyncio.create_task(self._read_labels())
        try:
            while not (await asyncio.wait({reading}, timeout=patience.look_s))[0]:
                if await patience.is_over(self._inbox.next_offsets.get(self._inbox.labels), self._labels_are_away):
                    words = "Partition %s: the labels topic cannot be read, %s events go without"
                    log.warning(words, self._flow.partition, received - taken)
                    self.stale = range(taken, received)
                    break
        finally:
            reading.cancel()
        merge.let_go(received)
        self._wake()

    async def _read_labels(self) -> None:
        """Return when all labels that are in the topic now have been received."""
        end: int | None = None
        while True:
            try:
                end = await self._inbox.end_offset(self._inbox.labels) if end is None else end
                if await self._inbox.has_received(self._inbox.labels, end):
                    return
            except KafkaError as error:
                log.debug("Partition %s: the end of the labels is not known: %r", self._flow.partition, error)
            await asyncio.sleep(_LOOK_S)

    async def _labels_are_away(self) -> bool:
        await self._inbox.end_offset(self._inbox.events)
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._inbox.end_offset(self._inbox.labels)
        except (KafkaError, TimeoutError):
            return True
        return False

    async def _keep_promise(self, until_ms: int) -> None:
        """When all events are processed, apply the labels up to a watermark record."""
        try:
            if await self._inbox.is_at_its_end(self._inbox.events) and not self._flow.merge.has_events:
                self._keep(until_ms)
            else:
                await asyncio.sleep(_LOOK_AGAIN_S)
        except KafkaError as error:
            log.debug("Partition %s: the end of the events is not known: %r", self._flow.partition, error)
            await asyncio.sleep(_LOOK_AGAIN_S)
        finally:
            self._wake()  # it looks again
