"""The window features of a pipeline: which tiles they need, and the state that one partition keeps for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from app.core.batches import Column, EventBatch, Floats, Ints, Outcomes
from app.core.keys import NULL, KeyIndex
from app.core.tile_batch import Updates
from app.core.tiles import FIXED_POINT, TileStore, to_fixed_point
from schemas.pipeline import Pipeline, PipelineError, Window

_DAY_MS = 86_400_000
_PREFIX = b"t"
_NAME_BYTES = 5


@dataclass(frozen=True)
class StoreSpec:
    """What one tile store holds: windows that differ in size or aggregate alone share it."""

    of: str
    key: tuple[str, ...]
    hop_ms: int
    field: str | None
    ring: int
    retain: int

    @property
    def name(self) -> bytes:
        """Front of its changelog keys. The ring is part of it: cells of another ring are others."""
        words = repr((self.of, self.key, self.hop_ms, self.field, self.ring))
        return _PREFIX + hashlib.sha256(words.encode()).digest()[: _NAME_BYTES - 1]


@dataclass(frozen=True)
class WindowColumn:
    """One window feature: its column of the feature matrix, and how it reads its store."""

    column: int
    tiles: int
    window: Window


@dataclass(frozen=True)
class WindowPlan:
    """The stores of a pipeline's windows, each with the columns that it fills."""

    stores: tuple[tuple[StoreSpec, tuple[WindowColumn, ...]], ...]

    @classmethod
    def compile(cls, pipeline: Pipeline) -> WindowPlan:
        groups: dict[tuple[str, tuple[str, ...], int, str | None], list[WindowColumn]] = {}
        for column, feature in enumerate(pipeline.features):
            window = feature.window
            if window is not None:
                place = (window.of, window.key, window.hop_ms, window.field)
                groups.setdefault(place, []).append(WindowColumn(column, window.size_ms // window.hop_ms, window))
        stores = []
        for (of, key, hop_ms, field), columns in groups.items():
            ring = max(column.tiles for column in columns)
            # A single event may be ``max_ahead`` ahead; the windows of all others must survive it, and a day more.
            retain = ring - (-(pipeline.events.max_ahead_ms + _DAY_MS) // hop_ms)
            stores.append((StoreSpec(of, key, hop_ms, field, ring, retain), tuple(columns)))
        names = [spec.name for spec, _ in stores]
        if len(set(names)) < len(names):
            raise PipelineError(
                f"{pipeline.path}: two windows have the same 4-byte digest; change the hop of one of them."
            )
        return cls(tuple(stores))

    @property
    def outcome_fields(self) -> tuple[str, ...]:
        """The event fields that windows over labels need, sorted."""
        fields = {
            field
            for spec, _ in self.stores
            if spec.of == "labels"
            for field in (*spec.key, *([spec.field] if spec.field else []))
        }
        return tuple(sorted(fields - {"label"}))


class FeatureState:
    """What one partition keeps for the windows of its events: advanced by `apply`, logged by `drain_changes`.

    Parameters
    ----------
    plan
        The windows.
    with_changelog
        False: nothing is to be drained (training, offline replay).
    """

    def __init__(self, plan: WindowPlan, *, with_changelog: bool = True) -> None:
        self._plan = plan
        self._with_changelog = with_changelog
        self._indexes = {spec.key: KeyIndex() for spec, _ in plan.stores}
        self._stores = {
            spec: TileStore(
                spec.name,
                self._indexes[spec.key],
                ring=spec.ring,
                retain=spec.retain,
                with_sums=spec.field is not None,
                with_changelog=with_changelog,
            )
            for spec, _ in plan.stores
        }
        self._swept = {spec: store.clock for spec, store in self._stores.items()}

    @property
    def keys(self) -> int:
        """Keys that are kept, over all windows."""
        return sum(len(index) for index in self._indexes.values())

    @property
    def state_bytes(self) -> int:
        """Memory of the tiles."""
        return sum(store.state_bytes for store in self._stores.values())

    def apply(self, matrix: Floats, events: EventBatch, outcomes: Outcomes) -> None:
        """Fill the window columns of ``matrix``, one row per event, and advance the state."""
        before = np.arange(1, len(events) + 1)
        codes = {key: self._find_codes(key, events, outcomes) for key in self._indexes}
        for spec, columns in self._plan.stores:
            read_codes, outcome_codes = codes[spec.key]
            tiles = events.event_time_ms // spec.hop_ms
            if spec.of == "events":
                updates = _updates(spec, read_codes, tiles, before, events.columns)
            else:
                label_tiles = outcomes.label_time_ms // spec.hop_ms
                updates = _updates(spec, outcome_codes, label_tiles, outcomes.before, outcomes.columns)
            sizes = tuple(dict.fromkeys(column.tiles for column in columns))
            windows = dict(zip(sizes, self._stores[spec].process(read_codes, tiles, updates, sizes), strict=True))
            for column in columns:
                values = _aggregate(column.window, *windows[column.tiles])
                values[read_codes == NULL] = np.nan
                matrix[:, column.column] = values
        if not self._with_changelog:
            self._sweep()

    def drain_changes(self) -> list[tuple[bytes, bytes | None]]:
        """Changelog records since the last drain, for a compacted topic; None clears a key."""
        records = [record for store in self._stores.values() for record in store.drain_changes()]
        records.extend(self._sweep())
        return records

    def restore(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Replay a changelog, in its order, into a new state. Keys of other stores are passed over."""
        newest: dict[bytes, dict[bytes, bytes]] = {store.name: {} for store in self._stores.values()}
        for key, value in records:
            found = newest.get(key[:_NAME_BYTES])
            if found is None:
                continue
            if value is None:
                found.pop(key, None)
            else:
                found[key] = value
        for store in self._stores.values():
            store.restore(newest[store.name])

    def _find_codes(self, key: tuple[str, ...], events: EventBatch, outcomes: Outcomes) -> tuple[Ints, Ints]:
        """The codes of events and outcomes; only a key that is updated is added."""
        index = self._indexes[key]
        kinds = {spec.of for spec, _ in self._plan.stores if spec.key == key}
        none = np.zeros(0, dtype=np.int64)
        outcome_codes = index.find_or_add([outcomes.columns[field] for field in key]) if "labels" in kinds else none
        find = index.find_or_add if "events" in kinds else index.find
        return find([events.columns[field] for field in key]), outcome_codes

    def _sweep(self) -> list[tuple[bytes, bytes | None]]:
        """Forget the keys that no event can see any more, now and then."""
        due = [spec for spec, store in self._stores.items() if store.clock - self._swept[spec] > spec.retain // 16]
        records: list[tuple[bytes, bytes | None]] = []
        for key in {spec.key: None for spec in due}:
            stores = {spec: store for spec, store in self._stores.items() if spec.key == key}
            codes = self._indexes[key].in_use()
            for spec, store in stores.items():
                self._swept[spec] = store.clock
                codes = codes[store.quiet(codes)]
            for code in codes.tolist():
                for store in stores.values():
                    records.extend(store.forget(code))
                self._indexes[key].remove(code)
        return records


def _updates(spec: StoreSpec, codes: Ints, tiles: Ints, before: Ints, columns: dict[str, Column]) -> Updates:
    if spec.field is None:
        return Updates(codes, tiles, before)
    values = columns[spec.field]
    known = np.isfinite(values)
    if known.all():
        return Updates(codes, tiles, before, to_fixed_point(values))
    return Updates(codes[known], tiles[known], before[known], to_fixed_point(values[known]))


def _aggregate(window: Window, counts: Ints, sums: Ints) -> Floats:
    if window.aggregate == "count":
        return counts.astype(np.float64)
    total: Floats = sums / FIXED_POINT
    if window.aggregate == "mean":
        total[counts == 0] = np.nan
        total /= np.maximum(counts, 1)
    return total
