"""Windows shared between partitions from their definition, in plain Python: the oracle of the chaos suite.

It shares no code with the workers and none with the windows of one entity (`chaos_windows`), but for the aggregates.
All that it knows are the good records of all partitions, in the order of their offsets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chaos_windows import PlainRecord, aggregate

from schemas.pipeline.spec import Pipeline, WindowSpec

_UNITS = 2**20  # fixed point of sums
_EVENT, _LABEL = 1, 0  # of the same time, labels come first

Records = Mapping[int, Sequence[PlainRecord]]
Values = dict[str, float | None]
#: Effective time, event (with its label, if it is one).
_Fact = tuple[int, dict[str, Any]]


def shared_windows(pipeline: Pipeline) -> dict[str, WindowSpec]:
    """The features that are windows over events of all partitions."""
    windows = ((feature.name, feature.window) for feature in pipeline.features)
    return {name: window for name, window in windows if window is not None and window.delay_ms is not None}


def expected_shared(pipeline: Pipeline, events: Records, labels: Records) -> dict[tuple[int, int], Values]:
    """The shared windows of each event, by partition and offset."""
    windows = shared_windows(pipeline)
    facts: dict[str, list[_Fact]] = {"events": [], "labels": []}
    asking: list[tuple[int, int, int, dict[str, Any]]] = []
    for partition in events:
        for kind, time_ms, offset, body in _merged(pipeline, events[partition], labels.get(partition, ())):
            facts[kind].append((time_ms, body))
            if kind == "events":
                asking.append((partition, offset, time_ms, body))
    tiles = {name: _tiles(window, facts[window.of]) for name, window in windows.items()}
    return {
        (partition, offset): {name: _read(window, tiles[name], body, time_ms) for name, window in windows.items()}
        for partition, offset, time_ms, body in asking
    }


def _merged(
    pipeline: Pipeline, events: Sequence[PlainRecord], labels: Sequence[PlainRecord]
) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    """What one partition adds, in its order: kind, effective time, offset, event (with its label)."""
    order = [(time_ms, _EVENT, n, body) for n, (time_ms, body) in enumerate(_timed(events, pipeline.events.time))]
    order += [(time_ms, _LABEL, n, body) for n, (time_ms, body) in enumerate(_timed(labels, "label_time_ms"))]
    order.sort(key=lambda each: each[:3])
    horizon_ms = pipeline.labels.horizon_ms if pipeline.labels else 0
    waiting: dict[str, _Fact] = {}
    newest_ms: int | None = None
    for time_ms, kind, number, body in order:
        if kind == _EVENT:
            waiting[body[pipeline.events.event_id]] = time_ms, body
            newest_ms = time_ms
            yield "events", time_ms, events[number].offset, body
        else:
            met = waiting.pop(body["event_id"], None)
            if met is not None and newest_ms is not None and met[0] >= newest_ms - horizon_ms:
                yield "labels", time_ms, labels[number].offset, {**met[1], "label": body["label"]}


def _timed(records: Sequence[PlainRecord], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    newest_ms: int | None = None
    for record in records:
        body = json.loads(record.value)
        newest_ms = body[name] if newest_ms is None else max(newest_ms, body[name])
        yield newest_ms, body


def _key(window: WindowSpec, body: Mapping[str, Any]) -> tuple[Any, ...] | None:
    key = tuple(body.get(name) for name in window.key)
    return None if None in key else key


def _tiles(window: WindowSpec, facts: Sequence[_Fact]) -> dict[tuple[Any, int], list[int]]:
    found: dict[tuple[Any, int], list[int]] = {}
    for time_ms, body in facts:
        key, value = _key(window, body), body.get(window.field) if window.field is not None else 0.0
        if key is not None and value is not None:
            cell = found.setdefault((key, time_ms // window.hop_ms), [0, 0])
            cell[0] += 1
            cell[1] += round(value * _UNITS)
    return found


def _read(
    window: WindowSpec, tiles: Mapping[tuple[Any, int], list[int]], body: Mapping[str, Any], now_ms: int
) -> float | None:
    key, delay_ms = _key(window, body), window.delay_ms
    assert delay_ms is not None  # it is shared
    if key is None:
        return None
    end = (now_ms - delay_ms) // window.hop_ms
    cells = [tiles[key, tile] for tile in range(end - window.size_ms // window.hop_ms, end) if (key, tile) in tiles]
    return aggregate(window, sum(cell[0] for cell in cells), sum(cell[1] for cell in cells))
