"""aiokafka's transactional producer, which asks the broker one thing at a time.

A broker asks the transaction's coordinator about the first batch of a partition in a transaction, and about offsets.
The coordinator answers one question at a time, and none while it adds something to the transaction. The broker then
refuses the batch or the offsets for an instant, and they are sent again 10 ms later. aiokafka 0.14 (pinned) adds
partitions and the consumer group only when their first batch or their offsets are to be sent, while batches for other
partitions are on their way. So one batch in 20 to 50 was refused, and each commit took four round trips.

When a transaction begins, `TransactionalProducer` adds the group and the partitions that the last transaction wrote to.
Batches and requests to the coordinator take turns. A transaction that began some time before its commit needs three
round trips for the commit: batches, offsets, end.
"""
# ruff: noqa: SLF001  # aiokafka has no other place to hook in

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.producer.transaction_manager import TransactionState

#: For this long after a commit the broker is likely to be writing its markers, and begins no new transaction.
_MARKERS_S = 0.01


class TransactionalProducer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka has no types
    """A producer of transactions that hold offsets of one consumer group.

    Parameters
    ----------
    group
        The consumer group.
    options
        As for `aiokafka.AIOKafkaProducer`; ``transactional_id`` is one of them.
    """

    def __init__(self, group: str, **options: Any) -> None:
        super().__init__(**options)
        self._group = group
        self._written: set[TopicPartition] = set()
        self._earliest = 0.0
        self._ask = self._sender._maybe_do_transactional_request
        self._sender._maybe_do_transactional_request = self._next_request

    def open(self) -> None:
        """Begin a transaction if none is open, for the partitions that the last one wrote to; after `start`."""
        if self._txn_manager.state is TransactionState.READY:
            self._txn_manager.begin_transaction()
            for tp in self._written:
                self._txn_manager.maybe_add_partition_to_txn(tp)
            self._written.clear()

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
        """Queue a batch of the open transaction; the future is its acknowledgement."""
        self._written.add(TopicPartition(topic, partition))
        sent: asyncio.Future[Any] = await super().send_batch(batch, topic, partition=partition)
        return sent

    async def commit_transaction(self) -> None:
        """Commit the open transaction."""
        await super().commit_transaction()
        self._earliest = asyncio.get_running_loop().time() + _MARKERS_S

    def _next_request(self) -> asyncio.Task[Any] | None:
        """The next request to the coordinator; none while a batch is on its way."""
        sender, transaction = self._sender, self._txn_manager
        if sender._in_flight:
            return None
        pending = transaction.partitions_to_add()
        if pending and transaction._txn_consumer_group is None:
            return asyncio.create_task(self._add_group())
        if pending:
            return self._alone(sender._do_add_partitions_to_txn(pending))
        offsets = transaction.offsets_to_commit()
        if offsets is not None:
            return self._alone(sender._do_txn_offset_commit(*offsets))
        asked: asyncio.Task[Any] | None = self._ask()
        return asked

    async def _add_group(self) -> None:
        await asyncio.sleep(self._earliest - asyncio.get_running_loop().time())
        await self._sender._do_add_offsets_to_txn(self._group)

    def _alone(self, request: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Hold back batches until a request is answered."""
        muted, held = self._sender._muted_partitions, set(self._txn_manager.txn_partitions)
        muted |= held

        async def ask() -> None:
            try:
                await request
            finally:
                muted.difference_update(held)

        return asyncio.create_task(ask())
