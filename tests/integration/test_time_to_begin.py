"""Where a stream begins, and what is old when it does: own producer, own reader, own recomputation."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from chaos_pipeline import promote
from warm_start import run_warm
from worker_bench import N_PARTITIONS, START_MS, Bench, produce

from app.adapters.kafka.topic_reader import read_to_end
from app.adapters.kafka.topics_admin import ensure_topics
from app.kafka_access import KafkaAccess
from models.versions.registry import Registry
from schemas.wire import ModelStatus, Score, SketchRecord, decode_json, decode_packed

DEADLINE_S = 240.0


def run(bench: Bench, *words: str, code: int = 0) -> Any:
    words = (*words, "--pipeline", str(bench.pipeline.path), "--json")
    done = run_warm(words, env={**os.environ, **bench.settings.to_environment()}, timeout=DEADLINE_S)
    assert done.returncode == code, done.stderr.decode() + done.stdout.decode()
    return json.loads(done.stdout)


async def committed(bench: Bench) -> list[int | None]:
    """The group's offset in each partition of the events; None: there is none."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bench.kafka.servers, group_id=f"streamgauge-{bench.pipeline.name}", enable_auto_commit=False
    )
    await consumer.start()
    try:
        tps = [TopicPartition(bench.pipeline.topics.events, partition) for partition in range(N_PARTITIONS)]
        consumer.assign(tps)
        return [await consumer.committed(tp) for tp in tps]
    finally:
        await consumer.stop()


async def wait_until(bench: Bench, n_events: int) -> None:
    await bench.until_committed(n_events, DEADLINE_S)


async def wait_until_begun(bench: Bench) -> None:
    async def has_begun() -> bool:
        return None not in await committed(bench)

    await bench.until(has_begun, DEADLINE_S)


def numbers_of(scores: Sequence[Score]) -> list[int]:
    return sorted(int(score.event_id[1:]) for score in scores)


def good(start: int, stop: int) -> list[int]:
    """Numbers of the events that can be decoded."""
    return [number for number in range(start, stop) if number % 50 != 49]


def check_counts(scores: Sequence[Score], since: int) -> None:
    """The windows hold what came since the beginning of the stream, and nothing of what was before."""
    for score in scores:
        number = int(score.event_id[1:])
        card, now = number * 7 % 40, START_MS + number * 40
        earlier = [
            k for k in good(since, number) if k * 7 % 40 == card and (START_MS + k * 40) // 1000 >= now // 1000 - 59
        ]
        assert score.features["count_1m"] == len(earlier), number


def test_a_stream_that_begins_at_the_end_is_replayed_from_there(kafka: KafkaAccess, tmp_path: Path) -> None:
    async def stream() -> Bench:
        bench = Bench(kafka, tmp_path, with_labels=True)
        await bench.prepare()
        await produce(bench, 0, 300, with_labels=True)
        with bench.worker("--from", "latest"):
            await wait_until_begun(bench)
            assert await bench.committed() == 300
            await produce(bench, 300, 600, with_labels=True)
            await wait_until(bench, 600)
        await produce(bench, 600, 700, with_labels=True)
        with bench.worker("--from", "latest"):  # as a supervisor starts it again: it goes on
            await wait_until(bench, 700)
        assert "goes on where its group is: --from is for a group without offsets" in bench.logs()
        scores, dead = await bench.scores(), await bench.dead_sources()
        assert numbers_of(scores) == good(300, 700)
        assert len(dead) == len(set(dead)) == 8
        check_counts(scores, since=300)
        statuses = [
            decode_json(value, ModelStatus)
            async for batch in read_to_end(kafka, [bench.pipeline.topics.model_status])
            for value in batch.values
            if value is not None
        ]
        began = [status for status in statuses if status.status == "began"]
        assert sorted(status.partition for status in began if status.partition is not None) == [0, 1, 2]
        assert sum(status.offset or 0 for status in began) == 300
        return bench

    bench = asyncio.run(stream())
    for source in ([], [str(tmp_path / "all.parquet")]):
        if source:
            run(bench, "record", *source)
        replayed = run(bench, "replay", *source, "--check")
        assert (replayed["scored"], replayed["check"]["equal"]) == (392, 392)
    assert run(bench, "parity", "--no-sql")["events"] == 392
    # What was there before is no part of the stream, and yet of the recording.
    assert run(bench, "backfill", str(tmp_path / "all.parquet"), "--version", "1.0.0")["written"] == 686


