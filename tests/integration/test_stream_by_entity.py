"""`[events] repartition = true`, tried as a stranger would: records in any partitions, workers that are killed."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.partitioner import murmur2
from chaos_pipeline import START_MS
from memory_warehouse import MemoryWarehouse
from scattered import (
    LABEL_AFTER_MS,
    PARTITIONS,
    Fleet,
    Sent,
    Stranger,
    any_partition,
    at_ms,
    card_of,
    check_once,
    check_windows,
    is_broken,
    label_ms,
    stream,
)

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.kafka.record_batches import MOST_UNPACKED_BYTES
from app.adapters.kafka.topics_admin import ensure_topics
from app.kafka_access import KafkaAccess
from app.monitor.context import Pace
from app.monitor.monitor import Monitor
from app.monitor.status import sources

QUICK = Pace(flush=0.05, collect=0.05, checkpoint=0.2, housekeeping=0.2)


async def watch(bench: Stranger, n_labels: int) -> dict[str, Any]:
    """What a monitor says when it has heard of all labels."""
    monitor = Monitor(bench.pipeline, bench.kafka, WarehouseThread(MemoryWarehouse()), lambda: START_MS, QUICK)
    told = sources(monitor)

    async def is_done() -> bool:
        labels, router = told.status()["labels"] or {"applied": 0}, told.status()["router"]
        return labels["applied"] >= n_labels and router and not any(topic["lag"] for topic in router.values())

    working = asyncio.create_task(monitor.run())
    try:
        await bench.until(is_done, 60)
    finally:
        said = told.status()
        lag = told.lag()
        monitor.stop()
        await working
    return {**said, "lag": lag}


N, BACKLOG = 1_600, 900


def test_unkeyed_events_and_strange_labels_are_put_right_whoever_dies(kafka: KafkaAccess, tmp_path: Path) -> None:
    numbers = [number for number in range(N) if not is_broken(number)]
    cards = set(map(card_of, numbers))

    async def run() -> tuple[list[Any], list[Any], list[Any], dict[str, Any]]:
        bench = Stranger(kafka, tmp_path)
        await bench.prepare()
        records = stream(0, N)
        edge = next(
            place for place, record in enumerate(records) if record.kind == "event" and record.number == BACKLOG
        )
        await bench.send(records[:edge], is_live=False)
        fleet = Fleet(bench)
        try:
            await fleet.kill_the_router()
            await bench.until_outcomes(BACKLOG // 2)
            await fleet.kill_the_router()
            sending = asyncio.create_task(bench.send(records[edge:], is_live=True))
            for part in (0.7, 0.85):
                await bench.until_outcomes(int(N * part))
                await (fleet.kill_the_router() if part < 0.8 else fleet.freeze_the_router())
            await sending
            await bench.promise(at_ms(N) + 10 * LABEL_AFTER_MS)
            await bench.until_outcomes(N)
            said = await watch(bench, len(numbers))
        finally:
            fleet.end()
        return await bench.read("scores"), await bench.read("dead-letters"), await bench.read("events-by-entity"), said

    scattered = {card: {any_partition(f"e{number}") for number in numbers if card_of(number) == card} for card in cards}
    assert all(len(partitions) > 1 for partitions in scattered.values())
    scores, letters, copies, said = asyncio.run(run())
    check_once(scores, letters, copies, N)
    values = [json.loads(record.value) for record in scores]
    check_windows(values, N)
    by_card = {value["entity"]: record.partition for value, record in zip(values, scores, strict=True)}
    assert all(by_card[value["entity"]] == record.partition for value, record in zip(values, scores, strict=True))
    assert all(partition == (murmur2(card.encode()) & 0x7FFFFFFF) % PARTITIONS for card, partition in by_card.items())
    assert said["labels"]["without_event"] == 0
    assert said["labels"]["applied"] == len(numbers)
    assert {each["topic"].rpartition(".")[2] for each in said["lag"]["router"]} == {"events", "labels"}


def test_labels_that_name_no_entity_are_dead_letters_that_say_so(kafka: KafkaAccess, tmp_path: Path) -> None:
    async def run() -> tuple[list[Any], dict[str, Any]]:
        bench = Stranger(kafka, tmp_path)
        await bench.prepare()
        records = [record for record in stream(0, 70) if record.kind == "event"]
        keyed_by_event = [
            Sent(
                "label", 1, 0, b"e1", b'{"event_id": "e1", "label": 1, "label_time_ms": %d}' % label_ms(1), label_ms(1)
            ),
            Sent(
                "label", 2, 1, None, b'{"event_id": "e2", "label": 1, "label_time_ms": %d}' % label_ms(2), label_ms(2)
            ),
        ]
        await bench.send([*records, *keyed_by_event], is_live=True)
        with bench.worker():
            await bench.until_outcomes(70 + len(keyed_by_event))
        return await bench.read("dead-letters"), bench.check()

    found, checks = asyncio.run(run())
    where: dict[str, set[int]] = defaultdict(set)
    for number in range(70):
        where[card_of(number)].add(any_partition(f"e{number}"))
    strays = [card for card, partitions in where.items() if len(partitions) > 1]
    assert strays
    letters = [dict(letter.headers) for letter in found]
    assert checks["keys"]["state"] == "ok"
    assert f"in several partitions: {len(strays)}" in checks["keys"]["detail"]
    assert "which repartition = true in [events] puts right" in checks["keys"]["detail"]
    assert checks["label keys"]["state"] == "problem"
    assert "2 name no card" in checks["label keys"]["detail"]
    assert [letter["streamgauge-reason"] for letter in letters] == [b"no_entity"] * 2
    details = b" ".join(letter["streamgauge-detail"] for letter in letters).decode()
    assert "names no card" in details
    assert sorted(re.findall(r"\.labels (\d/\d)\.", details)) == ["0/0", "1/0"]


def test_what_cannot_be_unpacked_is_one_dead_letter_with_the_place_of_the_original(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    async def run() -> list[Any]:
        bench = Stranger(kafka, tmp_path)
        await bench.prepare()
        await bench.send([record for record in stream(0, 10) if record.kind == "event"], is_live=True)
        producer = AIOKafkaProducer(bootstrap_servers=kafka.servers, compression_type="zstd", max_request_size=1 << 30)
        await producer.start()
        huge = b'{"id": "' + b"x" * MOST_UNPACKED_BYTES + b'"}'
        batch = producer.create_batch()
        batch.append(key=None, value=huge, timestamp=START_MS, headers=[])
        sent = await (await producer.send_batch(batch, f"{bench.pipeline.name}.events", partition=2))
        await producer.stop()
        await bench.send([record for record in stream(10, 20) if record.kind == "event"], is_live=True)
        with bench.worker():
            await bench.until_outcomes(21)
        assert len(await bench.read("scores")) == 20
        return [sent.offset, *await bench.read("dead-letters")]

    offset, letter = asyncio.run(run())
    headers = dict(letter.headers)
    assert headers["streamgauge-reason"] == b"unreadable_batch"
    assert f".events 2/{offset}." in headers["streamgauge-detail"].decode()
    assert int(headers["streamgauge-cut-bytes"]) > 0


def test_copies_replay_to_the_bit_and_dead_letters_go_back_to_where_they_were_sent(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    n, n_broken = 300, 3

    async def run() -> tuple[int, dict[str, Any], int, list[Any], list[Any]]:
        bench = Stranger(kafka, tmp_path)
        await bench.prepare()
        await bench.send(stream(0, n), is_live=True)
        with bench.worker():
            await bench.until_outcomes(n)
            await asyncio.to_thread(bench.command, "record", str(tmp_path / "copies.parquet"))
            code, said = await asyncio.to_thread(bench.command, "replay", str(tmp_path / "copies.parquet"), "--check")
            sent_back, _ = await asyncio.to_thread(bench.command, "replay-dead-letters")
            await bench.until_outcomes(n + n_broken)
        return code, said, sent_back, await bench.read("events"), await bench.read("dead-letters")

    code, said, sent_back, events, letters = asyncio.run(run())
    assert (code, sent_back) == (0, 0), said
    assert said["check"]["equal"] == n - n_broken, said
    back = [record for record in events if "streamgauge-replayed-from" in dict(record.headers)]
    broken = [any_partition(f"e{number}") for number in range(n) if is_broken(number)]
    assert len(broken) == n_broken
    assert Counter(record.partition for record in back) == Counter(broken)
    assert not any("streamgauge-origin" in dict(record.headers) for record in back)
    places = Counter(f"{record.partition}/{record.offset}" for record in back)
    details = [dict(letter.headers)["streamgauge-detail"].decode() for letter in letters]
    found = Counter(place for detail in details for place in re.findall(r"\.events (\d+/\d+)\.", detail))
    assert found.total() == 2 * n_broken
    assert places <= found


def test_a_worker_copies_and_scores_from_where_it_was_told_to_begin(kafka: KafkaAccess, tmp_path: Path) -> None:
    async def run() -> list[Any]:
        bench = Stranger(kafka, tmp_path)
        await bench.prepare()
        await bench.send([record for record in stream(0, 40) if record.kind == "event"], is_live=True)
        begin = datetime.fromtimestamp(at_ms(20) / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        with bench.worker("--from", begin):
            await bench.until_outcomes(20)
        return await bench.read("scores")

    values = [json.loads(record.value) for record in asyncio.run(run())]
    assert Counter(value["event_id"] for value in values) == Counter(f"e{number}" for number in range(20, 40))


def test_what_partitions_have_promised_outlives_the_router(kafka: KafkaAccess, tmp_path: Path) -> None:
    async def run() -> list[Any]:
        bench = Stranger(kafka, tmp_path)
        await bench.prepare()
        records = stream(0, 60)
        n_labels = sum(record.kind == "label" for record in records)
        await bench.send(records, is_live=True)
        for number in range(3):
            await bench.promise(at_ms(1_000) + number, [number])
        group, topic = f"streamgauge-{bench.pipeline.name}.router", f"{bench.pipeline.name}.labels"
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.servers)
        await admin.start()

        async def is_committed() -> bool:
            found = await admin.list_consumer_group_offsets(group)
            return sum(at.offset for tp, at in found.items() if tp.topic == topic) == n_labels + 3

        with bench.worker() as first:
            await bench.until(is_committed, 120)
            first.kill()
        await admin.close()

        async def copied() -> bool:
            return len(await bench.read("labels-by-entity")) == n_labels + PARTITIONS

        assert len(await bench.read("labels-by-entity")) == n_labels
        await bench.promise(at_ms(2_000), [3])
        with bench.worker():
            await bench.until(copied, 120)
        return await bench.read("labels-by-entity")

    marks = [
        (record.partition, dict(record.headers)["streamgauge-watermark-ms"])
        for record in asyncio.run(run())
        if "streamgauge-watermark-ms" in dict(record.headers)
    ]
    assert sorted(marks) == [(partition, str(at_ms(1_000)).encode()) for partition in range(PARTITIONS)]


def test_a_pipeline_that_has_scored_refuses_to_be_switched(kafka: KafkaAccess, tmp_path: Path) -> None:
    async def run() -> tuple[int, str]:
        bench = Stranger(kafka, tmp_path)
        await bench.prepare()
        await bench.send([record for record in stream(0, 30) if record.kind == "event"], is_live=True)
        with bench.worker() as first:
            await bench.until_outcomes(30)
            first.terminate()
            first.wait()
        path = bench.pipeline.path
        path.write_text(path.read_text().replace("repartition = true", "repartition = false"))
        with bench.worker() as second:

            async def has_ended() -> bool:
                return second.poll() is not None

            await bench.until(has_ended)
            return second.returncode, bench.logs()

    code, logs = asyncio.run(run())
    assert code == 78
    assert "repartition was switched off in [events]" in logs


def test_copies_are_kept_as_long_as_what_was_sent(kafka: KafkaAccess, tmp_path: Path) -> None:
    async def run() -> dict[str, str]:
        bench = Stranger(kafka, tmp_path)
        topics = bench.pipeline.topics
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.servers)
        await admin.start()
        try:
            config = {"retention.ms": "86400000", "max.message.bytes": "5000000"}
            await admin.create_topics([NewTopic(topics.sent_events, PARTITIONS, 1, topic_configs=config)])
            await ensure_topics(kafka, topics.all())
            asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in (topics.events, topics.labels)]
            return {
                f"{name.rpartition('.')[2]} {key}": value
                for response in await admin.describe_configs(asked)
                for *_, name, entries in response.resources
                for key, value, *_ in entries
            }
        finally:
            await admin.close()

    found = asyncio.run(run())
    assert found["events-by-entity retention.ms"] == "86400000"
    assert int(found["events-by-entity max.message.bytes"]) > 5_000_000
    assert found["labels-by-entity retention.ms"] == "-1"  # as those that we make
    assert found["events-by-entity cleanup.policy"] == "delete"


def test_what_retention_removes_before_a_running_router_reads_it_is_not_passed_over(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    async def run() -> tuple[int, int, str]:
        bench = Stranger(kafka, tmp_path)
        await bench.prepare()
        await bench.send([record for record in stream(0, 80) if record.kind == "event"], is_live=True)
        with bench.worker() as process:
            await bench.until_outcomes(80)
            process.send_signal(signal.SIGSTOP)
            try:
                await bench.send([record for record in stream(80, 160) if record.kind == "event"], is_live=True)
                await bench.remove_records(30)
            finally:
                process.send_signal(signal.SIGCONT)
            code = await asyncio.to_thread(process.wait, 60)
        with bench.worker() as again:
            return code, await asyncio.to_thread(again.wait, 60), bench.logs()

    code, next_code, said = asyncio.run(run())
    assert (code, next_code) == (75, 78), said
    assert "Records are gone before they were read" in said
    assert "to 29 were removed by retention before they were processed" in said
