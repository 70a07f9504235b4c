"""What windows cost: bytes per entity, restore, and time per event; in memory and on disk. Prints figures as JSON.

::

    python scripts/bench/state.py --json          # a list of {name, value, unit}
    python scripts/bench/state.py --entities 200000

Each part runs in a process of its own, so that one's memory is not another's. Times are of the CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from app.adapters.rocks_rows import RocksRows
from app.core.batches import EventBatch, LabelRows
from app.core.features.windows import FeatureState, WindowPlan
from app.core.tiles.row_cache import RowCache, Snapshot
from schemas.pipeline.spec import WindowSpec

MINUTE_MS = 60_000
DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
BATCH = 5_000
PARTS = ("memory-1h", "memory-7d", "disk-1h", "speed")


@dataclass(frozen=True)
class Load:
    """Three windows of one store, and when the events of an entity happen."""

    hop_ms: int
    sizes: tuple[int, int, int]
    events_per_entity: int

    @property
    def windows(self) -> WindowPlan:
        """Count, sum and mean over the three sizes."""
        of = zip(self.sizes, ("count", "sum", "mean"), (None, "amount", "amount"), strict=True)
        windows = [WindowSpec("events", ("card",), size * self.hop_ms, self.hop_ms, a, f) for size, a, f in of]  # type: ignore[arg-type]  # the names are aggregates
        return WindowPlan.of(windows, retain_ms=2 * DAY_MS)


LOADS = {"1h": Load(MINUTE_MS, (1, 10, 60), 3), "7d": Load(60 * MINUTE_MS, (1, 24, 168), 3)}


def rss_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def batches(load: Load, entities: int, rng: np.random.Generator) -> Any:
    """Each entity has its events in different tiles; the entities of a batch follow one another, as strings do."""
    for turn in range(load.events_per_entity):
        for first in range(0, entities, BATCH):
            cards = np.array([f"card-{n:09d}" for n in range(first, min(first + BATCH, entities))], dtype=object)
            times = START_MS + turn * 2 * load.hop_ms + rng.integers(0, 2 * load.hop_ms, len(cards))
            yield batch_of(cards, times, rng)


def batch_of(cards: Any, times: Any, rng: np.random.Generator) -> EventBatch:
    n = len(cards)
    columns = {"card": cards, "amount": rng.normal(50, 20, n)}
    return EventBatch(np.arange(n), times.astype(np.int64), [], [""] * n, columns)


def apply(state: FeatureState, events: EventBatch) -> None:
    none = np.zeros(0, dtype=np.int64)
    outcomes = LabelRows(none, none, {"card": np.zeros(0, dtype=object), "amount": np.zeros(0)})
    state.apply(np.full((len(events.offsets), 3), np.nan), sized(events), outcomes)


def sized(events: EventBatch) -> EventBatch:
    """`EventBatch` counts its entities; these are not kept in the measurement."""
    events.entity = events.columns["card"].tolist()
    return events


def measure_memory(name: str, entities: int) -> list[dict[str, Any]]:
    load = LOADS[name]
    plan = load.windows
    before = rss_bytes()
    state = FeatureState(plan)
    log: list[tuple[bytes, bytes | None]] = []
    rng = np.random.default_rng(1)
    for events in batches(load, entities, rng):
        apply(state, events)
        state.drain_changes()
    per_rss, per_array = (rss_bytes() - before) / entities, state.state_bytes / entities
    figures = [
        figure(f"state.memory.{name}.rss", per_rss, "bytes/entity"),
        figure(f"state.memory.{name}.arrays", per_array, "bytes/entity"),
        figure(f"state.memory.{name}.total", per_rss * entities / 1e9, "GB"),
        figure(f"state.memory.{name}.entities", entities, "entities"),
    ]
    if name == "1h":
        for events in batches(load, 300_000, np.random.default_rng(1)):
            state = state if log else FeatureState(plan)
            apply(state, events)
            log.extend(state.drain_changes())
        compacted = list(dict(log).items())
        again = FeatureState(plan)
        started = time.process_time()
        for at in range(0, len(compacted), 50_000):
            again.restore(compacted[at : at + 50_000])
        again.finish_restore()
        seconds = time.process_time() - started
        figures.append(figure("state.restore.records", len(compacted) / seconds, "keys/s"))
        figures.append(figure("state.restore.entities", again.keys / seconds, "entities/s"))
    return figures


def measure_disk(name: str, entities: int) -> list[dict[str, Any]]:
    load = replace(LOADS[name], events_per_entity=2)
    with tempfile.TemporaryDirectory() as folder:
        before = rss_bytes()
        disk = RocksRows.open_free(Path(folder), "0")
        cache = RowCache(disk, 50_000)
        state = FeatureState(load.windows, cache=cache)
        started, events_seen, position = time.process_time(), 0, 0
        for events in batches(load, entities, np.random.default_rng(1)):
            apply(state, events)
            position += len(state.drain_changes())
            cache.seal()
            cache.commit()
            if cache.wants_write:
                cache.write(Snapshot("bench", 0, position, 0))
            events_seen += len(events.offsets)
        each_us = (time.process_time() - started) / events_seen * 1e6
        used = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        figures = [
            figure(f"state.disk.{name}.rss", (rss_bytes() - before) / 1e6, "MB"),
            figure(f"state.disk.{name}.files", used / entities, "bytes/entity"),
            figure(f"state.disk.{name}.event", each_us, "us/event"),
            figure(f"state.disk.{name}.entities", entities, "entities"),
        ]
        disk.close()
    return figures


def measure_speed(entities: int) -> list[dict[str, Any]]:
    """Batches of 5 000 events over 5 000 entities, a tenth of them up to two seconds late."""
    del entities
    state = FeatureState(LOADS["1h"].windows)
    rng = np.random.default_rng(2)
    names = np.array([f"card-{n:09d}" for n in range(BATCH)], dtype=object)
    apply_s = drain_s = records = 0.0
    turns = 120
    for turn in range(turns):
        late_ms = rng.integers(0, 2_000, BATCH) * (rng.random(BATCH) < 0.1)
        events = batch_of(
            names[rng.integers(0, BATCH, BATCH)], START_MS + (turn * BATCH + np.arange(BATCH)) * 10 - late_ms, rng
        )
        first = time.process_time()
        apply(state, events)
        second = time.process_time()
        changes = state.drain_changes()
        third = time.process_time()
        if turn >= turns // 2:  # the first half fills the windows
            apply_s, drain_s, records = apply_s + second - first, drain_s + third - second, records + len(changes)
    events_timed = turns // 2 * BATCH
    return [
        figure("state.apply", apply_s / events_timed * 1e6, "us/event"),
        figure("state.changelog", drain_s / events_timed * 1e6, "us/event"),
        figure("state.changelog.records", records / events_timed, "records/event"),
    ]


def figure(name: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "value": round(float(value), 3), "unit": unit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    parser.add_argument("--entities", type=int, default=1_000_000)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        kind, _, name = arguments.part.partition("-")
        run = {"memory": measure_memory, "disk": measure_disk}.get(kind)
        print(json.dumps(run(name, arguments.entities) if run else measure_speed(arguments.entities)))
        return
    figures: list[dict[str, Any]] = []
    for part in PARTS:
        command = [sys.executable, __file__, "--part", part, "--entities", str(arguments.entities)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # ourselves
        if done.returncode:
            sys.exit(f"{part} failed:\n{done.stderr}")
        figures += json.loads(done.stdout)
    if arguments.json:
        print(json.dumps(figures))
        return
    for found in figures:
        print(f"{found['name']:32} {found['value']:>14,.3f} {found['unit']}")


if __name__ == "__main__":
    main()
