"""What a router copies in a second (`[events] repartition`), alone on its core. Prints figures as JSON.

::

    python scripts/bench/router.py --records 2000000

Events without keys in 4 partitions, and a label for every other one, are sent to an embedded Kafka, and then copied by
one router to the partitions of their entities. ``per_core_s``: by the CPU that this process has taken meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.adapters.kafka.clients import new_bulk_producer
from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.stack.embedded_kafka import EmbeddedKafka
from app.kafka_access import KafkaAccess
from app.settings import Settings
from app.worker.input_offsets import Beginning
from app.worker.router import Router
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline

PARTITIONS = 4
ENTITIES = 100_000
CHUNK = 2_000
START_MS = 1_700_000_000_000

PIPELINE = """
name = "bench-router"
partitions = 4

[model]
name = "m"

[events]
entity = "card"
id = "id"
time = "at_ms"
repartition = true

[events.fields]
id = "string"
card = "string"
at_ms = "int"
amount = "float"
merchant = "string"

[labels]

[[features]]
name = "amount"
type = "float"
expression = "amount"

[drift]
window = "1d"
"""


def records(number: int) -> Iterator[tuple[str, bytes]]:
    """Kind and value of an event, and of its label, if it has one."""
    card, at_ms = f"card-{number * 7919 % ENTITIES}", START_MS + number
    event = {"id": f"payment-{number}", "card": card, "at_ms": at_ms, "amount": number % 977 / 8}
    yield "events", json.dumps({**event, "merchant": f"shop-{number % 5000}"}).encode()
    if number % 2:
        label = {"event_id": event["id"], "card": card, "label": number % 4 // 2, "label_time_ms": at_ms}
        yield "labels", json.dumps(label).encode()


async def send(kafka: KafkaAccess, pipeline: Pipeline, n: int) -> int:
    """Send events and labels in the order of their times; how many records that are."""
    producer = new_bulk_producer(kafka, enable_idempotence=False, acks=1, compression_type="zstd")
    await producer.start()
    sent = 0
    try:
        for start in range(0, n, CHUNK):
            batches: dict[tuple[str, int], Any] = {}
            for number in range(start, min(n, start + CHUNK)):
                for kind, value in records(number):
                    place = f"{pipeline.name}.{kind}", number * 3 % PARTITIONS
                    batch = batches.setdefault(place, None) or producer.create_batch()
                    batches[place] = batch
                    if batch.append(key=None, value=value, timestamp=START_MS + number) is None:
                        raise ValueError("a chunk is larger than a batch; make CHUNK smaller")
                    sent += 1
            for (topic, partition), batch in batches.items():
                await producer.send_batch(batch, topic, partition=partition)
        await producer.flush()
    finally:
        await producer.stop()
    return sent


async def measure(kafka: KafkaAccess, pipeline: Pipeline, n: int) -> dict[str, float]:
    """Copy all, and see how long that takes."""
    await ensure_topics(kafka, pipeline.topics.all())
    sent = await send(kafka, pipeline, n)
    failed: list[str] = []
    router = Router(
        pipeline,
        kafka,
        lambda: START_MS,
        lambda why, _: failed.append(why),
        session_s=10,
        beginning=Beginning(),
    )
    await router.start()
    try:
        while not router.routed and not failed:  # noqa: ASYNC110  # nothing is set when a counter moves
            await asyncio.sleep(0.001)
        first, started, cpu = router.routed, time.perf_counter(), time.process_time()
        while router.routed < sent and not failed:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    finally:
        await router.stop()
    if failed:
        raise RuntimeError(failed[0])
    copied = sent - first
    return {"records": sent, "per_s": round(copied / seconds), "per_core_s": round(copied / cpu_s)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000, help="events, with half as many labels")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench-router.toml"
        path.write_text(PIPELINE)
        with EmbeddedKafka(home=Path(folder), cache=Settings.read().cache) as broker:
            found = asyncio.run(measure(broker.access, load(path), arguments.records))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
