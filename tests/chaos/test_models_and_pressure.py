"""Model updates that race with faults, and more work than workers can do (P10, P11, P20, P23)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from chaos_load import Load, new_random
from chaos_pipeline import Setup, promote, render_toml
from chaos_report import Figure, record
from chaos_run import ChaosRun

from app.adapters.kafka.topic_reader import read_to_end
from app.kafka_access import KafkaAccess
from models.versions.registry import Registry
from schemas.pipeline.file import load as load_pipeline
from schemas.wire import ModelStatus, decode_json

#: Promises on a quiet machine.
CATCH_UP_S = 120.0
COLD_START_S = 20.0
#: Of a worker, whatever waits for it: inbox of 8 MiB a partition, the libraries, and the model.
MOST_RSS_MB = 700.0


async def refused_versions(run: ChaosRun) -> set[str]:
    refused = set()
    async for batch in read_to_end(run.kafka, [run.pipeline.topics.model_status]):
        statuses = [decode_json(value, ModelStatus) for value in batch.values if value is not None]
        refused |= {status.version for status in statuses if status.status == "refused"}
    return refused


KINDS = ["good", "tampered", "foreign", "missing"]
MONITORED = Setup("exactly_once", with_labels=True, monitored=True)
RACES = [
    pytest.param(MONITORED, 1, id="exactly-once+labels"),
    pytest.param(replace(MONITORED, shared=True), 12, id="exactly-once+labels-12", marks=pytest.mark.chaos_full),
    pytest.param(Setup("at_least_once"), 12, id="at-least-once-12", marks=pytest.mark.chaos_full),
]


@pytest.mark.parametrize(("setup", "kills"), RACES)
async def test_model_updates_race_with_kills(
    kafka: KafkaAccess, tmp_path: Path, seed: int, setup: Setup, kills: int
) -> None:
    """Good, tampered and foreign versions while workers die: each score is that of a good version, to the bit."""
    chance, bad = new_random(seed), set()
    other = tmp_path / "other.toml"
    other.write_text(render_toml("other", replace(setup, with_labels=not setup.with_labels)))
    async with ChaosRun(kafka, tmp_path, Load(seed, n=10**6, rate=200), setup) as run:
        registry = Registry(run.settings.registry)
        await run.produce()
        for number in range(1, kills + 1):
            for kind in chance.sample(KINDS, len(KINDS)):
                version = f"{number}.{KINDS.index(kind)}.1"
                if kind == "good":
                    await run.promote(version, seed=number + 1)
                    continue
                bad.add(version)
                lies = {"tampered": {"sha256": "0" * 64}, "missing": {"uri": (tmp_path / "nowhere").as_uri()}}
                trained_for = load_pipeline(other) if kind == "foreign" else run.pipeline
                # Trained for another feature set, it is announced all the same where it does not belong.
                await promote(
                    kafka,
                    replace(trained_for, name=run.pipeline.name),
                    registry,
                    version,
                    number + 1,
                    **lies.get(kind, {}),
                )
            await asyncio.sleep(chance.uniform(0, 3))
            if run.fleet.running():
                run.fleet.kill(chance.choice(run.fleet.running()))
            await run.every_partition_scores()

        async def all_are_refused() -> bool:
            return await refused_versions(run) >= bad

        await run.wait_until(all_are_refused, f"refusals of {sorted(bad)}")
        outcome = await run.finish()
    refused = await refused_versions(run)
    note = f"{len(run.versions)} good versions, {len(refused)} refused"
    row = record(run.row("P10/P11", "model updates racing with SIGKILL", outcome, outcome.kills, note=note))
    assert row.passed, outcome.findings.describe()
    assert refused == bad


@pytest.mark.chaos_full
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
async def test_three_times_the_load_is_caught_up_in_bounded_memory(
    kafka: KafkaAccess, tmp_path: Path, seed: int, delivery: str
) -> None:
    """A flood of events of 1 KB that waits for the worker, and three times the rate for a minute."""
    setup = Setup(delivery, workers=1)
    load = Load(seed, n=10**6, rate=700, pad=1_000)
    async with ChaosRun(kafka, tmp_path, load, setup) as run:
        await run.produce()
        run.pace = 3.0
        run.fleet.freeze(0)  # a worker that is much too slow, for a while
        await asyncio.sleep(20)
        run.fleet.thaw(0)
        await asyncio.sleep(40)
        run.pace = 1.0
        started = time.monotonic()
        behind = run.producer.sent - run.reader.count
        await run.wait_for(
            lambda: run.reader.count >= run.producer.sent * 0.97 - 2 * load.rate, "what was left behind", 400
        )
        catch_up_s = time.monotonic() - started
        outcome = await run.finish()
    figures = (
        Figure("events behind when the peak ended", behind, "events"),
        Figure("time to catch up after 60 s of 3 x the load", catch_up_s, "s", CATCH_UP_S),
        Figure("peak RSS of the worker", outcome.peak_rss_mb, "MB", MOST_RSS_MB),
    )
    row = record(run.row("P20", "3 x the load for 60 s, worker stopped for 20 s", outcome, 1, figures=figures))
    assert row.passed, outcome.findings.describe()
    assert outcome.peak_rss_mb < 2 * MOST_RSS_MB


SLOW_FEATURE = """
[[features]]
name = "slow"
type = "float"
python = "slow.py:slow"
arguments = ["amount"]
"""
SLOW_MODULE = """
import time

