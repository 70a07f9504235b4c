"""Which windows of a pipeline are shared between its partitions, and what their tiles are.

A shared window belongs to a key that does not hold the entity field (a carrier, a merchant), so every partition adds to
it. An event of effective time e sees the tiles that end at or before e - ``delay``, of all partitions: what they hold
follows from the logs alone, however fast each of them is read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from app.core.batches import Ints
from schemas.pipeline.spec import Pipeline, PipelineError

NAME_BYTES = 4


@dataclass(frozen=True)
class SharedStore:
    """What is added up: windows that differ only in size, delay or aggregate read the same tiles.

    ``name``: identity on the topics. The feature set is part of it: windows of changed features begin anew.
    ``repartition``: a worker adds it up for some keys of all partitions, not for all keys (docs/adr/0019).
    """

    of: str
    key: tuple[str, ...]
    hop_ms: int
    field: str | None
    name: bytes
    repartition: bool = False


@dataclass(frozen=True)
class SharedColumn:
    """One shared window: its column of the feature matrix, and which tiles of which store it reads."""

    column: int
    store: int
    hop_ms: int
    tiles: int
    delay_ms: int
    aggregate: str

    def newest_tiles(self, times_ms: Ints) -> Ints:
        """The newest tile that an event of each effective time sees."""
        newest: Ints = (times_ms - self.delay_ms) // self.hop_ms - 1
        return newest


@dataclass(frozen=True)
class SharedPlan:
    """The shared windows of a pipeline; false when it has none."""

    stores: tuple[SharedStore, ...]
    columns: tuple[SharedColumn, ...]

    def __bool__(self) -> bool:
        return bool(self.columns)

    @cached_property
    def name(self) -> bytes:
        """Identity of all stores together on the topics."""
        return hashlib.sha256(b"".join(store.name for store in self.stores)).digest()[:NAME_BYTES]

    @classmethod
    def compile(cls, pipeline: Pipeline) -> SharedPlan:
        """Raises `PipelineError` when two stores cannot be told apart."""
        stores: list[SharedStore] = []
        columns: list[SharedColumn] = []
        for column, feature in enumerate(pipeline.features):
            window = feature.window
            if window is None or window.delay_ms is None:
                continue
            what = (window.of, window.key, window.hop_ms, window.field)
            words = repr((pipeline.feature_set, *what, *(["repartition"] if window.repartition else [])))
            store = SharedStore(*what, hashlib.sha256(words.encode()).digest()[:NAME_BYTES], window.repartition)
            if store not in stores:
                stores.append(store)
            columns.append(
                SharedColumn(
                    column,
                    stores.index(store),
                    window.hop_ms,
                    window.size_ms // window.hop_ms,
                    window.delay_ms,
                    window.aggregate,
                )
            )
        if len({store.name for store in stores}) < len(stores):
            raise PipelineError(
                f"{pipeline.path}: two shared windows have the same digest; change the hop of one of them."
            )
        return cls(tuple(stores), tuple(columns))

    def repartitioned(self) -> SharedPlan:
        """The part of it that is repartitioned: its own stores, numbered anew, and their columns."""
        stores = tuple(store for store in self.stores if store.repartition)
        numbers = {number: stores.index(store) for number, store in enumerate(self.stores) if store.repartition}
        columns = (replace(column, store=numbers[column.store]) for column in self.columns if column.store in numbers)
        return SharedPlan(stores, tuple(columns))

    @property
    def keys(self) -> tuple[tuple[str, ...], ...]:
        """The different keys of the stores."""
        return tuple(dict.fromkeys(store.key for store in self.stores))

    @property
    def label_fields(self) -> tuple[str, ...]:
        """The event fields that must be kept until the event's label comes, sorted."""
        fields = {
            field
            for store in self.stores
            if store.of == "labels"
            for field in (*store.key, *([store.field] if store.field else []))
        }
        return tuple(sorted(fields - {"label"}))

    @property
    def with_labels(self) -> bool:
        """Whether any store adds up labels."""
        return any(store.of == "labels" for store in self.stores)

    @property
    def least_delay_ms(self) -> int:
        return min(column.delay_ms for column in self.columns)

    @property
    def reach_ms(self) -> int:
        """How far before an event the oldest tile that it may read begins."""
        return max(column.delay_ms + (column.tiles + 1) * column.hop_ms for column in self.columns)

    def needed_ms(self, times_ms: Ints) -> Ints:
        """Per effective time, how far all partitions must have come before an event may read."""
        ends = [
            (times_ms - delay_ms) // hop_ms * hop_ms
            for hop_ms, delay_ms in {(column.hop_ms, column.delay_ms) for column in self.columns}
        ]
        needed: Ints = np.maximum.reduce(ends)
        return needed
