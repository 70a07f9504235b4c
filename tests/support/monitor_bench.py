"""What monitors are tested on: a pipeline of its own, all that its workers would say, and what must become of it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from chaos_pipeline import DETECTORS
from memory_warehouse import MemoryWarehouse
from warm_start import Process, start_warm

from app.adapters.clickhouse.warehouse import ClickHouseWarehouse
from app.adapters.kafka.model_announcer import announce
from app.adapters.kafka.topic_reader import read_to_end
from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.river_detectors import make_detector
from app.core.batches import Floats, Ints
from app.core.counts.buffer import SketchBuffer
from app.core.counts.calendar import Window
from app.core.monitoring.core import MonitorCore
from app.kafka_access import KafkaAccess
from app.monitor.rows import findings_columns, training_metrics
from app.ports import Warehouse
from app.secret import Secret
from app.settings import Settings
from models.reference.segments import Segments
from models.training import TrainedModel, train
from models.training_rows import LabelledRows, TrainingRange
from models.versions.registry import Registry
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.wire import (
    DeadLetter,
    DriftReport,
    ModelUpdate,
    Score,
    SketchRecord,
    Source,
    decode_json,
    encode_json,
    encode_packed,
)

HOUR_MS = 3_600_000
START_MS = 1_700_002_800_000  # a full hour
N_HOURS = 6
N_PARTITIONS = 2
PER_HOUR = 400

TOML = """
name = "{name}"
partitions = 2

[model]
name = "m"

[events]
entity = "card"
id = "id"
time = "at_ms"

[events.fields]
id = "string"
card = "string"
at_ms = "int"
amount = "float"
kind = "string?"

[labels]
horizon = "6h"
max_wait = "5s"

[[features]]
name = "amount"
type = "float"
expression = "amount"

[[features]]
name = "kind"
type = "category"
expression = "kind"
values = ["a", "b", "c"]

[drift]
window = "1h"
slice = "10m"
grace = "5m"
bins = 16
tests = [
  {{ test = "psi" }},
  {{ test = "ks" }},
  {{ test = "classic_interval", low = 2.5, high = 97.5, minimum_history = 3 }},
  {{ test = "classic_trend", alpha = 0.05, minimum_history = 3 }},
]

[performance]
maturity = "30m"

