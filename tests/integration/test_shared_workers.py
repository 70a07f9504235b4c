"""Windows shared between partitions, by real workers: the same values for one, for two, and when one is killed."""

from __future__ import annotations

import asyncio
import json
import math
from collections import defaultdict
from pathlib import Path

from aiokafka import AIOKafkaProducer
from worker_bench import N_PARTITIONS, START_MS, Bench

from schemas.pipeline_file import load
from schemas.wire import Score

N = 4_000
STEP_MS = 40
#: Partition 2 falls silent here; the others must go on without it.
LAST_OF_2 = 2_500

FEATURES = """
[[features]]
name = "note_count_1m"
type = "int"
window = { of = "events", key = ["note"], size = "1m", hop = "1s", aggregate = "count", delay = "5s" }

[[features]]
name = "note_sum_20s"
type = "float"
window = { of = "events", key = ["note"], size = "20s", hop = "5s", aggregate = "sum", field = "amount", delay = "10s" }

[[features]]
name = "note_bad_1m"
type = "float"
window = { of = "labels", key = ["note"], size = "1m", hop = "2s", aggregate = "mean", field = "label", delay = "5s" }

[shared]
idle = "500ms"
max_wait = "60s"
"""


class SharedBench(Bench):
    """The bench's pipeline with windows over the notes of all cards."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        super().__init__(bootstrap, folder, with_labels=True)
        path = self.pipeline.path
        path.write_text(path.read_text() + FEATURES)
        self.pipeline = load(path)


def partition_of(number: int) -> int:
    return number * 7 % 40 % N_PARTITIONS


def numbers(start: int = 0, stop: int = N) -> list[int]:
    return [n for n in range(start, stop) if partition_of(n) != 2 or n <= LAST_OF_2]


def note(number: int) -> str | None:
    return None if number % 11 == 0 else f"n{number % 5}"


def amount(number: int) -> float:
    return number % 64 / 8


async def produce(bench: Bench, start: int, stop: int) -> None:
    """Events and labels in the order of time; labels, two seconds after their event, before the first later event."""
    producer = AIOKafkaProducer(bootstrap_servers=bench.bootstrap)
    await producer.start()
    topics = bench.pipeline.topics
    for number in numbers(start, stop):
        labelled = number - 50
        if labelled >= 0 and labelled in SENT:
            body = {
                "event_id": f"e{labelled}",
                "label": float(labelled % 3 == 0),
                "label_time_ms": START_MS + labelled * STEP_MS + 2_000,
            }
            await producer.send_and_wait(
                topics.labels, json.dumps(body).encode(), partition=partition_of(labelled), key=b"k"
            )
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
        number = int(score.event_id[1:])
        name, now_ms = note(number), START_MS + number * STEP_MS
        found = [score.features[key] for key in ("note_count_1m", "note_sum_20s", "note_bad_1m")]
        assert not score.stale
        if name is None:
            assert found == [None, None, None]
            continue
        bad = inside(labels[name], now_ms, 60, 2, 5)
        mean = sum(bad) / len(bad) if bad else None
        assert found[:2] == [
            len(inside(events[name], now_ms, 60, 1, 5)),
            sum(inside(events[name], now_ms, 20, 5, 10)),
        ], score
        assert (found[2] is None) == (mean is None), score
        assert mean is None or (found[2] is not None and math.isclose(found[2], mean, rel_tol=1e-15)), score
        seen += bool(bad)
    assert seen > len(scores) // 2


def test_shared_windows_are_the_same_for_one_worker_and_two_and_when_one_is_killed(kafka: str, tmp_path: Path) -> None:
    async def run() -> None:
        bench = SharedBench(kafka, tmp_path)
        await bench.prepare()

        async def has_come_to(target: int) -> bool:
            return await bench.committed() >= target

        producing = asyncio.create_task(produce(bench, 0, N))
        with bench.worker():
            await bench.until(lambda: has_come_to(700), 240)
            with bench.worker() as killed:
                await bench.until(lambda: has_come_to(1_800), 240)
                killed.kill()
                killed.wait()
            await bench.until(lambda: has_come_to(2_200), 240)
            await producing
            await bench.until(lambda: has_come_to(len(SENT)), 240)
        scores = await bench.scores()
        assert sorted(score.event_id for score in scores) == sorted(f"e{number}" for number in SENT)
        check(scores)

    asyncio.run(run())
