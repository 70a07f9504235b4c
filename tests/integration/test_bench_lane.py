"""One contestant of each kind on a real lane: loaded, run, read back, checked and timed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from app.bench.contestants import OURS, RAW, Contestant, limited
from app.bench.lane import BenchError, Child, Lane
from app.bench.latency import measure_at
from app.bench.peer_tools import Say
from app.bench.run import BenchRun, Sizes
from app.bench.throughput import compare
from app.bench.workload import STATELESS
from app.kafka_access import KafkaAccess
from app.settings import Settings

EVENTS = 20_000


@pytest.fixture
def run(kafka: KafkaAccess, cache: Path, tmp_path: Path) -> BenchRun:
    settings = replace(
        Settings.read({}), kafka=kafka.servers, home=tmp_path, registry=tmp_path / "registry", cache=cache
    )
    return BenchRun(settings, lambda _: None, Sizes(events=EVENTS, rounds=1), tmp_path / "report")


def test_ours_and_a_peer_are_timed_over_checked_scores(run: BenchRun) -> None:
    races = asyncio.run(compare(run, "", [(OURS, STATELESS), (limited(RAW, EVENTS // 2), STATELESS)], EVENTS, 1))
    assert run.figures.skipped == []
    ours, theirs = races["stateless.streamgauge"][0], races["stateless.aiokafka"][0]
    assert 0 < ours.events < EVENTS
    assert 0 < theirs.events <= EVENTS
    assert ours.cpu_seconds > 0
    assert run.figures.value("stateless.streamgauge.rate") == ours.events_per_second


def test_a_contestant_that_cannot_start_is_left_out_with_a_line(run: BenchRun) -> None:
    def refuse(lane: Lane, pipeline: Path, say: Say) -> list[Child]:
        raise BenchError("no such thing here")

    races = asyncio.run(compare(run, "", [(Contestant("none", "nobody", refuse), STATELESS)], 8, 2))
    assert races == {}
    assert run.figures.skipped == ["stateless, nobody: no such thing here"]


def test_latencies_count_from_the_time_due_and_miss_no_event(run: BenchRun) -> None:
    found = asyncio.run(measure_at(run, RAW, STATELESS, rate=200, seconds=1.0))
    assert len(found.ms) == 200
    assert found.ms.min() > 0
