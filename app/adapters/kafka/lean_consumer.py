"""aiokafka's consumer without the objects that it makes of each record in Python, which nobody here reads.

For each record, aiokafka 0.14 (pinned) builds a `ConsumerRecord` of eleven fields from the record that its Cython
parser made, at twice the cost of the parsing. `LeanConsumer.getmany` gives the parsed records themselves. They have
offset, timestamp, key, value and headers, but neither topic nor partition, which the caller knows.
`app.adapters.kafka.record_batches` reads what the parser does not take.

While a partition has no leader, aiokafka's fetcher asks for metadata again and again without a pause. During an outage,
two consumers took 70 % of a core, on a machine whose broker may be starting. With `space_metadata_updates` they ask ten
times a second.

With ``auto_offset_reset="none"``, a partition without an offset is read from its first record until `seek` is called,
as with "earliest". Only a position whose record is gone is an error.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import aiokafka
from aiokafka.consumer.fetcher import FetchError, FetchResult, OffsetResetStrategy
from aiokafka.errors import NoOffsetForPartitionError
from aiokafka.protocol.commit import OffsetCommitRequest

from app.adapters.kafka.record_batches import hook_into_aiokafka, read_on

_PAUSE_S = 0.1


def space_metadata_updates(client: Any) -> None:
    """Have a client of aiokafka pause between two updates of its metadata."""
    update, earliest = client._metadata_update, 0.0  # noqa: SLF001  # all ways to ask for an update end here

    async def update_later(*arguments: Any) -> bool:
        nonlocal earliest
        now = asyncio.get_running_loop().time
        await asyncio.sleep(max(0.0, earliest - now()))
        try:
            is_updated: bool = await update(*arguments)
        finally:
            earliest = now() + _PAUSE_S
        return is_updated

    client._metadata_update = update_later  # noqa: SLF001


def _as_parsed(_: Any, record: Any) -> Any:
    return record


class _Fetched(OrderedDict[Any, Any]):
    """Fetched records that wait to be handed out, by partition. ``unsought``: told of a partition without an offset."""

    def __init__(self, fetched: Any, unsought: Callable[[Any], None]) -> None:
        super().__init__(fetched)
        self._unsought = unsought

    def __setitem__(self, tp: Any, result: Any) -> None:
        if isinstance(result, FetchResult):
            records = result._partition_records  # noqa: SLF001
            records._consumer_record = _as_parsed  # noqa: SLF001  # the last step of its parser
            records._records_iterator = read_on(records)  # noqa: SLF001
        elif isinstance(result, FetchError) and isinstance(result._error, NoOffsetForPartitionError):  # noqa: SLF001
            self._unsought(tp)
            return
        super().__setitem__(tp, result)


class LeanConsumer(aiokafka.AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka has no types
    """A consumer of batches, to be read by `getmany` alone; keys and values are bytes.

    Attributes
    ----------
    heard_s
        When the last heartbeat was sent that the group has answered (`time.monotonic`). Until the session time-out
        after that, no other member is given this one's partitions.
    """

    def __init__(self, *topics: str, **options: Any) -> None:
        hook_into_aiokafka()
        super().__init__(*topics, **options)
        space_metadata_updates(self._client)
        self.heard_s = -math.inf

    async def start(self) -> None:
        await super().start()
        if self._group_id is not None:
            self._watch_heartbeats(self._coordinator)
        self._fetcher._records = _Fetched(self._fetcher._records, self._begin_at_first)  # noqa: SLF001  # no other place

    def _watch_heartbeats(self, coordinator: Any) -> None:
        """Keep `heard_s`: aiokafka keeps the time of its last heartbeat in a local variable."""
        beat, join = coordinator._do_heartbeat, coordinator._do_rejoin_group  # noqa: SLF001  # no other place

        async def beat_and_note() -> bool:
            sent_s = time.monotonic()
            is_heard: bool = await beat()
            if is_heard:
                self.heard_s = sent_s
            elif coordinator.generation == OffsetCommitRequest.DEFAULT_GENERATION_ID:
                self.heard_s = -math.inf  # the group has gone on without this member
            return is_heard

        async def join_and_note(subscription: Any) -> bool:
            sent_s = time.monotonic()
            has_joined: bool = await join(subscription)
            if has_joined:
                self.heard_s = max(self.heard_s, sent_s)
            return has_joined

        coordinator._do_heartbeat, coordinator._do_rejoin_group = beat_and_note, join_and_note  # noqa: SLF001

    def _begin_at_first(self, tp: Any) -> None:
        """Read a partition without a position from its first record; if its next record is gone, that is an error."""
        subscription = self._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        if assignment is not None and tp in assignment.tps:
            state = assignment.state_value(tp)
            if not state.has_valid_position and not state.awaiting_reset:
                state.await_reset(OffsetResetStrategy.EARLIEST)

    async def stop(self) -> None:
        """Close it; also while no broker answers.

        aiokafka awaits each fetch that it cancels; a fetch that waits for its next try would cancel whoever stops it.
        """
        if self._fetcher is not None:
            fetches = self._fetcher._pending_tasks  # noqa: SLF001  # no other way to end them
            for task in (self._fetcher._fetch_task, *fetches):  # noqa: SLF001
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            fetches.clear()
        await super().stop()
