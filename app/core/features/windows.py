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
from app.core.tiles.store import TileStore, WindowRead
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
        self._plan = plan
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

    @property
    def keys(self) -> int:
        """Keys that are in memory, over all windows."""
        return sum(len(group.index) for group in self._groups.values())

    @property
    def state_bytes(self) -> int:
        """Memory of the tiles; that of the keys comes on top."""
        return sum(tiles.state_bytes for tiles in self._tiles.values())

    def apply(self, matrix: Floats, events: EventBatch, labels: LabelRows) -> None:
        """Fill the window columns of ``matrix``, one row per event, and advance the state."""
        before = np.arange(1, len(events) + 1)
        codes = {key: self._find_codes(key, events, labels) for key in self._groups}
        for spec, columns in self._plan.stores:
            tiles = self._tiles[spec]
            read_codes, label_codes = codes[spec.key]
            read_tiles = events.event_time_ms // spec.hop_ms
            if spec.of == "events":
                measured = measure(spec.layout, self._hasher, events.event_time_ms, events.columns)
                updates = Updates(read_codes, read_tiles, before, *measured)
            else:
                measured = measure(spec.layout, self._hasher, labels.label_time_ms, labels.columns)
                updates = Updates(label_codes, labels.label_time_ms // spec.hop_ms, labels.before, *measured)
            reads = _reads(spec.layout, columns)
            seen = dict(
                zip((read.tiles for read in reads), tiles.process(read_codes, read_tiles, updates, reads), strict=True)
            )
            for column in columns:
                window, of = column.window, seen[column.tiles]
                maximum = spec.layout.maximum_of(window)
                largest, carried = of.maxima[maximum] if maximum is not None else (read_codes, read_codes)
                values = evaluate(spec.layout, window, Read(events.event_time_ms, of.sums, largest, carried))
                values[read_codes == NULL] = np.nan
                matrix[:, column.column] = values
        if not self._with_changelog:
            for group in self._groups.values():
                group.sweep()

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

    def _find_codes(self, key: tuple[str, ...], events: EventBatch, labels: LabelRows) -> tuple[Ints, Ints]:
        """The codes of events and labels; only a key that is updated is added."""
        group = self._groups[key]
        kinds = {spec.of for spec, _ in self._plan.stores if spec.key == key}
        none = np.zeros(0, dtype=np.int64)
        label_codes = group.find_or_add([labels.columns[field] for field in key]) if "labels" in kinds else none
        find = group.find_or_add if "events" in kinds else group.find
        return find([events.columns[field] for field in key]), label_codes


def _reads(layout: Layout, columns: tuple[WindowColumn, ...]) -> tuple[WindowRead, ...]:
    """One read per window size, with the maxima that its windows want."""
    wanted: dict[int, dict[int, None]] = {}
    for column in columns:
        maxima = wanted.setdefault(column.tiles, {})
        maximum = layout.maximum_of(column.window)
        if maximum is not None:
            maxima[maximum] = None
    return tuple(WindowRead(tiles, tuple(maxima)) for tiles, maxima in wanted.items())
