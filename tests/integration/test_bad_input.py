"""Bad input through a real worker: scored by a stated rule or a dead letter, and its neighbours are scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from worker_bench import START_MS, Bench

from app.kafka_access import KafkaAccess

YEAR_2100_MS = 4_102_444_800_000


def body(**changes: Any) -> bytes:
    event = {"id": "x", "card": "c1", "at_ms": START_MS, "amount": 1.5, **changes}
    return json.dumps({name: value for name, value in event.items() if value is not ...}).encode()


#: What is sent, and the reason of its dead letter; "" means that it is scored.
CORPUS: list[tuple[bytes | None, str]] = [
    (b"not json", "not_json"),
    (b'{"id": "x"', "not_json"),
    (b"\xff\xfe\x00", "not_json"),
    (b'{"id":"x","card":"c1","at_ms":1700000000000,"amount":NaN}', "not_json"),
    (b'{"id":"x","card":"c1","at_ms":1700000000000,"amount":Infinity}', "not_json"),
    (b"[" * 100_000, "not_an_object"),
    (b'{"a":' * 100_000, "not_json"),
    (b"r" * 1_000_000, "not_json"),
    (b"", "empty"),
    (None, "tombstone"),
    (b"[]", "not_an_object"),
    (b"null", "not_an_object"),
    (b"7", "not_an_object"),
    (body(amount=...), "missing_field"),
    (body(id=...), "missing_field"),
    (body(amount="1.5"), "wrong_type"),
    (body(amount=None), "wrong_type"),
    (body(at_ms=1.5), "wrong_type"),
    (body(at_ms="yesterday"), "wrong_type"),
    (body(amount=True), "wrong_type"),
    (b'{"id":"x","card":"c1","at_ms":1700000000000,"amount":1e999}', "wrong_type"),
    (body(id=""), "empty_key"),
    (body(card=""), "empty_key"),
    (body(at_ms=0), "time_too_early"),
    (body(at_ms=-1), "time_too_early"),
    (body(at_ms=YEAR_2100_MS), "time_ahead"),
    (body(), ""),
    (body(), ""),  # the same event id again: a score of its own
    (body(note=None), ""),
    (body(note="known", surplus={"deep": [1]}), ""),
    (body(amount=1e308), ""),
    (body(amount=-0.0), ""),
]


async def test_each_bad_record_is_a_dead_letter_with_its_bytes_and_its_neighbours_are_scored(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    bench = Bench(kafka, tmp_path, with_labels=True)
    await bench.prepare()
    producer = AIOKafkaProducer(bootstrap_servers=kafka.servers, max_request_size=2 << 20)
    await producer.start()
    for number, (value, _) in enumerate(CORPUS):
        await producer.send_and_wait(
            bench.pipeline.topics.events, value, key=f"k{number}".encode(), partition=0, timestamp_ms=START_MS
        )
    bad_label = b'{"event_id": "x", "label": 0.5, "label_time_ms": 1700000000000}'
    await producer.send_and_wait(bench.pipeline.topics.labels, bad_label, key=b"k", partition=0)
    await producer.stop()
    with bench.worker():

        async def is_done() -> bool:
            return await bench.committed() >= len(CORPUS) and len(await bench.dead_letters()) > n_bad

        n_bad = sum(bool(reason) for _, reason in CORPUS)
        await bench.until(is_done)
    letters = await bench.dead_letters()
    events = {dead.source.offset: dead for dead in letters if dead.stage != "label"}
    assert {offset: dead.reason for offset, dead in events.items()} == {
        offset: reason for offset, (_, reason) in enumerate(CORPUS) if reason
    }
    for offset, dead in events.items():
        assert dead.value == CORPUS[offset][0]
        assert dead.key == f"k{offset}".encode()
        assert dead.detail
    assert [dead.reason for dead in letters if dead.stage == "label"] == ["not_binary"]
    scored = sorted(score.source.offset for score in await bench.scores())
    assert scored == [offset for offset, (_, reason) in enumerate(CORPUS) if not reason]
