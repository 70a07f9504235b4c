"""Record batches through Faust: one record batch per partition fetch, and offsets that are ours.

Faust's path per record costs more than all our work on the record. So for the topics of a `BatchApp`, the consumer
wraps what one fetch gave of a partition into one message whose value is a `Fetched`. Conductor, stream and agent carry
it like any other message. The topics are declared with ``acks=False``, so Faust neither tracks nor commits their
offsets: the `BatchHandler` does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any, cast

import faust
from faust.types import TP, StreamT
from faust.types.enums import ProcessingGuarantee

from app.adapters.kafka.batch_consumer import BatchConsumer, BatchTransport
from app.adapters.kafka.batch_handler import BatchHandler, Fetched
from app.kafka_access import KafkaAccess


class _BatchSchema(faust.Schema[Any, Any]):
    """Passes key and value through undecoded."""

    def loads_key(self, app: Any, message: Any, **kwargs: Any) -> Any:  # noqa: ARG002  # Faust's signature
        return message.key

    def loads_value(self, app: Any, message: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        return message.value


class BatchApp(faust.App):
    """A Faust app whose topics arrive as record batches.

    Parameters
    ----------
    group
        Consumer group and Faust app id.
    topics
        Topics to consume; they must exist. Those that belong together must have the same number of partitions.
    sharing
        How members of the group share the partitions: an assignor of aiokafka's kind.
    """

    handler: BatchHandler

    def __init__(
        self,
        group: str,
        kafka: KafkaAccess,
        topics: Sequence[str],
        handler: BatchHandler,
        *,
        sharing: Any,
        **conf: Any,
    ) -> None:
        defaults: dict[str, Any] = {
            "broker": ";".join(f"kafka://{server}" for server in kafka.servers.split(",")),
            "processing_guarantee": ProcessingGuarantee.AT_LEAST_ONCE,
            "stream_wait_empty": False,
            "stream_buffer_maxsize": 65536,  # batches are bounded in bytes by pausing partitions, not here
            "consumer_max_fetch_size": 1 << 20,
            # A dead member's partitions are given away after this; brokers allow no less by default.
            "broker_session_timeout": 6.0,
            "broker_heartbeat_interval": 1.5,
            "broker_rebalance_timeout": 20.0,
            "broker_commit_livelock_soft_timeout": 1e9,  # alerts on the lag tell a person
            "stream_processing_timeout": 1e9,
            "topic_allow_declare": False,
            "topic_disable_leader": True,
            "web_enabled": False,
            "store": "memory://",
            "autodiscover": False,
        }
        super().__init__(group, **{**defaults, **conf})
        self.handler = handler
        self.kafka = kafka
        self.sharing = sharing
        for name in topics:
            self._consume(name)

    @property
    def _batch_consumer(self) -> BatchConsumer:
        return cast("BatchConsumer", self.consumer)

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Make none: there are no Faust tables, and we keep nothing in Faust's folders."""

    def _consume(self, name: str) -> None:
        topic = self.topic(name, schema=_BatchSchema(), acks=False)

        async def agent(stream: StreamT[Fetched]) -> None:
            async for fetched in stream:
                self.handler.received(fetched)

        self.agent(topic, name=f"{self.conf.id}.{name}")(agent)

    def unassigned_s(self) -> float:
        """For how long a rebalance has been under way, in seconds."""
        since = self._batch_consumer.unassigned_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    @property
    def holds_its_partitions(self) -> bool:
        """Whether no other member can have been given this one's partitions by now: a lease, by its heartbeats."""
        return time.monotonic() < self._batch_consumer.heard_s + self.conf.broker_session_timeout

    def pause(self, tps: Iterable[TP]) -> None:
        """Stop fetching partitions; what has been fetched still arrives."""
        self._batch_consumer.pause_partitions(tps)

    def resume(self, tps: Iterable[TP]) -> None:
        self._batch_consumer.resume_partitions(tps)

    async def end_offset(self, tp: TP) -> int:
        return await self._batch_consumer.end_offset(tp)

    async def seek(self, offsets: dict[TP, int]) -> None:
        """Read on from other offsets, once the consumer has its assignment; what was fetched ahead is dropped."""
        await self._batch_consumer.has_sought.wait()
        await self._batch_consumer.seek_to(offsets)

    async def read_to(self, tp: TP, offset: int) -> bool:
        return await self._batch_consumer.read_to(tp, offset)

    def fetches(self, tp: TP) -> int:
        return self._batch_consumer.fetches(tp)

    async def commit_offsets(self, offsets: dict[TP, int]) -> bool:
        """Commit offsets as a member of the group (at-least-once delivery); False when the group has moved on."""
        return bool(await self._batch_consumer._commit(offsets))  # noqa: SLF001  # what Faust's own commit ends in
