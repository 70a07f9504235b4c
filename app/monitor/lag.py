"""How far a pipeline's workers, router and monitor are, and which partitions need not be waited for."""

from __future__ import annotations

import time

from faust.types import TP

from app.adapters.kafka.batch_app import BatchApp
from app.adapters.kafka.lag import LagReader, Position, router_group, worker_group
from app.core.counts.idleness import Idleness, Sight
from app.kafka_access import KafkaAccess
from app.monitor.term import MonitorTerm
from schemas.pipeline.spec import Pipeline


class PipelineLag:
    """The positions of a pipeline's consumers, as they were last read."""

    def __init__(self, kafka: KafkaAccess, pipeline: Pipeline, app: BatchApp, idle_after_s: float) -> None:
        self.reader = LagReader(kafka)
        self._pipeline = pipeline
        self._app = app
        self._idleness = Idleness(idle_after_s)
        self._committed: dict[TP, Position] = {}
        #: How many workers there are; None: not known.
        self.workers: int | None = None
        self.of_workers: dict[TP, Position] = {}
        #: Of the router (`[events] repartition`), in what is sent.
        self.of_router: dict[TP, Position] = {}
        self.of_monitor: dict[TP, Position] = {}

    async def read_groups(self) -> None:
        """Ask the broker where workers and router are."""
        pipeline, topics = self._pipeline, self._pipeline.topics
        partitions = range(pipeline.partitions)
        group = worker_group(pipeline.name)
        committed = await self.reader.positions(group, [TP(topics.events, partition) for partition in partitions])
        self.workers = await self.reader.members(group)
        routed: dict[TP, Position] = {}
        if topics.by_entity:
            sent = [topics.sent_events] + ([topics.sent_labels] if pipeline.labels is not None else [])
            places = [TP(topic, partition) for topic in sent for partition in partitions]
            routed = await self.reader.positions(router_group(pipeline.name), places)
        positions = await self.reader.past_markers(committed | routed)
        self.of_workers = {tp: positions[tp] for tp in committed}
        self.of_router = {tp: positions[tp] for tp in routed}
        self._committed = committed

    async def read_own(self, term: MonitorTerm | None) -> None:
        """Ask where the monitor at work is; None: this one is not."""
        if term is None:
            self.of_monitor = {}
            return
        ends = await self.reader.ends(list(term.starts))
        self.of_monitor = {tp: await self._own(term, tp, end) for tp, end in ends.items()}

    async def _own(self, term: MonitorTerm, tp: TP, end: int) -> Position:
        """Offsets that transactions use up count as handled when all before them is."""
        handled = term.next_offset(tp)
        is_done = not term.is_holding(tp) and await self._app.read_to(tp, end)
        return Position(max(handled, end) if is_done else handled, end)

    def find_idle(self, term: MonitorTerm) -> list[int]:
        """The partitions that need hold back no window, by what was read last."""
        sights: dict[int, Sight] = {}
        watermarks = term.core.windows.watermarks
        for tp, position in self.of_workers.items():
            sketches = self.of_monitor.get(TP(self._pipeline.topics.sketches, tp.partition))
            is_done = position.lag == 0 and sketches is not None and sketches.lag == 0
            sights[tp.partition] = Sight(self._committed[tp], is_done, watermarks.has_reported(tp.partition))
        return self._idleness.observe(sights, time.monotonic())
