"""Windows shared between partitions: what an event sees follows from the logs alone, however they are read."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.batches import RecordBatch
from app.core.features import FeaturePlan
from app.core.shared_board import SharedBoard
from app.core.tiles import FIXED_POINT
from app.drive import PartitionRun, drive, drive_partitions, new_board, new_flow
from app.pipeline import PartitionPipeline, Step
from schemas.pipeline import Pipeline
from schemas.pipeline_file import load

PARTITIONS = 3
START_MS = 1_600_000_000_000 // 3_600_000 * 3_600_000
MINUTE_MS = 60_000
HORIZON_MS = 180 * MINUTE_MS
NOW_MS = START_MS + 10**10

SPECIFICATION = """
name = "cards"
partitions = 3

[model]
name = "fraud"

[events]
entity = "card"
id = "id"
time = "at"
earliest = 2020-01-01T00:00:00Z
latest = 2030-01-01T00:00:00Z

[events.fields]
id = "string"
card = "string"
at = "int"
amount = "float?"
shop = "string?"

[labels]
horizon = "3h"

[[features]]
name = "amount"
type = "float"
expression = "amount"

[[features]]
name = "card_1h"
type = "int"
window = { of = "events", key = ["card"], size = "1h", hop = "5m", aggregate = "count" }

[[features]]
name = "shop_1h"
type = "int"
window = { of = "events", key = ["shop"], size = "1h", hop = "10m", aggregate = "count", delay = "20m" }

[[features]]
name = "shop_sum_30m"
type = "float"
window = { of = "events", key = ["shop"], size = "30m", hop = "5m", aggregate = "sum", field = "amount", delay = "0s" }

[[features]]
name = "shop_mean_2h"
type = "float"
window = { of = "events", key = ["shop"], size = "2h", hop = "5m", aggregate = "mean", field = "amount", delay = "7m" }

