"""What the parts of a monitor work with, and how often they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.kafka.batch_app import BatchApp
from app.adapters.kafka.entity_feed import EntityFeed
from app.adapters.kafka.refusals import Refusals
from schemas.pipeline.spec import Pipeline


@dataclass(frozen=True)
class Pace:
    """How often things are done, in seconds.

    ``idle_after``: a partition whose events are all scored and that brings none for so long, while others do, holds
    back no window.
    """

    flush: float = 1.0
    collect: float = 1.0
    checkpoint: float = 10.0
    housekeeping: float = 5.0
    idle_after: float = 30.0


@dataclass
class MonitorContext:
    """What a monitor and its terms share.

    ``refusals``: records of all topics that are none of ours; ``rows``: inserted per table; both since the process
    started. ``ended``: told of each task that has ended. ``entities``: where their partitions matter.
    """

    pipeline: Pipeline
    app: BatchApp
    warehouse: WarehouseThread
    producer: AIOKafkaProducer
    now_ms: Callable[[], int]
    pace: Pace
    ended: Callable[[asyncio.Task[None]], None]
    refusals: Refusals
    entities: EntityFeed | None
    rows: dict[str, int] = field(default_factory=dict)

    def count(self, table: str, rows: int) -> None:
        """Count rows that were inserted."""
        self.rows[table] = self.rows.get(table, 0) + rows
