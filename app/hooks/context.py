"""What all parts of a sender work with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.adapters.kafka.batch_app import BatchApp
from app.adapters.kafka.log_bounds import LogBounds
from app.adapters.kafka.refusals import Refusals
from app.adapters.webhooks.client import Patience
from app.core.hooks.ledger import Ledger
from app.core.hooks.queue import HookQueue
from app.core.hooks.schedule import Schedule
from app.core.hooks.selection import Selection
from app.hooks.starts import Beginning
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Hook, Pipeline


@dataclass(frozen=True)
class Pace:
    """Times and bounds of a sender.

    Parameters
    ----------
    commit_s
        How often a partition commits what has become of its records.
    under_way
        Tries of one hook at a time.
    most_bytes
        What may wait in memory, parked or not; more is not read.
    inbox_bytes
        What may be fetched of a partition ahead of that.
    let_go_s
        How long what is under way may take when partitions are given up.
    """

    schedule: Schedule = field(default_factory=Schedule)
    patience: Patience = field(default_factory=Patience)
    commit_s: float = 0.2
    under_way: int = 16
    most_bytes: int = 64 << 20
    inbox_bytes: int = 4 << 20
    let_go_s: float = 5.0


@dataclass
class Counts:
    """What happened since the start, by hook; what is counted of records counts once it is committed."""

    told: Counter[str] = field(default_factory=Counter)
    #: By hook and outcome.
    tries: Counter[tuple[str, str]] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    commits: int = 0


@dataclass(frozen=True, kw_only=True)
class SenderContext:
    """What partitions and couriers of a sender have in common.

    ``queues``: of the hooks over HTTP, by name. ``ledgers``: of the partitions at work. ``partitions``: how many the
    topics of hooks to Kafka have. ``fail`` ends the process: why, and with which exit code. ``notice``: there is
    something new for the couriers.
    """

    pipeline: Pipeline
    kafka: KafkaAccess
    group: str
    app: BatchApp
    logs: LogBounds
    pace: Pace
    beginning: Beginning
    selection: Selection
    refusals: Refusals
    queues: Mapping[str, HookQueue]
    ledgers: dict[int, Ledger]
    partitions: Mapping[str, int]
    counts: Counts
    now_ms: Callable[[], int]
    fail: Callable[[str, int], None]
    notice: Callable[[], None]

    @property
    def hooks(self) -> dict[str, Hook]:
        return {hook.name: hook for hook in self.pipeline.hooks}

    @property
    def is_full(self) -> bool:
        """Whether so much waits in memory that no more should be read."""
        return sum(queue.size_bytes for queue in self.queues.values()) > self.pace.most_bytes
