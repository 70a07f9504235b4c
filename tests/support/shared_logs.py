"""Logs of partitions that share windows, and what the windows are by definition: one event at a time, from the logs.

Nothing here is the product's but the reader of the pipeline file: no tiles, boards, batches, topics or restarts.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from app.core.batches import RecordBatch
from app.core.features.plan import FeaturePlan
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline

START_MS = 1_600_000_000_000 // 3_600_000 * 3_600_000
MINUTE_MS = 60_000
NOW_MS = START_MS + 10**10
HORIZON_MINUTES = 180
_UNITS = 2**20
_NEVER = -(10**18)


@dataclass(frozen=True)
class Window:
    """A shared window; times in minutes."""

    of: str
    key: tuple[str, ...]
    size: int
    hop: int
    delay: int
    aggregate: str
    field: str | None = None
    is_divided: bool = False

    def toml(self, number: int) -> str:
        words = {"of": self.of, "key": list(self.key), "aggregate": self.aggregate}
        words |= {"size": f"{self.size}m", "hop": f"{self.hop}m", "delay": f"{self.delay}m"}
        if self.field is not None:
            words["field"] = self.field
        if self.is_divided:
            words["repartition"] = True
        said = ", ".join(f"{name} = {json.dumps(value)}" for name, value in words.items())
        kind = "int" if self.aggregate == "count" else "float"
        return f'[[features]]\nname = "w{number}"\ntype = "{kind}"\nwindow = {{ {said} }}\n'


_HEAD = """
name = "cards"
partitions = {partitions}

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
"""
_LABELS = f"""
[labels]
horizon = "{HORIZON_MINUTES}m"
"""


@dataclass(frozen=True)
class Setting:
    """A pipeline of nothing but shared windows, with as many columns as windows."""

    pipeline: Pipeline
    plan: FeaturePlan
    windows: tuple[Window, ...]

    @classmethod
    def of(cls, folder: Path, windows: Collection[Window], partitions: int, *, with_labels: bool) -> Setting:
        path = folder / "cards.toml"
        features = "\n".join(window.toml(number) for number, window in enumerate(windows))
        path.write_text(_HEAD.format(partitions=partitions) + (_LABELS if with_labels else "") + features)
        pipeline = load(path)
        return cls(pipeline, FeaturePlan.compile(pipeline, {}, {}), tuple(windows))


# -- logs ------------------------------------------------------------------------------------------------------------

Value = dict[str, Any] | None
#: Partition and offset of an event.
Place = tuple[int, int]


@dataclass
class Logs:
    """Events and labels of all partitions, as lists of values in offset order; None: a record that is rejected."""

    events: list[list[Value]] = field(default_factory=list)
    labels: list[list[Value]] = field(default_factory=list)

    @classmethod
    def empty(cls, partitions: int) -> Logs:
        return cls([[] for _ in range(partitions)], [[] for _ in range(partitions)])

    def of(self, kind: str, partition: int) -> list[Value]:
        found: list[Value] = getattr(self, kind)[partition]
        return found

    def batch(self, kind: str, partition: int, start: int, stop: int) -> RecordBatch:
        values = self.of(kind, partition)[start:stop]
        n = len(values)
        encoded = [b"rubbish" if value is None else json.dumps(value).encode() for value in values]
        offsets = np.arange(start, start + n, dtype=np.int64) * 2  # with gaps, as on a transactional topic
        return RecordBatch(f"cards.{kind}", partition, offsets, np.full(n, NOW_MS), [b"k"] * n, encoded)


def event(name: str, minute: int, shop: str | None, amount: float | None) -> dict[str, Any]:
    town = minute % 3 if minute % 7 else None
    at_ms = START_MS + minute * MINUTE_MS
    return {"id": name, "card": "c", "at": at_ms, "amount": amount, "shop": shop, "town": town}


def label(name: str, minute: int, value: int) -> dict[str, Any]:
    return {"event_id": name, "label": float(value), "label_time_ms": START_MS + minute * MINUTE_MS}


# -- the definition ----------------------------------------------------------------------------------------------------


def effective(times: list[int]) -> list[int]:
    """The running maximum."""
    return [max(times[: place + 1]) for place in range(len(times))]


@dataclass(frozen=True)
class _Counted:
    """What is added to windows: an event, or what came true of one."""

    time_ms: int
    of: dict[str, Any]
    values: dict[str, Any]
    place: Place


def _counted(logs: Logs) -> dict[str, list[_Counted]]:
    found: dict[str, list[_Counted]] = {"events": [], "labels": []}
    for partition in range(len(logs.events)):
        events = [(n * 2, value) for n, value in enumerate(logs.of("events", partition)) if value is not None]
        labels = [value for value in logs.of("labels", partition) if value is not None]
        event_times = effective([value["at"] for _, value in events])
        label_times = effective([value["label_time_ms"] for value in labels])
        for time_ms, (offset, value) in zip(event_times, events, strict=True):
            found["events"].append(_Counted(time_ms, value, value, (partition, offset)))
        # One by one: a label before the first event that is not older; it belongs to the newest event of its id, once.
        order = sorted(
            [(time, 1, place) for place, time in enumerate(event_times)]
            + [(time, 0, place) for place, time in enumerate(label_times)]
        )
        waiting: dict[str, tuple[int, dict[str, Any], Place]] = {}
        newest = _NEVER
        for time, is_event, number in order:
            if is_event:
                offset, value = events[number]
                waiting[value["id"]] = time, value, (partition, offset)
                newest = time
            else:
                met = waiting.pop(labels[number]["event_id"], None)
                if met is not None and met[0] >= newest - HORIZON_MINUTES * MINUTE_MS:
                    found["labels"].append(_Counted(time, met[1], labels[number], met[2]))
    return found


def naive(
    logs: Logs, windows: Collection[Window], without: Collection[Place] = frozenset()
) -> dict[Place, list[float]]:
    """The shared columns of each event; ``without``: events that were not there in time."""
    known = _counted(logs)
    rows: dict[Place, list[float]] = {}
    for partition in range(len(logs.events)):
        newest = _NEVER
        for number, value in enumerate(logs.of("events", partition)):
            if value is not None:
                newest = max(newest, value["at"])
                rows[partition, number * 2] = [_value(window, newest, value, known, without) for window in windows]
    return rows


def _value(
    window: Window,
    time_ms: int,
    event_of: dict[str, Any],
    known: dict[str, list[_Counted]],
    without: Collection[Place],
) -> float:
    key = [event_of[name] for name in window.key]
    if None in key:
        return float("nan")
    hop_ms, size_ms = window.hop * MINUTE_MS, window.size * MINUTE_MS
    end_ms = (time_ms - window.delay * MINUTE_MS) // hop_ms * hop_ms
    inside = [
        counted
        for counted in known[window.of]
        if [counted.of[name] for name in window.key] == key
        and end_ms - size_ms <= counted.time_ms < end_ms
        and counted.place not in without
        and (window.field is None or _field(counted, window.field) is not None)
    ]
    if window.aggregate == "count":
        return float(len(inside))
    if window.aggregate == "rate":
        return len(inside) / (size_ms // 1000)
    assert window.field is not None
    total = sum(round(_field(counted, window.field) * _UNITS) for counted in inside) / _UNITS
    if window.aggregate == "sum":
        return total
    return total / len(inside) if inside else float("nan")


def _field(counted: _Counted, name: str) -> Any:
    return counted.values[name] if name in counted.values else counted.of[name]


def bits(rows: dict[Place, list[float]]) -> dict[Place, bytes]:
    """Rows that compare equal when every bit is."""
    return {place: np.array(row).tobytes() for place, row in rows.items()}
