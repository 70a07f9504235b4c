"""Logs of partitions that share windows, the naive definition of what they give, and workers without Kafka.

Over 300 lines: the logs, what they mean and who reads them are one model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from shared_logs import MINUTE_MS, NOW_MS, Logs, effective, event, label

from app.adapters.sources.python_features import load_functions
from app.core.batches import RecordBatch
from app.core.features.plan import FeaturePlan
from app.core.shared.answerer import Answerer
from app.core.shared.board import SharedBoard
from app.core.tiles.measures import FEATURE_UNITS
from app.flow.step import FlowOutput, Step
from app.pipeline import PartitionPipeline
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline

PARTITIONS = 3
HORIZON_MS = 180 * MINUTE_MS

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
town = "int?"

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
window = { of = "events", key = ["shop"], size = "1h", hop = "10m", aggregate = "count", delay = "20m"%s}

[[features]]
name = "shop_sum_30m"
type = "float"
window = { of = "events", key = ["shop"], size = "30m", hop = "5m", aggregate = "sum", field = "amount", delay = "0s"%s}

[[features]]
name = "shop_mean_2h"
type = "float"
window = { of = "events", key = ["shop"], size = "2h", hop = "5m", aggregate = "mean", field = "amount", delay = "7m"%s}

[[features]]
name = "shop_fraud_2h"
type = "float"
window = { of = "labels", key = ["shop"], size = "2h", hop = "10m", aggregate = "mean", field = "label", delay = "5m"%s}

[[features]]
name = "town_rate_90m"
type = "float"
window = { of = "events", key = ["shop", "town"], size = "90m", hop = "15m", aggregate = "rate", delay = "15m"%s}
"""
#: Column, what, key, size, hop, delay (minutes), aggregate, field.
SHARED = (
    (2, "events", ("shop",), 60, 10, 20, "count", None),
    (3, "events", ("shop",), 30, 5, 0, "sum", "amount"),
    (4, "events", ("shop",), 120, 5, 7, "mean", "amount"),
    (5, "labels", ("shop",), 120, 10, 5, "mean", "label"),
    (6, "events", ("shop", "town"), 90, 15, 15, "rate", None),
)


@dataclass(frozen=True)
class Setting:
    pipeline: Pipeline
    plan: FeaturePlan

    @classmethod
    def read(cls, folder: Path, repartitioned: str) -> Setting:
        """With "y" for each shared window that is repartitioned, and "n" for each other."""
        return cls.write(folder / "cards.toml", specification(repartitioned))

    @classmethod
    def write(cls, path: Path, text: str) -> Setting:
        path.write_text(text)
        pipeline = load(path)
        return cls(pipeline, FeaturePlan.compile(pipeline, {}, load_functions(pipeline)))


def specification(repartitioned: str) -> str:
    return SPECIFICATION % tuple(", repartition = true" if flag == "y" else "" for flag in repartitioned)


# -- the naive definition ----------------------------------------------------------------------------------------------


def contributions(logs: Logs) -> dict[str, list[tuple[int, Any, Any]]]:
    """Effective time, event and value of everything that counts, by "events" and "labels"."""
    found: dict[str, list[tuple[int, Any, Any]]] = {"events": [], "labels": []}
    for partition in range(PARTITIONS):
        events = [value for value in logs.events[partition] if value is not None]
        labels = [value for value in logs.labels[partition] if value is not None]
        event_times = effective([value["at"] for value in events])
        label_times = effective([value["label_time_ms"] for value in labels])
        found["events"] += zip(event_times, events, events, strict=True)
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
                if met is not None and met[0] >= newest - HORIZON_MS:
                    found["labels"].append((time, met[1], labels[place]))
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
            for _, of, key, size, hop, delay, aggregate, name in SHARED:
                hop_ms = hop * MINUTE_MS
                end = (newest - delay * MINUTE_MS) // hop_ms * hop_ms
                inside = [
                    found
                    for time, whose, found in known[of]
                    if [whose[f] for f in key] == [value[f] for f in key] and end - size * MINUTE_MS <= time < end
                    if name is None or found[name] is not None
                ]
                fixed = [round(found[name] * FEATURE_UNITS) for found in inside] if name else []
                row.append(
                    float("nan")
                    if None in [value[f] for f in key]
                    else float(len(inside))
                    if aggregate == "count"
                    else len(inside) / (size * 60)
                    if aggregate == "rate"
                    else sum(fixed) / FEATURE_UNITS
                    if aggregate == "sum"
                    else sum(fixed) / FEATURE_UNITS / len(inside)
                    if inside
                    else float("nan")
                )
            rows[partition, place * 2] = row
    return rows


