"""Events as producers really send them: packed by every codec, and some that unpack to far too much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from worker_bench import START_MS, Bench

from app.adapters.kafka.record_batches import MOST_UNPACKED_BYTES
from app.kafka_access import KafkaAccess

CODECS = ["gzip", "snappy", "lz4", "zstd"]


async def send(kafka: KafkaAccess, topic: str, codec: str | None, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.servers, compression_type=codec, max_request_size=1 << 30)
    await producer.start()
    try:
        batch = producer.create_batch()
        for number, value in enumerate(values):
            batch.append(key=b"c1", value=value, timestamp=START_MS + number, headers=[])
        await (await producer.send_batch(batch, topic, partition=0))
    finally:
        await producer.stop()


def good(number: int) -> bytes:
    return json.dumps({"id": f"e{number}", "card": "c1", "at_ms": START_MS + number, "amount": 1.5}).encode()


async def codecs_of(kafka: KafkaAccess, topic: str) -> set[int]:
    """The codecs of the batches that a topic holds, as they are on the wire."""
    seen: set[int] = set()
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        end = (await consumer.end_offsets([TopicPartition(topic, 0)]))[TopicPartition(topic, 0)]
        from aiokafka.consumer import fetcher  # noqa: PLC0415

        class Watching(fetcher.MemoryRecords):  # type: ignore[misc,name-defined]
            def __init__(self, data: bytes) -> None:
                super().__init__(data)
                place = 0
                while place + 61 <= len(data):
                    attributes = int.from_bytes(data[place + 21 : place + 23], "big")
                    if not attributes & 0x20:  # no marker of a transaction
                        seen.add(attributes & 7)
                    place += 12 + int.from_bytes(data[place + 8 : place + 12], "big")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fetcher, "MemoryRecords", Watching)
            while await consumer.position(TopicPartition(topic, 0)) < end:
                await consumer.getmany(timeout_ms=200)
    finally:
        await consumer.stop()
    return seen


async def test_every_codec_is_scored_and_what_unpacks_to_too_much_is_one_dead_letter(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    topic = bench.pipeline.topics.events
    for place, codec in enumerate([None, *CODECS]):
        await send(kafka, topic, codec, [good(10 * place + number) for number in range(10)])
    await send(kafka, topic, "zstd", [b'{"id": "' + b"x" * MOST_UNPACKED_BYTES + b'"}'])
    await send(kafka, topic, "zstd", [good(51)])
    with bench.worker():

        async def is_done() -> bool:
            return await bench.committed() == 52

        await bench.until(is_done, deadline_s=180)
    assert sorted(score.event_id for score in await bench.scores()) == sorted(
        f"e{number}" for number in [*range(50), 51]
    )
    [letter] = await bench.dead_letters()
    assert (letter.reason, letter.source.offset) == ("unreadable_batch", 50)
    assert "offset 50: the zstd batch unpacks to more than 64 MiB" in letter.detail
    # What is published is packed, too: by zstd, when the pipeline file says nothing.
    assert await codecs_of(kafka, bench.pipeline.topics.scores) == {CODECS.index("zstd") + 1}
