"""What a worker owes: each event exactly one score or dead letter, whatever dies, and the bits that a replay gives."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from app.adapters.model_announcer import announce
from app.adapters.topic_reader import read_to_end
from app.adapters.topics_admin import ensure_topics
from app.settings import Settings
from models.registry import Registry
from models.training import train
from schemas.pipeline import Pipeline
from schemas.pipeline_file import load
from schemas.topics import WATERMARK_HEADER
from schemas.wire import ModelStatus, ModelUpdate, Score, SketchRecord, decode_json, decode_packed

START_MS = 1_700_000_000_000
N_PARTITIONS = 3

TOML = """
name = "{name}"
partitions = 3
commit_interval_ms = 50

[model]
name = "m"

[events]
entity = "card"
id = "id"
time = "at_ms"

[events.fields]
id = "string"
card = "string"
at_ms = "int"
amount = "float"
note = "string?"

{labels}

[[features]]
name = "amount"
type = "float"
expression = "amount"

[[features]]
name = "log_amount"
type = "float"
expression = "log1p(abs(amount))"

[[features]]
name = "count_1m"
type = "int"
window = {{ of = "events", key = ["card"], size = "1m", hop = "1s", aggregate = "count" }}

[[features]]
name = "sum_1m"
type = "float"
window = {{ of = "events", key = ["card"], size = "1m", hop = "1s", aggregate = "sum", field = "amount" }}

