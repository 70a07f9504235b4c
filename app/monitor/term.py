"""What a monitor does with the partitions it was given: scores and dead letters to rows, sketches to findings.

Where it is and what it holds is a checkpoint in the warehouse, so that a restart goes on from what the warehouse has.
Findings are saved with the checkpoint before anyone sees them, and shown again after a crash: they never differ. A
checkpoint that is older than the tables is read on from, and what changes is reported above the revisions they have;
one that is newer, because tables have lost rows, is not trusted, and the topics are read from their beginning.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial

from faust.types import TP

from app.adapters.http.alert_answers import AlertAnswers
from app.adapters.kafka.batch_handler import FetchCount, Fetched
from app.adapters.river_detectors import make_detector
from app.core.batches import RecordBatch
from app.core.counts.sketch_rules import read_sketch
from app.core.findings import Findings
from app.core.monitoring.core import MonitorCore
from app.core.records.outputs import OutputReader
from app.core.records.rules import RecordRules, check_readable
from app.monitor.block_writer import BlockWriter, Feed
from app.monitor.context import MonitorContext
from app.monitor.findings_outbox import FindingsOutbox
from app.monitor.model_history import KnownVersion
from app.monitor.reign import Reign
from app.monitor.rows import Block, dead_letter_block, score_block
from app.monitor.sketch_queue import SketchQueue
from app.monitor.takeover import Bounds, Legacy, Saved, Witnesses, are_new, start_of, tables_of
from schemas.refusal import RefusedRecordError
from schemas.wire import decode_packed

log = logging.getLogger("streamgauge.monitor")

_STOP_DEADLINE_S = 15.0
#: Judgements of a window after which the event loop has its turn: when time jumps, thousands may be due.
JUDGED = 1
#: Rows of findings that are shown, and saved, together.
_SHOWN_ROWS = 20_000
_BLOCKS: dict[str, Callable[..., Block]] = {"scores": score_block, "dead_letters": dead_letter_block}


class MonitorTerm:
    """The partitions in the hands of this monitor, from their assignment to their revocation."""

    def __init__(
        self, context: MonitorContext, epoch: int, reign: Reign, legacy: Legacy, bounds: Mapping[TP, Bounds]
    ) -> None:
        self.epoch = epoch
        self._context = context
        pipeline = context.pipeline
        self.core = MonitorCore(pipeline, make_detector=make_detector)
        self._outbox = FindingsOutbox(context, reign)
        #: Records that Kafka deleted before they were written.
        self.n_lost = 0
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._is_changed = False
        self._fetches = FetchCount()
        self._tasks: list[asyncio.Task[None]] = []
        self._answers = AlertAnswers()
        is_new = are_new(legacy, bounds)
        sketches = pipeline.topics.sketches
        writing = {
            tp: start_of(tp, legacy, at, is_new, reign.term) for tp, at in bounds.items() if tp.topic != sketches
        }
        restored = {} if is_new else self._restore(legacy, bounds)
        self.core.windows.raise_revisions(legacy.revisions)
        self.core.alerts.recall(legacy.alerts)
        #: Where to read from.
        self.starts = {tp: writing[tp].offset if tp in writing else restored.get(tp, 0) for tp in sorted(bounds)}
        self._sketches = SketchQueue(context.app, {tp: at for tp, at in self.starts.items() if tp not in writing})
        if not is_new:
            self._mind_the_gap(bounds, legacy, restored.keys() | writing.keys())
        reader = OutputReader(RecordRules.of(pipeline))
        app = context.app
        feed = Feed(lambda tp: app.pause([tp]), lambda tp: app.resume([tp]), app.commit_offsets, context.refusals.take)
        self.writers = {
            topic: BlockWriter(
                table,
                partial(_BLOCKS[table], pipeline.name, reader),
                context.warehouse,
                feed,
                {tp: start for tp, start in writing.items() if tp.topic == topic},
                plan=reign.plan,
                count=partial(context.count, table),
                flush_s=context.pace.flush,
            )
            for topic, table in tables_of(pipeline).items()
        }

    def _restore(self, legacy: Legacy, bounds: Mapping[TP, Bounds]) -> dict[TP, int]:
        """Take over the windows; where to read the sketches from (without an entry: their beginning)."""
        if legacy.checkpoint is None:
            return {}
        if legacy.lost_findings:
            tables = ", ".join(sorted(legacy.lost_findings))
            log.warning("ClickHouse has lost rows of %s: the sketches are read again from their beginning.", tables)
            return {}
        try:
            state = decode_packed(legacy.checkpoint.state, Saved)
            self.core.restore(state.core)
        except ValueError as error:  # refusals are ValueErrors
            log.warning("The checkpoint does not fit and the sketches are read again: %s", error)
            self.core = MonitorCore(self._context.pipeline, make_detector=make_detector)
            return {}
        self._outbox.restore(state)
        sketches = self._context.pipeline.topics.sketches
        offsets = legacy.checkpoint.offsets.get(sketches, {})
        return {tp: offsets.get(tp.partition, 0) for tp in bounds if tp.topic == sketches}

    def _mind_the_gap(self, bounds: Mapping[TP, Bounds], legacy: Legacy, going_on: Collection[TP]) -> None:
        """Say what Kafka has deleted before it was written; keep reports whose counts cannot be made again."""
        for tp, at in self.starts.items():
            gap = bounds[tp].first - at
            if gap > 0 and tp in going_on and legacy.checkpoint is not None:
                self.n_lost += gap
                words = (
                    "Kafka has deleted up to %d records of %s/%d that ClickHouse lacks: raise retention.ms; backfill."
                )
                log.error(words, gap, *tp)
            if gap > 0 and tp in self._sketches.positions:
                self.core.windows.keep_reported(legacy.revisions)

    # -- in and out ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start working; each of its tasks is handed over when it has ended, by an error perhaps."""
        work = {
            "sketches": self._run(),
            **{writer.table: writer.run() for writer in self.writers.values()},
        }
        for name, routine in work.items():
            task = asyncio.create_task(routine, name=name)
            task.add_done_callback(self._context.ended)
            self._tasks.append(task)

    async def let_go(self, *, finish: bool) -> None:
        """Stop. ``finish``: write and save what has been received; otherwise it is read again by the next one."""
        if finish:
            sketches, *writers = self._tasks
            for writer in self.writers.values():
                writer.stop()
            # The writers first: the last checkpoint says how far they came.
            _, late = await asyncio.wait(writers, timeout=_STOP_DEADLINE_S)
            if not late:
                self._is_stopping = True
                self._wake.set()
                await asyncio.wait([sketches], timeout=_STOP_DEADLINE_S)
        unfinished = [task for task in self._tasks if not task.done()]
        if finish and unfinished:
            log.warning("Not all could be written before the end; it is read again at the next start.")
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._answers.close()

    async def acknowledge(self, alert_id: str, by: str, why: str) -> None:
        """Note that a person has taken an alert on; returns when that is saved and told.

        `AcknowledgeError` when it cannot be; `asyncio.CancelledError` when the term ends before.
        """
        self._wake.set()
        await self._answers.give(alert_id, by, why)

    def receive(self, fetched: Fetched) -> None:
        """Take a batch from the agent; never blocks."""
        tp = self._fetches.note(fetched)
        writer = self.writers.get(tp.topic)
        if writer is not None:
            writer.receive(fetched)
            return
        self._sketches.put(fetched)
        self._wake.set()

    def register(self, known: KnownVersion) -> None:
        """Tell the core of a version."""
        try:
            dropped = self.core.register_version(known.version, known.reference, known.training_metrics, known.training)
        except ValueError as error:
            log.warning("Version %s is left as it was: %s", known.version, error)
        else:
            if dropped:
                words = "What %d windows held of version %s is not counted in its cells and is dropped."
                log.warning(words, dropped, known.version)
        self.notice()

    @property
    def held_bytes(self) -> int:
        """What was received and waits for the warehouse."""
        return self._sketches.held_bytes + sum(writer.held_bytes for writer in self.writers.values())

    def declare_idle(self, partition: int) -> None:
        """Let a partition hold back no window until it reports again."""
        self.core.windows.watermarks.declare_idle(partition)
        self.notice()

    def notice(self) -> None:
        """Look again: something has changed that no batch has brought."""
        self._is_changed = True
        self._wake.set()

    def next_offset(self, tp: TP) -> int:
        """The first offset whose effects are not in the warehouse yet."""
        writer = self.writers.get(tp.topic)
        return writer.positions[tp] if writer is not None else self._sketches.positions[tp]

    def is_holding(self, tp: TP) -> bool:
        """Whether something received is not handled yet, or on its way to us."""
        writer = self.writers.get(tp.topic)
        waits = writer.is_holding(tp) if writer is not None else bool(self._sketches)
        return waits or self._context.app.fetches(tp) != self._fetches.of(tp)

    # -- sketches ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop, pace = asyncio.get_running_loop(), self._context.pace
        await self._outbox.show()
        collect_at = loop.time()
        checkpoint_at = loop.time() + pace.checkpoint
        while not self._is_stopping:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(pace.collect, pace.checkpoint))
            self._wake.clear()
            await self._observe()
            if self._answers.take(self.core.alerts, self._context.now_ms()):
                await self._collect()
                await self._save()  # that it was told: who kills us now has it told no second time
                self._answers.confirm()
            if self._is_changed and loop.time() >= collect_at:
                await self._collect()
                collect_at = loop.time() + (0 if self.core.is_behind else pace.collect)
            if loop.time() >= checkpoint_at:
                await self._save()
                checkpoint_at = loop.time() + pace.checkpoint
        await self._observe()
        await self._collect()  # what it leaves, the next monitor judges
        await self._save()

    async def _observe(self) -> None:
        while (fetched := self._sketches.take()) is not None:
            for position, value in enumerate(fetched.records.values):
                self._take(fetched.records, position, value)
            self._sketches.handled(fetched)
            self._is_changed = True
            await asyncio.sleep(0)

    def _take(self, records: RecordBatch, position: int, value: bytes | None) -> None:
        place = records.topic, records.partition, int(records.offsets[position])
        refusals = self._context.refusals
        try:
            check_readable(records, position)
            left_out = self.core.observe(read_sketch(records.partition, value), self._context.now_ms())
        except RefusedRecordError as error:
            refusals.note(*place, error)
        else:
            if left_out:
                words = "It counts in segments that the pipeline file does not have (any more); these are left out."
                refusals.note(*place, RefusedRecordError("foreign", words), left_out)

    async def _collect(self) -> None:
        self._is_changed = False
        entities = self._context.entities
        if entities is not None and entities.is_read.is_set():
            self.core.inputs.look_up(entities.directory)
        findings = Findings()
        while True:
            await asyncio.to_thread(self.core.calibrate, JUDGED)
            findings.add(self.core.collect(self._context.now_ms(), JUDGED))
            if not self.core.is_behind or findings.rows >= _SHOWN_ROWS:
                break
            await asyncio.sleep(0)
        if self.core.is_behind:
            self.notice()
        if self._outbox.put(findings):
            await self._save()
            await self._outbox.show()

    async def _save(self) -> None:
        """Save what was read and concluded, and how far that is."""
        offsets: dict[str, dict[int, int]] = {}
        for tp in self.starts:
            offsets.setdefault(tp.topic, {})[tp.partition] = self.next_offset(tp)
        witnesses: Witnesses = {}
        for writer in self.writers.values():
            for tp, rows in writer.witnesses().items():
                witnesses.setdefault(tp.topic, {})[tp.partition] = rows
        if await self._outbox.save(self.core.snapshot, offsets, witnesses):
            await self._context.app.commit_offsets(dict(self._sketches.positions))
