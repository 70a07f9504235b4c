"""Writes the records of a topic into a table: blocks of rows per partition, each of them exactly once.

A block ends at a fixed offset (a multiple of `BLOCK_OFFSETS`), or earlier where there was no more to write. Before it
is written, the warehouse is told where it ends (`app.monitor.reign.Plan`), so that whoever must write it again cuts
the same block, gives it the same token, and the engine knows it. Should the engine have forgotten the token, or the
table hold the rows under another one, the rows have keys, and reading the table by its name counts each once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from faust.types import TP

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.kafka.batch_handler import Fetched
from app.adapters.kafka.refusals import Refused
from app.core.batches import RecordBatch
from app.monitor.reign import Plan
from app.monitor.rows import Block
from app.ports import Warehouse
from schemas.wire import Source

BLOCK_OFFSETS = 20_000
#: A partition is paused when more than this waits for the warehouse, and resumed at half of it.
HELD_BYTES = 8 << 20


@dataclass(frozen=True)
class Feed:
    """Where a writer's records come from, as `app.adapters.kafka.batch_app.BatchApp` controls it.

    ``refuse``: told which records of a topic are none of ours.
    """

    pause: Callable[[TP], None]
    resume: Callable[[TP], None]
    commit: Callable[[dict[TP, int]], Awaitable[bool]]
    refuse: Callable[[str, Refused], None]


@dataclass(frozen=True)
class Start:
    """Where a partition goes on.

    Parameters
    ----------
    offset
        First offset that is not known to be in the table.
    next_offset
        Where the block that starts there ends, when its writing may have begun.
    attempt
        As in `Plan`.
    witnesses
        Rows of earlier blocks, by their sources.
    """

    offset: int = 0
    next_offset: int | None = None
    attempt: int = 0
    witnesses: tuple[Source, ...] = ()


@dataclass
class _Held:
    start: Start
    fetches: deque[Fetched] = field(default_factory=deque)
    rows: int = 0
    size_bytes: int = 0
    is_paused: bool = False

    @property
    def is_waiting(self) -> bool:
        """Whether the rest of a block that another monitor began is still on its way."""
        end = self.start.next_offset
        return end is not None and bool(self.fetches) and int(self.fetches[-1].records.offsets[-1]) + 1 < end


@dataclass
class _Cut:
    """Records that become one block."""

    tp: TP
    batches: list[RecordBatch]
    size_bytes: int
    block: Block | None = None
    is_in: bool = False

    @property
    def next_offset(self) -> int:
        return int(self.batches[-1].offsets[-1]) + 1


class BlockWriter:
    """From an assignment of partitions to its revocation.

    Parameters
    ----------
    table
        Where the rows go.
    to_block
        Decodes records; called in the warehouse's thread.
    starts
        Where each partition that is ours goes on.
    plan
        Says which blocks come next, before they are written; called in the warehouse's thread.
    count
        Told how many rows were inserted.
    flush_s
        How long a row may wait for others.
    """

    def __init__(
        self,
        table: str,
        to_block: Callable[[Sequence[RecordBatch]], Block],
        warehouse: WarehouseThread,
        feed: Feed,
        starts: Mapping[TP, Start],
        *,
        plan: Callable[[Warehouse, Sequence[Plan]], None],
        count: Callable[[int], None],
        flush_s: float = 1.0,
    ) -> None:
        self.table = table
        #: Next offset of each partition that is not in the warehouse yet.
        self.positions = {tp: start.offset for tp, start in starts.items()}
        self._to_block = to_block
        self._warehouse = warehouse
        self._feed = feed
        self._plan = plan
        self._count = count
        self._flush_s = flush_s
        self._held = {tp: _Held(start) for tp, start in starts.items()}
        self._is_full = asyncio.Event()
        self._is_stopping = False

    def is_holding(self, tp: TP) -> bool:
        """Whether something received of a partition is not in the warehouse yet."""
        return self._held[tp].rows > 0

    @property
    def held_bytes(self) -> int:
        """What waits for the warehouse."""
        return sum(held.size_bytes for held in self._held.values())

    def witnesses(self) -> dict[TP, tuple[Source, ...]]:
        """Rows that are in the table, by their sources."""
        return {tp: held.start.witnesses for tp, held in self._held.items() if held.start.witnesses}

    def receive(self, fetched: Fetched) -> None:
        """Take a batch; never blocks."""
        tp = TP(fetched.records.topic, fetched.records.partition)
        held = self._held[tp]
        held.fetches.append(fetched)
        held.rows += len(fetched.records)
        held.size_bytes += fetched.size_bytes
        if held.size_bytes > HELD_BYTES and not held.is_paused and not held.is_waiting:
            held.is_paused = True
            self._feed.pause(tp)
        if held.rows >= BLOCK_OFFSETS:
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
        while cuts := [cut for tp, held in self._held.items() if (cut := self._cut(tp, held)) is not None]:
            await self._insert(cuts)
            for cut in cuts:
                held = self._held[cut.tp]
                assert cut.block is not None
                self.positions[cut.tp] = written[cut.tp] = cut.next_offset
                witnesses = cut.block.witnesses or held.start.witnesses
                held.start = replace(held.start, offset=cut.next_offset, next_offset=None, witnesses=witnesses)
                held.rows -= sum(map(len, cut.batches))
                held.size_bytes -= cut.size_bytes
                if held.is_paused and held.size_bytes <= HELD_BYTES // 2:
                    held.is_paused = False
                    self._feed.resume(cut.tp)
        if written:
            await self._feed.commit(written)

    def _cut(self, tp: TP, held: _Held) -> _Cut | None:
        """Take the next block of a partition out of what is held; None when there is none, or it is not all here."""
        if not held.fetches:
            return None
        if held.is_waiting:
            return None
        first, end = int(held.fetches[0].records.offsets[0]), held.start.next_offset
        if end is None or first >= end:
            end = (first // BLOCK_OFFSETS + 1) * BLOCK_OFFSETS
        batches, size_bytes = [], 0
        while held.fetches and int(held.fetches[0].records.offsets[0]) < end:
            fetched = held.fetches.popleft()
            if int(fetched.records.offsets[-1]) >= end:
                fetched, rest = _split(fetched, end)
                held.fetches.appendleft(rest)
            batches.append(fetched.records)
            size_bytes += fetched.size_bytes
        return _Cut(tp, batches, size_bytes)

    async def _insert(self, cuts: list[_Cut]) -> None:
        """Plan and write blocks of different partitions; after an error, again the same."""
        is_planned = False

        def write(warehouse: Warehouse) -> None:
            nonlocal is_planned
            for cut in cuts:
                cut.block = cut.block or self._to_block(cut.batches)
            if not is_planned:
                self._plan(warehouse, [self._plan_of(cut) for cut in cuts])
                is_planned = True
            for cut in cuts:
                if cut.block is not None and cut.block.rows and not cut.is_in:
                    attempt = self._held[cut.tp].start.attempt
                    token = f"{cut.block.token}/{attempt}" if attempt else cut.block.token
                    warehouse.insert(self.table, cut.block.columns, token)
                    cut.is_in = True

        await self._warehouse.call(write)
        for cut in cuts:
            assert cut.block is not None
            self._count(cut.block.rows)
            if cut.block.refused:
                self._feed.refuse(cut.tp.topic, cut.block.refused)

    def _plan_of(self, cut: _Cut) -> Plan:
        start = self._held[cut.tp].start
        return Plan(cut.tp.topic, cut.tp.partition, start.offset, cut.next_offset, start.attempt, *start.witnesses[:1])


def _split(fetched: Fetched, end: int) -> tuple[Fetched, Fetched]:
    """Cut a fetch before the first record at or after ``end``."""
    records = fetched.records
    at = int(records.offsets.searchsorted(end))
    before, after = records.cut(0, at), records.cut(at, len(records))
    size_bytes = fetched.size_bytes * at // len(records)
    return (
        Fetched(before, fetched.epoch, fetched.sequence, size_bytes),
        Fetched(after, fetched.epoch, fetched.sequence, fetched.size_bytes - size_bytes),
    )