{label_feature}
"""
LABELS = '[labels]\nhorizon = "1h"\nmax_wait = "20s"\n'
LABEL_FEATURE = """
[[features]]
name = "bad_5m"
type = "float"
window = { of = "labels", key = ["card"], size = "5m", hop = "5s", aggregate = "mean", field = "label" }
"""


class Bench:
    """A pipeline of its own on the shared broker, with workers as real processes."""

    def __init__(self, bootstrap: str, folder: Path, with_labels: bool) -> None:
        self.bootstrap = bootstrap
        self.folder = folder
        name = f"t{uuid.uuid4().hex[:10]}"
        path = folder / f"{name}.toml"
        path.write_text(
            TOML.format(
                name=name,
                labels=LABELS if with_labels else "",
                label_feature=LABEL_FEATURE if with_labels else "",
            )
        )
        self.pipeline: Pipeline = load(path)
        self.settings = replace(
            Settings.read({}), home=folder, registry=folder / "registry", kafka=bootstrap, log_level="INFO"
        )
        self.workers = 0

    async def prepare(self) -> None:
        await ensure_topics(self.bootstrap, self.pipeline.topics.all())
        await self.release("1.0.0", seed=1)

    async def release(self, version: str, seed: int) -> None:
        generator = np.random.default_rng(seed)
        matrix = generator.normal(size=(600, len(self.pipeline.features)))
        labels = (matrix[:, 0] + generator.normal(size=600) > 0).astype(np.float64)
        times = np.arange(600, dtype=np.int64) + START_MS
        trained = train(
            matrix,
            labels,
            times,
            self.pipeline,
            "logistic",
            version=version,
            from_ms=START_MS,
            to_ms=START_MS + 600,
            created_at_ms=START_MS,
        )
        entry = Registry(self.settings.registry).register(trained.manifest, trained.artifact)
        update = ModelUpdate(
            model="m",
            version=version,
            role="champion",
            uri=entry.uri,
            sha256=trained.manifest.artifact.sha256,
            feature_set=self.pipeline.feature_set,
            announced_at_ms=START_MS,
        )
        await announce(self.bootstrap, self.pipeline.topics, update)

    def start_worker(self) -> subprocess.Popen[bytes]:
        self.workers += 1
        with (self.folder / f"worker-{self.workers}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "app", "worker", "--pipeline", str(self.pipeline.path)],
                env={**os.environ, **self.settings.to_environment()},
                stdout=log,
                stderr=log,
            )

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        process = self.start_worker()
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("worker-*.log")))

    async def committed(self) -> int:
        topic = self.pipeline.topics.events
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, group_id=f"streamgauge-{self.pipeline.name}", enable_auto_commit=False
        )
        await consumer.start()
        try:
            tps = [TopicPartition(topic, partition) for partition in range(N_PARTITIONS)]
            consumer.assign(tps)
            return sum([await consumer.committed(tp) or 0 for tp in tps])
        finally:
            await consumer.stop()

    async def until(self, condition: Callable[[], Awaitable[bool]], deadline_s: float = 60) -> None:
        limit = time.monotonic() + deadline_s
        while not await condition():
            if time.monotonic() > limit:
                pytest.fail(f"not within {deadline_s} s\n{self.logs()}")
            await asyncio.sleep(0.05)

    async def scores(self) -> list[Score]:
        found = []
        async for batch in read_to_end(self.bootstrap, [self.pipeline.topics.scores]):
            found.extend(decode_json(value, Score) for value in batch.values if value is not None)
        return found

    async def dead_sources(self) -> list[tuple[int, int]]:
        found = []
        async for batch in read_to_end(self.bootstrap, [self.pipeline.topics.dead_letters]):
            for headers in batch.headers or ():
                words = dict(headers)
                if words["streamgauge-stage"] != b"label":
                    found.append((int(words["streamgauge-partition"]), int(words["streamgauge-offset"])))
        return found


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
    producer = AIOKafkaProducer(bootstrap_servers=bench.bootstrap)
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


@pytest.mark.parametrize("with_labels", [False, True], ids=["events", "events+labels"])
def test_every_event_has_one_score_or_dead_letter_though_workers_are_killed(
    kafka: str, tmp_path: Path, with_labels: bool
) -> None:
    n = 6_000

    async def run() -> None:
        bench = Bench(kafka, tmp_path, with_labels)
        await bench.prepare()
        producing = asyncio.create_task(produce(bench, 0, n, with_labels))
        for kill_at in (500, 2_000, 4_000):
            with bench.worker():

                async def has_come_to(target: int = kill_at) -> bool:
                    return await bench.committed() >= target

                await bench.until(has_come_to)
        with bench.worker():
            await producing

            async def is_done() -> bool:
                return await bench.committed() >= n

            await bench.until(is_done)
        scores, dead = await bench.scores(), await bench.dead_sources()
        check_ledger(scores, dead, n)
        check_windows(scores, with_labels)

    asyncio.run(run())


def test_workers_that_join_and_leave_share_the_partitions_and_lose_nothing(kafka: str, tmp_path: Path) -> None:
    n = 6_000

    async def run() -> None:
        bench = Bench(kafka, tmp_path, with_labels=True)
        await bench.prepare()

        async def has_come_to(target: int) -> bool:
            return await bench.committed() >= target

        producing = asyncio.create_task(produce(bench, 0, n, with_labels=True))
        with bench.worker() as first:
            await bench.until(lambda: has_come_to(500))
            with bench.worker() as second:
                await bench.until(lambda: has_come_to(3_000))
                first.terminate()
                assert first.wait(20) == 0
                await producing
                await bench.until(lambda: has_come_to(n))
                second.terminate()
                assert second.wait(20) == 0
        scores, dead = await bench.scores(), await bench.dead_sources()
        check_ledger(scores, dead, n)
        check_windows(scores, with_labels=True)

    asyncio.run(run())


def check_windows(scores: list[Score], with_labels: bool) -> None:
    """The windowed features, recomputed from the definition with plain loops."""
    for score in scores[:: len(scores) // 200]:
        number = int(score.event_id[1:])
        now, card = START_MS + number * 40, number * 7 % 40
        earlier = [k for k in range(number) if k * 7 % 40 == card and k % 50 != 49]
        first_tile = now // 1000 - 59
        inside = [k for k in earlier if (START_MS + k * 40) // 1000 >= first_tile]
        assert score.features["count_1m"] == len(inside)
        if with_labels:
            known = [
                k
                for k in earlier
                if START_MS + k * 40 + 2_000 <= now and (START_MS + k * 40 + 2_000) // 5000 >= now // 5000 - 59
            ]
            expected = sum(k % 3 == 0 for k in known) / len(known) if known else None
            assert score.features["bad_5m"] == expected


def test_a_hot_swap_leaves_no_gap_and_mixes_no_batch(kafka: str, tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(kafka, tmp_path, with_labels=False)
        await bench.prepare()
        with bench.worker() as process:
            await produce(bench, 0, 2_000, with_labels=False)

            async def first_part_is_done() -> bool:
                return await bench.committed() >= 2_000

            await bench.until(first_part_is_done)
            producing = asyncio.create_task(produce(bench, 2_000, 6_000, with_labels=False))
            await bench.release("1.1.0", seed=2)
            await producing

            async def second_is_loaded() -> bool:
                return any(status.version == "1.1.0" for status in await statuses(bench))

            await bench.until(second_is_loaded)
            await produce(bench, 6_000, 7_000, with_labels=False)

            async def all_is_done() -> bool:
                return await bench.committed() >= 7_000

            await bench.until(all_is_done)
            process.terminate()
            assert process.wait(20) == 0
        scores = await bench.scores()
        check_ledger(scores, await bench.dead_sources(), 7_000)
        for partition in range(N_PARTITIONS):
            versions = [
                s.version for s in sorted(scores, key=lambda s: s.source.offset) if s.source.partition == partition
            ]
            assert versions == sorted(versions)
            assert set(versions) == {"1.0.0", "1.1.0"}

    asyncio.run(run())


async def statuses(bench: Bench) -> list[ModelStatus]:
    found = []
    async for batch in read_to_end(bench.bootstrap, [bench.pipeline.topics.model_status]):
        found.extend(decode_json(value, ModelStatus) for value in batch.values if value is not None)
    return found


def test_a_tampered_model_is_refused_and_the_old_one_goes_on(kafka: str, tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(kafka, tmp_path, with_labels=False)
        await bench.prepare()
        with bench.worker():
            update = ModelUpdate(
                model="m",
                version="2.0.0",
                role="champion",
                uri=Registry(bench.settings.registry).uri("m", "1.0.0"),
                sha256="0" * 64,
                feature_set=bench.pipeline.feature_set,
                announced_at_ms=START_MS,
            )
            await announce(bench.bootstrap, bench.pipeline.topics, update)

            async def is_refused() -> bool:
                return any(s.version == "2.0.0" and s.status == "refused" for s in await statuses(bench))

            await bench.until(is_refused)
            await produce(bench, 0, 300, with_labels=False)

            async def is_done() -> bool:
                return await bench.committed() >= 300

            await bench.until(is_done)
        assert {score.version for score in await bench.scores()} == {"1.0.0"}

    asyncio.run(run())


def test_a_deploy_that_would_reject_everything_stops_before_it_commits(kafka: str, tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(kafka, tmp_path, with_labels=False)
        await bench.prepare()
        producer = AIOKafkaProducer(bootstrap_servers=kafka)
        await producer.start()
        for number in range(6_000):
            await producer.send(bench.pipeline.topics.events, b'{"v2": true}', partition=number % 3, key=b"k")
        await producer.stop()
        process = bench.start_worker()
        assert process.wait(60) == 78
        assert "missing_field" in bench.logs()
        assert "[limits]" in bench.logs()
        assert await bench.committed() < 3_000

    asyncio.run(run())


def test_a_watermark_record_moves_time_on_without_an_event(kafka: str, tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(kafka, tmp_path, with_labels=True)
        await bench.prepare()
        with bench.worker():
            await produce(bench, 0, 100, with_labels=True)
            producer = AIOKafkaProducer(bootstrap_servers=kafka)
            await producer.start()
            end_ms = START_MS + 86_400_000
            for partition in range(N_PARTITIONS):
                headers = [(WATERMARK_HEADER, str(end_ms).encode())]
                await producer.send_and_wait(
                    bench.pipeline.topics.labels, None, key=b"w", partition=partition, headers=headers
                )
            await producer.stop()

            async def has_moved() -> bool:
                return await newest_watermarks(bench) == [end_ms] * N_PARTITIONS

            await bench.until(has_moved)

    asyncio.run(run())


async def newest_watermarks(bench: Bench) -> list[int]:
    newest = [0] * N_PARTITIONS
    async for batch in read_to_end(bench.bootstrap, [bench.pipeline.topics.sketches]):
        for value in batch.values:
            assert value is not None
            record = decode_packed(value, SketchRecord)
            newest[record.partition] = record.watermark_ms
    return newest
