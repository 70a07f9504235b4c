"""The Kafka topics of a pipeline: names, and the settings they are created with.

Names are the contract (README, "Topics"); everything that names a topic asks here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Header of a record that carries no event or label, only a promise: no event and no label of this
#: partition that follows is older than this event time (milliseconds, decimal ASCII).
#: It may appear on the labels topic; its key and value are ignored.
WATERMARK_HEADER = "streamgauge-watermark-ms"
#: Header of an event that is to be scored once, however often it is sent; its value is ignored.
ONCE_HEADER = "streamgauge-once"
#: Header of a record on a topic by entity: partition/offset of the record that it is a copy of.
ORIGIN_HEADER = "streamgauge-origin"
#: Header of a record that stands for others that cannot be read; on a topic by entity: their size in bytes, and why.
UNREADABLE_HEADER = "streamgauge-unreadable"
#: How far a record's time stamp may be ahead of the broker's clock (Kafka 4's own default; earlier ones have no bound).
MAX_STAMP_AHEAD_MS = 3_600_000
#: An event of the largest size that a broker takes by default fits whole into a dead letter.
MAX_DEAD_LETTER_BYTES = 2 << 20


@dataclass(frozen=True)
class Topic:
    """One topic: its name, how many partitions it has, and its Kafka settings.

    ``kept_as``: a topic; records are to be kept as long as that keeps its own, and may be as large.
    """

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)
    kept_as: str = ""


@dataclass(frozen=True)
class Topics:
    """The topics of one pipeline.

    Parameters
    ----------
    pipeline
        Name of the pipeline; the prefix of each topic.
    partitions
        Partitions of the events topic. Labels, scores, dead letters, state, shared tiles, entities and sketches have as
        many, and what partition k of the events produces goes to partition k of those. ``repartition`` and ``answers``
        have as many, too: partition k of the events writes to all partitions of the former, and reads partition k of
        the latter.
    by_entity
        Whether what is sent is copied to topics in which each entity has one partition (``[events] repartition``).
        ``events`` and ``labels`` are then these: what is scored.
    with_hooks
        Whether the pipeline has hooks. What comes of partition k of the scores is kept in partition k of theirs.
    """

    pipeline: str
    partitions: int
    by_entity: bool = False
    with_hooks: bool = False

    @property
    def sent_events(self) -> str:
        """Where producers write events."""
        return f"{self.pipeline}.events"

    @property
    def sent_labels(self) -> str:
        """Where producers write labels."""
        return f"{self.pipeline}.labels"

    @property
    def events(self) -> str:
        return f"{self.pipeline}.events-by-entity" if self.by_entity else self.sent_events

    @property
    def labels(self) -> str:
        return f"{self.pipeline}.labels-by-entity" if self.by_entity else self.sent_labels

    @property
    def scores(self) -> str:
        return f"{self.pipeline}.scores"

    @property
    def dead_letters(self) -> str:
        return f"{self.pipeline}.dead-letters"

    @property
    def model_updates(self) -> str:
        return f"{self.pipeline}.model-updates"

    @property
    def model_status(self) -> str:
        return f"{self.pipeline}.model-status"

    @property
    def drift(self) -> str:
        return f"{self.pipeline}.drift"

    @property
    def verdicts(self) -> str:
        return f"{self.pipeline}.verdicts"

    @property
    def alerts(self) -> str:
        return f"{self.pipeline}.alerts"

    @property
    def state(self) -> str:
        return f"{self.pipeline}.state"

    @property
    def sketches(self) -> str:
        return f"{self.pipeline}.sketches"

    @property
    def shared(self) -> str:
        return f"{self.pipeline}.shared"

    @property
    def entities(self) -> str:
        return f"{self.pipeline}.entities"

    @property
    def repartition(self) -> str:
        return f"{self.pipeline}.repartition"

    @property
    def answers(self) -> str:
        return f"{self.pipeline}.answers"

    @property
    def replayed(self) -> str:
        return f"{self.pipeline}.replayed"

    @property
    def hooks_retry(self) -> str:
        """What hooks could not tell yet."""
        return f"{self.pipeline}.hooks-retry"

    @property
    def hooks_dead(self) -> str:
        """What hooks gave up."""
        return f"{self.pipeline}.hooks-dead"

    @property
    def hooks_state(self) -> str:
        """Which hooks are disabled."""
        return f"{self.pipeline}.hooks-state"

    def all(self) -> list[Topic]:
        """Every topic of the pipeline, as it is to be created."""
        n = self.partitions
        compact = {"cleanup.policy": "compact"}
        forever = {"retention.ms": "-1"}
        # How far ahead an event may be is measured from its record's time stamp (ADR 0010): a producer whose clock is
        # wrong is refused by the broker.
        on_time = {**forever, "message.timestamp.after.max.ms": str(MAX_STAMP_AHEAD_MS)}
        # A record is a little longer there, and its batch may be packed less.
        copies = {**forever, "max.message.bytes": str(MAX_DEAD_LETTER_BYTES)}
        by_entity = [
            Topic(self.events, n, copies, kept_as=self.sent_events),
            Topic(self.labels, n, copies, kept_as=self.sent_labels),
        ]
        return [
            Topic(self.sent_events, n, on_time),
            Topic(self.sent_labels, n, on_time),
            *(by_entity if self.by_entity else ()),
            Topic(self.scores, n, forever),
            Topic(self.dead_letters, n, {**forever, "max.message.bytes": str(MAX_DEAD_LETTER_BYTES)}),
            Topic(self.model_updates, 1, compact),
            Topic(self.model_status, 1, forever),
            Topic(self.drift, 1, forever),
            Topic(self.verdicts, 1, forever),
            Topic(self.alerts, 1, forever),
            Topic(self.state, n, compact),
            Topic(self.shared, n, compact),
            Topic(self.entities, n, compact),
            # The owners of their partitions delete what nobody needs any more (ADR 0019).
            Topic(self.repartition, n, forever),
            Topic(self.answers, n, forever),
            Topic(self.sketches, n, forever),
            Topic(self.replayed, 1, compact),
            *(self._of_hooks() if self.with_hooks else ()),
        ]

    def _of_hooks(self) -> list[Topic]:
        # A record of each topic fits with what is noted about it. A tombstone says that it is settled.
        # A segment is compacted once it is full, and whoever takes over reads what is left.
        kept = {
            "cleanup.policy": "compact",
            "max.message.bytes": str(MAX_DEAD_LETTER_BYTES),
            "segment.bytes": str(16 << 20),
        }
        return [
            Topic(self.hooks_retry, self.partitions, kept),
            Topic(self.hooks_dead, self.partitions, kept),
            Topic(self.hooks_state, 1, {"cleanup.policy": "compact"}),
        ]
