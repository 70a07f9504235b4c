"""One chaos run: a pipeline of its own, a fleet of workers, a load, a reader who waits for scores, and the account."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from chaos_checker import Findings, check, read_logs
from chaos_fleet import Fleet, worker_command
from chaos_load import Load, LoadProducer
from chaos_pipeline import Setup, announce_entry, promote, render_toml
from chaos_report import Figure, Row

from app.adapters.kafka.topics_admin import ensure_topics
from app.kafka_access import KafkaAccess
from app.replay.models import load_model
from app.settings import Settings
from models.versions.registry import Registry
from schemas.pipeline.file import load as load_pipeline
from schemas.topics import Topic
from schemas.wire import Score, decode_json

#: Generous: a machine may be busy with other things.
PATIENCE_S = 240.0


@dataclass
class Outcome:
    """What a run came to."""

    findings: Findings
    open_transactions: int
    longest_gap_s: float
    gaps_s: dict[int, float]
    exit_codes: list[int]
    kills: int
    peak_rss_mb: float
    produced: int
    retries: int
    figures: tuple[Figure, ...] = field(default_factory=tuple)


class ScoreReader:
    """Reads committed scores as they come, and remembers when: what a consumer of the topic sees.

    With ``seen_at`` set to a dict, it also remembers when the score of each event came.
    """

    def __init__(self, kafka: KafkaAccess, topic: str, partitions: int) -> None:
        self.arrivals: dict[int, list[float]] = defaultdict(list)
        self.count = 0
        self.seen_at: dict[str, float] | None = None
        self._kafka = kafka
        self._tps = [TopicPartition(topic, number) for number in range(partitions)]
        self._offsets: dict[TopicPartition, int] = dict.fromkeys(self._tps, 0)

    async def run(self) -> None:
        """Read on and on, whatever happens to the broker."""
        while True:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self._kafka.servers,
                enable_auto_commit=False,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                fetch_max_wait_ms=100,
                request_timeout_ms=5_000,
                metadata_max_age_ms=5_000,
            )
            try:
                await consumer.start()
                consumer.assign(self._tps)
                for tp, offset in self._offsets.items():
                    consumer.seek(tp, offset)
                while True:
                    for tp, found in (await consumer.getmany(timeout_ms=100)).items():
                        self._offsets[tp] = found[-1].offset + 1
                        self.arrivals[tp.partition].append(time.monotonic())
                        self.count += len(found)
                        self._see(found)
            except (KafkaError, OSError):
                await asyncio.sleep(0.2)
            finally:
                with contextlib.suppress(KafkaError, OSError):
                    await consumer.stop()

    def _see(self, found: list[Any]) -> None:
        if self.seen_at is None:
            return
        now = time.monotonic()
        for record in found:
            self.seen_at.setdefault(decode_json(record.value, Score).event_id, now)

    def latencies_ms(self, numbers: range, written_at: list[float]) -> list[float]:
        """From the write of each event to its score in a reader's hands, ascending; for events that occur once."""
        assert self.seen_at is not None
        seen = [(number, self.seen_at[f"e{number}"]) for number in numbers if f"e{number}" in self.seen_at]
        return sorted((at - written_at[number]) * 1000 for number, at in seen)

    def gaps(self, since: float) -> dict[int, float]:
        """Longest time without a score, per partition, of those that end after an instant."""
        found = {}
        for partition, times in sorted(self.arrivals.items()):
            spans = [b - a for a, b in itertools.pairwise(times) if b > since]
            found[partition] = max(spans, default=0.0)
        return found


