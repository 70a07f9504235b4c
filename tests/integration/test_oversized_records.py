"""Records larger than a topic takes, through a real worker: a stated outcome, never a crash that repeats for ever."""

from __future__ import annotations

import json
import random
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from worker_bench import START_MS, Bench

from app.kafka_access import KafkaAccess
from schemas.topics import MAX_DEAD_LETTER_BYTES

EXIT_CONFIG = 78


def good(number: int, **changes: str) -> bytes:
    body = {"id": f"e{number}", "card": "c1", "at_ms": START_MS + number, "amount": 1.5, **changes}
    return json.dumps(body).encode()


async def allow(bench: Bench, topic: str, most_bytes: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bench.kafka.servers)
    await admin.start()
    try:
        sizes = {"max.message.bytes": str(most_bytes)}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, sizes)])
    finally:
        await admin.close()


async def send(bench: Bench, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bench.kafka.servers, max_request_size=32 << 20)
    await producer.start()
    for value in values:
        await producer.send_and_wait(bench.pipeline.topics.events, value, key=b"c1", partition=0, timestamp_ms=START_MS)
    await producer.stop()


async def test_a_topic_that_takes_less_than_is_sent_stops_the_worker_with_a_sentence_and_nothing_is_lost(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    await allow(bench, bench.pipeline.topics.dead_letters, 2_000)
    large = b"{" + random.Random(1).randbytes(10_000)  # noqa: S311  # no codec makes it smaller
    await send(bench, [good(0), large, good(1)])
    with bench.worker() as worker:

        async def has_ended() -> bool:
            return worker.poll() is not None

        await bench.until(has_ended, deadline_s=180)
        assert worker.returncode == EXIT_CONFIG
    assert f"{bench.pipeline.topics.dead_letters}; raise max.message.bytes of the topic" in bench.logs()
    assert await bench.committed() == 0
    assert await bench.scores() == []
    await allow(bench, bench.pipeline.topics.dead_letters, MAX_DEAD_LETTER_BYTES)
    with bench.worker():
        await bench.until_committed(3, deadline_s=180)
    assert sorted(score.event_id for score in await bench.scores()) == ["e0", "e1"]
    assert [letter.reason for letter in await bench.dead_letters()] == ["not_json"]
