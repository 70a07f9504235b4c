"""Events per second and CPU per event, ours and others' side by side, in turns."""

from __future__ import annotations

import os
from collections.abc import Sequence

from app.bench.contestants import (
    BYTEWAX,
    CONFLUENT,
    FAUST,
    OURS,
    OURS_AT_LEAST_ONCE,
    QUIX_DOT,
    QUIX_PREDICT,
    RAW,
    Contestant,
    kafka_streams,
    ours,
)
from app.bench.lane import MISHAPS, Race
from app.bench.run import BenchRun
from app.bench.workload import PEER_WINDOWS, STATELESS, TREES, WIDE, WINDOWS, Workload
from app.figures import RATE


async def compare(
    run: BenchRun, section: str, pairs: Sequence[tuple[Contestant, Workload]], count: int, rounds: int
) -> dict[str, list[Race]]:
    """Run the contestants in turns, ``rounds`` times; who fails is left out from then on, with a line saying why.

    Each round begins with another one: what one leaves to the next is nobody's lot alone.
    """
    races: dict[str, list[Race]] = {}
    failed: set[str] = set()
    for turn in range(rounds):
        first = turn * len(pairs) // rounds
        for contestant, workload in [*pairs[first:], *pairs[:first]]:
            name = f"{section or workload.name}.{contestant.name}"
            if name in failed:
                continue
            try:
                race = await run.race(contestant, workload, count)
            except MISHAPS as error:
                failed.add(name)
                run.figures.skip(f"{workload.name}, {contestant.title}", str(error) or repr(error))
                continue
            races.setdefault(name, []).append(race)
    for contestant, workload in pairs:
        name = f"{section or workload.name}.{contestant.name}"
        if races.get(name):
            _add(run, name, (f"Throughput: {workload.help}, {count:,} events", contestant.title), races[name])
    return races


def _add(run: BenchRun, name: str, place: tuple[str, str], races: Sequence[Race]) -> None:
    add = run.figures.add_cell
    add(f"{name}.rate", [race.events_per_second for race in races], "events/s", (*place, RATE))
    add(f"{name}.cpu", [race.cpu_us for race in races], "µs", (*place, "CPU µs/event"))
    add(f"{name}.rss", [race.rss_bytes / 1e6 for race in races], "MB", (*place, "RSS MB"))


async def measure_stateless(run: BenchRun) -> None:
    """The comparison of everybody."""
    contestants = (OURS, OURS_AT_LEAST_ONCE, RAW, CONFLUENT, BYTEWAX, QUIX_DOT, QUIX_PREDICT, FAUST)
    pairs = [(contestant, STATELESS) for contestant in contestants]
    await compare(run, "", pairs, run.sizes.long_events, run.sizes.rounds)


async def measure_windows(run: BenchRun) -> None:
    """Three windows of ours; one window of two figures as the peers keep it."""
    pairs = [(OURS, WINDOWS), (OURS_AT_LEAST_ONCE, WINDOWS)]
    pairs += [(contestant, PEER_WINDOWS) for contestant in (kafka_streams(1), RAW, BYTEWAX, QUIX_DOT)]
    await compare(run, "", pairs, run.sizes.long_events, run.sizes.rounds)


async def measure_trees(run: BenchRun) -> None:
    """One round: no goal hangs on it."""
    await compare(run, "", [(OURS, TREES), (OURS_AT_LEAST_ONCE, TREES)], run.sizes.events, 1)


async def measure_wide(run: BenchRun) -> None:
    """One round: no goal hangs on it."""
    await compare(run, "", [(OURS, WIDE), (OURS_AT_LEAST_ONCE, WIDE)], run.sizes.events, 1)


async def measure_scaling(run: BenchRun) -> None:
    """Workers of ours, and Kafka Streams once it is warm, over the long run."""
    contestants = [ours("exactly_once", workers) for workers in (1, 2, 4)]
    contestants += [kafka_streams(1), kafka_streams(2)]
    count = run.sizes.long_events
    races = await compare(run, "scaling", [(contestant, STATELESS) for contestant in contestants], count, 1)
    as_cores = min((1, 2, 4), key=lambda workers: abs(workers - (os.cpu_count() or 1)))
    mine = races.get("scaling.streamgauge" if as_cores == 1 else f"scaling.streamgauge-x{as_cores}", [])
    theirs = [race for threads in (1, 2) for race in races.get(f"scaling.kafka-streams-x{threads}", [])]
    if mine:
        title = f"streamgauge with as many workers as cores ({as_cores})"
        run.figures.add("scaling.best", [race.events_per_second for race in mine], "events/s", title)
    if theirs:
        best = max(race.events_per_second for race in theirs)
        run.figures.add("scaling.kafka-streams", best, "events/s", "Kafka Streams, its better one")
