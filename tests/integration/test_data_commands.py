"""The data commands on a real Kafka: what is produced, scored by a worker and recorded, replays to the same bits."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import aiokafka
import msgspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiokafka import TopicPartition
from core_setting import CARD_EVENTS, HOUR_MS, MONITORED, START_MS
from warm_start import run_warm, start_warm

from app.adapters.kafka.event_producer import EventProducer
from app.adapters.kafka.topic_reader import follow, read_to_end
from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.recordings.file import EVENTS, LABELS, SCORES, Recording, RecordingWriter
from app.adapters.sources.source import Partitioner, load_source
from app.kafka_access import KafkaAccess
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.source import SourceRecord
from schemas.wire import Label, ModelStatus, Score, decode_json

DEADLINE_S = 60.0

SPECIFICATION = """
name = "NAME"
partitions = 3
publish_features = true
commit_interval_ms = 50
source = "cards_source.py:records"

[model]
name = "NAME-fraud"

[events.fields]
id = "string"
card = "string"
at = "int"
amount = "float"
shop = "string?"

[labels]
horizon = "12h"
max_wait = "30s"

[[features]]
name = "amount"
type = "float"
expression = "amount"

[[features]]
name = "count_3h"
type = "int"
window = { of = "events", key = ["card"], size = "3h", hop = "10m", aggregate = "count" }

[[features]]
name = "fraud_6h"
type = "float"
window = { of = "labels", key = ["card"], size = "6h", hop = "10m", aggregate = "mean", field = "label" }

[[features]]
name = "shop_fraud_6h"
type = "float"
window = { of = "labels", key = ["card", "shop"], size = "6h", hop = "10m", aggregate = "mean", field = "label" }

[limits]
consecutive = 100
share = 0.9
of_last = 1000
"""

#: 12 cards, an event every 4 minutes, its label half an hour to four hours later, one in ten never.
SOURCE = f"""
import random
from schemas.source import SourceRecord

def records(from_ms=None, to_ms=None, limit=None):
    draw, records = random.Random(4), []
    for number in range(3000):
        at, card = {START_MS} + number * 240_000, f"c{{draw.randrange(12)}}"
        amount, shop = round(draw.gauss(0, 1), 2), draw.choice([None, "a", "b"])
        value = {{"id": f"e{{number}}", "card": card, "at": at, "amount": amount, "shop": shop}}
        records.append(SourceRecord("event", card, at, value))
        known, is_labelled = at + draw.randrange(1_800_000, 14_400_000), draw.random() < 0.9
        label = float(amount + draw.gauss(0, 1) > 0)
        if is_labelled:
            value = {{"event_id": f"e{{number}}", "label": label, "label_time_ms": known}}
            records.append(SourceRecord("label", card, known, value))
    low, high = -1 if from_ms is None else from_ms, 2**62 if to_ms is None else to_ms
    records = sorted((r for r in records if low <= r.time_ms < high), key=lambda r: (r.time_ms, r.kind == "event"))
    for start in range(0, len(records), 400):
        yield records[start : start + 400]
