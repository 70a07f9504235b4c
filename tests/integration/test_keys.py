"""Streams whose keys do not hold, from producers that are not ours: what is noticed, said, counted and refused.

Each producer chooses partitions by itself; what must come out is computed here from what was sent.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2
from chaos_pipeline import START_MS, Setup, render_toml
from memory_warehouse import MemoryWarehouse
from warm_start import run_warm
from worker_bench import Bench

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.http.page import Page, Tables, render
from app.kafka_access import KafkaAccess
from app.monitor.context import Pace
from app.monitor.monitor import Monitor
from app.monitor.status import sources
from schemas.pipeline.file import load

PARTITIONS = 4
STEP_MS = 25
SLICE_MS = 5_000
QUICK = Pace(flush=0.05, collect=0.05, checkpoint=0.2, housekeeping=0.2)


def java(key: str) -> int:
    return int((murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS)


def librdkafka(key: str) -> int:
    return crc32(key.encode()) % PARTITIONS


#: Topic, partition, key and value.
Record = tuple[str, int, str | None, dict[str, Any]]


class Stream(Bench):
    """A pipeline with windows of its own and labels, on which anyone may write."""

    def __init__(self, kafka: KafkaAccess, folder: Path, events: str = "") -> None:
        super().__init__(kafka, folder, with_labels=True)
        path = self.pipeline.path
        text = render_toml(self.pipeline.name, Setup("exactly_once", True, PARTITIONS, 50, monitored=True))
        path.write_text(text.replace("[events]", f"[events]\n{events}"))
        self.pipeline = load(path)

    async def send(self, records: list[Record]) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.servers, linger_ms=20)
        await producer.start()
        for topic, partition, key, value in records:
            time_ms = value.get("at_ms") or value["label_time_ms"]
            await producer.send(
                topic,
                json.dumps(value).encode(),
                key=key.encode() if key is not None else None,
                partition=partition,
                timestamp_ms=time_ms,
            )
        await producer.flush()
        await producer.stop()

    def event(self, number: int, card: str, partition: int) -> Record:
        value = {
            "id": f"e{number}",
            "card": card,
            "at_ms": START_MS + number * STEP_MS,
            "amount": number * 37 % 100 / 7,
        }
        return self.pipeline.topics.events, partition, card, value

    def label(self, number: int, card: str, partition: int) -> Record:
        value = {"event_id": f"e{number}", "label": number % 2, "label_time_ms": START_MS + number * STEP_MS + 2_000}
        return self.pipeline.topics.labels, partition, card, value

    async def promise(self, until_ms: int) -> None:
        """Say in all partitions that nothing older follows: labels after the last event are applied then."""
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.servers)
        await producer.start()
        topic, headers = self.pipeline.topics.labels, [("streamgauge-watermark-ms", str(until_ms).encode())]
        for partition in range(PARTITIONS):
            await producer.send_and_wait(topic, None, key=b"w", partition=partition, headers=headers)
        await producer.stop()

    async def until_scored(self, events: int) -> None:
        async def is_done() -> bool:
            return await self.committed_events() >= events

        await self.until(is_done, 90)

    async def committed_events(self) -> int:
        return len(await self.scores()) + len(await self.dead_letters())


def two_producers(n: int) -> list[tuple[int, str, int, int]]:
    """Number, card, and the partitions of event and label; every tenth card is written by both producers of events."""
    sent = []
    for number in range(n):
        card = f"card-{number * 7 % 60}"
        is_other = number * 7 % 60 % 10 == 0 and number // 60 % 2 == 1
        sent.append((number, card, librdkafka(card) if is_other else java(card), librdkafka(card)))
    return sent


def expected_labels(sent: list[tuple[int, str, int, int]]) -> Counter[str]:
    """By hand: each label comes two seconds after its event, long before the horizon."""
    first_seen: dict[tuple[str, int], int] = {}
    for number, card, partition, _ in sent:
        first_seen.setdefault((card, partition), number * STEP_MS)
    counts: Counter[str] = Counter()
    for number, card, partition, of_label in sent:
        is_here = first_seen.get((card, of_label), 2**62) < number * STEP_MS + 2_000
        outcome = "joined" if partition == of_label else "unknown" if is_here else "other_partition"
        counts[outcome] += 1
    return counts


@dataclass(frozen=True)
class Said:
    """All that a monitor says of the stream itself."""

    status: dict[str, Any]
    samples: dict[tuple[str, ...], float]
    page: str
    rows: list[dict[str, Any]]
    alerts: dict[str, dict[str, Any]]


async def watch(stream: Stream, is_all: Callable[[Said], bool]) -> Said:
    """Run a monitor, from nothing, until it has said all."""
    warehouse = MemoryWarehouse()
    monitor = Monitor(stream.pipeline, stream.kafka, WarehouseThread(warehouse), lambda: START_MS, QUICK)
    told = sources(monitor)

    def look() -> Said:
        samples = {(sample.name, *sample.labels.values()): sample.value for sample in told.samples()}
        page = render(Page(stream.pipeline.name, told.status(), told.lag(), told.health(), Tables(), None))
        alerts = {row["rule"]: row for row in warehouse.read("alerts")}
        return Said(told.status(), samples, page, warehouse.read("input_checks"), alerts)

    async def is_done() -> bool:
        return is_all(look())

    working = asyncio.create_task(monitor.run())
    try:
        await stream.until(is_done, 60)
    finally:
        said = look()
        monitor.stop()
        await working
        print(said.status)  # noqa: T201  # of a test that fails
    return said


def test_two_partitioners_are_noticed_and_counted_exactly_whoever_dies(kafka: KafkaAccess, tmp_path: Path) -> None:
    sent = two_producers(1_200)
    expected = expected_labels(sent)
    where: dict[str, set[int]] = defaultdict(set)
    for _, card, partition, _ in sent:
        where[card].add(partition)
    straying = {card for card, partitions in where.items() if len(partitions) > 1}
    assert straying
    assert expected["other_partition"] > 100
    assert expected["unknown"] > 10

    def is_all(said: Said) -> bool:
        labels = said.status["labels"] or {"applied": 0, "other_partition": 0}
        rows = said.rows
        return (
            labels["applied"] == sum(row["labels"] for row in rows) == len(sent)
            and labels["other_partition"] == expected["other_partition"]
            and sum(row["other_partition"] for row in rows) == expected["other_partition"]
            and sum(row["strays"] for row in rows) == len(straying)
            and {"labels-without-event", "entity-in-two-partitions"} <= said.alerts.keys()
        )

    async def run() -> Said:
        stream = Stream(kafka, tmp_path)
        await stream.prepare()
        records = [
            record
            for number, card, partition, of_label in sent
            for record in (stream.event(number, card, partition), stream.label(number, card, of_label))
        ]
        await stream.send(records[:1_000])
        with stream.worker() as first:
            await stream.until_scored(200)
            first.kill()
        with stream.worker(), stream.worker() as second:
            await stream.send(records[1_000:])
            await stream.until_scored(700)
            second.kill()
            await stream.until_scored(len(sent))
            await stream.promise(START_MS + 120_000)
            return await watch(stream, is_all)

    said = asyncio.run(run())
    without = len(sent) - expected["joined"]
    assert _without_delays(said.status["labels"]) == {
        "applied": len(sent),
        "without_event": without,
        "share": without / len(sent),
        "other_partition": expected["other_partition"],
        "too_late": 0,
        "unknown": expected["unknown"],
    }
    entities = said.status["entities"]
    assert (entities["seen"], entities["in_several_partitions"]) == (len(where), len(straying))
    assert len(entities["examples"]) == len(straying)
    for example in entities["examples"]:
        card, _, partitions = example.partition(" is in partitions ")
        assert partitions == " and ".join(map(str, sorted(where[card])))
    for outcome in ("joined", "other_partition", "unknown"):
        assert said.samples["streamgauge_monitor_labels_total", outcome] == expected[outcome]
    assert said.samples["streamgauge_monitor_entities_in_several_partitions",] == len(straying)
    assert f"{len(straying)} of {len(where)} entities are in several partitions" in said.page
    assert "labels found no event" in said.page
    assert sum(row["unknown"] for row in said.rows) == expected["unknown"]
    events = Counter((START_MS + number * STEP_MS) // SLICE_MS * SLICE_MS for number, *_ in sent)
    in_rows = {round(row["window_start"].timestamp() * 1000): row["events"] for row in said.rows}
    assert {start: n for start, n in in_rows.items() if n} == dict(events)
    assert said.alerts["entity-in-two-partitions"]["version"] == ""
    assert " is in partitions " in said.alerts["entity-in-two-partitions"]["message"]
    assert "of the labels found no event" in said.alerts["labels-without-event"]["message"]


def _without_delays(labels: dict[str, Any]) -> dict[str, Any]:
    """The counts of labels; that the delays are those of joined labels is tested without Kafka."""
    assert labels["maturity_too_short"] == []
    assert [0 <= each["labels"] <= labels["applied"] for each in labels["delays"].values()] == [True, True]
    return {name: value for name, value in labels.items() if name not in {"delays", "maturity_too_short"}}


def test_a_stream_of_a_partitioner_that_nobody_knows_is_right(kafka: KafkaAccess, tmp_path: Path) -> None:
    async def run() -> Said:
        stream = Stream(kafka, tmp_path)
        await stream.prepare()
        cards = [f"card-{number * 7 % 60}" for number in range(300)]
        homes = {card: len(card) * number % PARTITIONS for number, card in enumerate(sorted(set(cards)))}
        records = []
        for number, card in enumerate(cards):
            records.append(
                (*stream.event(number, card, homes[card])[:2], f"key {number}", stream.event(number, card, 0)[3])
            )
            records.append((*stream.label(number, card, homes[card])[:2], None, stream.label(number, card, 0)[3]))
        await stream.send(records)
        with stream.worker():
            await stream.until_scored(len(cards))
            await stream.promise(START_MS + 120_000)
            return await watch(stream, lambda said: sum(row["labels"] for row in said.rows) == len(cards))

    said = asyncio.run(run())
    assert _without_delays(said.status["labels"]) | {"share": 0} == {
        "applied": 300,
        "without_event": 0,
        "share": 0,
        "other_partition": 0,
        "too_late": 0,
        "unknown": 0,
    }
    assert said.status["entities"] == {"seen": 60, "in_several_partitions": 0, "examples": []}
    assert not {"labels-without-event", "entity-in-two-partitions"} & said.alerts.keys()
    assert "several partitions" not in said.page


async def test_an_entity_is_refused_in_any_partition_but_its_own(kafka: KafkaAccess, tmp_path: Path) -> None:
    stream = Stream(kafka, tmp_path, 'wrong_partition = "refuse"')
    await stream.prepare()
    homes = {f"card-{number}": number % PARTITIONS for number in range(8)}
    numbers = iter(range(10_000))

    def right() -> list[Record]:
        return [stream.event(next(numbers), card, partition) for card, partition in homes.items()]

    sent = right()
    with stream.worker() as first:
        await stream.send(sent)
        await stream.until_scored(len(sent))
        refused = 0
        while not refused:  # until the worker has heard what it told
            sent.append(stream.event(next(numbers), "card-0", 2))
            await stream.send(sent[-1:])
            await stream.until_scored(len(sent))
            refused = len(await stream.dead_letters())
        first.kill()
    before = len(sent)
    with stream.worker(), stream.worker():
        wrong = [stream.event(next(numbers), card, (partition + 1) % PARTITIONS) for card, partition in homes.items()]
        sent += right() + wrong
        await stream.send(sent[before:])
        await stream.until_scored(len(sent))
    letters = await stream.dead_letters()
    assert {letter.reason for letter in letters} == {"wrong_partition"}
    values = [json.loads(letter.value or b"") for letter in letters]
    refused_ids = {value["id"] for value in values}
    assert {value["id"] for *_, value in wrong} <= refused_ids
    assert refused_ids - {value["id"] for *_, value in wrong} == {sent[before - 1][3]["id"]}
    scored = [score.event_id for score in await stream.scores()]
    assert len(scored) == len(set(scored)) == len(sent) - len(letters)
    assert any("card-0 belongs to partition 0, which saw it first" in letter.detail for letter in letters)


@pytest.mark.parametrize("kind", ["right", "unkeyed", "two producers", "labels"])
def test_check_looks_at_a_sample_of_the_topics(kafka: KafkaAccess, tmp_path: Path, kind: str) -> None:
    async def fill() -> Stream:
        stream = Stream(kafka, tmp_path)
        await stream.prepare()
        records: list[Record] = []
        for number, card, _, of_label in two_producers(400):
            by_turns = java(card) if number % 7 < 4 else librdkafka(card)
            where = {"unkeyed": number // 7 % PARTITIONS, "two producers": by_turns}.get(kind, java(card))
            key = None if kind == "unkeyed" else card
            records.append((*stream.event(number, card, where)[:2], key, stream.event(number, card, 0)[3]))
            records.append(stream.label(number, card, of_label if kind == "labels" else where))
        await stream.send(records)
        return stream

    stream = asyncio.run(fill())
    words = ("check", "--pipeline", str(stream.pipeline.path), "--json")
    done = run_warm(words, env={**os.environ, **stream.settings.to_environment()}, timeout=90)
    checks = {each["check"]: each for each in json.loads(done.stdout)["checks"]}
    problems = {name for name, each in checks.items() if each["state"] == "problem"}
    keys, label_keys = checks["keys"]["detail"], checks["label keys"]["detail"]
    assert done.returncode == bool(problems)
    if kind == "right":
        assert not problems
        assert "400 of the newest events, 60 entities, each in one partition; their keys look like murmur2" in keys
        assert "400 of the newest labels, of 400 it is known where their events are, and they are there" in label_keys
    elif kind == "unkeyed":
        assert "keys" in problems
        assert "card-0 is in partitions 0, 1, 2 and 3" in keys
        assert "they have no keys" in keys
    elif kind == "two producers":
        assert problems == {"keys"}
        straying = sorted({card for _, card, *_ in two_producers(400) if java(card) != librdkafka(card)})
        assert f"in several partitions, where windows and labels miss each other: {len(straying)}" in keys
        assert f"({straying[0]} is in partitions " in keys
        assert "murmur2 (Java, aiokafka)" in keys
        assert "CRC32 (librdkafka)" in keys
    else:
        assert problems == {"label keys"}
        wrong = sum(java(card) != of_label for _, card, _, of_label in two_producers(400))
        assert f"{wrong} lie in another partition and will not find them" in label_keys
        assert "their keys look like CRC32 (librdkafka), of the events their keys look like murmur2" in label_keys
