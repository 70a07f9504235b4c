"""What a monitor owes: the rows that the core says, once each, whatever stops, dies or fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from faust.types import TP

from app.adapters.clickhouse import ClickHouseWarehouse
from app.adapters.effects import findings_columns, training_metrics
from app.adapters.memory_warehouse import MemoryWarehouse
from app.adapters.model_announcer import announce
from app.adapters.topic_reader import read_to_end
from app.adapters.topics_admin import ensure_topics
from app.adapters.warehouse_thread import WarehouseThread
from app.adapters.watch import Pace
from app.core.drift_windows import Window
from app.core.monitoring import MonitorCore
from app.core.sketches import SketchBuffer
from app.monitor import Monitor
from app.ports import Warehouse, WarehouseError
from app.settings import Settings
from models.registry import Registry
from models.training import TrainedModel, train
from schemas.pipeline import Pipeline
from schemas.pipeline_file import load
from schemas.wire import (
    DeadLetter,
    DriftReport,
    ModelStatus,
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
  {{ test = "psi", threshold = 0.2 }},
  {{ test = "ks", alpha = 0.01, minimum_effect = 0.1 }},
  {{ test = "interval", low = 2.5, high = 97.5, minimum_history = 3 }},
  {{ test = "trend", alpha = 0.05, minimum_history = 3 }},
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
#: What depends on when a row was made, and how many rows came before.
WHEN = {"timestamp", "at"}
FOUND = ("model_metadata", "drift_reports", "performance", "alerts")


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

    def counts(self) -> list[int]:
        """Rows of scores, performance and dead_letters."""
        tables = ("scores", "performance", "dead_letters")
        sql = "SELECT " + ", ".join(f"(SELECT count() FROM {table})" for table in tables)
        return list(self.post(json.dumps({"sql": sql}).encode())["rows"][0])


class Bench:
    """A pipeline of its own on the shared broker, its one version, and everything its workers would say."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.bootstrap = bootstrap
        self.folder = folder
        name = f"m{uuid.uuid4().hex[:10]}"
        path = folder / f"{name}.toml"
        path.write_text(TOML.format(name=name))
        self.pipeline: Pipeline = load(path)
        self.settings = replace(Settings.read({}), home=folder, registry=folder / "registry", kafka=bootstrap)
        self.trained = self._train()
        self.reference = self.trained.manifest.read_reference()
        self.sketches = [self._sketches(partition) for partition in range(N_PARTITIONS)]
        self.scores = [self._score(number) for number in range(1_000)]
        self.letters = [self._letter(number) for number in range(20)]

    def _train(self) -> TrainedModel:
        generator = np.random.default_rng(1)
        matrix = np.column_stack([generator.gamma(2.0, size=800), generator.integers(0, 3, 800)])
        labels = (generator.random(800) < 1 / (1 + np.exp(2 - matrix[:, 0]))).astype(np.float64)
        times = START_MS - HOUR_MS + np.arange(800, dtype=np.int64)
        return train(
            matrix,
            labels,
            times,
            self.pipeline,
            "logistic",
            version="1.0.0",
            from_ms=START_MS - HOUR_MS,
            to_ms=START_MS,
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
            buffer = SketchBuffer("m", 600_000)
            buffer.add_scored("1.0.0", self.reference, times, matrix, scores)
            if due is not None:
                buffer.add_labelled("1.0.0", self.reference, *due)
            due = times, scores, labels
            records.append(SketchRecord(partition, start, start - 600_000, buffer.drain()))
        end = START_MS + 2 * N_HOURS * HOUR_MS
        buffer = SketchBuffer("m", 600_000)
        assert due is not None
        buffer.add_labelled("1.0.0", self.reference, *due)
        return [*records, SketchRecord(partition, end, end, buffer.drain())]

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

    async def prepare(self) -> None:
        await ensure_topics(self.bootstrap, self.pipeline.topics.all())
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
        await announce(self.bootstrap, self.pipeline.topics, update)

    async def produce(self, start: float, stop: float) -> None:
        """Everything from one share to another: sketches of both partitions, scores, dead letters."""
        topics = self.pipeline.topics
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
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

    def start_monitor(self) -> tuple[subprocess.Popen[bytes], str]:
        with (self.folder / "monitor.log").open("ab") as log:
            process = subprocess.Popen(
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
    def monitor(self) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
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
        core = MonitorCore(self.pipeline)
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
        expected = self.expected()
        for table in FOUND:
            found, wanted = rows_of(warehouse, table), rows_of(expected, table)
            assert wanted, table
            assert found == wanted, table
        self.check_scores(warehouse)
        self.check_letters(warehouse)

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
        async for batch in read_to_end(self.bootstrap, [self.pipeline.topics.drift]):
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
    return "nan" if isinstance(value, float) and np.isnan(value) else value


N_WINDOWS = N_HOURS
N_PERFORMANCE = 3 * N_HOURS  # three measures


def test_what_workers_say_becomes_exact_rows_and_the_api_shows_them(kafka: str, tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(kafka, tmp_path)
        await bench.prepare()
        with bench.monitor() as (process, client):
            await bench.produce(0, 1)
            await bench.wait_for_rows(client, 1_000, N_PERFORMANCE, 20)
            await asyncio.to_thread(check_api, client)

            async def has_caught_up() -> bool:
                lag = await asyncio.to_thread(client.get, "/api/v1/lag")
                return len(lag["monitor"]) == 6 and sum(each["lag"] for each in lag["monitor"]) == 0

            await bench.until(has_caught_up)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 30) == 0, bench.log()
        with bench.warehouse() as warehouse:
            bench.check(warehouse)
            (version,) = warehouse.read("model_versions")
            assert (version["role"], version["who"], version["why"]) == ("champion", "ann", "first")
            assert version["metrics"]["auc"] == bench.trained.manifest.metrics.auc
            (event,) = warehouse.read("model_events")
            assert (event["event"], event["version"]) == ("promoted", "1.0.0")
        reports = await bench.reports()
        assert len(reports) == len(bench.expected().read("drift_reports"))

    asyncio.run(run())


def check_api(client: Client) -> None:
    assert client.get("/healthz") == {"ok": True, "why": ""}
    status = client.get("/api/v1/status")
    assert (status["scored"], status["dead_letters"], status["windows_closed"]) == (1_000, 20, N_WINDOWS)
    assert status["watermark"] == "2023-11-15T11:00:00.000Z"
    assert status["versions"] == ["1.0.0"]
    assert [row["version"] for row in client.get("/api/v1/models")["models"]] == ["1.0.0"]
    assert len(client.get("/api/v1/performance?limit=4")["performance"]) == 4
    assert client.get("/api/v1/drift?version=9.9.9")["reports"] == []
    (alert,) = client.get("/api/v1/alerts")["alerts"]
    assert (alert["rule"], alert["state"], alert["action"]) == ("auc-fell", "raised", "retrain")
    assert 'streamgauge_monitor_rows_total{table="scores"} 1000' in client.get("/metrics")
    assert "auc-fell" in client.get("/")
    for body, sentence in (
        (b'{"sql": "DROP TABLE scores_raw"}', "Only reading is allowed"),
        (b'{"sql": "SELECT nothing FROM scores"}', "nothing"),
        (b'{"sql": ""}', "no SQL"),
        (b'{"sql": "SELECT 1", "limit": 0}', "whole number"),
        (b"not json", "not JSON"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            client.post(body)
        with refused.value as answer:
            assert answer.code == 400
            assert sentence in json.load(answer)["error"]


def test_a_monitor_killed_and_stopped_midway_gives_the_rows_of_one_that_ran_through(kafka: str, tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(kafka, tmp_path)
        await bench.prepare()
        with bench.monitor() as (_, client):  # killed at the end of the block
            await bench.produce(0, 0.4)
            await bench.wait_for_rows(client, 400, 3, 8)
        with bench.monitor() as (process, client):
            await bench.produce(0.4, 0.7)
            await bench.wait_for_rows(client, 700, 9, 14)
            process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait, 30) == 0, bench.log()
        await bench.produce(0.7, 1)
        with bench.monitor() as (process, client):
            await bench.wait_for_rows(client, 1_000, N_PERFORMANCE, 20)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 30) == 0, bench.log()
        with bench.warehouse() as warehouse:
            bench.check(warehouse)
        told = {encode_json(report) for report in await bench.reports()}
        assert len(told) == len(bench.expected().read("drift_reports"))

    asyncio.run(run())


class Failing(MemoryWarehouse):
    """A warehouse that fails at every call while ``is_down``, and then once more at every third insert."""

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False
        self.failures = 0
        self._inserts = 0

    def insert(self, table: str, columns: Any, token: str | None = None) -> int:
        self._inserts += 1
        if self.is_down or self._inserts % 3 == 0:
            self.failures += 1
            raise WarehouseError("ClickHouse at nowhere does not answer.", retryable=True)
        return super().insert(table, columns, token)


QUICK = Pace(flush=0.05, collect=0.05, checkpoint=0.2, housekeeping=0.2)


def has_all(bench: Bench, warehouse: Warehouse, share: float = 1.0) -> Callable[[], Awaitable[bool]]:
    async def answer() -> bool:
        n_performance = len(warehouse.read("performance"))
        return len(warehouse.read("scores")) >= share * len(bench.scores) and (
            n_performance == N_PERFORMANCE or share < 1
        )

    return answer


def test_a_warehouse_that_fails_for_a_while_loses_nothing(kafka: str, tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(kafka, tmp_path)
        await bench.prepare()
        warehouse = Failing()
        thread = WarehouseThread(warehouse, first_wait_s=0.01, longest_wait_s=0.05)
        await thread.open(1)
        monitor = Monitor(bench.pipeline, kafka, thread, lambda: START_MS, QUICK)
        running = asyncio.create_task(monitor.run())
        await bench.produce(0, 0.5)
        await bench.until(has_all(bench, warehouse, 0.5))
        warehouse.is_down = True
        await bench.produce(0.5, 0.8)
        before = warehouse.failures

        async def has_failed_often() -> bool:
            return warehouse.failures > before + 20

        await bench.until(has_failed_often)
        assert "does not answer" in thread.error
        await bench.produce(0.8, 1)
        warehouse.is_down = False
        await bench.until(has_all(bench, warehouse))
        monitor.stop()
        assert await running == 0, monitor.failure
        await thread.close()
        bench.check(warehouse)

    asyncio.run(run())


def test_a_monitor_goes_on_from_its_checkpoint_though_kafka_has_newer_offsets(kafka: str, tmp_path: Path) -> None:
    """As with a warehouse that was restored from a backup: what it holds counts, not what was once committed."""

    async def run() -> None:
        bench = Bench(kafka, tmp_path)
        await bench.prepare()
        await bench.produce(0, 0.5)
        for warehouse in (MemoryWarehouse(), MemoryWarehouse()):
            thread = WarehouseThread(warehouse)
            monitor = Monitor(bench.pipeline, kafka, thread, lambda: START_MS, QUICK)
            running = asyncio.create_task(monitor.run())
            await bench.until(has_all(bench, warehouse, 0.5))
            await bench.until(partial(has_committed, monitor, 250))
            monitor.fail("the end of the first", 75)
            assert await running == 75
            await thread.close()
        assert len(warehouse.read("scores")) == 500

    asyncio.run(run())


async def has_committed(monitor: Monitor, offset: int) -> bool:
    topic = monitor.pipeline.topics.scores
    tps = [TP(topic, partition) for partition in range(N_PARTITIONS)]
    positions = await monitor.lag_reader.positions(monitor.group, tps)
    return all(position.next_offset == offset for position in positions.values())


def test_a_second_monitor_stands_by_and_takes_over(kafka: str, tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(kafka, tmp_path)
        await bench.prepare()
        warehouse = MemoryWarehouse()
        threads = [WarehouseThread(warehouse) for _ in range(2)]
        first, second = (
            Monitor(bench.pipeline, kafka, thread, lambda at=at: START_MS + at, QUICK)  # type: ignore[misc]
            for at, thread in enumerate(threads)
        )
        running = [asyncio.create_task(first.run())]

        async def first_works() -> bool:
            return first.watch is not None

        await bench.until(first_works)
        await bench.produce(0, 0.3)
        running.append(asyncio.create_task(second.run()))

        async def second_stands_by() -> bool:
            return second.is_standby

        await bench.until(second_stands_by)
        await bench.until(first_works)
        await bench.produce(0.3, 0.6)
        await bench.until(has_all(bench, warehouse, 0.6))
        assert second.watch is None
        first.stop()
        assert await running[0] == 0, first.failure
        await bench.produce(0.6, 1)
        await bench.until(has_all(bench, warehouse))
        second.stop()
        assert await running[1] == 0, second.failure
        for thread in threads:
            await thread.close()
        bench.check(warehouse)

    asyncio.run(run())


def test_a_partition_without_events_holds_no_window_back_while_others_go_on(kafka: str, tmp_path: Path) -> None:
    """Partition 1 never has an event, so its worker never says how far it is."""

    async def run() -> None:
        bench = Bench(kafka, tmp_path)
        await bench.prepare()
        warehouse = MemoryWarehouse()
        thread = WarehouseThread(warehouse)
        pace = replace(QUICK, idle_after=0.3)
        monitor = Monitor(bench.pipeline, kafka, thread, lambda: START_MS, pace)
        running = asyncio.create_task(monitor.run())
        topics = bench.pipeline.topics
        producer = AIOKafkaProducer(bootstrap_servers=kafka)
        await producer.start()
        worker = AIOKafkaConsumer(
            topics.events,
            bootstrap_servers=kafka,
            group_id=f"streamgauge-{bench.pipeline.name}",
            enable_auto_commit=False,
        )
        await worker.start()
        for record in bench.sketches[0]:
            await producer.send_and_wait(topics.sketches, encode_packed(record), partition=0)

        async def has_reports() -> bool:
            """With one more event each time, which is scored at once."""
            sent = await producer.send_and_wait(topics.events, b"{}", partition=0)
            await worker.commit({TopicPartition(topics.events, 0): sent.offset + 1})
            return bool(warehouse.read("drift_reports"))

        await bench.until(has_reports)
        await worker.stop()
        await producer.stop()
        monitor.stop()
        assert await running == 0, monitor.failure
        await thread.close()
        windows = {row["window_start"] for row in warehouse.read("performance")}
        assert len(windows) == N_HOURS

    asyncio.run(run())


def test_what_workers_say_of_a_version_is_an_event_of_it(kafka: str, tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(kafka, tmp_path)
        await bench.prepare()
        topics = bench.pipeline.topics
        producer = AIOKafkaProducer(bootstrap_servers=kafka)
        await producer.start()
        for status in (
            ModelStatus("w1", "m", "1.0.0", "loaded", START_MS, seconds=0.5),
            ModelStatus("w1", "m", "2.0.0", "refused", START_MS + 1, why="digest"),
            ModelStatus("w1", "m", "1.0.0", "serving", START_MS + 2, partition=1, offset=77),
        ):
            await producer.send_and_wait(topics.model_status, encode_json(status), key=b"w1")
        await producer.send_and_wait(topics.model_status, b"rubbish", key=b"w1")
        lost = ModelUpdate("m", "2.0.0", "champion", "file:///nowhere", "0" * 64, "f", START_MS + 5)
        await producer.send_and_wait(topics.model_updates, encode_json(lost), key=b"m|2.0.0")
        await producer.stop()
        warehouse = MemoryWarehouse()
        thread = WarehouseThread(warehouse)
        monitor = Monitor(bench.pipeline, kafka, thread, lambda: START_MS, QUICK)
        running = asyncio.create_task(monitor.run())

        async def are_there() -> bool:
            return len(warehouse.read("model_events")) == 5 and "2.0.0" in monitor.history.unreadable

        await bench.until(are_there)
        monitor.stop()
        assert await running == 0
        await thread.close()
        events = {(row["event"], row["version"]): row for row in warehouse.read("model_events")}
        assert set(events) == {
            ("promoted", "1.0.0"),
            ("promoted", "2.0.0"),
            ("loaded", "1.0.0"),
            ("refused", "2.0.0"),
            ("serving", "1.0.0"),
        }
        assert events["serving", "1.0.0"]["offset"] == 77
        assert events["refused", "2.0.0"]["why"] == "digest"
        roles = {row["version"]: (row["role"], row["why"]) for row in warehouse.read("model_versions")}
        assert roles == {"1.0.0": ("retired", "superseded by 2.0.0"), "2.0.0": ("champion", "")}

    asyncio.run(run())


def test_a_start_that_cannot_be_is_one_sentence(kafka: str, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path)
    environment = {**os.environ, **bench.settings.to_environment(), "STREAMGAUGE_KAFKA": "127.0.0.1:9"}
    for arguments, code, sentence in (
        (["--pipeline", "nowhere"], 1, "nowhere"),
        (["--pipeline", str(bench.pipeline.path)], 1, "127.0.0.1:9"),
        (["--http-port", "x"], 2, "--http-port"),
    ):
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "app", "monitor", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == code, ended.stderr
        assert sentence in ended.stderr
        assert "Traceback" not in ended.stderr
