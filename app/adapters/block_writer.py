"""Writes the records of a topic into a table: a block of rows per partition, and the offset after it is in."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from faust.types import TP

from app.adapters.effects import Block
from app.adapters.faust_batches import Fetched
from app.adapters.warehouse_thread import WarehouseThread
from app.core.batches import RecordBatch
from app.ports import Warehouse

log = logging.getLogger("streamgauge.monitor")

BLOCK_ROWS = 20_000
#: A partition is paused when more than this waits for the warehouse, and resumed at half of it.
HELD_BYTES = 8 << 20


@dataclass
class Flow:
    """Fetching of partitions, as `app.adapters.faust_batches.BatchApp` controls it."""

    pause: Callable[[TP], None]
    resume: Callable[[TP], None]
    commit: Callable[[dict[TP, int]], Awaitable[bool]]


@dataclass
class _Held:
    fetches: deque[Fetched] = field(default_factory=deque)
    rows: int = 0
    size_bytes: int = 0
    is_paused: bool = False


class BlockWriter:
    """From an assignment of partitions to its revocation.

    Parameters
    ----------
    table
        Where the rows go.
    to_block
        Decodes records; called in the warehouse's thread.
    positions
        Next offset to read of each partition that is ours.
    flush_s
        How long a row may wait for others.
    """

    def __init__(
        self,
        table: str,
        to_block: Callable[[Sequence[RecordBatch]], Block],
        warehouse: WarehouseThread,
        flow: Flow,
        positions: Mapping[TP, int],
        *,
        flush_s: float = 1.0,
    ) -> None:
        self.table = table
        #: Next offset of each partition that is not in the warehouse yet.
        self.positions = dict(positions)
        self.refused = 0
        self._rows = 0
        self._to_block = to_block
        self._warehouse = warehouse
        self._flow = flow
        self._flush_s = flush_s
        self._held = {tp: _Held() for tp in positions}
        self._is_full = asyncio.Event()
        self._is_stopping = False

    def is_holding(self, tp: TP) -> bool:
        """Whether something received of a partition is not in the warehouse yet."""
        return self._held[tp].size_bytes > 0

    def drain_rows(self) -> int:
        """Rows inserted since the last drain."""
        rows, self._rows = self._rows, 0
        return rows

    def receive(self, fetched: Fetched) -> None:
        """Take a batch; never blocks."""
        tp = TP(fetched.records.topic, fetched.records.partition)
        held = self._held[tp]
        held.fetches.append(fetched)
        held.rows += len(fetched.records)
        held.size_bytes += fetched.size_bytes
        if held.size_bytes > HELD_BYTES and not held.is_paused:
            held.is_paused = True
            self._flow.pause(tp)
        if held.rows >= BLOCK_ROWS:
            self._is_full.set()

    async def run(self) -> None:
        """Write until `stop`, and then what is left."""
        while not self._is_stopping:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_full.wait(), self._flush_s)
            self._is_full.clear()
            await self._write()
        await self._write()

    def stop(self) -> None:
        """Let `run` end once what has been received is written."""
        self._is_stopping = True
        self._is_full.set()

    async def _write(self) -> None:
        written = {}
        for tp, held in self._held.items():
            while held.fetches:
                batches, size_bytes = self._cut(held)
                await self._insert(tp, batches)
                self.positions[tp] = written[tp] = int(batches[-1].offsets[-1]) + 1
                held.size_bytes -= size_bytes
                if held.is_paused and held.size_bytes <= HELD_BYTES // 2:
                    held.is_paused = False
                    self._flow.resume(tp)
        if written:
            await self._flow.commit(written)

    @staticmethod
    def _cut(held: _Held) -> tuple[list[RecordBatch], int]:
        batches, rows, size_bytes = [], 0, 0
        while held.fetches and (not rows or rows + len(held.fetches[0].records) <= BLOCK_ROWS):
            fetched = held.fetches.popleft()
            batches.append(fetched.records)
            rows += len(fetched.records)
            size_bytes += fetched.size_bytes
        held.rows -= rows
        return batches, size_bytes

    async def _insert(self, tp: TP, batches: list[RecordBatch]) -> None:
        made: list[Block] = []

        def write(warehouse: Warehouse) -> int:
            if not made:  # a try again writes the same block
                made.append(self._to_block(batches))
            return warehouse.insert(self.table, made[0].columns, made[0].token) if made[0].rows else 0

        rows = await self._warehouse.call(write)
        self._rows += rows  # not before the wait: they may have been drained meanwhile
        if made[0].refused:
            if not self.refused:
                log.warning("%s has records that are not ours; they are left out of %s.", tp, self.table)
            self.refused += made[0].refused