def slow(amount):
    time.sleep(0.002 * len(amount))
    return amount * 0
"""


@pytest.mark.chaos_full
async def test_a_slow_model_leaves_its_backlog_in_kafka(kafka: KafkaAccess, tmp_path: Path, seed: int) -> None:
    """120 MB of events wait for a worker that takes 2 ms for each: it must not take them all into its memory."""
    n, pad = 30_000, 4_000
    setup = Setup("exactly_once", workers=1, features=SLOW_FEATURE)
    (tmp_path / "slow.py").write_text(SLOW_MODULE)
    async with ChaosRun(kafka, tmp_path, Load(seed, n=n, rate=4_000, pad=pad), setup) as run:
        await run.produce()
        await run.wait_for(lambda: run.producer.sent >= n, "the load")
        behind_mb = (n - run.reader.count) * pad / 1e6
        await run.wait_for(lambda: run.reader.count >= n * 0.95, "the scores", 600)
        outcome = await run.finish()
    figures = (
        Figure("waiting in Kafka when the load ended", behind_mb, "MB"),
        Figure("peak RSS of the worker", outcome.peak_rss_mb, "MB", MOST_RSS_MB),
    )
    row = record(run.row("P20", "a model that takes 2 ms an event", outcome, 1, figures=figures))
    assert row.passed, outcome.findings.describe()
    assert outcome.peak_rss_mb < 2 * MOST_RSS_MB


@pytest.mark.chaos_full
async def test_a_cold_start_with_100_000_keys_takes_the_stated_time(
    kafka: KafkaAccess, tmp_path: Path, seed: int
) -> None:
    setup = Setup("exactly_once", workers=1)
    keys = 100_000
    load = Load(seed, n=10**6, rate=20_000, cards=keys, in_turn=True, late=0, repeated=0, poison=0)
    async with ChaosRun(kafka, tmp_path, load, setup) as run:
        await run.produce()
        await run.wait_for(lambda: run.producer.sent >= keys, "the load")
        run.pace = 0.02
        await run.wait_for(lambda: run.reader.count >= keys, "the scores of the load", 400)
        await run.every_partition_scores()
        await run.fleet.stop(0)
        started = time.monotonic()
        run.fleet.start(0)
        await run.wait_for(lambda: "are ours" in run.fleet.log_of(0), "a worker with partitions")
        await run.every_partition_scores()
        cold_s = max(run.reader.gaps(started).values())
        outcome = await run.finish()
    figures = (
        Figure("from the start of the process to scores of all partitions", cold_s, "s", COLD_START_S),
        Figure("peak RSS of the worker", outcome.peak_rss_mb, "MB"),
    )
    row = record(run.row("P23", "cold start with 100 000 keys", outcome, 1, figures=figures))
    assert row.passed, outcome.findings.describe()