[[alerts]]
name = "auc-fell"
on = "performance"
measure = "auc"
falls_by = 0.05
severity = "critical"
action = "retrain"
"""
#: What `Bench` adds to the file where windows overlap and segments and detectors are wanted.
SEGMENTED = f"""
every = "30m"
segments = ["kind"]
{DETECTORS}"""
#: What depends on when a row was made, and how many rows came before.
WHEN = {"timestamp", "at"}
FOUND = ("model_metadata", "drift_reports", "performance", "verdicts", "alerts")


class Client:
    """Asks a monitor by HTTP."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=10) as response:
            body = response.read()
            return json.loads(body) if response.headers.get_content_type() == "application/json" else body.decode()

    def post(self, body: bytes) -> Any:
        request = urllib.request.Request(
            self.address + "/api/v1/query", body, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def see(self, words: str) -> None:
        """Look at the page until it shows these words: at first it may show what was looked up before."""
        until = time.monotonic() + 30
        while words not in self.get("/"):
            assert time.monotonic() < until, words
            time.sleep(0.1)

    def counts(self) -> list[int]:
        """Rows of scores, performance and dead_letters."""
        tables = ("scores", "performance", "dead_letters")
        sql = "SELECT " + ", ".join(f"(SELECT count() FROM {table})" for table in tables)
        sql = sql.replace("FROM performance", "FROM performance WHERE label_maturity IS NOT NULL")
        return list(self.post(json.dumps({"sql": sql}).encode())["rows"][0])


class Bench:
    """A pipeline of its own on the shared broker, its one version, and everything its workers would say."""

    def __init__(
        self, kafka: KafkaAccess, folder: Path, clickhouse: str = "", n_scores: int = 1_000, *, segmented: bool = False
    ) -> None:
        self.kafka = kafka
        self.folder = folder
        name = f"m{uuid.uuid4().hex[:10]}"
        path = folder / f"{name}.toml"
        text = TOML.format(name=name)
        path.write_text(text.replace("[performance]", SEGMENTED.strip()) if segmented else text)
        self.pipeline: Pipeline = load(path)
        self.settings = replace(
            Settings.read({}),
            home=folder,
            registry=folder / "registry",
            kafka=kafka.servers,
            clickhouse=Secret(clickhouse),
        )
        self.trained = self._train()
        self.reference = self.trained.manifest.read_reference()
        self.sketches = [self._sketches(partition) for partition in range(N_PARTITIONS)]
        self.scores = [self._score(number) for number in range(n_scores)]
        self.letters = [self._letter(number) for number in range(20)]

    def _train(self) -> TrainedModel:
        generator = np.random.default_rng(1)
        matrix = np.column_stack([generator.gamma(2.0, size=800), generator.integers(0, 3, 800)])
        labels = (generator.random(800) < 1 / (1 + np.exp(2 - matrix[:, 0]))).astype(np.float64)
        times = START_MS - HOUR_MS + np.arange(800, dtype=np.int64)
        return train(
            TrainingRange(LabelledRows(matrix, labels, times), START_MS - HOUR_MS, START_MS),
            self.pipeline,
            "logistic",
            version="1.0.0",
            created_at_ms=START_MS,
        )

    def _sketches(self, partition: int) -> list[SketchRecord]:
        """Transactions of ten minutes, labels in the next; from hour 4 on amounts double and labels are random."""
        generator = np.random.default_rng(10 + partition)
        records, due = [], None
        for step in range(6 * N_HOURS):
            n = PER_HOUR // 6
            start = START_MS + step * 600_000
            moved = step >= 24
            times = np.sort(generator.integers(start, start + 600_000, n))
            amounts = generator.gamma(2.0, size=n) * (2.0 if moved else 1.0)
            matrix = np.column_stack([amounts, generator.integers(0, 3, n).astype(np.float64)])
            matrix[generator.random((n, 2)) < 0.03] = np.nan
            scores = 1 / (1 + np.exp(2 - amounts))
            labels = (generator.random(n) < (0.5 if moved else scores)).astype(np.float64)
            buffer = self._buffer()
            buffer.add_scored("1.0.0", self.reference, times, matrix, scores)
            if due is not None:
                self._add_labelled(buffer, *due)
            due = times, scores, labels, matrix
            records.append(SketchRecord(partition, start, start - 600_000, buffer.drain(), buffer.drain_errors()))
        end = START_MS + 2 * N_HOURS * HOUR_MS
        buffer = self._buffer()
        assert due is not None
        self._add_labelled(buffer, *due)
        return [*records, SketchRecord(partition, end, end, buffer.drain(), buffer.drain_errors())]

    def _buffer(self) -> SketchBuffer:
        return SketchBuffer("m", 600_000, Segments.of(self.pipeline))

    def _add_labelled(self, buffer: SketchBuffer, times: Ints, scores: Floats, labels: Floats, matrix: Floats) -> None:
        """Labels that come ten minutes after their events."""
        segments = Segments.of(self.pipeline).find(matrix).T.tolist()
        buffer.add_labelled("1.0.0", self.reference, times, scores, labels, segments)
        if self.pipeline.drift.segments:
            wrong = (scores >= self.reference.threshold) != (labels == 1)
            counts_ms = times + max(600_000, self.pipeline.performance.maturity_ms)
            buffer.add_errors("1.0.0", counts_ms, wrong, labels == 1, times)

    def _score(self, number: int) -> Score:
        return Score(
            event_id=f"e{number}",
            entity=f"c{number % 7}",
            event_time_ms=START_MS + number * 100,
            score=(number % 97) / 97,
            decision=number % 97 >= 49,
            model="m",
            version="1.0.0",
            role="champion",
            feature_set=self.pipeline.feature_set,
            source=Source(self.pipeline.topics.events, number % 2, 3 * number),
            scored_at_ms=START_MS + number * 100 + 5,
            features={"amount": number / 7, "kind": None if number % 10 == 0 else float(number % 3)},
        )

    def _letter(self, number: int) -> DeadLetter:
        return DeadLetter(
            source=Source(self.pipeline.topics.events, number % 2, 3 * number + 1),
            stage="decode",
            reason="not_json",
            detail=f"at byte {number}",
            key=b"\xff\x00key",
            value=b"\xfe\xffnot utf-8" if number % 2 else None,
            record_time_ms=START_MS + number,
            rejected_at_ms=START_MS + number + 1,
        )

    def add_late(self) -> None:
        """Let events of windows that closed long ago come last, so that their rows are amended."""
        generator = np.random.default_rng(99)
        end = START_MS + 2 * N_HOURS * HOUR_MS
        for partition, hour in ((0, 1), (1, 4)):
            times = np.sort(generator.integers(START_MS + hour * HOUR_MS, START_MS + (hour + 1) * HOUR_MS, 150))
            matrix = np.column_stack([generator.gamma(6.0, size=150), generator.integers(0, 3, 150).astype(np.float64)])
            scores = 1 / (1 + np.exp(2 - matrix[:, 0]))
            buffer = self._buffer()
            buffer.add_scored("1.0.0", self.reference, times, matrix, scores)
            segments = Segments.of(self.pipeline).find(matrix).T.tolist()
            buffer.add_labelled("1.0.0", self.reference, times, scores, (scores > 0.9).astype(np.float64), segments)
            self.sketches[partition].append(SketchRecord(partition, end, end, buffer.drain()))

    async def prepare(self) -> None:
        await ensure_topics(self.kafka, self.pipeline.topics.all())
        entry = Registry(self.settings.registry).register(self.trained.manifest, self.trained.artifact)
        update = ModelUpdate(
            model="m",
            version="1.0.0",
            role="champion",
            uri=entry.uri,
            sha256=self.trained.manifest.artifact.sha256,
            feature_set=self.pipeline.feature_set,
            announced_at_ms=START_MS,
            by="ann",
            why="first",
        )
        await announce(self.kafka, self.pipeline.topics, update)

    async def produce(self, start: float, stop: float) -> None:
        """Everything from one share to another: sketches of both partitions, scores, dead letters."""
        topics = self.pipeline.topics
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.servers)
        await producer.start()
        for partition, records in enumerate(self.sketches):
            for record in _part(records, start, stop):
                await producer.send(topics.sketches, encode_packed(record), partition=partition)
        for score in _part(self.scores, start, stop):
            await producer.send(topics.scores, encode_json(score), key=b"c", partition=score.source.partition)
        for letter in _part(self.letters, start, stop):
            await producer.send(
                topics.dead_letters,
                letter.value,
                key=letter.key,
                partition=letter.source.partition,
                headers=letter.to_headers(),
            )
        await producer.stop()

    def start_monitor(self) -> tuple[Process, str]:
        with (self.folder / "monitor.log").open("ab") as log:
            process = start_warm(
                [sys.executable, "-P", "-m", "app", "monitor", "--pipeline", str(self.pipeline.path)],
                env={**os.environ, **self.settings.to_environment()},
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(f"the monitor ended with {process.wait()}\n{self.log()}")
        ready = json.loads(line)
        assert ready["ready"] is True
        return process, ready["http"]

    @contextmanager
    def monitor(self) -> Iterator[tuple[Process, Client]]:
        process, address = self.start_monitor()
        try:
            yield process, Client(address)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def log(self) -> str:
        return (self.folder / "monitor.log").read_text()[-4000:]

    async def until(self, condition: Callable[[], Awaitable[bool]], deadline_s: float = 60) -> None:
        limit = time.monotonic() + deadline_s
        while not await condition():
            if time.monotonic() > limit:
                pytest.fail(
                    f"not within {deadline_s} s\n{self.log() if (self.folder / 'monitor.log').exists() else ''}"
                )
            await asyncio.sleep(0.05)

    async def wait_for_rows(self, client: Client, scores: int, performance: int, letters: int) -> None:
        async def are_there() -> bool:
            return await asyncio.to_thread(client.counts) == [scores, performance, letters]

        await self.until(are_there)

    def expected(self) -> MemoryWarehouse:
        """What the core finds in everything, without Kafka, without stopping, partition by partition."""
        core = MonitorCore(self.pipeline, make_detector=make_detector)
        manifest = self.trained.manifest
        training = Window(manifest.training.from_ms, manifest.training.to_ms)
        core.register_version("1.0.0", self.reference, training_metrics(manifest), training)
        for records in self.sketches:
            for record in records:
                core.observe(record)
        warehouse = MemoryWarehouse()
        for table, columns in findings_columns(core.collect(0)).items():
            warehouse.insert(table, columns)
        return warehouse

    def check(self, warehouse: Warehouse) -> None:
        wrong = self.wrong_tables(warehouse)
        assert not wrong, wrong
        self.check_scores(warehouse)
        self.check_letters(warehouse)

    def wrong_tables(self, warehouse: Warehouse, *, amended: bool = False) -> list[str]:
        """The tables that differ from what the core says; ``amended``: revisions and alerts depend on when.

        What is concluded before labels and again with them has revisions that depend on when, in any case.
        """
        expected, wrong = self.expected(), []
        for table in FOUND[:-1] if amended else FOUND:
            found, wanted = rows_of(warehouse, table), rows_of(expected, table)
            if amended or table in {"performance", "verdicts"}:
                found, wanted = ([{**row, "revision": 0} for row in rows] for rows in (found, wanted))
            assert wanted, table
            if found != wanted:
                wrong.append(table)
        return wrong

    def check_scores(self, warehouse: Warehouse) -> None:
        rows = {(row["partition"], row["offset"]): row for row in warehouse.read("scores")}
        assert len(rows) == len(self.scores)
        for score in self.scores:
            row = rows[score.source.partition, score.source.offset]
            assert (row["customer_id"], row["event_id"], row["score"]) == (score.entity, score.event_id, score.score)
            assert (row["decision"], row["version"], row["role"]) == (score.decision, "1.0.0", "champion")
            assert row["event_time"].timestamp() * 1000 == pytest.approx(score.event_time_ms, abs=0.4)
            assert row["features"]["amount"] == score.features["amount"]
            kind = score.features["kind"]
            assert np.isnan(row["features"]["kind"]) if kind is None else row["features"]["kind"] == kind

    def check_letters(self, warehouse: Warehouse) -> None:
        rows = {(row["partition"], row["offset"]): row for row in warehouse.read("dead_letters")}
        assert len(rows) == len(self.letters)
        for letter in self.letters:
            row = rows[letter.source.partition, letter.source.offset]
            assert (row["key"], row["value"], row["detail"]) == (letter.key, letter.value, letter.detail)

    @contextmanager
    def warehouse(self) -> Iterator[ClickHouseWarehouse]:
        warehouse = ClickHouseWarehouse(path=self.folder / "clickhouse")
        warehouse.wait_ready(20)
        try:
            yield warehouse
        finally:
            warehouse.close()

    async def reports(self) -> list[DriftReport]:
        found = []
        async for batch in read_to_end(self.kafka, [self.pipeline.topics.drift]):
            found.extend(decode_json(value, DriftReport) for value in batch.values if value is not None)
        return found


def _part(records: list[Any], start: float, stop: float) -> list[Any]:
    return records[round(start * len(records)) : round(stop * len(records))]


def rows_of(warehouse: Warehouse, table: str) -> list[dict[str, Any]]:
    return [
        {name: _plain(value) for name, value in row.items() if name not in WHEN and name != "who"}
        for row in warehouse.read(table)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return "nan" if isinstance(value, float) and np.isnan(value) else value


N_WINDOWS = N_HOURS
#: Measures of a window.
N_MEASURES = 7
N_PERFORMANCE = N_MEASURES * N_HOURS
