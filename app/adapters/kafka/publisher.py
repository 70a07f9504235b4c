"""The publisher of one input partition: its outputs, its state and its consumed offsets, in one transaction.

Every owner of the partition uses the same transactional id, so starting a publisher fences the former owner and ends
what that left open. Any error is final for a publisher: stop it, drop the state, restore (crash only).

With ``delivery = "at_least_once"`` only the scores leave outside of the transaction: at once, and acknowledged before
it commits. After a crash scores are repeated, computed from the same state. State, counts and offsets stay exact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, repeat
from operator import itemgetter
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalOperation, KafkaError, MessageSizeTooLargeError

from app.adapters.kafka.clients import new_transactional_producer, output_options
from app.core.entities.copies import Copy
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Compression
from schemas.wire import DeadLetter

#: How long a transaction may be open beyond its commit interval.
_TRANSACTION_TIMEOUT_MS = 30_000
#: No broker keeps a transaction open for longer than this, so a commit that takes longer will fail.
_COMMIT_DEADLINE_S = 60.0
#: `IllegalOperation` comes from a producer that already knows that it was fenced.
_REFUSALS = KafkaError, IllegalOperation


class PublishError(RuntimeError):
    """Outputs or offsets could not be committed; the partition must be given up and taken over again."""


class OutputTooLargeError(PublishError):
    """A topic takes no batch of the size that is sent: trying again does not help."""


class PartitionPublisher:
    """Publishes for one input partition, to the same partition of each output topic.

    Parameters
    ----------
    group
        Consumer group that the offsets belong to.
    name
        Transactional id.
    interval_ms
        Longest time between commits.
    early
        Sends the scores without a transaction (at least once), for all partitions of a worker; None: exactly once.
    """

    def __init__(
        self,
        kafka: KafkaAccess,
        group: str,
        name: str,
        partition: int,
        *,
        interval_ms: int,
        compression: Compression,
        early: AIOKafkaProducer | None,
    ) -> None:
        self._group = group
        self._partition = partition
        timeout_ms = _TRANSACTION_TIMEOUT_MS + interval_ms
        self._transaction = new_transactional_producer(
            kafka, group, name, timeout_ms, **output_options(name, compression)
        )
        self._direct = early
        self._sent: list[tuple[str, asyncio.Future[Any]]] = []
        self._early: list[asyncio.Future[Any]] = []
        self._offsets: dict[str, int] = {}

    @property
    def sends_scores_early(self) -> bool:
        """Whether scores need no transaction, and may be sent while one is committed."""
        return self._direct is not None

    async def start(self) -> None:
        """Connect; fences any former owner of the partition."""
        await self._transaction.start()

    async def stop(self) -> None:
        """Disconnect. What was not committed is aborted by whoever takes over, or by time."""
        await self._transaction.stop()

    def open(self) -> None:
        """Begin a transaction, unless one is open or being committed; it should be committed soon."""
        self._transaction.open()

    async def send_scores(self, topic: str, records: Iterable[tuple[bytes | None, bytes | None, int]]) -> None:
        """Queue scores (key, value, time stamp in ms), in their order."""
        if self._direct is None:
            await self.send(topic, records)
        else:
            for batch in _batches(self._direct, records):
                self._early.append(await self._direct.send_batch(batch, topic, partition=self._partition))

    def take_early(self) -> list[asyncio.Future[Any]]:
        """What was sent early since the last call; the next commit waits until it is acknowledged."""
        early, self._early = self._early, []
        return early

    async def send(self, topic: str, records: Iterable[tuple[bytes | None, bytes | None, int]]) -> None:
        """Queue records (key, value, time stamp in ms) of the transaction, in their order."""
        await self._send(topic, _batches(self._transaction, records))

    async def send_addressed(self, topic: str, records: Iterable[tuple[int, bytes]]) -> None:
        """Queue values of the transaction for any partitions of a topic; those of one partition follow each other."""
        for partition, group in groupby(records, itemgetter(0)):
            await self._send(topic, _batches(self._transaction, ((None, value, None) for _, value in group)), partition)

    async def send_copies(self, topic: str, partition: int, records: Sequence[Copy]) -> None:
        """Queue records of the transaction, headers and all, for any partition of a topic, in their order."""
        plain = ((key, value, time_ms) for key, value, time_ms, _ in records)
        await self._send(topic, _batches(self._transaction, plain, (about for *_, about in records)), partition)

    async def send_letters(self, topic: str, letters: Sequence[DeadLetter]) -> None:
        """Queue dead letters; what is known of each goes into its headers."""
        records = ((letter.key, letter.value, None) for letter in letters)
        await self._send(topic, _batches(self._transaction, records, (letter.to_headers() for letter in letters)))

    async def commit(self, offsets: Mapping[TopicPartition, Any], early: Sequence[asyncio.Future[Any]] = ()) -> None:
        """Commit everything sent since the last commit, and the consumed offsets, once ``early`` is acknowledged.

        ``offsets``: numbers, or aiokafka's `OffsetAndMetadata`.

        Raises
        ------
        OutputTooLargeError
            A topic takes no batch of this size.
        PublishError
            Fenced, timed out or refused: nothing of it counts.
        """
        try:
            async with asyncio.timeout(_COMMIT_DEADLINE_S):
                self.open()
                acknowledged = [*early, *(sent for _, sent in self._sent)]
                if offsets:
                    acknowledged.append(self._transaction.send_offsets_to_transaction(dict(offsets), self._group))
                await asyncio.gather(*acknowledged)
                self._offsets = {topic: sent.result().offset for topic, sent in self._sent}
                self._sent.clear()
                await self._transaction.commit_transaction()
        except MessageSizeTooLargeError as error:
            raise OutputTooLargeError(
                f"Kafka takes no batch of this size on {self._refused_topic()}; raise max.message.bytes of the topic to"
                " 2097152, and start again. Nothing is lost: its events are read again."
            ) from error
        except TimeoutError as error:
            raise PublishError(f"Kafka has not committed within {_COMMIT_DEADLINE_S:.0f} s.") from error
        except _REFUSALS as error:
            raise PublishError(f"Kafka refused the commit: {error!r}") from error

    def committed_offset(self, topic: str) -> int | None:
        """Where the last batch of a topic in the last commit begins; None: the commit held none."""
        return self._offsets.get(topic)

    async def _send(self, topic: str, batches: Iterable[Any], partition: int | None = None) -> None:
        try:
            for batch in batches:
                self.open()
                to = self._partition if partition is None else partition
                sent = await self._transaction.send_batch(batch, topic, partition=to)
                self._sent.append((topic, sent))
        except _REFUSALS as error:
            raise PublishError(f"Kafka takes nothing more in this transaction: {error!r}") from error

    def _refused_topic(self) -> str:
        refused = (topic for topic, sent in self._sent if sent.done() and sent.exception() is not None)
        return next(refused, "an output topic")


def _batches(
    producer: AIOKafkaProducer,
    records: Iterable[tuple[bytes | None, bytes | None, int | None]],
    headers: Iterable[list[tuple[str, bytes]]] = repeat([]),  # endless, and without state
) -> Iterator[Any]:
    """Fill batches with records (key, value, time stamp in ms or None for now)."""
    batch = producer.create_batch()
    append = batch.append
    for (key, value, timestamp_ms), about in zip(records, headers, strict=False):
        # A batch takes its first record whatever its size.
        if append(key=key, value=value, timestamp=timestamp_ms, headers=about) is None:
            yield batch
            batch = producer.create_batch()
            append = batch.append
            append(key=key, value=value, timestamp=timestamp_ms, headers=about)
    if batch.record_count():
        yield batch
