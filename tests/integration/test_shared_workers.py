"""Windows shared between partitions, by real workers: the same values for one, for two, and when one is killed.

With all keys in each worker, and with the keys of some windows divided among them.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import socket
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer
from worker_bench import N_PARTITIONS, START_MS, Bench

from app.kafka_access import KafkaAccess
from schemas.pipeline.file import load
from schemas.wire import Score

N = 4_000
STEP_MS = 40
#: Partition 2 falls silent here; the others must go on without it.
LAST_OF_2 = 2_500

FEATURES = """
[[features]]
name = "note_count_1m"
type = "int"
[features.window]
of = "events"
key = ["note"]
size = "1m"
hop = "1s"
aggregate = "count"
delay = "5s"
repartition = {repartition}

[[features]]
name = "note_sum_20s"
type = "float"
window = { of = "events", key = ["note"], size = "20s", hop = "5s", aggregate = "sum", field = "amount", delay = "10s" }

[[features]]
name = "note_bad_1m"
type = "float"
[features.window]
of = "labels"
key = ["note"]
size = "1m"
hop = "2s"
aggregate = "mean"
field = "label"
delay = "5s"
repartition = {repartition}

[shared]
idle = "500ms"
max_wait = "{max_wait}"
"""


class SharedBench(Bench):
    """The bench's pipeline with windows over the notes of all cards."""

    def __init__(self, kafka: KafkaAccess, folder: Path, *, repartition: bool, max_wait: str = "60s") -> None:
        super().__init__(kafka, folder, with_labels=True)
        path = self.pipeline.path
        flag = "true" if repartition else "false"
        features = FEATURES.replace("{repartition}", flag).replace("{max_wait}", max_wait)
        path.write_text(path.read_text() + features)
        self.pipeline = load(path)


def partition_of(number: int) -> int:
    return number * 7 % 40 % N_PARTITIONS


def numbers(start: int = 0, stop: int = N) -> list[int]:
    return [n for n in range(start, stop) if partition_of(n) != 2 or n <= LAST_OF_2]


def note(number: int) -> str | None:
    return None if number % 11 == 0 else f"n{number % 5}"


def amount(number: int) -> float:
    return number % 64 / 8


async def produce(bench: Bench, start: int, stop: int, without: Collection[int] = ()) -> None:
    """Events and labels in the order of time; labels, two seconds after their event, before the first later event.

    ``without``: partitions that get nothing.
    """
    producer = AIOKafkaProducer(bootstrap_servers=bench.kafka.servers)
    await producer.start()
    topics = bench.pipeline.topics
    for number in numbers(start, stop):
        labelled = number - 50
        if labelled >= 0 and labelled in SENT and partition_of(labelled) not in without:
            body = {
                "event_id": f"e{labelled}",
                "label": float(labelled % 3 == 0),
                "label_time_ms": START_MS + labelled * STEP_MS + 2_000,
            }
            await producer.send_and_wait(
                topics.labels, json.dumps(body).encode(), partition=partition_of(labelled), key=b"k"
            )
        if partition_of(number) in without:
            continue
        time_ms = START_MS + number * STEP_MS
        event = {"id": f"e{number}", "card": f"c{number * 7 % 40}", "at_ms": time_ms, "amount": amount(number)}
        value = json.dumps({**event, "note": note(number)}).encode()
        await producer.send(topics.events, value, partition=partition_of(number), key=b"k", timestamp_ms=time_ms)
    await producer.flush()
    await producer.stop()


SENT = set(numbers())


def check(scores: list[Score]) -> None:
    """Every shared value, recomputed from the definition with plain loops."""
    events: dict[str, list[tuple[int, float]]] = defaultdict(list)
    labels: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number in numbers():
        name = note(number)
        if name is not None:
            events[name].append((START_MS + number * STEP_MS, amount(number)))
            if number + 50 in SENT:
                labels[name].append((START_MS + number * STEP_MS + 2_000, float(number % 3 == 0)))

    def inside(log: list[tuple[int, float]], now_ms: int, size_s: int, hop_s: int, delay_s: int) -> list[float]:
        end_ms = (now_ms - delay_s * 1000) // (hop_s * 1000) * hop_s * 1000
        return [value for time_ms, value in log if end_ms - size_s * 1000 <= time_ms < end_ms]

    seen = 0
    for score in scores:
        if score.stale:
            continue
        number = int(score.event_id[1:])
        name, now_ms = note(number), START_MS + number * STEP_MS
        windows = [score.features[key] for key in ("note_count_1m", "note_sum_20s", "note_bad_1m")]
        if name is None:
            assert windows == [None, None, None]
            continue
        bad = inside(labels[name], now_ms, 60, 2, 5)
        mean = sum(bad) / len(bad) if bad else None
        assert windows[:2] == [
            len(inside(events[name], now_ms, 60, 1, 5)),
            sum(inside(events[name], now_ms, 20, 5, 10)),
        ], score
        assert (windows[2] is None) == (mean is None), score
        assert mean is None or (windows[2] is not None and math.isclose(windows[2], mean, rel_tol=1e-15)), score
        seen += bool(bad)
    assert seen > len(scores) // 4


