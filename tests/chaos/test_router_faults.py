"""Streams that are put right, under the faults of workers and broker: one copy and one outcome for each record."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from chaos_kafka import BreakableKafka, breakable
from chaos_load import new_random
from chaos_report import Row, record
from scattered import LABEL_AFTER_MS, Fleet, Stranger, at_ms, check_once, check_windows, stream

N, BACKLOG = 4_800, 2_400
#: Longer than the session of a member of the group lasts.
FROZEN_S = 14.0
#: Each strikes when its share of the stream has an outcome, and a moment later.
FAULTS = ("all", "broker", "router", "hang", "sleep", "all", "broker", "router", "sleep", "hang", "all", "broker")


async def break_all(bench: Stranger, fleet: Fleet, broker: BreakableKafka, seed: int) -> None:
    chance = new_random(seed)
    for number, fault in enumerate(FAULTS):
        await bench.until_outcomes(N * number // (len(FAULTS) + 1))
        await asyncio.sleep(chance.uniform(0, 1))
        match fault:
            case "router":
                await fleet.kill_the_router()
            case "sleep":
                await fleet.freeze_the_router()
            case "all":
                fleet.kill_all()
            case "broker":
                broker.crash()
                await asyncio.sleep(3)
                await asyncio.to_thread(broker.revive)
            case "hang":
                broker.freeze()
                await asyncio.sleep(FROZEN_S)
                broker.thaw()


@pytest.mark.chaos_full
def test_each_record_is_copied_and_scored_once_whatever_breaks(cache: Path, tmp_path: Path, seed: int) -> None:
    """Half of the stream is there when the first worker starts, and half comes meanwhile."""

    async def scenario() -> tuple[list[Any], list[Any], list[Any], list[int]]:
        async with breakable(tmp_path, cache, seed) as (broker, _):
            bench = Stranger(broker.access, tmp_path)
            await bench.prepare()
            records = stream(0, N)
            edge = next(at for at, each in enumerate(records) if (each.kind, each.number) == ("event", BACKLOG))
            await bench.send(records[:edge], is_live=False)
            fleet = Fleet(bench)
            keeping = asyncio.create_task(fleet.keep())
            sending = asyncio.create_task(bench.send(records[edge:], is_live=True))
            try:
                await break_all(bench, fleet, broker, seed)
                await sending
                await bench.promise(at_ms(N) + 10 * LABEL_AFTER_MS)
                await bench.until_outcomes(N)
            finally:
                keeping.cancel()
                sending.cancel()
                fleet.end()
            found = [await bench.read(topic) for topic in ("scores", "dead-letters", "events-by-entity")]
            return found[0], found[1], found[2], fleet.ended

    scores, letters, copies, ended = asyncio.run(scenario())
    outcomes = len(scores) + len(letters)
    lost, doubled, note = max(N - outcomes, 0), max(outcomes - N, 0), f"exits {sorted(ended)}"
    fault = "all of workers and broker, of streams put right"
    record(Row("P1/P2/P3/P5", fault, seed, events=N, faults=len(FAULTS), lost=lost, doubled=doubled, note=note))
    check_once(scores, letters, copies, N)
    check_windows([json.loads(score.value) for score in scores], N)
    assert set(ended) <= {75}, note
