"""Windows of one entity from their definition, one event at a time, in plain Python: the oracle of the chaos suite.

It shares no code with the workers: the merge by effective time, the join of labels and the tiles are written again from
what docs/ and the docstrings say, without arrays, batches or state that survives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.pipeline.spec import Pipeline, WindowSpec

_UNITS = 2**20  # fixed point of sums


@dataclass(frozen=True)
class PlainRecord:
    """One input record: its offset and its value."""

    offset: int
    value: bytes


@dataclass
class _Tiles:
    """Tiles of one key: number -> [count, sum]."""

    ring: int
    newest: int | None = None
    kept: dict[int, list[int]] = field(default_factory=dict)

    def update(self, tile: int, value: float) -> None:
        if self.newest is not None and tile <= self.newest - self.ring:
            return
        cell = self.kept.setdefault(tile, [0, 0])
        cell[0] += 1
        cell[1] += round(value * _UNITS)
        if self.newest is None or tile > self.newest:
            self.newest = tile
            for old in [old for old in self.kept if old <= tile - self.ring]:
                del self.kept[old]

    def read(self, tile: int, size: int) -> tuple[int, int]:
        found = [cell for number, cell in self.kept.items() if tile - size < number <= tile]
        return sum(cell[0] for cell in found), sum(cell[1] for cell in found)


class _Windows:
    """All windows of one partition."""

    def __init__(self, pipeline: Pipeline) -> None:
        found = [(f.name, f.window) for f in pipeline.features if f.window is not None]
        self._features = [(name, window) for name, window in found if window.delay_ms is None]
        rings: dict[Any, int] = {}
        for _, window in self._features:
            rings[_store(window)] = max(rings.get(_store(window), 0), window.size_ms // window.hop_ms)
        self._rings = rings
        self._windows = {_store(window): window for _, window in self._features}
        self._tiles: dict[tuple[Any, tuple[Any, ...]], _Tiles] = {}

    def read(self, body: Mapping[str, Any], time_ms: int) -> dict[str, float | None]:
        values: dict[str, float | None] = {}
        for name, window in self._features:
            key = tuple(body[part] for part in window.key)
            tiles = self._tiles.get((_store(window), key))
            found = tiles.read(time_ms // window.hop_ms, window.size_ms // window.hop_ms) if tiles else (0, 0)
            values[name] = aggregate(window, *found)
        return values

    def update(self, of: str, body: Mapping[str, Any], time_ms: int) -> None:
        for store, window in self._windows.items():
            if window.of != of:
                continue
            value = body[window.field] if window.field is not None else 0.0
            if value is None:
                continue
            place = store, tuple(body[part] for part in window.key)
            if place not in self._tiles:
                self._tiles[place] = _Tiles(self._rings[store])
            self._tiles[place].update(time_ms // window.hop_ms, value)


def expected_windows(
    pipeline: Pipeline, events: Sequence[PlainRecord], labels: Sequence[PlainRecord]
) -> Iterator[tuple[int, dict[str, float | None]]]:
    """Offset and window features of each event of one partition.

    ``events`` and ``labels``: the good records, in the order of their offsets.
    """
    windows = _Windows(pipeline)
    horizon_ms = pipeline.labels.horizon_ms if pipeline.labels else 0
    waiting: dict[str, tuple[int, Mapping[str, Any]]] = {}
    queue = _with_effective_times(labels, "label_time_ms")
    next_label = next(queue, None)
    before_ms: int | None = None
    for effective_ms, record, body in _with_effective_times(events, pipeline.events.time):
        while next_label is not None and next_label[0] <= effective_ms:
            label = next_label[2]
            found = waiting.pop(label["event_id"], None)
            if found is not None and before_ms is not None and found[0] >= before_ms - horizon_ms:
                windows.update("labels", {**found[1], "label": label["label"]}, label["label_time_ms"])
            next_label = next(queue, None)
        yield record.offset, windows.read(body, body[pipeline.events.time])
        windows.update("events", body, body[pipeline.events.time])
        if pipeline.labels is not None:
            waiting[body[pipeline.events.event_id]] = effective_ms, body
        before_ms = effective_ms


def _with_effective_times(records: Sequence[PlainRecord], name: str) -> Iterator[tuple[int, PlainRecord, Any]]:
    newest: int | None = None
    for record in records:
        body = json.loads(record.value)
        newest = body[name] if newest is None else max(newest, body[name])
        yield newest, record, body


def _store(window: WindowSpec) -> tuple[str, tuple[str, ...], int, str | None]:
    return window.of, window.key, window.hop_ms, window.field


def aggregate(window: WindowSpec, count: int, total: int) -> float | None:
    """What a window says of a count and a fixed-point sum."""
    if window.aggregate == "count":
        return float(count)
    if window.aggregate == "rate":
        return count / (window.size_ms / 1000)
    if window.aggregate == "sum":
        return total / _UNITS
    return total / _UNITS / count if count else None
