"""What the flow of one partition must give, recomputed from its two logs in plain Python, one record at a time.

No arrays, batches, queues, changelogs or restarts: definitions only. `Given` says what a log alone cannot: an event
that was let go before a label of its past had arrived has not seen that label.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.core.scoring import ActiveModel
from schemas.pipeline.spec import Pipeline, WindowSpec

_UNITS = 2**20
_DAY_MS = 86_400_000
_NEVER = -math.inf


@dataclass(frozen=True)
class Given:
    """A good record: its offset, its fields, and (for a label) after which and before which event it can be applied.

    An event id of "" marks a watermark record.
    """

    offset: int
    fields: dict[str, Any]
    not_before: int = 0
    not_after: float = math.inf


@dataclass
class Expected:
    """What must come out. ``counted``: per version and slice, rows of features and scores, and of scores and labels."""

    features: dict[int, list[float]] = field(default_factory=dict)
    scores: dict[int, tuple[str, float]] = field(default_factory=dict)
    unscored: list[int] = field(default_factory=list)
    joined: list[tuple[str, float, int]] = field(default_factory=list)
    waiting: dict[str, tuple[int, str]] = field(default_factory=dict)
    counted: dict[tuple[str, int], tuple[list[tuple[list[float], float]], list[tuple[float, float]]]] = field(
        default_factory=lambda: defaultdict(lambda: ([], []))
    )


@dataclass
class _Tiles:
    """The updates of all keys of one kind of window: key -> (tile, units) in their order."""

    ring: int
    retain: int
    clock: float = _NEVER
    updates: dict[Any, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def newest(self, key: Any) -> float:
        return max((tile for tile, _ in self.updates[key]), default=_NEVER)

    def read(self, key: Any, tile: int, size: int) -> tuple[int, int]:
        self.clock = max(self.clock, tile)
        oldest = max(self.newest(key) - self.ring, self.clock - self.retain)
        seen = [units for at, units in self.updates[key] if tile - size < at <= tile and at > oldest]
        return len(seen), sum(seen)

    def update(self, key: Any, tile: int, units: int) -> None:
        self.clock = max(self.clock, tile)
        if tile > max(self.newest(key) - self.ring, self.clock - self.retain):
            self.updates[key].append((tile, units))


class _Windows:
    def __init__(self, pipeline: Pipeline) -> None:
        self._features = [(column, f.window) for column, f in enumerate(pipeline.features) if f.window is not None]
        self._tiles: dict[Any, _Tiles] = {}
        for kind in {self._kind(window) for _, window in self._features}:
            ring = max(w.size_ms // w.hop_ms for _, w in self._features if self._kind(w) == kind)
            retain = ring + math.ceil((pipeline.events.max_ahead_ms + _DAY_MS) / kind[2])
            self._tiles[kind] = _Tiles(ring, retain)

    @staticmethod
    def _kind(window: WindowSpec) -> Any:
        return window.of, window.key, window.hop_ms, window.field

    def read(self, fields: dict[str, Any], row: list[float]) -> None:
        for column, window in self._features:
            key = tuple(fields.get(name) for name in window.key)
            tile = fields["at"] // window.hop_ms
            count, total = self._tiles[self._kind(window)].read(key, tile, window.size_ms // window.hop_ms)
            value = float(count) if window.aggregate == "count" else total / _UNITS
            if window.aggregate == "mean":
                value = value / count if count else math.nan
            row[column] = math.nan if None in key else value

    def update(self, of: str, fields: dict[str, Any], time_ms: int) -> None:
        for kind, tiles in self._tiles.items():
            key = tuple(fields.get(name) for name in kind[1])
            if kind[0] == of and None not in key:
                value = 0.0 if kind[3] is None else min(max(fields[kind[3]], -(2.0**42)), 2.0**42)
                tiles.update(key, time_ms // kind[2], round(value * _UNITS))


def recompute(
    pipeline: Pipeline,
    events: Sequence[Given],
    labels: Sequence[Given],
    timelines: dict[int, Sequence[ActiveModel]],
    score_from_ms: int | None = None,
) -> Expected:
    """Walk the logs.

    Parameters
    ----------
    events, labels
        The good records in the order of their offsets.
    timelines
        Offset of an event -> the champions announced when it was processed, oldest first.
    score_from_ms
        Older events are left unscored, as those that no champion is valid for.
    """
    assert pipeline.labels is not None
    expected, windows = Expected(), _Windows(pipeline)
    waiting: dict[str, tuple[int, int, dict[str, Any], str, float]] = {}
    at_event = _places(events, labels)
    watermark_ms = _NEVER
    for number in range(len(events) + 1):
        for given in at_event[number]:
            name, value = given.fields["event_id"], given.fields["label"]
            if not name:
                continue
            effective_ms, time_ms, fields, version, score = waiting.pop(name, (0, 0, {}, "", 0.0))
            if not fields or effective_ms < watermark_ms - pipeline.labels.horizon_ms:
                continue
            expected.joined.append((name, float(value), given.fields["label_time_ms"]))
            windows.update("labels", {**fields, "label": float(value)}, given.fields["label_time_ms"])
            slice_ms = time_ms // pipeline.drift.slice_ms * pipeline.drift.slice_ms
            if version:
                expected.counted[version, slice_ms][1].append((score, float(value)))
        if number == len(events):
            break
        fields, offset = events[number].fields, events[number].offset
        row = [fields["amount"]] + [math.nan] * (len(pipeline.features) - 1)
        windows.read(fields, row)
        windows.update("events", fields, fields["at"])
        models = [m for m in timelines[offset] if m.valid_from_ms is None or m.valid_from_ms <= fields["at"]]
        if score_from_ms is not None and fields["at"] < score_from_ms:
            models = []
        version = models[-1].version if models else ""
        score = float(models[-1].scorer.score(np.array([row]))[0]) if models else math.nan
        watermark_ms = max(watermark_ms, fields["at"])
        waiting.pop(fields["id"], None)
        waiting[fields["id"]] = int(watermark_ms), fields["at"], fields, version, score
        if not models:
            expected.unscored.append(offset)
            continue
        expected.features[offset], expected.scores[offset] = row, (version, score)
        slice_ms = fields["at"] // pipeline.drift.slice_ms * pipeline.drift.slice_ms
        expected.counted[version, slice_ms][0].append((row, score))
    expected.waiting = {
        name: (effective_ms, version)
        for name, (effective_ms, _, _, version, _) in waiting.items()
        if effective_ms >= watermark_ms - pipeline.labels.horizon_ms
    }
    return expected


def _places(events: Sequence[Given], labels: Sequence[Given]) -> dict[int, list[Given]]:
    """Labels by the number of the event that they are applied before (ADR 0005)."""
    newest, event_times = _NEVER, []
    for given in events:
        newest = max(newest, given.fields["at"])
        event_times.append(newest)
    found: dict[int, list[Given]] = defaultdict(list)
    newest = _NEVER
    for given in labels:
        newest = max(newest, given.fields["label_time_ms"])
        natural = next((place for place, time in enumerate(event_times) if time >= newest), len(events))
        found[int(min(max(natural, given.not_before), given.not_after))].append(given)
    return found


def read(value: bytes) -> dict[str, Any]:
    """The fields of a good record."""
    fields: dict[str, Any] = json.loads(value)
    return fields
