"""One run of one contestant: topics of its own, loaded before anything is timed, and what its processes cost.

Every contestant is timed by the broker: scores topics are stamped with the time of appending, so the span from the
first score appended to the last says how fast it was, whoever it is and whatever it does before and after. What it does
until its first score (imports, joining its group, a JVM's start) is thereby left out for all alike; scores of the first
stamp are not counted, for their work was done before it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import Popen
from typing import Any, Self

import numpy as np
import psutil
from aiokafka.errors import KafkaError
from faust.types import TP
from numpy.typing import NDArray

from app.adapters.kafka.clients import new_admin, new_producer
from app.adapters.kafka.lag import LagReader, worker_group
from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.stack.child_process import spawn, stop_child
from app.bench.workload import PARTITIONS, Workload
from app.exits import StackError
from app.kafka_access import KafkaAccess
from app.settings import Settings
from schemas.pipeline.spec import Delivery
from schemas.topics import Topic, Topics

DEADLINE_S = 300.0
_SAMPLE_S = 0.05
_POLL_S = 0.2
_BATCH_BYTES = 500_000


class BenchError(RuntimeError):
    """A part of the benchmark that could not be measured; one sentence says why."""


#: What may go wrong with one part without ending the others.
MISHAPS = (BenchError, StackError, KafkaError, OSError, psutil.Error, subprocess.TimeoutExpired)


@dataclass
class Lane:
    """Names, folder and topics of one run."""

    name: str
    workload: Workload
    settings: Settings
    folder: Path
    topics: Topics = field(init=False)

    def __post_init__(self) -> None:
        self.topics = Topics(self.name, PARTITIONS)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def group(self) -> str:
        """The consumer group, named as our worker names it."""
        return worker_group(self.name)

    def partitions(self, topic: str) -> list[TP]:
        return [TP(topic, number) for number in range(PARTITIONS)]

    async def open(self, delivery: Delivery = "exactly_once") -> Path:
        """Make the topics and the pipeline file."""
        topics = [topic for topic in self.topics.all() if topic.name != self.topics.scores]
        stamped = {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"}
        await ensure_topics(self.settings.kafka_access, [*topics, Topic(self.topics.scores, PARTITIONS, stamped)])
        return self.workload.write_pipeline(self.folder, self.name, delivery).path

    async def close(self) -> None:
        """Delete the topics and what else a contestant made under this name."""
        admin: Any = new_admin(self.settings.kafka_access)
        await admin.start()
        try:
            await admin.delete_topics([name for name in await admin.list_topics() if self.name in name])
        finally:
            await admin.close()

    def environment(self) -> dict[str, str]:
        """What a contestant's program is told."""
        return {
            **os.environ,
            **replace(self.settings, home=self.folder).to_environment(),
            "STREAMGAUGE_REGISTRY": str(self.settings.registry),
            "KAFKA": self.settings.kafka,
            "INPUT": self.topics.events,
            "OUTPUT": self.topics.scores,
            "GROUP": self.group,
            "STATE": str(self.folder),
            # One thread for each process's linear algebra, for every contestant: the machine's cores are shared.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def start(self, command: Sequence[str], extra: dict[str, str] | None = None) -> Child:
        """Start a process of the contestant; it dies with us."""
        number = len(list(self.folder.glob("process-*.log")))
        log = self.folder / f"process-{number}.log"
        with log.open("wb") as file:
            process = spawn(
                command,
                environment={**self.environment(), **(extra or {})},
                stdout=file,
                stderr=file,
                folder=self.folder,
            )
        return Child(process, log)


@dataclass
class Child:
    """A process of a contestant and its log."""

    process: Popen[bytes]
    log: Path

    def last_words(self) -> str:
        """The end of its log, on one line."""
        return " / ".join(self.log.read_text(errors="replace").strip().splitlines()[-4:])[-600:]

    def check(self) -> None:
        """BenchError when it has ended."""
        if self.process.poll() is not None:
            raise BenchError(f"it ended with {self.process.returncode}: {self.last_words()}")

    def stop(self) -> None:
        stop_child(self.process, 15.0)


class Meter:
    """Samples CPU time (user + system) and resident memory of processes; a thread of the harness."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._times: list[float] = []
        self._cpu: list[float] = []
        self.rss: list[int] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            try:
                cpu = sum(sum(process.cpu_times()[:2]) for process in self._processes)
                rss = sum(process.memory_info().rss for process in self._processes)
            except psutil.Error:  # it ended; who waits for it says so
                return
            self._times.append(time.time())
            self._cpu.append(cpu)
            self.rss.append(rss)

    def cpu_between(self, first_ms: float, last_ms: float) -> float:
        """CPU seconds of the span, between samples by interpolation."""
        start, stop = np.interp([first_ms / 1000, last_ms / 1000], self._times, self._cpu)
        return float(stop - start)


@dataclass(frozen=True)
class Load:
    """Record batches of a workload's first events, built once and sent to the topics of many lanes."""

    count: int
    batches: list[list[Any]]

    @classmethod
    async def build(cls, workload: Workload, count: int, first: int = 0) -> Load:
        """Encode events ``first`` to ``first + count``; event n goes to partition n mod 4."""
        maker = new_producer(KafkaAccess("none"), max_batch_size=_BATCH_BYTES)
        batches: list[list[Any]] = []
        for partition in range(PARTITIONS):
            built = [maker.create_batch()]
            start = first + (partition - first) % PARTITIONS
            for number in range(start, first + count, PARTITIONS):
                key, value, time_ms = workload.event(number)
                if built[-1].append(key=key, value=value, timestamp=time_ms) is None:
                    built.append(maker.create_batch())
                    built[-1].append(key=key, value=value, timestamp=time_ms)
            batches.append(built)
            await asyncio.sleep(0)
        await maker.stop()
        return cls(count, batches)

    async def send(self, kafka: KafkaAccess, topic: str) -> None:
        """Append everything to a topic."""
        # Not idempotent: an idempotent producer would write its sequence numbers into batches that others send too.
        producer = new_producer(kafka, enable_idempotence=False, acks=1, max_batch_size=_BATCH_BYTES)
        await producer.start()

        async def fill(partition: int) -> None:
            for batch in self.batches[partition]:
                if batch.record_count():
                    await (await producer.send_batch(batch, topic, partition=partition))

        try:
            await asyncio.gather(*map(fill, range(PARTITIONS)))
        finally:
            await producer.stop()


async def wait_until_scored(lane: Lane, children: Sequence[Child], count: int, *, commits: bool) -> None:
    """Wait until the lane has ``count`` committed scores; ``commits``: until the group has committed as many offsets.

    Ends of a topic with transactions count their markers too, so there the offsets decide.
    """
    reader = LagReader(lane.settings.kafka_access)
    await reader.start()
    scores, events = lane.partitions(lane.topics.scores), lane.partitions(lane.topics.events)
    until = time.monotonic() + DEADLINE_S
    try:
        while True:
            done = sum((await reader.ends(scores)).values())
            if done >= count and commits:
                positions = await reader.positions(lane.group, events)
                done = sum(position.next_offset for position in positions.values())
            if done >= count:
                return
            for child in children:
                child.check()
            if time.monotonic() > until:
                raise BenchError(f"{done} of {count} after {DEADLINE_S:.0f} s: {children[0].last_words()}")
            await asyncio.sleep(_POLL_S)
    finally:
        await reader.stop()


@dataclass(frozen=True)
class Race:
    """How fast one contestant was over one lane."""

    contestant: str
    events: int
    seconds: float
    cpu_seconds: float
    rss_bytes: int

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU per event, µs, user and system."""
        return 1e6 * self.cpu_seconds / self.events

    @classmethod
    def of(cls, contestant: str, appended_ms: NDArray[np.int64], meter: Meter, from_ms: float = 0.0) -> Race:
        """Time a run by the append times of its scores, from the first one at or after ``from_ms``."""
        first = max(float(appended_ms.min()), from_ms)
        last = float(appended_ms.max())
        events = int((appended_ms > first).sum())
        if not events:
            raise BenchError("no scores after the first stamp: give more events by --events")
        return cls(contestant, events, (last - first) / 1000, meter.cpu_between(first, last), max(meter.rss))
