"""Measures one worker against a plain Faust agent doing the same job, side by side in one run.

Events of about 150 bytes are loaded into a topic of 4 partitions before anything is timed. A worker is timed from the
first commit seen to the last, by its committed offsets; its CPU is that of its process over the same span.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from app.adapters.model_announcer import announce
from app.adapters.topics_admin import ensure_topics
from app.settings import Settings
from models.registry import Registry
from models.training import train
from schemas.pipeline import Pipeline
from schemas.topics import Topic
from schemas.wire import ModelUpdate

PLAIN_FAUST = Path(__file__).parent.parent / "scripts" / "bench" / "plain_faust.py"
DEADLINE_S = 300.0
START_MS = 1_700_000_000_000

Say = Callable[[str], None]


@dataclass(frozen=True)
class Figure:
    """How fast one contestant was."""

    name: str
    events: int
    seconds: float
    cpu_seconds: float

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_us_per_event(self) -> float:
        return 1e6 * self.cpu_seconds / self.events


async def bench_stream(
    pipeline: Pipeline, settings: Settings, events: int, plain_events: int, say: Say
) -> tuple[Figure, Figure | None]:
    """Load, release a logistic regression, and time both contestants (``plain_events`` 0: only ours)."""
    topics = pipeline.topics
    await ensure_topics(settings.kafka, [*topics.all(), Topic("bench.plain-scores", pipeline.partitions)])
    say(f"Loading {events} events …")
    matrix, labels = _draw(20_000)
    await _load(settings.kafka, topics.events, pipeline.partitions, events)
    times = np.arange(len(labels), dtype=np.int64) + START_MS
    trained = train(
        matrix,
        labels,
        times,
        pipeline,
        "logistic",
        version="1.0.0",
        from_ms=START_MS,
        to_ms=START_MS + len(labels),
        created_at_ms=START_MS,
    )
    entry = Registry(settings.registry).register(trained.manifest, trained.artifact)
    update = ModelUpdate(
        model=pipeline.model.name,
        version="1.0.0",
        role="champion",
        uri=entry.uri,
        sha256=trained.manifest.artifact.sha256,
        feature_set=pipeline.feature_set,
        announced_at_ms=START_MS,
    )
    await announce(settings.kafka, topics, update)
    say("Timing the worker …")
    ours = await _time_worker(pipeline, settings, events)
    if not plain_events:
        return ours, None
    say("Timing a plain Faust agent with take(2000) …")
    model_path = settings.home / "plain.joblib"
    joblib.dump(trained.estimator, model_path)
    return ours, await asyncio.to_thread(_time_plain, settings, topics.events, plain_events, model_path)


def _draw(rows: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    matrix = generator.normal(size=(rows, 10)).round(2)
    odds = matrix @ np.linspace(-1, 1, 10)
    return matrix, (generator.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.float64)


async def _load(bootstrap: str, topic: str, partitions: int, events: int) -> None:
    matrix, _ = _draw(20_000)
    bodies = [",".join(f'"f{column}":{value}' for column, value in enumerate(row)) for row in matrix.tolist()]
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_batch_size=900_000)
    await producer.start()
    try:
        for partition in range(partitions):
            batch = producer.create_batch()
            for number in range(partition, events, partitions):
                card = f"c{(number * 7919) % 5000 // partitions * partitions + partition:04d}"
                time_ms = START_MS + number
                value = f'{{"id":"e{number:08d}","card":"{card}","time_ms":{time_ms},{bodies[number % len(bodies)]}}}'
                data = value.encode()
                if batch.append(key=card.encode(), value=data, timestamp=time_ms) is None:
                    await producer.send_batch(batch, topic, partition=partition)
                    batch = producer.create_batch()
                    batch.append(key=card.encode(), value=data, timestamp=time_ms)
            await producer.send_batch(batch, topic, partition=partition)
        await producer.flush()
    finally:
        await producer.stop()


async def _time_worker(pipeline: Pipeline, settings: Settings, events: int) -> Figure:
    environment = {**os.environ, **settings.to_environment()}
    with (settings.home / "bench-worker.log").open("wb") as log:
        child = subprocess.Popen(  # noqa: S603, ASYNC220  # our own command, started once
            [sys.executable, "-P", "-m", "app", "worker", "--pipeline", str(pipeline.path)],
            env=environment,
            stdout=log,
            stderr=log,
        )
    tps = [TopicPartition(pipeline.topics.events, number) for number in range(pipeline.partitions)]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka, group_id=f"streamgauge-{pipeline.name}", enable_auto_commit=False
    )
    await consumer.start()
    consumer.assign(tps)  # only to ask for committed offsets: it never joins the group
    try:
        process = psutil.Process(child.pid)
        first = (0, 0.0, 0.0)
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise RuntimeError(f"The worker ended with {child.returncode}; see {settings.home}/bench-worker.log.")
            done = await _committed(consumer, tps)
            now, cpu = time.monotonic(), sum(process.cpu_times()[:2])
            if done and not first[0]:
                first = (done, now, cpu)
            if done >= events:
                return Figure("streamgauge", done - first[0], now - first[1], cpu - first[2])
            await asyncio.sleep(0.02)
        raise RuntimeError(f"The worker did not finish within {DEADLINE_S:.0f} s.")
    finally:
        await consumer.stop()
        child.terminate()
        child.wait(20)


async def _committed(consumer: AIOKafkaConsumer, tps: list[TopicPartition]) -> int:
    offsets = [await consumer.committed(tp) for tp in tps]
    return sum(offset or 0 for offset in offsets)


def _time_plain(settings: Settings, topic: str, events: int, model_path: Path) -> Figure:
    figure = settings.home / "plain.json"
    environment = {
        **os.environ,
        "KAFKA": settings.kafka,
        "COUNT": str(events),
        "MODEL": str(model_path),
        "TOPIC": topic,
        "OUTPUT": "bench.plain-scores",
        "FIGURE": str(figure),
    }
    command = [sys.executable, str(PLAIN_FAUST), "worker", "-l", "error"]
    done = subprocess.run(  # noqa: S603  # our own script
        command, env=environment, cwd=settings.home, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    if not figure.exists():
        raise RuntimeError(f"The plain Faust agent gave no figure: {done.stdout[-400:]} {done.stderr[-400:]}")
    said = json.loads(figure.read_text())
    return Figure("faust take(2000)", said["events"], said["seconds"], said["cpu_seconds"])