class ChaosRun:
    """Workers, load and reader of one test; as a context it ends what it started.

    Parameters
    ----------
    kafka
        For load, reader and checks: never through a proxy.
    worker_kafka
        For the workers; None: the same.
    slots
        Most workers at a time.
    backlog
        Events that are written before the first worker starts.
    """

    def __init__(
        self,
        kafka: KafkaAccess,
        folder: Path,
        load: Load,
        setup: Setup,
        worker_kafka: KafkaAccess | None = None,
        *,
        slots: int = 3,
        backlog: int = 0,
    ) -> None:
        self.kafka = kafka
        self.setup = setup
        path = folder / f"t{uuid.uuid4().hex[:10]}.toml"
        path.write_text(render_toml(path.stem, setup))
        self.pipeline = load_pipeline(path)
        self.settings = replace(
            Settings.read({}), home=folder, registry=folder / "registry", kafka=kafka.servers, log_level="INFO"
        )
        self.load = replace(load, partitions=setup.partitions, with_labels=setup.with_labels)
        self.backlog = backlog
        self.pace = 1.0
        self.started_at = 0.0
        self.producer = LoadProducer(kafka, self.pipeline.topics, self.load, lambda: self.pace)
        self.reader = ScoreReader(kafka, self.pipeline.topics.scores, setup.partitions)
        environment = replace(self.settings, kafka=(worker_kafka or kafka).servers).to_environment()
        self.fleet = Fleet(
            folder,
            max(setup.workers, slots),
            lambda slot: worker_command(path, environment, f"w{slot}" if setup.static else None),
        )
        self.versions: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await ensure_topics(self.kafka, self.pipeline.topics.all())
        await self.promote("1.0.0", seed=1)
        await self._stack.enter_async_context(self.fleet)
        await self.producer.write_ahead(self.backlog)
        self.started_at = time.monotonic()
        self.fleet.start(*range(self.setup.workers))
        self._tasks = [asyncio.create_task(self.reader.run(), name="reader")]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.producer.close()
        await self._stack.aclose()

    # -- under way ---------------------------------------------------------------------------------------------------

    async def produce(self) -> None:
        """Start the load and wait until every partition is scored."""
        self._tasks.append(asyncio.create_task(self.producer.run(), name="load"))
        await self.every_partition_scores()
        self.started_at = time.monotonic()

    async def scores_come(self, more: int = 1, deadline_s: float = PATIENCE_S) -> float:
        """Wait until ``more`` scores have been read from now on; the seconds that it took."""
        started, goal = time.monotonic(), self.reader.count + more
        await self.wait_for(lambda: self.reader.count >= goal, f"{more} more scores", deadline_s)
        return time.monotonic() - started

    async def every_partition_scores(self, deadline_s: float = PATIENCE_S) -> float:
        """Wait until each partition has a score that comes after now; the seconds until the last one."""
        started = time.monotonic()
        partitions = range(self.setup.partitions)

        def all_came() -> bool:
            return all(self.reader.arrivals[k] and self.reader.arrivals[k][-1] > started for k in partitions)

        await self.wait_for(all_came, "a score of every partition", deadline_s)
        return time.monotonic() - started

    async def wait_for(self, condition: Callable[[], bool], what: str, deadline_s: float = PATIENCE_S) -> None:
        async def holds() -> bool:
            return condition()

        await self.wait_until(holds, what, deadline_s)

    async def wait_until(
        self, condition: Callable[[], Awaitable[bool]], what: str, deadline_s: float = PATIENCE_S
    ) -> None:
        limit = time.monotonic() + deadline_s
        while not await condition():
            for task in self._tasks:
                if task.done() and task.exception() is not None:
                    await task
            if time.monotonic() > limit:
                pytest.fail(f"not within {deadline_s:.0f} s: {what}\n{self.fleet.log()}")
            await asyncio.sleep(0.05)

    async def promote(self, version: str, seed: int) -> None:
        """Announce another good version."""
        self.versions.append(version)
        await promote(self.kafka, self.pipeline, Registry(self.settings.registry), version, seed)

    async def announce(self, version: str) -> None:
        """Announce a version again: a roll back."""
        await announce_entry(self.kafka, self.pipeline, Registry(self.settings.registry), version)

    # -- the account -------------------------------------------------------------------------------------------------

    async def finish(self, stop_deadline_s: float = 60) -> Outcome:
        """Wait until everything produced has an outcome, stop the workers, and draw up the account."""
        self.producer.finish()
        for task in self._tasks:
            if task.get_name() == "load":
                await asyncio.wait_for(task, PATIENCE_S)
        if self.setup.shared:
            await self.producer.write(self.load.last(self.pipeline.topics, self.producer.sent))
        self.fleet.start(0)  # whoever was left, somebody must finish
        await self.wait_until(self._all_is_committed, "the commit of everything produced")
        await self.fleet.stop(*range(len(self.fleet._slots)), deadline_s=stop_deadline_s)
        open_transactions = await self.count_open_transactions()
        found = await self.account()
        gaps = self.reader.gaps(self.started_at)
        return Outcome(
            findings=found,
            open_transactions=open_transactions,
            longest_gap_s=max(gaps.values(), default=0.0),
            gaps_s=gaps,
            exit_codes=[end.code for end in self.fleet.exits],
            kills=self.fleet.kills,
            peak_rss_mb=self.fleet.peak_rss / 1e6,
            produced=self.producer.sent,
            retries=self.producer.retries,
        )

    async def account(self) -> Findings:
        """Read the topics and hold everything against the input."""
        logs = await read_logs(self.kafka, self.pipeline)
        registry = Registry(self.settings.registry)
        models = {version: load_model(self.pipeline, registry, version) for version in self.versions}
        found = await asyncio.to_thread(check, logs, models)
        assert found.events >= self.producer.sent, "The input topic does not hold what was acknowledged."
        return found

    async def committed(self) -> int:
        return sum((await self._offsets())[0])

    async def _all_is_committed(self) -> bool:
        committed, ends = await self._offsets()
        return committed == ends

    async def _offsets(self) -> tuple[list[int], list[int]]:
        """Committed offsets and end offsets of the events topic."""
        tps = [TopicPartition(self.pipeline.topics.events, number) for number in range(self.setup.partitions)]
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka.servers, group_id=f"streamgauge-{self.pipeline.name}", enable_auto_commit=False
        )
        await consumer.start()
        try:
            consumer.assign(tps)
            ends = await consumer.end_offsets(tps)
            return [await consumer.committed(tp) or 0 for tp in tps], [ends[tp] for tp in tps]
        finally:
            await consumer.stop()

    async def count_open_transactions(self, deadline_s: float = 15) -> int:
        """Partitions whose last stable offset is still not their end after the deadline: open transactions."""
        topics = self.pipeline.topics
        names: list[Topic] = [
            topic for topic in topics.all()
            if topic.name in {topics.scores, topics.dead_letters, topics.state, topics.sketches}
        ]  # fmt: skip
        tps = [TopicPartition(topic.name, number) for topic in names for number in range(topic.partitions)]
        limit = time.monotonic() + deadline_s
        while True:
            stable, ends = [await self._ends(tps, level) for level in ("read_committed", "read_uncommitted")]
            left = sum(stable[tp] != ends[tp] for tp in tps)
            if not left or time.monotonic() > limit:
                return left
            await asyncio.sleep(0.5)

    async def _ends(self, tps: list[TopicPartition], isolation: str) -> Any:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka.servers, isolation_level=isolation)
        await consumer.start()
        try:
            return await consumer.end_offsets(tps)
        finally:
            await consumer.stop()

    def row(self, promise: str, fault: str, outcome: Outcome, faults: int, **more: Any) -> Row:
        """The row of the report."""
        found = outcome.findings
        codes = {code: outcome.exit_codes.count(code) for code in sorted(set(outcome.exit_codes))}
        note = more.pop("note", "") or (
            found.describe() if found.lost or found.conflicting or found.wrong_counts else ""
        )
        return Row(
            promise,
            fault,
            seed=self.load.seed,
            load=f"{self.load.describe()}, {self.setup.workers} {'static' if self.setup.static else 'dynamic'} workers",
            delivery=self.setup.delivery,
            events=found.events,
            faults=faults,
            lost=found.lost,
            doubled=found.doubled,
            conflicting=found.conflicting,
            wrong_counts=found.wrong_counts,
            longest_gap_s=outcome.longest_gap_s,
            open_transactions=outcome.open_transactions,
            doubled_is_allowed=self.setup.delivery == "at_least_once",
            note=(note.replace("\n", ";") + f" exits {codes}").strip()[:600],
            figures=(*outcome.figures, *more.pop("figures", ())),
            **more,
        )