async def test_a_partition_that_is_empty_when_the_stream_begins_loses_nothing(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    bench = Bench(kafka, tmp_path, with_labels=True)
    await bench.prepare()
    with bench.worker("--from", "latest"):
        await wait_until_begun(bench)
    await produce(bench, 0, 200, with_labels=True)
    with bench.worker("--from", "latest"):
        await wait_until(bench, 200)
    assert numbers_of(await bench.scores()) == good(0, 200)


async def test_a_stream_begins_at_the_first_record_of_a_time(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    await produce(bench, 0, 300, with_labels=False)
    time_ms = START_MS + 100 * 40
    begin = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time_ms // 1000)) + f".{time_ms % 1000:03}Z"
    with bench.worker("--from", begin):
        await wait_until(bench, 300)
    scores = await bench.scores()
    assert numbers_of(scores) == good(100, 300)
    check_counts(scores, since=100)


async def send(bench: Bench, numbers: Sequence[int], prefix: str) -> None:
    """Events once more under other ids, at their old times."""
    producer = AIOKafkaProducer(bootstrap_servers=bench.kafka.servers)
    await producer.start()
    for number in numbers:
        card = number * 7 % 40
        body = {"id": f"{prefix}{number}", "card": f"c{card}", "at_ms": START_MS + number * 40, "amount": 1.0}
        await producer.send(bench.pipeline.topics.events, json.dumps(body).encode(), partition=card % N_PARTITIONS)
    await producer.stop()


def test_what_is_older_than_any_version_is_left_unscored_and_fills_windows(kafka: KafkaAccess, tmp_path: Path) -> None:
    """``score_from`` at event 100; version 1 is valid from 200 on, version 2 from 300, then 1 again from 150."""

    async def announce(bench: Bench, version: str, number: int) -> None:
        registry = Registry(bench.settings.registry)
        time_ms: Any = START_MS + number * 40
        await promote(kafka, bench.pipeline, registry, version, 1, valid_from_ms=time_ms, announced_at_ms=number)  # type: ignore[arg-type]  # times

    async def stream() -> Bench:
        bench = Bench(kafka, tmp_path, with_labels=True)
        text = bench.pipeline.path.read_text()
        begin = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((START_MS + 100 * 40) // 1000))
        bench.pipeline.path.write_text(text.replace("[model]", f"[model]\nscore_from = {begin}"))
        await ensure_topics(kafka, bench.pipeline.topics.all())
        await announce(bench, "1.0.0", 200)
        with bench.worker():
            await produce(bench, 0, 400, with_labels=True)
            await wait_until(bench, 400)
        await announce(bench, "2.0.0", 300)
        with bench.worker():
            await produce(bench, 400, 500, with_labels=True)
            await send(bench, [50, 150, 250, 350], "late-")
            await wait_until(bench, 504)
        await announce(bench, "1.0.0", 150)
        with bench.worker():
            await send(bench, [50, 120, 160, 260, 360], "later-")
            await wait_until(bench, 509)
        return bench

    bench = asyncio.run(stream())
    scores = asyncio.run(bench.scores())
    found = {score.event_id: score.version for score in scores}
    assert len(found) == len(scores)
    expected = {f"e{number}": "1.0.0" for number in good(200, 400)} | {f"e{n}": "2.0.0" for n in good(400, 500)}
    expected |= {"late-250": "1.0.0", "late-350": "2.0.0"}
    expected |= {f"later-{number}": "1.0.0" for number in (160, 260, 360)}
    assert found == expected
    check_counts([score for score in scores if score.event_id.startswith("e")], since=0)

    async def read() -> tuple[int, int]:
        dead = await bench.dead_sources()
        unscored = [
            decode_packed(value, SketchRecord).unscored
            async for batch in read_to_end(kafka, [bench.pipeline.topics.sketches])
            for value in batch.values
            if value is not None
        ]
        return sum(unscored), len(dead)

    unscored, dead = asyncio.run(read())
    assert len(scores) + unscored + dead == 509
    check = run(bench, "replay", "--check")
    assert (check["unscored"], check["scored"]) == (unscored, len(scores))
    assert check["check"]["equal"] == len(scores)
    named = run(bench, "replay", "--models", "2.0.0")
    assert (named["unscored"], named["scored"]) == (0, 509 - dead)
    assert named["trained_on"] == 15  # its training is of the first 600 ms
