"""The publisher of one input partition: its outputs and its consumed offsets, in one transaction.

Kafka knows the transactional id, which is the same for whoever owns the partition: starting a publisher fences the
former owner and ends what it left open. Any error is final for a publisher: stop it, drop the state, restore (crash
only).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from schemas.pipeline import Delivery
from schemas.wire import DeadLetter

#: Largest record batch sent; brokers refuse more than 1 MiB by default.
_BATCH_BYTES = 900_000
_TRANSACTION_TIMEOUT_MS = 30_000

Commit = Callable[[dict[TopicPartition, int]], Awaitable[bool]]


class PublishError(RuntimeError):
    """Outputs or offsets could not be committed; the partition must be given up and taken again."""


class OutputTooLargeError(PublishError):
    """A topic is set to take less than we send: trying again does not help."""


class PartitionPublisher:
    """Publishes for one input partition.

    Parameters
    ----------
    group
        Consumer group that the offsets belong to.
    name
        Transactional id; for exactly once only.
    commit
        How to commit offsets without a transaction (at least once).
    """

    def __init__(self, bootstrap: str, group: str, name: str, delivery: Delivery, commit: Commit) -> None:
        self._group = group
        self._is_transactional = delivery == "exactly_once"
        self._commit = commit
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            client_id=name,
            transactional_id=name if self._is_transactional else None,
            transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
            enable_idempotence=True,
            acks="all",
            max_batch_size=_BATCH_BYTES,
            max_request_size=4 * _BATCH_BYTES,
        )
        self._sent: list[tuple[str, asyncio.Future[Any]]] = []
        self.is_open = False

    async def start(self) -> None:
        """Connect; fences any former owner of the partition (exactly once)."""
        await self._producer.start()

    async def stop(self) -> None:
        """Disconnect. What was not committed is aborted by whoever takes over, or by time."""
        self.is_open = False
        await self._producer.stop()

    async def begin(self) -> None:
        if self._is_transactional:
            await self._producer.begin_transaction()
        self.is_open = True

    async def send(self, topic: str, partition: int, records: Iterable[tuple[bytes | None, bytes | None, int]]) -> None:
        """Queue records (key, value, time stamp in ms) for one partition, in their order."""
        await self._send(topic, partition, ((*record, []) for record in records))

    async def _send(
        self,
        topic: str,
        partition: int,
        records: Iterable[tuple[bytes | None, bytes | None, int | None, list[tuple[str, bytes]]]],
    ) -> None:
        batch = self._producer.create_batch()
        count = 0
        for key, value, timestamp_ms, headers in records:
            # A batch takes its first record whatever its size.
            if batch.append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:
                self._sent.append((topic, await self._producer.send_batch(batch, topic, partition=partition)))
                batch = self._producer.create_batch()
                batch.append(key=key, value=value, timestamp=timestamp_ms, headers=headers)
                count = 0
            count += 1
        if count:
            self._sent.append((topic, await self._producer.send_batch(batch, topic, partition=partition)))

    async def send_letters(self, topic: str, partition: int, letters: Iterable[DeadLetter]) -> None:
        """Queue dead letters, with what is said of them as headers."""
        records = ((letter.key, letter.value, None, letter.to_headers()) for letter in letters)
        await self._send(topic, partition, records)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit everything sent since `begin`, together with the consumed offsets.

        Raises
        ------
        PublishError
            Fenced, timed out or refused: nothing of it counts (exactly once), or it will be repeated (at least once).
        """
        try:
            await asyncio.gather(*(sent for _, sent in self._sent))
            self._sent.clear()
            if self._is_transactional:
                if offsets:
                    await self._producer.send_offsets_to_transaction(dict(offsets), self._group)
                await self._producer.commit_transaction()
            elif offsets and not await self._commit(dict(offsets)):
                raise PublishError("The consumer group has moved on; the partition belongs to another worker now.")
        except MessageSizeTooLargeError as error:
            raise OutputTooLargeError(
                f"Kafka takes no batch of this size on {self._refused_topic()}; raise max.message.bytes of the topic to"
                " 2097152, and start again. Nothing is lost: its events are read again."
            ) from error
        except KafkaError as error:
            raise PublishError(f"Kafka refused the commit: {error!r}") from error
        self.is_open = False

    def _refused_topic(self) -> str:
        refused = (topic for topic, sent in self._sent if sent.done() and sent.exception() is not None)
        return next(refused, "an output topic")
