"""ClickHouse is away for minutes: scoring does not notice, the monitor waits within bounds, nothing is lost (P13)."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from aiokafka import AIOKafkaProducer
from chaos_report import Figure, Row, record, seed_of
from clickhouse_front import ClickHouseFront
from monitor_chaos import Monitors
from worker_bench import Bench, event

from app.adapters.kafka.topic_reader import read_to_end
from app.kafka_access import KafkaAccess
from app.secret import Secret
from schemas.wire import Score, decode_json

#: Between two sentences of the log about one outage.
SAID_EVERY_S = 60


@dataclass(frozen=True)
class Outage:
    """``way``: "down" refuses connections, "hang" takes requests and never answers."""

    way: str
    seconds: float
    before_s: float
    rate: int


OUTAGES = [
    pytest.param(Outage("down", 8, 5, 150), id="8s"),
    pytest.param(Outage("down", 600, 60, 500), id="10min", marks=pytest.mark.chaos_full),
    pytest.param(Outage("hang", 90, 20, 500), id="hanging", marks=pytest.mark.chaos_full),
]


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_of_clickhouse_loses_nothing_and_slows_no_score(
    kafka: KafkaAccess, tmp_path: Path, outage: Outage
) -> None:
    seed = seed_of("clickhouse-outage")
    with ClickHouseFront(tmp_path / "server") as front:
        bench = Bench(kafka, tmp_path, with_labels=False)
        bench.settings = replace(bench.settings, clickhouse=Secret(front.url))
        await bench.prepare()
        monitors = Monitors(bench)
        with bench.worker():
            async with monitors.fleet as fleet:
                fleet.start(0)
                async with load(bench, outage.rate) as sent:
                    await monitors.until_at_work(0)
                    await monitors.until(lambda: has_rows(front, 1))
                    times = [time.time()]
                    await asyncio.sleep(outage.before_s)
                    process = psutil.Process(fleet.pid(0))
                    address, rss = monitors.address(0), [process.memory_info().rss]
                    times.append(time.time())
                    harm(front, outage, is_down=True)
                    while time.time() < times[-1] + outage.seconds:
                        await asyncio.sleep(1)
                        rss.append(process.memory_info().rss)
                    told = await asyncio.to_thread(what_it_tells, address)
                    times.append(time.time())
                    harm(front, outage, is_down=False)
                    done = len(sent)  # what had been sent when it came back
                    await monitors.until(lambda: has_rows(front, done * 98 // 100), outage.seconds + 300)
                    caught_up_s = time.time() - times[-1]
                await monitors.until(lambda: has_rows(front, len(sent)), 300)
                crashes = list(fleet.exits)  # before it is asked to end, which may be noticed as well
                ((code, _),) = await fleet.stop(0)
            sentences = fleet.count_in_logs("Writing to ClickHouse fails")
            lost, doubled = account(front, len(sent))
        before, during = await phases(bench, times)
    row = record(
        Row(
            "P13",
            f"ClickHouse {outage.way} for {outage.seconds:.0f} s",
            seed=seed,
            load=f"{outage.rate} events/s, one worker",
            events=len(sent),
            faults=1,
            lost=lost,
            doubled=doubled,
            figures=(
                Figure("scores a second before", before.rate, "1/s"),
                Figure("scores a second meanwhile", during.rate, "1/s"),
                Figure("latency p50 before", before.p50_ms, "ms"),
                Figure("latency p50 meanwhile", during.p50_ms, "ms"),
                Figure("latency p99 before", before.p99_ms, "ms"),
                Figure("latency p99 meanwhile", during.p99_ms, "ms"),
                Figure("p50 meanwhile / before", during.p50_ms / before.p50_ms, "", 1.5),
                Figure("caught up after", caught_up_s, "s"),
                Figure("growth of the monitor's memory", (max(rss) - rss[0]) / 1e6, "MB", 150),
                Figure("sentences in the log", sentences, "lines", 2 + outage.seconds // SAID_EVERY_S),
            ),
        )
    )
    assert row.passed, row
    assert (crashes, code) == ([], 0)
    assert told["live"], told
    assert not told["ready"], told
    assert "ClickHouse" in told["why"]
    assert told["down_seconds"] > outage.seconds / 3
    assert 1 <= sentences <= 2 + outage.seconds // SAID_EVERY_S


def harm(front: ClickHouseFront, outage: Outage, *, is_down: bool) -> None:
    (front.set_down if outage.way == "down" else front.set_hanging)(is_down)


@asynccontextmanager
async def load(bench: Bench, rate: int) -> AsyncIterator[list[int]]:
    """Events at a rate, until the end of the block; their numbers as they are acknowledged."""
    sent: list[int] = []
    producer = AIOKafkaProducer(bootstrap_servers=bench.kafka.servers)
    await producer.start()
    is_over = asyncio.Event()

    async def run() -> None:
        started = time.monotonic()
        for number in itertools.count():
            if (early_s := number / rate - (time.monotonic() - started)) > 0:
                await asyncio.sleep(max(early_s, 0.01))
            if is_over.is_set():
                break
            partition, value = event(number)
            await producer.send(bench.pipeline.topics.events, value, partition=partition, key=b"k")
            sent.append(number)
        await producer.flush()

    running = asyncio.create_task(run())
    try:
        yield sent
    finally:
        is_over.set()
        await running
        await producer.stop()


async def has_rows(front: ClickHouseFront, n: int) -> bool:
    """Scores and dead letters together."""
    sql = "SELECT (SELECT count() FROM streamgauge.scores) + (SELECT count() FROM streamgauge.dead_letters)"
    ((count,),) = await asyncio.to_thread(front.query, sql)
    return int(count) >= n


def account(front: ClickHouseFront, n: int) -> tuple[int, int]:
    """Rows lost and doubled."""
    places = []
    for table in ("scores", "dead_letters"):
        places += [tuple(row) for row in front.query(f"SELECT partition, offset FROM streamgauge.{table}")]
    return n - len(set(places)), len(places) - len(set(places))


def what_it_tells(address: str) -> dict[str, object]:
    answers = {}
    for path in ("/healthz", "/readyz"):
        try:
            with urllib.request.urlopen(address + path, timeout=10) as response:
                answers[path] = json.load(response)
        except urllib.error.HTTPError as refused:
            answers[path] = json.load(refused)
    with urllib.request.urlopen(address + "/metrics", timeout=10) as response:
        found = re.search(r"^streamgauge_monitor_warehouse_down_seconds (\S+)$", response.read().decode(), re.MULTILINE)
    assert found is not None
    return {
        "live": answers["/healthz"]["ok"],
        "ready": answers["/readyz"]["ok"],
        "why": answers["/readyz"]["why"],
        "down_seconds": float(found[1]),
    }


@dataclass(frozen=True)
class Phase:
    """Scoring over a while, by the time stamps of the records of events and of their scores."""

    rate: float
    p50_ms: float
    p99_ms: float


async def phases(bench: Bench, times: list[float]) -> list[Phase]:
    topics = bench.pipeline.topics
    came: dict[tuple[int, int], int] = {}
    async for batch in read_to_end(bench.kafka, [topics.events]):
        came |= {
            (batch.partition, offset): at
            for offset, at in zip(batch.offsets.tolist(), batch.timestamps_ms.tolist(), strict=True)
        }
    at, latency = [], []
    async for batch in read_to_end(bench.kafka, [topics.scores]):
        for value, scored_at in zip(batch.values, batch.timestamps_ms.tolist(), strict=True):
            source = decode_json(value or b"", Score).source
            at.append(came[source.partition, source.offset] / 1000)
            latency.append(scored_at - came[source.partition, source.offset])
    found = []
    for start, end in itertools.pairwise(times):
        within = np.array(latency)[(np.array(at) >= start) & (np.array(at) < end)]
        p50, p99 = np.percentile(within, [50, 99])
        found.append(Phase(len(within) / (end - start), float(p50), float(p99)))
    return found
