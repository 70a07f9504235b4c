"""What a monitor owes: the rows that the core says, once each, whatever stops, dies or fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from faust.types import TP
from memory_warehouse import MemoryWarehouse
from monitor_bench import N_HOURS, N_MEASURES, N_PARTITIONS, N_PERFORMANCE, N_WINDOWS, START_MS, Bench, Client

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.http.worker import Sample
from app.kafka_access import KafkaAccess
from app.monitor import block_writer, sketch_queue
from app.monitor.context import Pace
from app.monitor.monitor import Monitor
from app.monitor.status import sources
from app.ports import Warehouse, WarehouseError
from schemas.wire import (
    ModelStatus,
    ModelUpdate,
    encode_json,
    encode_packed,
)


async def test_what_workers_say_becomes_exact_rows_and_the_api_shows_them(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path)
    await bench.prepare()
    with bench.monitor() as (process, client):
        await bench.produce(0, 1)
        await bench.wait_for_rows(client, 1_000, N_PERFORMANCE, 20)

        async def has_caught_up() -> bool:
            lag = await asyncio.to_thread(client.get, "/api/v1/lag")
            return len(lag["monitor"]) == 6 and sum(each["lag"] for each in lag["monitor"]) == 0

        await bench.until(has_caught_up)  # rows come table by table; the offsets are committed after all of them
        await asyncio.to_thread(check_api, client)
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
    client.see("auc-fell")
    for body, sentence in (
        (b'{"sql": "DROP TABLE scores_raw"}', "Only reading is allowed"),
        (b'{"sql": "SELECT nothing FROM scores"}', "nothing"),
        (b'{"sql": ""}', "no SQL"),
        (b'{"sql": "SELECT 1", "limit": 0}', "`int` >= 1 - at `$.limit`"),
        (b"not json", "JSON is malformed"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            client.post(body)
        with refused.value as answer:
            assert answer.code == 400
            assert sentence in json.load(answer)["detail"]


async def test_a_monitor_killed_and_stopped_midway_gives_the_rows_of_one_that_ran_through(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    bench = Bench(kafka, tmp_path)
    await bench.prepare()
    with bench.monitor() as (_, client):  # killed at the end of the block
        await bench.produce(0, 0.4)
        await bench.wait_for_rows(client, 400, N_MEASURES, 8)
    with bench.monitor() as (process, client):
        await bench.produce(0.4, 0.7)
        await bench.wait_for_rows(client, 700, 3 * N_MEASURES, 14)
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
        n_performance = sum(row["label_maturity"] is not None for row in warehouse.read("performance"))
        return (
            len(warehouse.read("scores")) >= share * len(bench.scores)
            and len(warehouse.read("dead_letters")) >= share * len(bench.letters)
            and (n_performance == N_PERFORMANCE or share < 1)
        )

    return answer


async def test_a_warehouse_that_fails_for_a_while_loses_nothing(kafka: KafkaAccess, tmp_path: Path) -> None:
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


async def test_a_monitor_that_waits_for_long_with_all_paused_stays_in_its_group(
    kafka: KafkaAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outage takes three times as long as a member of the group may go without fetching."""
    monkeypatch.setattr(block_writer, "HELD_BYTES", 1)
    monkeypatch.setattr(sketch_queue, "HELD_BYTES", 1)
    bench = Bench(kafka, tmp_path)
    await bench.prepare()
    warehouse = Failing()
    thread = WarehouseThread(warehouse, first_wait_s=0.01, longest_wait_s=0.05)
    await thread.open(1)
    monitor = Monitor(bench.pipeline, kafka, thread, lambda: START_MS, QUICK)
    monitor.app.conf.broker_max_poll_interval = 2.0
    running = asyncio.create_task(monitor.run())
    await bench.produce(0, 0.2)
    await bench.until(has_all(bench, warehouse, 0.2))
    warehouse.is_down = True
    for part in range(2, 8):
        await bench.produce(part / 10, part / 10 + 0.1)

    async def are_all_paused() -> bool:
        return not monitor.app.consumer._get_active_partitions()

    await bench.until(are_all_paused)
    before = monitor.term
    await asyncio.sleep(6)
    assert monitor.term is before
    warehouse.is_down = False
    await bench.produce(0.8, 1)
    await bench.until(has_all(bench, warehouse))
    assert monitor.term is before
    monitor.stop()
    assert await running == 0, monitor.failure
    await thread.close()
    bench.check(warehouse)