[[features]]
name = "shop_fraud_2h"
type = "float"
window = { of = "labels", key = ["shop"], size = "2h", hop = "10m", aggregate = "mean", field = "label", delay = "5m" }
"""
#: Column, what, size, hop, delay (minutes), aggregate, field.
SHARED = (
    (2, "events", 60, 10, 20, "count", None),
    (3, "events", 30, 5, 0, "sum", "amount"),
    (4, "events", 120, 5, 7, "mean", "amount"),
    (5, "labels", 120, 10, 5, "mean", "label"),
)


@dataclass(frozen=True)
class Setting:
    pipeline: Pipeline
    plan: FeaturePlan


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    path = tmp_path_factory.mktemp("shared") / "cards.toml"
    path.write_text(SPECIFICATION)
    pipeline = load(path)
    return Setting(pipeline, FeaturePlan.compile(pipeline, {}, {}))


# -- logs ------------------------------------------------------------------------------------------------------------

Value = dict[str, Any] | None


@dataclass
class Logs:
    """Events and labels of all partitions, as lists of values in offset order; None: a record that is rejected."""

    events: list[list[Value]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    labels: list[list[Value]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])

    def batch(self, kind: str, partition: int, start: int, stop: int) -> RecordBatch:
        values = getattr(self, kind)[partition][start:stop]
        n = len(values)
        encoded = [b"rubbish" if value is None else json.dumps(value).encode() for value in values]
        offsets = np.arange(start, start + n, dtype=np.int64) * 2  # with gaps, as on a transactional topic
        return RecordBatch(f"cards.{kind}", partition, offsets, np.full(n, NOW_MS), [b"k"] * n, encoded)


def event(name: str, minute: int, shop: str | None, amount: float | None) -> dict[str, Any]:
    return {"id": name, "card": "c", "at": START_MS + minute * MINUTE_MS, "amount": amount, "shop": shop}


def label(name: str, minute: int, value: int) -> dict[str, Any]:
    return {"event_id": name, "label": float(value), "label_time_ms": START_MS + minute * MINUTE_MS}


MINUTES = st.integers(0, 300)
NUMBERS = st.integers(0, 5)
SHOPS = st.sampled_from([None, "a", "b"])
AMOUNTS = st.none() | st.integers(-8, 8).map(lambda eighths: eighths / 8)
EVENTS = st.lists(
    st.none() | st.builds(lambda n, *rest: event(f"e{n}", *rest), NUMBERS, MINUTES, SHOPS, AMOUNTS), max_size=12
)
LABELS = st.lists(
    st.none() | st.builds(lambda n, minute, value: label(f"e{n}", minute, value), NUMBERS, MINUTES, st.integers(0, 1)),
    max_size=8,
)
LOGS = st.builds(
    Logs,
    events=st.lists(EVENTS, min_size=PARTITIONS, max_size=PARTITIONS),
    labels=st.lists(LABELS, min_size=PARTITIONS, max_size=PARTITIONS),
)


# -- the naive definition ----------------------------------------------------------------------------------------------


def effective(times: list[int]) -> list[int]:
    return [max(times[: place + 1]) for place in range(len(times))]


def contributions(logs: Logs) -> dict[str, list[tuple[int, str, float | None]]]:
    """Effective time, shop and value of everything that counts, by "events" and "labels"."""
    found: dict[str, list[tuple[int, str, Any]]] = {"events": [], "labels": []}
    for partition in range(PARTITIONS):
        events = [value for value in logs.events[partition] if value is not None]
        labels = [value for value in logs.labels[partition] if value is not None]
        event_times = effective([value["at"] for value in events])
        label_times = effective([value["label_time_ms"] for value in labels])
        found["events"] += [
            (time, value["shop"], value) for time, value in zip(event_times, events, strict=True) if value["shop"]
        ]
        # One by one: a label before the first event that is not older; it belongs to the newest event of its id, once.
        order = sorted(
            [(time, 1, place) for place, time in enumerate(event_times)]
            + [(time, 0, place) for place, time in enumerate(label_times)]
        )
        waiting: dict[str, tuple[int, dict[str, Any]]] = {}
        newest = -(10**18)
        for time, is_event, place in order:
            if is_event:
                waiting[events[place]["id"]] = (time, events[place])
                newest = time
            else:
                met = waiting.pop(labels[place]["event_id"], None)
                if met is not None and met[0] >= newest - HORIZON_MS and met[1]["shop"]:
                    found["labels"].append((time, met[1]["shop"], labels[place]))
    return found


def naive(logs: Logs) -> dict[tuple[int, int], list[float]]:
    """The shared columns of each event by partition and offset."""
    known = contributions(logs)
    rows: dict[tuple[int, int], list[float]] = {}
    for partition in range(PARTITIONS):
        newest = -(10**18)
        for place, value in enumerate(logs.events[partition]):
            if value is None:
                continue
            newest = max(newest, value["at"])
            row = []
            for _, of, size, hop, delay, aggregate, name in SHARED:
                hop_ms = hop * MINUTE_MS
                end = (newest - delay * MINUTE_MS) // hop_ms * hop_ms
                inside = [
                    found
                    for time, shop, found in known[of]
                    if shop == value["shop"] and end - size * MINUTE_MS <= time < end
                    if name is None or found[name] is not None
                ]
                fixed = [round(found[name] * FIXED_POINT) for found in inside] if name else []
                row.append(
                    float("nan")
                    if value["shop"] is None
                    else float(len(inside))
                    if aggregate == "count"
                    else sum(fixed) / FIXED_POINT
                    if aggregate == "sum"
                    else sum(fixed) / FIXED_POINT / len(inside)
                    if inside
                    else float("nan")
                )
            rows[partition, place * 2] = row
    return rows


def collect(steps: Iterator[Step]) -> dict[tuple[int, int], list[float]]:
    rows = {}
    for step in steps:
        for offset, row in zip(step.events.offsets.tolist(), step.matrix, strict=True):
            assert (step.partition, offset) not in rows
            rows[step.partition, offset] = row[[column for column, *_ in SHARED]].tolist()
    return rows


def bits(rows: dict[tuple[int, int], list[float]]) -> dict[tuple[int, int], bytes]:
    return {place: np.array(row).tobytes() for place, row in rows.items()}


# -- replays -----------------------------------------------------------------------------------------------------------


def cut(logs: Logs, kind: str, partition: int, sizes: list[int]) -> Iterator[RecordBatch]:
    start, turn = 0, 0
    while start < len(getattr(logs, kind)[partition]):
        stop = start + sizes[turn % len(sizes)]
        yield logs.batch(kind, partition, start, stop)
        start, turn = stop, turn + 1


def replay(setting: Setting, logs: Logs, sizes: list[int]) -> dict[tuple[int, int], list[float]]:
    board = new_board(setting.plan, range(PARTITIONS))
    runs = [
        PartitionRun(
            new_flow(setting.pipeline, setting.plan, partition, None, board=board),
            None,
            cut(logs, "events", partition, sizes),
            cut(logs, "labels", partition, sizes),
        )
        for partition in range(PARTITIONS)
    ]
    return collect(drive_partitions(runs, board, NOW_MS))


SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=4)
LAW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)


@LAW
@given(logs=LOGS, sizes=SIZES)
def test_a_replay_gives_what_the_definition_says(setting: Setting, logs: Logs, sizes: list[int]) -> None:
    assert bits(replay(setting, logs, sizes)) == bits(naive(logs))


@LAW
@given(logs=LOGS, sizes=SIZES, choices=st.lists(st.integers(0, 2 * PARTITIONS - 1), max_size=40))
def test_batches_may_come_in_any_order(setting: Setting, logs: Logs, sizes: list[int], choices: list[int]) -> None:
    feeds = [cut(logs, kind, partition, sizes) for kind in ("labels", "events") for partition in range(PARTITIONS)]
    batches = [batch for choice in choices if (batch := next(feeds[choice], None)) is not None]
    batches += [batch for feed in feeds for batch in feed]
    steps = drive(setting.pipeline, setting.plan, batches, lambda _: None, NOW_MS)
    assert bits(collect(steps)) == bits(naive(logs))


# -- workers -----------------------------------------------------------------------------------------------------------


class Cluster:
    """Workers without Kafka: each has a board of its own and hears of the others by a log of committed records.

    Producers write in the order of time (up to ``delay``); a partition without new records is silent.
    """

    def __init__(self, setting: Setting, logs: Logs, owners: list[int]) -> None:
        self.setting = setting
        self.logs = logs
        self.owners = owners  # partition -> worker
        self.topic: list[list[tuple[bytes, bytes | None]]] = [[] for _ in range(PARTITIONS)]
        self.state: list[dict[bytes, bytes | None]] = [{} for _ in range(PARTITIONS)]
        self.offsets = [(0, 0)] * PARTITIONS
        self.read = [(0, 0)] * PARTITIONS
        self.rows: dict[tuple[int, int], list[float]] = {}
        self.uncommitted: list[dict[tuple[int, int], list[float]]] = [{} for _ in range(PARTITIONS)]
        self.boards: dict[int, SharedBoard] = {}
        self.flows: dict[int, PartitionPipeline] = {}
        self.heard: dict[tuple[int, int], int] = defaultdict(int)
        for worker in set(owners):
            self.start(worker)

    def start(self, worker: int) -> None:
        """Take over: a fresh board with all that is committed, then the state of the own partitions."""
        board = self.boards[worker] = SharedBoard(self.setting.plan.shared, range(PARTITIONS))
        for partition in range(PARTITIONS):
            for record in self.topic[partition]:
                board.hear(partition, *record)
            self.heard[worker, partition] = len(self.topic[partition])
        for partition in self.of(worker):
            flow = PartitionPipeline(
                self.setting.pipeline, self.setting.plan, partition, with_scores=False, board=board
            )
            flow.restore(list(self.state[partition].items()))
            self.flows[partition] = flow
            self.read[partition] = self.offsets[partition]
            self.uncommitted[partition] = {}

    def crash(self, worker: int, new_owner: int) -> None:
        """A worker dies; another, which starts anew as well, has its partitions."""
        self.owners = [new_owner if owner == worker else owner for owner in self.owners]
        self.boards.pop(worker)
        self.start(new_owner)

    def of(self, worker: int) -> list[int]:
        return [partition for partition, owner in enumerate(self.owners) if owner == worker]

    def receive(self, kind: str, partition: int, count: int) -> None:
        events, labels = self.read[partition]
        start = events if kind == "events" else labels
        batch = self.logs.batch(kind, partition, start, start + count)
        if not len(batch):
            return
        stop = start + len(batch)
        flow = self.flows[partition]
        if kind == "events":
            flow.receive_events(batch)
            self.read[partition] = stop, labels
        else:
            flow.receive_labels(batch, NOW_MS)
            self.read[partition] = events, stop

    def step(self, partition: int, most: int) -> None:
        step = self.flows[partition].step(None, most, NOW_MS)
        if step is not None:
            self.uncommitted[partition].update(collect(iter([step])))

    def commit(self, partition: int) -> None:
        flow = self.flows[partition]
        self.state[partition].update(flow.drain_state())
        self.topic[partition] += flow.drain_shared()
        position = flow.position()
        self.offsets[partition] = tuple(  # type: ignore[assignment]  # two of them
            old if at is None else (at + 1) // 2
            for old, at in zip(self.offsets[partition], (position.events, position.labels), strict=True)
        )
        assert not self.rows.keys() & self.uncommitted[partition].keys()
        self.rows.update(self.uncommitted[partition])
        self.uncommitted[partition] = {}

    def hear(self, worker: int) -> None:
        for partition in range(PARTITIONS):
            if partition not in self.of(worker):
                for record in self.topic[partition][self.heard[worker, partition] :]:
                    self.boards[worker].hear(partition, *record)
                self.heard[worker, partition] = len(self.topic[partition])

    def finish(self) -> None:
        """Read all there is, then let every partition be silent, until nothing moves any more."""
        for partition in range(PARTITIONS):
            for kind in ("labels", "events"):
                self.receive(kind, partition, 10**6)
            flow = self.flows[partition]
            flow.merge.release(flow.merge.events_received)
        done = None
        while done != (done := (len(self.rows), [len(log) for log in self.topic])):
            for partition in range(PARTITIONS):
                for _ in range(50):
                    self.step(partition, 3)
                until_ms = self.flows[partition].shared.others_ms  # type: ignore[union-attr]  # it has
                if until_ms is not None:
                    self.flows[partition].come_to(until_ms)
                self.commit(partition)
            for worker in set(self.owners):
                self.hear(worker)


def busy_logs(generator: np.random.Generator) -> Logs:
    """Some hours of a busy stream: mostly in order, most events labelled, some ids used again."""
    logs = Logs()
    for partition in range(PARTITIONS):
        minute, labels = 0, []
        for number in range(int(generator.integers(0, 30)) if partition else 40):
            minute += int(generator.integers(0, 15))
            name = f"e{int(generator.integers(0, number + 1)) if generator.random() < 0.1 else number}"
            shop, amount = [None, "a", "a", "b"][int(generator.integers(4))], float(generator.integers(-8, 8)) / 8
            at = max(0, minute - int(generator.integers(0, 20)) * int(generator.random() < 0.2))
            logs.events[partition].append(event(name, at, shop, amount) if generator.random() < 0.95 else None)
            if generator.random() < 0.8:
                labels.append((at + int(generator.integers(1, 250)), name, int(generator.random() < 0.5)))
        labels.sort(key=lambda row: row[0] + 10 * generator.random())
        logs.labels[partition] = [label(name, minute, value) for minute, name, value in labels]
    return logs


def act(cluster: Cluster, generator: np.random.Generator, *, may_crash: bool) -> None:
    """One random thing that happens in a cluster."""
    partition = int(generator.integers(PARTITIONS))
    worker = cluster.owners[partition]
    match int(generator.integers(9)):
        case 0 | 1:
            cluster.receive("events", partition, int(generator.integers(1, 7)))
        case 2 | 3:
            cluster.receive("labels", partition, int(generator.integers(1, 9)))
        case 4 | 5:
            cluster.step(partition, int(generator.integers(1, 6)))
        case 6:
            cluster.commit(partition)
        case 7:
            cluster.hear(worker)
        case _ if may_crash and generator.random() < 0.3:
            cluster.crash(worker, int(generator.choice(cluster.owners)))


@LAW
@given(seed=st.integers(0, 2**32 - 1))
def test_any_number_of_workers_that_die_at_any_point_give_what_the_definition_says(setting: Setting, seed: int) -> None:
    generator = np.random.default_rng(seed)
    cluster = Cluster(setting, busy_logs(generator), generator.integers(0, 3, size=PARTITIONS).tolist())
    for _ in range(150):
        act(cluster, generator, may_crash=True)
    cluster.finish()
    assert bits(cluster.rows) == bits(naive(cluster.logs))


@LAW
@given(seed=st.integers(0, 2**32 - 1), sizes=SIZES)
def test_a_busy_replay_gives_what_the_definition_says(setting: Setting, seed: int, sizes: list[int]) -> None:
    logs = busy_logs(np.random.default_rng(seed))
    found = replay(setting, logs, sizes)
    assert bits(found) == bits(naive(logs))
    assert any(value > 0 for row in found.values() for value in row)
