"""Faust's own delivery under the same kills: a harness that finds nothing wrong there could find nothing anywhere."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import chaos_faust
import pytest
from chaos_checker import check, read_logs
from chaos_fleet import Fleet
from chaos_load import Load, LoadProducer, new_random
from chaos_report import Row, record
from chaos_run import ScoreReader

from app.adapters.kafka.topics_admin import ensure_topics
from app.kafka_access import KafkaAccess
from schemas.pipeline.file import load as load_pipeline
from schemas.pipeline.spec import Pipeline

PARTITIONS = 4
TOML = """
name = "{name}"
partitions = 4
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
[[features]]
name = "count_1h"
type = "int"
window = {{ of = "events", key = ["card"], size = "1h", hop = "1m", aggregate = "count" }}
"""


def new_pipeline(folder: Path) -> Pipeline:
    path = folder / f"control{os.getpid()}{time.time_ns()}.toml"
    path.write_text(TOML.format(name=path.stem))
    return load_pipeline(path)


def command(pipeline: Pipeline, kafka: KafkaAccess, guarantee: str) -> tuple[list[str], dict[str, str]]:
    ours = str(Path(chaos_faust.__file__).parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([ours, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "KAFKA": kafka.servers,
        "GROUP": f"faust-{pipeline.name}",
        "EVENTS": pipeline.topics.events,
        "SCORES": pipeline.topics.scores,
        "PARTITIONS": str(PARTITIONS),
        "GUARANTEE": guarantee,
        "COMMIT_S": "0.5",
    }
    return [sys.executable, chaos_faust.__file__, "worker", "-l", "warn", "--without-web"], environment


GUARANTEES = [
    pytest.param("at_least_once", 2, id="at-least-once"),
    pytest.param("at_least_once", 8, id="at-least-once-8", marks=pytest.mark.chaos_full),
    pytest.param("exactly_once", 6, id="exactly-once-6", marks=pytest.mark.chaos_full),
]


@pytest.mark.parametrize(("guarantee", "kills"), GUARANTEES)
async def test_faust_alone_is_caught(kafka: KafkaAccess, tmp_path: Path, seed: int, guarantee: str, kills: int) -> None:
    chance, pipeline = new_random(seed), new_pipeline(tmp_path)
    await ensure_topics(kafka, pipeline.topics.all())
    load = Load(seed, n=10**5, rate=400, cards=40, late=0, repeated=0, poison=0)
    producer = LoadProducer(kafka, pipeline.topics, load)
    reader = ScoreReader(kafka, pipeline.topics.scores, PARTITIONS)
    tasks = [asyncio.create_task(reader.run()), asyncio.create_task(producer.run())]
    async with Fleet(tmp_path, 2, lambda _: command(pipeline, kafka, guarantee)) as fleet:
        fleet.start(0, 1)
        assert await comes_to(reader, 500, 120), f"Faust did not start:\n{fleet.log()}"
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(2, 5))
            running = fleet.running()
            if running:
                fleet.kill(chance.choice(running))
        producer.finish()
        await tasks[1]
        # With exactly_once it may never come to the end: what is missing when nothing more comes counts as lost.
        await comes_to_rest(reader, 12, 150)
        await fleet.stop(0, 1, deadline_s=20)
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    found = check(await read_logs(kafka, pipeline), None)
    crashes = sum(end.code not in {0, -9} for end in fleet.exits)
    violations = found.lost + found.doubled + found.wrong_windows
    record(
        Row(
            "control",
            "Faust alone, SIGKILL of workers",
            seed=seed,
            load=f"{load.describe()}, 2 workers",
            delivery=f"Faust {guarantee}",
            events=found.events,
            faults=kills,
            lost=found.lost,
            doubled=found.doubled,
            conflicting=found.conflicting,
            wrong_counts=found.wrong_windows,
            longest_gap_s=max(reader.gaps(0.0).values(), default=0.0),
            passed=violations > 0,
            note=f"must be caught: {violations} violations; workers that ended themselves: {crashes}",
        )
    )
    assert violations > 0


async def comes_to(reader: ScoreReader, count: int, deadline_s: float) -> bool:
    limit = time.monotonic() + deadline_s
    while reader.count < count and time.monotonic() < limit:  # noqa: ASYNC110  # an Event per number would be more
        await asyncio.sleep(0.1)
    return reader.count >= count


async def comes_to_rest(reader: ScoreReader, quiet_s: float, deadline_s: float) -> None:
    """Wait until no score has come for a while."""
    limit, count, since = time.monotonic() + deadline_s, -1, time.monotonic()
    while time.monotonic() < limit and time.monotonic() - since < quiet_s:
        if reader.count != count:
            count, since = reader.count, time.monotonic()
        await asyncio.sleep(0.2)