#: Columns of the matrix that hold what is shared.
SHARED_COLUMNS = [column for column, *_ in SHARED]


def collect(steps: Iterator[Step], columns: list[int] | slice | None = None) -> dict[tuple[int, int], list[float]]:
    """Some columns by partition and offset; those that hold what is shared when none are named."""
    rows = {}
    wanted = SHARED_COLUMNS if columns is None else columns
    for step in steps:
        for offset, row in zip(step.events.offsets.tolist(), step.matrix, strict=True):
            assert (step.partition, offset) not in rows
            rows[step.partition, offset] = row[wanted].tolist()
    return rows


def bits(rows: dict[tuple[int, int], list[float]]) -> dict[tuple[int, int], bytes]:
    return {place: np.array(row).tobytes() for place, row in rows.items()}


# -- how logs are read ----------------------------------------------------------------------------------------------


def cut(logs: Logs, kind: str, partition: int, sizes: list[int]) -> Iterator[RecordBatch]:
    start, turn = 0, 0
    while start < len(logs.of(kind, partition)):
        stop = start + sizes[turn % len(sizes)]
        yield logs.batch(kind, partition, start, stop)
        start, turn = stop, turn + 1


# -- workers -----------------------------------------------------------------------------------------------------------


class Cluster:
    """Workers without Kafka: each has a board of its own and hears of the others by a log of committed records.

    Producers write in the order of time (up to ``delay``); a partition without new records is silent. Whoever owns an
    input partition answers for the repartition of that number.
    """

    def __init__(
        self, setting: Setting, logs: Logs, owners: list[int], columns: list[int] | slice | None = None
    ) -> None:
        self.setting = setting
        self.columns = columns
        self.logs = logs
        self.owners = owners  # partition -> worker
        self.topic: list[list[tuple[bytes, bytes | None]]] = [[] for _ in range(PARTITIONS)]
        self.state: list[dict[bytes, bytes | None]] = [{} for _ in range(PARTITIONS)]
        self.offsets = [(0, 0)] * PARTITIONS
        self.read = [(0, 0)] * PARTITIONS
        #: Rows that did not wait for other partitions, when they were scored last.
        self.stale: set[tuple[int, int]] = set()
        self.rows: dict[tuple[int, int], list[float]] = {}
        self.uncommitted: list[dict[tuple[int, int], list[float]]] = [{} for _ in range(PARTITIONS)]
        self.boards: dict[int, SharedBoard] = {}
        self.flows: dict[int, PartitionPipeline] = {}
        self.heard: dict[tuple[int, int], int] = defaultdict(int)
        #: Per partition of the two topics: place of the first record that is left, and the records.
        self.asked: list[tuple[int, list[bytes]]] = [(0, []) for _ in range(PARTITIONS)]
        self.answers: list[tuple[int, list[bytes]]] = [(0, []) for _ in range(PARTITIONS)]
        self.answerers: dict[int, Answerer] = {}
        self.places: dict[tuple[str, int], int] = {}
        self.terms = 0
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
            self.terms += 1
            flow = PartitionPipeline(
                self.setting.pipeline,
                self.setting.plan,
                partition,
                outputs=FlowOutput.STATE,
                board=board,
                term_ms=self.terms,
            )
            flow.restore(list(self.state[partition].items()))
            self.flows[partition] = flow
            self.begin_answering(partition)
            if flow.shared is not None and flow.shared.repartition is not None:
                self.places["answers", partition] = flow.shared.repartition.answers.position(0)
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
            rows = collect(iter([step]), self.columns)
            self.uncommitted[partition].update(rows)
            self.stale = self.stale | rows.keys() if step.is_stale else self.stale - rows.keys()

    def commit(self, partition: int) -> None:
        flow = self.flows[partition]
        self.state[partition].update(flow.drain_state())
        self.topic[partition] += flow.drain_shared()
        for to, record in flow.drain_repartition():
            self.asked[to][1].append(record)
        flow.state_committed(0, NOW_MS)
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

    def begin_answering(self, partition: int) -> None:
        """A new owner of a repartition: it hears what is left of the topic, and then begins to answer."""
        plan, feature_set = self.setting.plan.shared.repartitioned(), self.setting.pipeline.feature_set
        if not plan:
            return
        answerer = Answerer(plan, feature_set, range(PARTITIONS), group=2)
        self.answerers[partition] = answerer
        self.places["asked", partition] = self.asked[partition][0]
        self.hear_questions(partition, 10**6)

    def hear_questions(self, partition: int, count: int) -> None:
        if partition not in self.answerers:
            return
        first, records = self.asked[partition]
        answerer, place = self.answerers[partition], self.places["asked", partition]
        for record in records[place - first : place - first + count]:
            answerer.hear(place, record)
            place += 1
        self.places["asked", partition] = place
        if answerer.is_outdated:
            self.answerers[partition] = answerer.begin_anew()
            self.places["asked", partition] = first
            self.hear_questions(partition, place - first)

    def answer(self, partition: int, *, again: int = 0) -> None:
        """Send what can be answered; ``again``: some records of the topic are heard once more before."""
        if partition not in self.answerers:
            return
        first, records = self.asked[partition]
        place = self.places["asked", partition]
        for old in range(max(first, place - again), place):
            self.answerers[partition].hear(old, records[old - first])
        for to, record in self.answerers[partition].answer():
            self.answers[to][1].append(record)

    def hear_answers(self, partition: int, count: int) -> None:
        shared = self.flows[partition].shared
        if shared is None or shared.repartition is None:
            return
        first, records = self.answers[partition]
        place = self.places["answers", partition]
        for record in records[place - first : place - first + count]:
            shared.repartition.hear(place, record)
            place += 1
        self.places["answers", partition] = place

    def delete(self, partition: int) -> None:
        """The owner of a partition deletes what nobody needs any more."""
        if partition not in self.answerers:
            return
        self.asked[partition] = _without(self.asked[partition], self.answerers[partition].needed_place())
        shared = self.flows[partition].shared
        if shared is not None and shared.repartition is not None:
            scored = self.answerers[partition].next_offset(partition)
            self.answers[partition] = _without(self.answers[partition], shared.repartition.answers.position(scored))

    def finish(self) -> None:
        """Read all there is, then let every partition be silent, until nothing moves any more."""
        for partition in range(PARTITIONS):
            for kind in ("labels", "events"):
                self.receive(kind, partition, 10**6)
            flow = self.flows[partition]
            flow.merge.let_go(flow.merge.events_received)
        done = None
        while done != (done := self._size()):
            for partition in range(PARTITIONS):
                self.hear_questions(partition, 10**6)
                self.answer(partition)
            for partition in range(PARTITIONS):
                self.hear_answers(partition, 10**6)
                for _ in range(50):
                    self.step(partition, 3)
                until_ms = self.flows[partition].shared.others_ms  # type: ignore[union-attr]  # it has
                if until_ms is not None:
                    self.flows[partition].come_to(until_ms)
                self.commit(partition)
            for worker in set(self.owners):
                self.hear(worker)

    def _size(self) -> tuple[int, ...]:
        logs = [*self.topic, *(log for _, log in self.asked), *(log for _, log in self.answers)]
        return len(self.rows), *map(len, logs)


