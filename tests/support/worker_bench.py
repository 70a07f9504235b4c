"""Workers as real processes on a pipeline of their own: what the delivery and bad-input tests share."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from chaos_pipeline import START_MS, Setup, promote, render_toml
from warm_start import Process, start_warm

from app.adapters.kafka.topic_reader import read_to_end
from app.adapters.kafka.topics_admin import ensure_topics
from app.kafka_access import KafkaAccess
from app.settings import Settings
from models.versions.registry import Registry
from schemas.pipeline.file import load
from schemas.pipeline.spec import Delivery, Pipeline
from schemas.wire import DeadLetter, Score, decode_json

N_PARTITIONS = 3


class Bench:
    """A pipeline of its own on the shared broker, with workers as real processes."""

    def __init__(
        self,
        kafka: KafkaAccess,
        folder: Path,
        with_labels: bool,
        delivery: Delivery = "exactly_once",
        commit_interval_ms: int = 50,
    ) -> None:
        self.kafka = kafka
        self.folder = folder
        name = f"t{uuid.uuid4().hex[:10]}"
        path = folder / f"{name}.toml"
        setup = Setup(delivery, with_labels, N_PARTITIONS, commit_interval_ms)
        path.write_text(render_toml(name, setup))
        self.pipeline: Pipeline = load(path)
        self.settings = replace(
            Settings.read({}), home=folder, registry=folder / "registry", kafka=kafka.servers, log_level="INFO"
        )
        self.workers = 0

    async def prepare(self) -> None:
        await ensure_topics(self.kafka, self.pipeline.topics.all())
        await self.promote("1.0.0", seed=1)

    async def promote(self, version: str, seed: int) -> None:
        await promote(self.kafka, self.pipeline, Registry(self.settings.registry), version, seed)

    def start_worker(self, *options: str) -> Process:
        self.workers += 1
        with (self.folder / f"worker-{self.workers}.log").open("wb") as log:
            return start_warm(
                [sys.executable, "-P", "-m", "app", "worker", "--pipeline", str(self.pipeline.path), *options],
                env={**os.environ, **self.settings.to_environment()},
                stdout=log,
                stderr=log,
            )

    @contextmanager
    def worker(self, *options: str) -> Iterator[Process]:
        process = self.start_worker(*options)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def has_partitions(self, worker: int) -> bool:
        """Whether the worker started as number ``worker`` has taken over partitions at its last assignment."""
        return bool(self.partitions_of(worker))

    async def is_shared(self) -> bool:
        """Whether the first two workers have partitions, and none the same: one may not know yet of the other."""
        one, other = (set(self.partitions_of(worker)) for worker in (1, 2))
        return bool(one and other) and not one & other

    def partitions_of(self, worker: int) -> list[int]:
        """What the worker started as number ``worker`` was given at its last assignment."""
        log = (self.folder / f"worker-{worker}.log").read_text()
        found = re.findall(r"Partitions \[([\d, ]*)\] are ours", log)
        return [int(number) for number in found[-1].split(",") if number.strip()] if found else []

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("worker-*.log")))

    async def committed(self) -> int:
        topic = self.pipeline.topics.events
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka.servers, group_id=f"streamgauge-{self.pipeline.name}", enable_auto_commit=False
        )
        await consumer.start()
        try:
            tps = [TopicPartition(topic, partition) for partition in range(N_PARTITIONS)]
            consumer.assign(tps)
            return sum([await consumer.committed(tp) or 0 for tp in tps])
        finally:
            await consumer.stop()

    async def ends(self) -> dict[int, int]:
        """Offset after the last event, by partition."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka.servers)
        await consumer.start()
        try:
            tps = [TopicPartition(self.pipeline.topics.events, partition) for partition in range(N_PARTITIONS)]
            return {tp.partition: end for tp, end in (await consumer.end_offsets(tps)).items()}
        finally:
            await consumer.stop()

    async def remove_records(self, upto: int) -> None:
        """Have Kafka delete the events before this offset of each partition, as retention does."""
        topics = self.pipeline.topics
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.servers)
        await admin.start()
        places = {TopicPartition(topics.sent_events, k): RecordsToDelete(upto) for k in range(topics.partitions)}
        await admin.delete_records(places)
        await admin.close()

    async def until(self, condition: Callable[[], Awaitable[bool]], deadline_s: float = 60) -> None:
        limit = time.monotonic() + deadline_s
        while not await condition():
            if time.monotonic() > limit:
                pytest.fail(f"not within {deadline_s} s\n{self.logs()}")
            await asyncio.sleep(0.05)

    async def until_committed(self, n_events: int, deadline_s: float = 60) -> None:
        """Wait until workers have committed this many events, over all partitions."""

        async def is_done() -> bool:
            return await self.committed() >= n_events

        await self.until(is_done, deadline_s)

    async def _settle(self, topic: str) -> None:
        """Wait until no transaction is open on a topic, ten seconds at most.

        A broker ends a transaction partition by partition: the offsets of a group may be committed a moment before the
        records that belong to them can be read.
        """
        consumers = [
            AIOKafkaConsumer(bootstrap_servers=self.kafka.servers, isolation_level=level)
            for level in ("read_committed", "read_uncommitted")
        ]
        limit = time.monotonic() + 10
        try:
            await asyncio.gather(*(consumer.start() for consumer in consumers))
            tps = [TopicPartition(topic, partition) for partition in range(N_PARTITIONS)]
            while time.monotonic() < limit:
                committed, written = [await consumer.end_offsets(tps) for consumer in consumers]
                if committed == written:
                    return
                await asyncio.sleep(0.05)
        finally:
            await asyncio.gather(*(consumer.stop() for consumer in consumers))

    async def scores(self) -> list[Score]:
        found = []
        await self._settle(self.pipeline.topics.scores)
        async for batch in read_to_end(self.kafka, [self.pipeline.topics.scores]):
            found.extend(decode_json(value, Score) for value in batch.values if value is not None)
        return found

    async def dead_letters(self) -> list[DeadLetter]:
        found = []
        await self._settle(self.pipeline.topics.dead_letters)
        async for batch in read_to_end(self.kafka, [self.pipeline.topics.dead_letters]):
            assert batch.headers is not None
            found.extend(map(DeadLetter.from_record, batch.keys, batch.values, batch.headers))
        return found

    async def dead_sources(self) -> list[tuple[int, int]]:
        letters = await self.dead_letters()
        return [(dead.source.partition, dead.source.offset) for dead in letters if dead.stage != "label"]