@pytest.mark.parametrize("repartition", [False, True], ids=["all keys in each worker", "keys divided"])
async def test_shared_windows_are_the_same_for_one_worker_and_two_and_when_one_is_killed(
    kafka: KafkaAccess, tmp_path: Path, *, repartition: bool
) -> None:
    bench = SharedBench(kafka, tmp_path, repartition=repartition)
    await bench.prepare()
    producing = asyncio.create_task(produce(bench, 0, N))
    with bench.worker():
        await bench.until_committed(700, 240)
        with bench.worker() as killed:
            await bench.until_committed(1_800, 240)
            killed.kill()
            killed.wait()
        await bench.until_committed(2_200, 240)
        await producing
        await bench.until_committed(len(SENT), 240)
    scores = await bench.scores()
    assert sorted(score.event_id for score in scores) == sorted(f"e{number}" for number in SENT)
    assert not any(score.stale for score in scores)
    check(scores)


#: A worker hangs for longer than that, until its partitions are given to others.
IMPATIENT = "1s"


@pytest.mark.parametrize("repartition", [False, True], ids=["all keys in each worker", "keys divided"])
async def test_a_worker_that_hangs_before_what_it_has_to_read_is_waited_for(
    kafka: KafkaAccess, tmp_path: Path, *, repartition: bool
) -> None:
    """It is away for a session, many times `max_wait`: behind, not gone. Then others have its partitions."""
    bench = SharedBench(kafka, tmp_path, repartition=repartition, max_wait=IMPATIENT)
    await bench.prepare()
    with bench.worker(), bench.worker() as hangs:
        await bench.until(bench.is_shared, 120)
        await produce(bench, 0, 900)
        await bench.until_committed(700, 120)
        hangs.send_signal(signal.SIGSTOP)
        await produce(bench, 900, 2_600)
        await bench.until_committed(len(numbers(0, 2_600)), 120)
        hangs.kill()
    scores = await bench.scores()
    assert sorted(score.event_id for score in scores) == sorted(f"e{number}" for number in numbers(0, 2_600))
    assert not any(score.stale for score in scores)
    check(scores)


async def test_a_silent_partition_whose_worker_hangs_is_waited_for_no_longer_than_max_wait(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    """It has read all there is, and nobody says that it is idle: others go on, stale, each counted once."""
    bench = SharedBench(kafka, tmp_path, repartition=False, max_wait=IMPATIENT)
    await bench.prepare()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def has_stale() -> bool:
        return any(score.stale for score in await bench.scores())

    with bench.worker("--http-port", str(port)), bench.worker() as hangs:
        await bench.until(bench.is_shared, 120)
        silent = set(bench.partitions_of(2))
        await produce(bench, 0, 900)
        await bench.until_committed(900, 120)
        hangs.send_signal(signal.SIGSTOP)
        await produce(bench, 900, 1_800, without=silent)
        await bench.until(has_stale, 60)
        hangs.kill()
        here = [n for n in numbers(0, 1_800) if n < 900 or partition_of(n) not in silent]
        await bench.until_committed(len(here), 120)
        scores = await bench.scores()
        counted = await read_metrics(port)
    assert sorted(score.event_id for score in scores) == sorted(f"e{number}" for number in here)
    stale = [score for score in scores if score.stale]
    assert 0 < len(stale) < len(scores)
    assert counted["streamgauge_stale_total"] == len(stale)
    assert len(here) - 900 <= counted["streamgauge_scored_total"] <= len(here)
    assert counted["streamgauge_events_total"] == counted["streamgauge_scored_total"]


async def read_metrics(port: int) -> dict[str, float]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as response:
        lines = (await response.text()).splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines if line[0] != "#")}