"""


class Cards:
    """A pipeline of its own in a folder of its own, and the commands on it."""

    def __init__(self, kafka: KafkaAccess, folder: Path, name: str) -> None:
        self.kafka = kafka
        self.folder = folder
        self.path = folder / f"{name}.toml"
        self.path.write_text(SPECIFICATION.replace("NAME", name) + CARD_EVENTS + MONITORED)
        (folder / "cards_source.py").write_text(SOURCE)
        self.pipeline: Pipeline = load(self.path)
        self.environment = {
            **os.environ,
            "STREAMGAUGE_KAFKA": kafka.servers,
            "STREAMGAUGE_HOME": str(folder / "home"),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def run(self, *words: str, code: int = 0, data: bytes = b"", as_json: bool = True) -> Any:
        """Run a command of this pipeline; its JSON, or its output."""
        arguments = [*words, "--pipeline", str(self.path), *(["--json"] if as_json else [])]
        done = run_warm(arguments, env=self.environment, timeout=DEADLINE_S, data=data)
        assert done.returncode == code, done.stderr.decode() + done.stdout.decode()
        return json.loads(done.stdout) if as_json else done.stdout.decode() + done.stderr.decode()

    @contextmanager
    def worker(self) -> Iterator[None]:
        log = self.folder / "worker.log"
        with log.open("ab") as out:
            arguments = [sys.executable, "-P", "-m", "app", "worker", "--pipeline", str(self.path)]
            child = start_warm(arguments, env=self.environment, stdout=out, stderr=out)
            try:
                yield
                assert child.poll() is None, log.read_text()[-2000:]
            finally:
                for process in [*psutil.Process(child.pid).children(recursive=True), child]:
                    process.terminate()
                child.wait(20)

    def wait_committed(self, events: int) -> None:
        asyncio.run(asyncio.wait_for(self._wait_committed(events), DEADLINE_S))

    async def _wait_committed(self, events: int) -> None:
        group = f"streamgauge-{self.pipeline.name}"
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=self.kafka.servers, group_id=group, enable_auto_commit=False
        )
        await consumer.start()
        try:
            tps = [TopicPartition(self.pipeline.topics.events, number) for number in range(self.pipeline.partitions)]
            consumer.assign(tps)
            while sum([await consumer.committed(tp) or 0 for tp in tps]) < events:  # noqa: ASYNC110  # Kafka tells nobody
                await asyncio.sleep(0.05)
        finally:
            await consumer.stop()

    def wait_loaded(self, version: str) -> None:
        """Wait until the worker says that it has a version ready."""

        async def look() -> None:
            async with aclosing(follow(self.kafka, self.pipeline.topics.model_status)) as batches:
                async for batch in batches:
                    for value in batch.values if batch is not None else []:
                        status = decode_json(value or b"", ModelStatus)
                        if (status.version, status.status) == (version, "loaded"):
                            return

        asyncio.run(asyncio.wait_for(look(), DEADLINE_S))

    def read(self, topic: str) -> list[Any]:
        async def batches() -> list[Any]:
            return [batch async for batch in read_to_end(self.kafka, [topic])]

        return asyncio.run(batches())

    def day(self, days: float) -> str:
        seconds = (START_MS + round(days * 24 * HOUR_MS)) / 1000
        return str(np.datetime64(round(seconds), "s")) + "Z"


BAD_LINES = b'rubbish\n{"id":"x","card":"c1"}\n{"id":"y","card":"c2","at":0,"amount":1}\n'


@pytest.fixture(scope="module")
def scored(kafka: KafkaAccess, tmp_path_factory: pytest.TempPathFactory) -> Cards:
    """A stream of two versions and bad input, scored by a worker, and recorded."""
    cards = Cards(kafka, tmp_path_factory.mktemp("cards"), "cards-scored")
    train = ("model", "train", "--family", "logistic", "--from", cards.day(0))
    cards.run(*train, "--to", cards.day(4))
    cards.run("model", "promote", "1.0.0", "--score-training-rows")
    middle = cards.day(5)
    with cards.worker():
        first = cards.run("produce", "--to", middle)
        cards.run("produce", "--from-file", "-", data=BAD_LINES)
        cards.wait_committed(first["events"] + 3)
        cards.run(*train, "--to", cards.day(5), "--promote")
        cards.wait_loaded("1.1.0")
        second = cards.run("produce", "--from", middle)
        assert first["events"] + second["events"] == 3000
        assert first["watermark_ms"] == START_MS + 5 * 24 * HOUR_MS
        cards.wait_committed(3003)
    cards.run("record", str(cards.folder / "r.parquet"))
    return cards


def test_a_recording_holds_what_the_topics_hold(scored: Cards) -> None:
    recording = Recording(scored.folder / "r.parquet")
    topics = scored.pipeline.topics
    for kind, topic in ((EVENTS, topics.events), (LABELS, topics.labels), (SCORES, topics.scores)):
        held = [
            (batch.partition, offset, value)
            for batch in scored.read(topic)
            for offset, value in zip(batch.offsets.tolist(), batch.values, strict=True)
        ]
        kept = [
            (partition, offset, value)
            for partition in range(3)
            for batch in recording.read(kind, partition)
            for offset, value in zip(batch.offsets.tolist(), batch.values, strict=True)
        ]
        assert kept == sorted(held, key=lambda record: record[:2])
    assert recording.about.feature_set == scored.pipeline.feature_set
    assert recording.count(SCORES) == 3000


def test_a_replay_gives_the_scores_of_the_stream_bit_for_bit(scored: Cards) -> None:
    out = scored.folder / "replayed.jsonl"
    result = scored.run("replay", str(scored.folder / "r.parquet"), "--check", "--out", str(out))
    assert (result["scored"], result["rejected"]) == (3000, 3)
    assert result["check"] | {"equal": 0, "stale": 0, "first": []} == {
        "equal": 0,
        "different": 0,
        "not_replayed": 0,
        "missing": 0,
        "doubled": 0,
        "not_yet_scored": 0,
        "stale": 0,
        "by_kind": {},
        "first": [],
    }
    assert result["check"]["equal"] + result["check"]["stale"] == 3000
    assert len(out.read_bytes().splitlines()) == 3000


def test_a_replay_with_another_version_finds_the_differences(scored: Cards) -> None:
    words = ("replay", str(scored.folder / "r.parquet"), "--models", "1.1.0", "--check")
    said = scored.run(*words, code=1, as_json=False)
    assert "version was '1.0.0', is '1.1.0'" in said
    check = scored.run(*words, code=1)["check"]
    assert check["equal"] > 0  # what 1.1.0 had scored in the stream
    assert check["different"] == check["by_kind"]["version"] > 0
    assert set(check["by_kind"]) <= {"version", "score", "decision"}  # the features are those of the stream


def test_one_changed_bit_of_one_recorded_score_is_found(scored: Cards, tmp_path: Path) -> None:
    original = Recording(scored.folder / "r.parquet")
    with RecordingWriter(tmp_path / "changed.parquet", original.about) as writer:
        for kind, partition in itertools.product((EVENTS, LABELS, SCORES), range(3)):
            for batch in original.read(kind, partition):
                if kind == SCORES and partition == 1 and batch.offsets[0] == 0:
                    score = decode_json(batch.values[7] or b"", Score)
                    score.score = float(np.nextafter(score.score, 1))
                    batch.values[7] = msgspec.json.encode(score)
                writer.add(kind, batch)
    result = scored.run("replay", str(tmp_path / "changed.parquet"), "--check", code=1)
    assert (result["check"]["different"], result["check"]["by_kind"]) == (1, {"score": 1})
    assert result["check"]["first"][0]["partition"] == 1


def test_a_batch_score_with_labels_gives_the_scores_of_the_stream(scored: Cards, tmp_path: Path) -> None:
    records = [record for chunk in load_source(scored.pipeline)() for record in chunk]
    events = [record.value for record in records if record.kind == "event" and record.value]
    pq.write_table(pa.Table.from_pylist([*events, {**events[0], "id": ""}]), tmp_path / "events.parquet")
    labels = [record.value for record in records if record.kind == "label"]
    pq.write_table(pa.Table.from_pylist(labels), tmp_path / "labels.parquet")
    words = [str(tmp_path / "events.parquet"), str(tmp_path / "scores.parquet"), "--version", "1.0.0", "--features"]
    result = scored.run("score", *words, "--labels", str(tmp_path / "labels.parquet"))
    assert (result["rows"], result["scored"], result["rejected"]) == (3001, 3000, 1)
    by_id = {row["event_id"]: row for row in pq.read_table(tmp_path / "scores.parquet").to_pylist()}
    streamed = [
        decode_json(value, Score) for batch in scored.read(scored.pipeline.topics.scores) for value in batch.values
    ]
    compared = [score for score in streamed if score.version == "1.0.0" and not score.stale]
    assert compared
    for score in compared:
        row = by_id[score.event_id]
        assert (row["score"], row["decision"], row["customer_id"]) == (score.score, score.decision, score.entity)
        assert {name: row[name] for name in score.features} == score.features
        assert round(row["event_time"].timestamp() * 1000) == score.event_time_ms
    (rejected,) = pq.read_table(tmp_path / "scores.rejected.parquet").to_pylist()
    assert (rejected["row"], rejected["reason"]) == (3001, "empty_key")


def test_training_on_the_recording_is_training_on_the_source(scored: Cards) -> None:
    words = ("model", "train", "--family", "logistic", "--no-register", "--from", scored.day(1), "--to", scored.day(4))
    by_source = scored.run(*words)
    by_recording = scored.run(*words, "--recording", str(scored.folder / "r.parquet"))
    assert by_recording["training"] == by_source["training"]


def test_check_is_content_with_a_stack_in_order(scored: Cards) -> None:
    result = scored.run("check")
    states = {finding["check"]: finding["state"] for finding in result["checks"]}
    assert states == {
        "pipeline file": "ok",
        "lookups": "ok",
        "features": "ok",
        "kafka": "ok",
        "topics": "ok",
        "events and labels": "ok",
        "keys": "ok",
        "label keys": "ok",
        "champion": "ok",
        "clickhouse": "skipped",
        "label delays": "skipped",
    }


def test_check_names_each_problem_and_what_to_do(kafka: KafkaAccess, tmp_path: Path) -> None:
    cards = Cards(kafka, tmp_path, "cards-broken")
    asyncio.run(ensure_topics(kafka, [topic for topic in cards.pipeline.topics.all() if "drift" not in topic.name]))
    cards.path.write_text(cards.path.read_text().replace("partitions = 3", "partitions = 4"))
    (tmp_path / "cards_source.py").write_text(SOURCE.replace('"amount": amount', '"amount": str(amount)'))
    result = cards.run("check", "--run-python", code=1)
    problems = {finding["check"]: finding["detail"] for finding in result["checks"] if finding["state"] == "problem"}
    assert set(problems) == {"features", "topics", "champion"}
    assert "Expected `float`, got `str`" in problems["features"]
    assert "cards-broken.events has 3 partitions, not 4" in problems["topics"]
    assert "missing: cards-broken.drift" in problems["topics"]
    assert "streamgauge model" in problems["champion"]
    cards.path.write_text("name = 3")
    (only,) = cards.run("check", code=1)["checks"]
    assert only["check"] == "pipeline file"


def test_whoever_sees_an_event_can_see_every_label_before_it(kafka: KafkaAccess, tmp_path: Path) -> None:
    """Each log of a send gets the next number as its time stamp: the order in which they were handed to Kafka."""
    cards = Cards(kafka, tmp_path, "cards-order")
    counter = itertools.count()
    mark = SourceRecord("watermark", None, START_MS + 3, None)

    async def produce() -> None:
        await ensure_topics(kafka, cards.pipeline.topics.all())
        async with EventProducer(kafka, cards.pipeline, lambda: next(counter)) as producer:
            for chunk in load_source(cards.pipeline)():
                await producer.send([*chunk[:100], mark, *chunk[100:]])
        assert (producer.events, producer.watermarks) == (3000, 15)

    asyncio.run(produce())
    sent: dict[str, list[tuple[int, int, int]]] = {}  # topic -> partition, time stamp, time
    marks: list[tuple[int, int]] = []
    for topic in (cards.pipeline.topics.events, cards.pipeline.topics.labels):
        for batch in cards.read(topic):
            for stamp, value, key in zip(batch.timestamps_ms.tolist(), batch.values, batch.keys, strict=True):
                if value is None:
                    marks.append((batch.partition, stamp))
                    continue
                assert batch.partition == Partitioner(3)(key)
                fields = json.loads(value)
                time_ms = fields["at"] if "at" in fields else decode_json(value, Label).label_time_ms
                sent.setdefault(topic, []).append((batch.partition, stamp, time_ms))
    events, labels = sent[cards.pipeline.topics.events], sent[cards.pipeline.topics.labels]
    assert len(events) == 3000
    for partition in range(3):
        ours = sorted((time_ms, stamp) for k, stamp, time_ms in events if k == partition)
        first_after = np.minimum.accumulate([stamp for _, stamp in reversed(ours)])[::-1]
        for k, stamp, time_ms in labels:
            place = bisect_left(ours, (time_ms, -1))
            if k == partition and place < len(ours):
                assert stamp < first_after[place]
    assert sorted(k for k, _ in marks) == sorted([0, 1, 2] * 15)
