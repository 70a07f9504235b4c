"""A worker with windows on disk owes the same: kills lose nothing, a start reads the tail of the changelog alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from worker_bench import START_MS, Bench, check_ledger, produce

from app.kafka_access import KafkaAccess
from schemas.pipeline.file import load
from schemas.wire import Score


async def test_windows_on_disk_follow_the_log_though_workers_are_killed(kafka: KafkaAccess, tmp_path: Path) -> None:
    n = 4_000
    bench = Bench(kafka, tmp_path, with_labels=True)
    path = bench.pipeline.path
    path.write_text(path.read_text() + '\n[state]\nstore = "disk"\ncached_keys = 3\n')
    bench.pipeline = load(path)
    await bench.prepare()
    producing = asyncio.create_task(produce(bench, 0, n, with_labels=True))
    for kill_at in (500, 2_000):
        with bench.worker():
            await bench.until_committed(kill_at, 120)
    with bench.worker():
        await producing
        await bench.until_committed(n, 120)
    scores, dead = await bench.scores(), await bench.dead_sources()
    check_ledger(scores, dead, n)
    check_counts(scores)
    folders = {place.name for place in (bench.settings.home / "state" / bench.pipeline.name).iterdir()}
    assert {"0", "1", "2"} <= folders


def check_counts(scores: list[Score]) -> None:
    """The events of the same card in the 60 tiles of a second up to each event's own, by a plain loop."""
    for score in scores[:: len(scores) // 200]:
        number = int(score.event_id[1:])
        first_tile = (START_MS + number * 40) // 1000 - 59
        earlier = [k for k in range(number) if (number - k) * 7 % 40 == 0 and k % 50 != 49]  # every 50th is rejected
        assert score.features["count_1m"] == sum((START_MS + k * 40) // 1000 >= first_tile for k in earlier)
