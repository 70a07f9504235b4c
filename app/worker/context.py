"""What all partitions of a worker work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaProducer

from app.adapters.kafka.batch_app import BatchApp
from app.adapters.kafka.entity_feed import EntityFeed
from app.adapters.kafka.log_bounds import LogBounds
from app.core.features.plan import FeaturePlan
from app.kafka_access import KafkaAccess
from app.serving.commits import CommitCounts, Send
from app.step_size import AskedLately
from app.worker.model_shelf import ModelShelf
from app.worker.outbox import Progress
from app.worker.shared_feed import SharedFeed
from schemas.pipeline.spec import Pipeline


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """What the tasks of a worker's partitions have in common.

    ``fail`` ends the whole worker: why, and with which exit code. ``shared``: None unless windows are shared between
    partitions. ``early``: see `PartitionPublisher`. ``entities``: None unless events of entities that belong to another
    partition are refused. ``asked``: whether steps are to be short. ``send``, ``commits``: what the
    scoring hook sends. ``rows_folder``: where rows of windows are kept on
    disk; None: all are in memory.
    """

    pipeline: Pipeline
    plan: FeaturePlan
    kafka: KafkaAccess
    group: str
    app: BatchApp
    logs: LogBounds
    shelf: ModelShelf
    progress: Progress
    now_ms: Callable[[], int]
    fail: Callable[[str, int], None]
    shared: SharedFeed | None
    early: AIOKafkaProducer | None
    entities: EntityFeed | None
    asked: AskedLately
    send: Send
    commits: CommitCounts
    rows_folder: Path | None = None
