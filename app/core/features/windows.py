"""The window features of a pipeline: which tiles they need, and the state that one partition keeps for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from app.core.batches import EventBatch, Floats, Ints, LabelRows
from app.core.tiles.batch import Updates
from app.core.tiles.key_group import KeyGroup
from app.core.tiles.keys import NULL
from app.core.tiles.measures import Layout, Read, evaluate, measure
from app.core.tiles.row_cache import RowCache
from app.core.tiles.sightings import Hasher
from app.core.tiles.store import Seen, TileStore, WindowRead
from app.core.tiles.stored import NAME_BYTES, Change
from schemas.pipeline.spec import Pipeline, PipelineError, WindowSpec

_DAY_MS = 86_400_000


@dataclass(frozen=True)
class StoreSpec:
    """What one tile store holds: windows of the same ``of``, key and hop share it."""

    of: str
    key: tuple[str, ...]
    hop_ms: int
    layout: Layout
    ring: int
    retain: int

    @property
    def name(self) -> bytes:
        """Front of its changelog keys. Ring and layout are part of it: cells of another are others."""
        words = repr((self.of, self.key, self.hop_ms, self.ring, self.layout.sums, self.layout.maxima))
        return hashlib.sha256(words.encode()).digest()[:NAME_BYTES]


@dataclass(frozen=True)
class WindowColumn:
    """One window feature: its column of the feature matrix, and how it reads its store."""

    column: int
    tiles: int
    window: WindowSpec


@dataclass(frozen=True)
class WindowPlan:
    """The stores of a pipeline's windows, each with the columns that it fills."""

    stores: tuple[tuple[StoreSpec, tuple[WindowColumn, ...]], ...]

    @classmethod
    def compile(cls, pipeline: Pipeline) -> WindowPlan:
        # A single event may be ``max_ahead`` ahead; the windows of all others must survive it, and a day more.
        plan = cls.of(
            [feature.window for feature in pipeline.features], retain_ms=pipeline.events.max_ahead_ms + _DAY_MS
        )
        names = [spec.name for spec, _ in plan.stores]
        if len(set(names)) < len(names):
            raise PipelineError(
                f"{pipeline.path}: two windows have the same 4-byte digest; change the hop of one of them."
            )
        return plan

    @classmethod
    def of(cls, windows: Iterable[WindowSpec | None], *, retain_ms: int) -> WindowPlan:
        """The stores of windows, by the columns of their matrix; what they see is kept ``retain_ms`` longer."""
        groups: dict[tuple[str, tuple[str, ...], int], list[WindowColumn]] = {}
        for column, window in enumerate(windows):
            if window is not None:
                place = (window.of, window.key, window.hop_ms)
                groups.setdefault(place, []).append(WindowColumn(column, window.size_ms // window.hop_ms, window))
        stores = []
        for (of, key, hop_ms), columns in groups.items():
            ring = max(column.tiles for column in columns)
            layout = Layout.of(column.window for column in columns)
            stores.append((StoreSpec(of, key, hop_ms, layout, ring, ring - (-retain_ms // hop_ms)), tuple(columns)))
        return cls(tuple(stores))

    @property
    def label_fields(self) -> tuple[str, ...]:
        """The event fields that windows over labels need, sorted."""
        fields = {field for spec, _ in self.stores if spec.of == "labels" for field in (*spec.key, *spec.layout.fields)}
        return tuple(sorted(fields - {"label"}))


class FeatureState:
    """What one partition keeps for the windows of its events: advanced by `apply`, logged by `drain_changes`.

    Parameters
    ----------
    plan
        The windows.
    with_changelog
        False: nothing is to be drained (training, offline replay).
    cache
        Where rows are that are not in memory; None: all are.
    """

    def __init__(self, plan: WindowPlan, *, with_changelog: bool = True, cache: RowCache | None = None) -> None:
        self._columns = dict(plan.stores)
        self._with_changelog = with_changelog
        self._hasher = Hasher()
        self._tiles = {
            spec: TileStore(spec.layout, ring=spec.ring, retain=spec.retain, with_changelog=with_changelog)
            for spec, _ in plan.stores
        }
        self._groups = {
            key: KeyGroup({spec.name: tiles for spec, tiles in self._tiles.items() if spec.key == key}, cache)
            for key in {spec.key: None for spec, _ in plan.stores}
        }
        self._by_name = {name: group for group in self._groups.values() for name in group.stores}
        self._reads = {spec: _reads(spec.layout, columns) for spec, columns in plan.stores}
        self._no_updates = {spec: Updates.none(spec.layout) for spec, _ in plan.stores}
        self._label_keys = {spec.key for spec, _ in plan.stores if spec.of == "labels"}
        self._event_keys = {spec.key for spec, _ in plan.stores if spec.of == "events"}

    @property
    def keys(self) -> int:
        """Keys that are in memory, over all windows."""
        return sum(len(group.index) for group in self._groups.values())

    @property
    def state_bytes(self) -> int:
        """Memory of the tiles; that of the keys comes on top."""
        return sum(tiles.state_bytes for tiles in self._tiles.values())

    @property
    def is_full(self) -> bool:
        """Whether reads alone have brought so many keys into memory that a drain should make room."""
        return any(group.is_full for group in self._groups.values())

    def apply(self, matrix: Floats, events: EventBatch, labels: LabelRows) -> None:
        """Fill the window columns of ``matrix``, one row per event, and advance the state."""
        before = np.arange(1, len(events) + 1)
        codes = {key: self._find_codes(key, events, labels) for key in self._groups}
        for spec, tiles in self._tiles.items():
            read_codes, label_codes = codes[spec.key]
            read_tiles = events.event_time_ms // spec.hop_ms
            if spec.of == "events":
                measured = measure(spec.layout, self._hasher, events.event_time_ms, events.columns)
                updates = Updates(read_codes, read_tiles, before, *measured)
            else:
                updates = self._label_updates(spec, labels, label_codes)
            seen = tiles.process(read_codes, read_tiles, updates, self._reads[spec])
            self._fill(matrix, events, spec, read_codes, seen)
        if not self._with_changelog:
            for group in self._groups.values():
                group.sweep()

    def peek(self, matrix: Floats, events: EventBatch, labels: LabelRows, seen: Ints) -> None:
        """Fill the window columns as if each event came next by itself, after the first ``seen`` of the labels.

        Nothing that is kept changes; keys may come into memory.
        """
        codes = {key: self._look_up_codes(key, events, labels) for key in self._groups}
        for spec, tiles in self._tiles.items():
            read_codes, label_codes = codes[spec.key]
            read_tiles, reads = events.event_time_ms // spec.hop_ms, self._reads[spec]
            if spec.of == "labels" and len(labels):
                updates, before = self._label_updates(spec, labels, label_codes), seen
            else:
                updates, before = self._no_updates[spec], np.zeros_like(read_codes)
            self._fill(matrix, events, spec, read_codes, tiles.peek(read_codes, read_tiles, before, updates, reads))

    def _label_updates(self, spec: StoreSpec, labels: LabelRows, codes: Ints) -> Updates:
        measured = measure(spec.layout, self._hasher, labels.label_time_ms, labels.columns)
        return Updates(codes, labels.label_time_ms // spec.hop_ms, labels.before, *measured)

    def drain_changes(self) -> list[Change]:
        """Changelog records since the last drain, for a compacted topic; None clears a key."""
        return [record for group in self._groups.values() for record in group.drain()]

    def restore(self, records: Iterable[Change]) -> None:
        """Take more of a changelog, in its order, into a state that has not been used yet.

        Keys of other stores are passed over.

        Raises
        ------
        UnreadableError
            When a record is not what a store writes; nothing of these records is taken then.
        """
        newest: dict[bytes, dict[bytes, bytes | None]] = {name: {} for name in self._by_name}
        for key, value in records:
            changes = newest.get(key[:NAME_BYTES])
            if changes is not None:
                changes[key] = value
        for name, changes in newest.items():
            if changes:
                self._by_name[name].restore(name, changes)

    def restore_clocks(self, clocks: Iterable[tuple[bytes, bytes]]) -> None:
        """Take what was noted of stores, by name, beside rows on disk."""
        for name, value in clocks:
            for group in self._groups.values():
                group.restore_clock(name, value)

    def finish_restore(self) -> None:
        """End restoring."""
        for group in self._groups.values():
            group.finish_restore()

    def record_keys(self) -> Iterator[bytes]:
        """The keys of the records that a changelog holds of what is in memory."""
        for group in self._groups.values():
            group.reserve_rows()
            for store in group.stores.values():
                yield from store.keys(group.index.in_use())

    def _fill(self, matrix: Floats, events: EventBatch, spec: StoreSpec, codes: Ints, seen: list[Seen]) -> None:
        """Fill the columns of one store with what its reads, by keys of these codes, have seen."""
        by_size = {read.tiles: of for read, of in zip(self._reads[spec], seen, strict=True)}
        for column in self._columns[spec]:
            window, of = column.window, by_size[column.tiles]
            maximum = spec.layout.maximum_of(window)
            largest, carried = of.maxima[maximum] if maximum is not None else (codes, codes)
            values = evaluate(spec.layout, window, Read(events.event_time_ms, of.sums, largest, carried))
            values[codes == NULL] = np.nan
            matrix[:, column.column] = values

    def _find_codes(self, key: tuple[str, ...], events: EventBatch, labels: LabelRows) -> tuple[Ints, Ints]:
        """The codes of events and labels; only a key that is updated is added."""
        label_codes, group = self._add_label_keys(key, labels), self._groups[key]
        find = group.find_or_add if key in self._event_keys else group.find
        return find([events.columns[field] for field in key]), label_codes

    def _look_up_codes(self, key: tuple[str, ...], events: EventBatch, labels: LabelRows) -> tuple[Ints, Ints]:
        """As `_find_codes`, of events that update nothing."""
        label_codes = self._add_label_keys(key, labels)
        return self._groups[key].find([events.columns[field] for field in key]), label_codes

    def _add_label_keys(self, key: tuple[str, ...], labels: LabelRows) -> Ints:
        if key not in self._label_keys or not len(labels):
            return np.zeros(0, dtype=np.int64)
        return self._groups[key].find_or_add([labels.columns[field] for field in key])


def _reads(layout: Layout, columns: tuple[WindowColumn, ...]) -> tuple[WindowRead, ...]:
    """One read per window size, with the maxima that its windows want."""
    wanted: dict[int, dict[int, None]] = {}
    for column in columns:
        maxima = wanted.setdefault(column.tiles, {})
        maximum = layout.maximum_of(column.window)
        if maximum is not None:
            maxima[maximum] = None
    return tuple(WindowRead(tiles, tuple(maxima)) for tiles, maxima in wanted.items())
