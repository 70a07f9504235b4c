"""At-least-once delivery: a crash repeats scores, bit for bit; state, counts and dead letters stay exact."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from worker_bench import START_MS, Bench, produce

from app.adapters.kafka.topic_reader import read_to_end
from app.core.counts.sketches import ALL
from app.kafka_access import KafkaAccess
from schemas.wire import Score, SketchRecord, decode_packed


async def test_a_crash_repeats_scores_bit_for_bit_and_counts_nothing_twice(kafka: KafkaAccess, tmp_path: Path) -> None:
    n = 4_000
    # Commits so rare that every kill comes between scores that are out and their commit.
    bench = Bench(kafka, tmp_path, with_labels=False, delivery="at_least_once", commit_interval_ms=1_500)
    await bench.prepare()
    producing = asyncio.create_task(produce(bench, 0, n, with_labels=False))
    for kill_at in (600, 2_000):
        with bench.worker():

            async def has_scored(target: int = kill_at) -> bool:
                return len(await bench.scores()) >= target

            await bench.until(has_scored)
    with bench.worker() as process:
        await producing
        await bench.until_committed(n)
        process.terminate()
        assert process.wait(20) == 0
    scores = await bench.scores()
    times_out = Counter((score.source.partition, score.source.offset) for score in scores)
    assert max(times_out.values()) > 1, "no kill fell between a score and its commit: the test proves nothing"
    assert len({said(score) for score in scores}) == len(times_out), "an event was scored in two ways"
    dead = await bench.dead_sources()
    assert len(dead) == len(set(dead)) == n // 50
    assert len(times_out) + len(dead) == n
    assert await counted(bench) == len(times_out)
    for score in scores:
        assert score.features["count_1m"] == in_the_last_minute(int(score.event_id[1:]))


def said(score: Score) -> tuple[object, ...]:
    source = score.source.partition, score.source.offset
    return source, score.version, score.score.hex(), tuple((k, v) for k, v in score.features.items())


def in_the_last_minute(number: int) -> int:
    first_tile = (START_MS + number * 40) // 1000 - 59
    earlier = [k for k in range(number) if k * 7 % 40 == number * 7 % 40 and k % 50 != 49]
    return sum((START_MS + k * 40) // 1000 >= first_tile for k in earlier)


async def counted(bench: Bench) -> int:
    """Events in the counts that windows are made of."""
    total = 0
    async for batch in read_to_end(bench.kafka, [bench.pipeline.topics.sketches]):
        for value in batch.values:
            assert value is not None
            deltas = decode_packed(value, SketchRecord).deltas
            total += sum(delta.n for delta in deltas if delta.segment == ALL)
    return total
