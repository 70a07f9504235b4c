"""What a worker owes: each event exactly one score or dead letter, whatever dies, and features that follow."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from worker_bench import N_PARTITIONS, START_MS, Bench, check_ledger, produce

from app.adapters.kafka.model_announcer import announce
from app.adapters.kafka.topic_reader import read_to_end
from app.kafka_access import KafkaAccess
from models.versions.registry import Registry
from schemas.topics import WATERMARK_HEADER
from schemas.wire import ModelStatus, ModelUpdate, Score, SketchRecord, decode_json, decode_packed


@pytest.mark.parametrize("with_labels", [False, True], ids=["events", "events+labels"])
async def test_every_event_has_one_score_or_dead_letter_though_workers_are_killed(
    kafka: KafkaAccess, tmp_path: Path, with_labels: bool
) -> None:
    n = 6_000
    bench = Bench(kafka, tmp_path, with_labels)
    await bench.prepare()
    producing = asyncio.create_task(produce(bench, 0, n, with_labels))
    for kill_at in (500, 2_000, 4_000):
        with bench.worker():
            await bench.until_committed(kill_at)
    with bench.worker():
        await producing
        await bench.until_committed(n)
    scores, dead = await bench.scores(), await bench.dead_sources()
    check_ledger(scores, dead, n)
    check_windows(scores, with_labels)


async def test_workers_that_join_and_leave_share_the_partitions_and_lose_nothing(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    n = 6_000
    bench = Bench(kafka, tmp_path, with_labels=True)
    await bench.prepare()
    with bench.worker() as first:
        await produce(bench, 0, 500, with_labels=True)
        await bench.until_committed(500)
        with bench.worker() as second:
            await bench.until(bench.is_shared)
            producing = asyncio.create_task(produce(bench, 500, n, with_labels=True))
            await bench.until_committed(3_000)
            first.terminate()
            assert first.wait(20) == 0
            await producing
            await bench.until_committed(n)
            second.terminate()
            assert second.wait(20) == 0
    scores, dead = await bench.scores(), await bench.dead_sources()
    check_ledger(scores, dead, n)
    check_windows(scores, with_labels=True)


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


async def test_a_hot_swap_leaves_no_gap_and_mixes_no_batch(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    with bench.worker() as process:
        await produce(bench, 0, 2_000, with_labels=False)
        await bench.until_committed(2_000)
        producing = asyncio.create_task(produce(bench, 2_000, 6_000, with_labels=False))
        await bench.promote("1.1.0", seed=2)
        await producing

        async def second_is_loaded() -> bool:
            return any(status.version == "1.1.0" for status in await statuses(bench))

        await bench.until(second_is_loaded)
        await produce(bench, 6_000, 7_000, with_labels=False)
        await bench.until_committed(7_000)
        process.terminate()
        assert process.wait(20) == 0
    scores = await bench.scores()
    check_ledger(scores, await bench.dead_sources(), 7_000)
    for partition in range(N_PARTITIONS):
        versions = [s.version for s in sorted(scores, key=lambda s: s.source.offset) if s.source.partition == partition]
        assert versions == sorted(versions)
        assert set(versions) == {"1.0.0", "1.1.0"}


async def statuses(bench: Bench) -> list[ModelStatus]:
    found = []
    async for batch in read_to_end(bench.kafka, [bench.pipeline.topics.model_status]):
        found.extend(decode_json(value, ModelStatus) for value in batch.values if value is not None)
    return found


async def test_a_tampered_model_is_refused_and_the_old_one_goes_on(kafka: KafkaAccess, tmp_path: Path) -> None:
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
        await announce(bench.kafka, bench.pipeline.topics, update)

        async def is_refused() -> bool:
            return any(s.version == "2.0.0" and s.status == "refused" for s in await statuses(bench))

        await bench.until(is_refused)
        await produce(bench, 0, 300, with_labels=False)
        await bench.until_committed(300)
    assert {score.version for score in await bench.scores()} == {"1.0.0"}


async def test_a_deploy_that_would_reject_everything_stops_before_it_commits(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    producer = AIOKafkaProducer(bootstrap_servers=kafka.servers)
    await producer.start()
    for number in range(6_000):
        await producer.send(bench.pipeline.topics.events, b'{"v2": true}', partition=number % 3, key=b"k")
    await producer.stop()
    process = bench.start_worker()
    assert process.wait(60) == 78
    assert "missing_field" in bench.logs()
    assert "[limits]" in bench.logs()
    assert await bench.committed() < 3_000


async def test_a_watermark_record_moves_time_on_without_an_event(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path, with_labels=True)
    await bench.prepare()
    with bench.worker():
        await produce(bench, 0, 100, with_labels=True)
        producer = AIOKafkaProducer(bootstrap_servers=kafka.servers)
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


async def newest_watermarks(bench: Bench) -> list[int]:
    newest = [0] * N_PARTITIONS
    async for batch in read_to_end(bench.kafka, [bench.pipeline.topics.sketches]):
        for value in batch.values:
            assert value is not None
            record = decode_packed(value, SketchRecord)
            newest[record.partition] = record.watermark_ms
    return newest