async def test_a_monitor_goes_on_from_its_checkpoint_though_kafka_has_newer_offsets(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    """As with a warehouse that was restored from a backup: what it holds counts, not what was once committed."""
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


async def has_committed(monitor: Monitor, offset: int) -> bool:
    topic = monitor.pipeline.topics.scores
    tps = [TP(topic, partition) for partition in range(N_PARTITIONS)]
    positions = await monitor.lag.reader.positions(monitor.group, tps)
    return all(position.next_offset == offset for position in positions.values())


async def test_a_second_monitor_stands_by_and_takes_over(kafka: KafkaAccess, tmp_path: Path) -> None:
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
        return first.term is not None

    await bench.until(first_works)
    await bench.produce(0, 0.3)
    running.append(asyncio.create_task(second.run()))

    async def second_stands_by() -> bool:
        return second.is_standby

    await bench.until(second_stands_by)
    await bench.until(first_works)
    await bench.produce(0.3, 0.6)
    await bench.until(has_all(bench, warehouse, 0.6))
    assert second.term is None
    first.stop()
    assert await running[0] == 0, first.failure
    await bench.produce(0.6, 1)
    await bench.until(has_all(bench, warehouse))
    second.stop()
    assert await running[1] == 0, second.failure
    for thread in threads:
        await thread.close()
    bench.check(warehouse)


async def test_a_partition_without_events_holds_no_window_back_while_others_go_on(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    """Partition 1 never has an event, so its worker never says how far it is."""
    bench = Bench(kafka, tmp_path)
    await bench.prepare()
    warehouse = MemoryWarehouse()
    thread = WarehouseThread(warehouse)
    pace = replace(QUICK, idle_after=0.3)
    monitor = Monitor(bench.pipeline, kafka, thread, lambda: START_MS, pace)
    running = asyncio.create_task(monitor.run())
    topics = bench.pipeline.topics
    producer = AIOKafkaProducer(bootstrap_servers=kafka.servers)
    await producer.start()
    worker = AIOKafkaConsumer(
        topics.events,
        bootstrap_servers=kafka.servers,
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


async def test_what_workers_say_of_a_version_is_an_event_of_it(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path)
    await bench.prepare()
    topics = bench.pipeline.topics
    producer = AIOKafkaProducer(bootstrap_servers=kafka.servers)
    await producer.start()
    for status in (
        ModelStatus("w1", "m", "1.0.0", "loaded", START_MS, seconds=0.5),
        *(ModelStatus("w1", "m", f"2.0.{number}", "refused", START_MS + 1, why="digest") for number in range(30)),
        ModelStatus("w1", "m", "1.0.0", "serving", START_MS + 2, partition=1, offset=77),
    ):
        await producer.send_and_wait(topics.model_status, encode_json(status), key=b"w1")
    await producer.send_and_wait(topics.model_status, b"rubbish", key=b"w1")
    for number in range(30):  # more than a status names
        update = ModelUpdate("m", f"2.0.{number}", "champion", "file:///nowhere", "0" * 64, "f", START_MS + 5)
        await producer.send_and_wait(topics.model_updates, encode_json(update), key=b"m")
    await producer.stop()
    warehouse = MemoryWarehouse()
    thread = WarehouseThread(warehouse)
    monitor = Monitor(bench.pipeline, kafka, thread, lambda: START_MS, QUICK)
    running = asyncio.create_task(monitor.run())

    async def are_there() -> bool:
        return len(warehouse.read("model_events")) == 63 and len(monitor.history.unreadable) == 30

    await bench.until(are_there)
    status = sources(monitor).status()
    lost = [f"2.0.{number}" for number in range(30)]
    assert (status["champion"], status["refused_versions"]) == ("1.0.0", dict.fromkeys(lost[-20:], "digest"))
    assert (status["refused_versions_total"], status["versions_without_manifest_total"]) == (30, 30)
    assert len(status["versions_without_manifest"]) == 20
    assert status["refused_records"] == {topics.model_status: {"malformed": 1}}
    refused = Sample("streamgauge_monitor_refused_total", 1, {"topic": topics.model_status, "reason": "malformed"})
    assert refused in list(sources(monitor).samples())
    monitor.stop()
    assert await running == 0
    await thread.close()
    events = {(row["event"], row["version"]): row for row in warehouse.read("model_events")}
    assert set(events) == {
        *((event, "1.0.0") for event in ("promoted", "loaded", "serving")),
        *((event, version) for event in ("promoted", "refused") for version in lost),
    }
    assert events["serving", "1.0.0"]["offset"] == 77
    assert {events["refused", version]["why"] for version in lost} == {"digest"}
    roles = {row["version"]: (row["role"], row["why"]) for row in warehouse.read("model_versions")}
    assert roles == {"1.0.0": ("champion", "first"), **dict.fromkeys(lost, ("refused", "digest"))}


def test_a_start_that_cannot_be_is_one_sentence(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path)
    environment = {**os.environ, **bench.settings.to_environment(), "STREAMGAUGE_KAFKA": "127.0.0.1:9"}
    for arguments, code, sentence in (
        (["--pipeline", "nowhere"], 1, "nowhere"),
        (["--pipeline", str(bench.pipeline.path)], 75, "127.0.0.1:9"),
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