def _without(log: tuple[int, list[bytes]], needed: int | None) -> tuple[int, list[bytes]]:
    first, records = log
    return (first, records) if needed is None else (max(first, needed), records[max(0, needed - first) :])


def busy_logs(generator: np.random.Generator) -> Logs:
    """Some hours of a busy stream: mostly in order, most events labelled, some ids used again."""
    logs = Logs.empty(PARTITIONS)
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
    match int(generator.integers(14)):
        case 0 | 1:
            cluster.receive("events", partition, int(generator.integers(1, 7)))
        case 2 | 3:
            cluster.receive("labels", partition, int(generator.integers(1, 9)))
        case 4 | 5:
            cluster.step(partition, int(generator.integers(1, 6)))
        case 6:
            cluster.commit(partition)
        case 7:
            cluster.hear(cluster.owners[partition])
        case 8 | 9:
            cluster.hear_questions(partition, int(generator.integers(1, 5)))
        case 10 | 11:
            cluster.answer(partition, again=int(generator.integers(3)))
            cluster.hear_answers(partition, int(generator.integers(5)))
        case _ if may_crash:
            upset(cluster, generator, partition)


def upset(cluster: Cluster, generator: np.random.Generator, partition: int) -> None:
    """Something that should make no difference."""
    match int(generator.integers(6)):
        case 0:
            cluster.crash(cluster.owners[partition], int(generator.choice(cluster.owners)))
        case 1 | 2:
            cluster.begin_answering(partition)
        case _:
            cluster.delete(partition)