def event(number: int) -> tuple[int, bytes]:
    """Partition and value of an event; every 50th cannot be decoded."""
    card = number * 7 % 40
    if number % 50 == 49:
        return card % N_PARTITIONS, b'{"id": "broken", '
    body = {"id": f"e{number}", "card": f"c{card}", "at_ms": START_MS + number * 40, "amount": (number * 37 % 1000) / 7}
    return card % N_PARTITIONS, json.dumps(body).encode()


def label(number: int) -> tuple[int, bytes]:
    body = {"event_id": f"e{number}", "label": float(number % 3 == 0), "label_time_ms": START_MS + number * 40 + 2_000}
    return number * 7 % 40 % N_PARTITIONS, json.dumps(body).encode()


async def produce(bench: Bench, start: int, stop: int, with_labels: bool) -> None:
    """Events start…stop, each label written before the first event that is not older."""
    producer = AIOKafkaProducer(bootstrap_servers=bench.kafka.servers)
    await producer.start()
    topics = bench.pipeline.topics
    for number in range(start, stop):
        if with_labels and number >= 50:
            partition, value = label(number - 50)
            await producer.send_and_wait(topics.labels, value, partition=partition, key=b"k")
        partition, value = event(number)
        await producer.send(topics.events, value, partition=partition, key=b"k", timestamp_ms=START_MS + number * 40)
    await producer.flush()
    await producer.stop()


def check_ledger(scores: list[Score], dead: list[tuple[int, int]], n_events: int) -> None:
    seen = sorted([(score.source.partition, score.source.offset) for score in scores] + dead)
    assert len(seen) == len(set(seen)), "doubled"
    assert len(seen) == n_events, "lost"
    assert len(dead) == n_events // 50
