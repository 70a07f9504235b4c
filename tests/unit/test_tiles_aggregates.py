from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import app.core.features.windows
from app.core.batches import EventBatch, Floats, LabelRows
from app.core.features.windows import FeatureState, WindowPlan
from schemas.pipeline.file import load
from schemas.pipeline.spec import Aggregate, PipelineError, WindowSpec

NAN = float("nan")
HOP_MS = 1_000
SIZES = (1, 3, 8)
RING, RETAIN = 8, 12

FIELDS: dict[Aggregate, str | None] = {
    "count": None, "rate": None, "time_since_last": None, "sum": "amount", "mean": "amount", "variance": "amount",
    "min": "amount", "max": "amount", "last": "amount", "share": "amount", "distinct": "shop",
}  # fmt: skip


@dataclass(frozen=True)
class Happening:
    """An event, or a label: when, of whom, where, and how much."""

    is_event: bool
    time_ms: int
    customer: str
    shop: str | None
    amount: float


@dataclass
class Log:
    """The laws of the tile store and of each aggregate, recomputed from all updates at each read."""

    of: str
    clock: float = float("-inf")
    updates: list[Happening] = field(default_factory=list)

    def values(self, event: Happening, windows: list[WindowSpec]) -> list[float]:
        tile = event.time_ms // HOP_MS
        mine = [u for u in self.updates if u.customer == event.customer]
        newest = max((u.time_ms // HOP_MS for u in mine), default=float("-inf"))
        kept = [u for u in mine if u.time_ms // HOP_MS > max(newest - RING, self.clock - RETAIN)]
        found = []
        for window in windows:
            since = [u for u in kept if u.time_ms // HOP_MS > tile - window.size_ms // HOP_MS]
            seen = since if window.aggregate == "distinct" else [u for u in since if u.time_ms // HOP_MS <= tile]
            found.append(NAIVE[window.aggregate](event, window, seen))
        self.clock = max(self.clock, tile)
        return found

    def update(self, happening: Happening) -> None:
        tile = happening.time_ms // HOP_MS
        if tile > self.clock - RETAIN:
            self.updates.append(happening)
        self.clock = max(self.clock, tile)

    def process(self, found: list[Happening], windows: list[WindowSpec]) -> list[list[float]]:
        rows = []
        for happening in found:
            if happening.is_event:
                rows.append(self.values(happening, windows))
            if happening.is_event == (self.of == "events"):
                self.update(happening)
        return rows


def amounts(seen: list[Happening]) -> list[float]:
    return [u.amount for u in seen if u.amount == u.amount]


def fixed(value: float) -> int:
    return round(value * 2**20)  # rounds half to even, as numpy does


def total(seen: list[Happening]) -> float:
    return sum(fixed(value) for value in amounts(seen)) / 2**20


def last_of(seen: list[Happening]) -> float:
    known = [u for u in seen if u.amount == u.amount]
    newest = max((u.time_ms for u in known), default=None)
    return [u.amount for u in known if u.time_ms == newest][-1] if known else NAN


def variance_of(seen: list[Happening]) -> float:
    exact = [fixed(value) for value in amounts(seen)]
    if len(exact) < 2:
        return NAN
    n, squares, sum_ = len(exact), sum(value * value for value in exact), sum(exact)
    return (n * squares - sum_ * sum_) / (n * (n - 1) * 2**40)


NAIVE: dict[Aggregate, Callable[[Happening, WindowSpec, list[Happening]], float]] = {
    "count": lambda _, __, seen: len(seen),
    "rate": lambda _, window, seen: len(seen) / (window.size_ms / 1000),
    "time_since_last": lambda event, _, seen: (
        max(event.time_ms - max(u.time_ms for u in seen), 0) / 1000 if seen else NAN
    ),
    "sum": lambda _, __, seen: total(seen),
    "mean": lambda _, __, seen: total(seen) / len(amounts(seen)) if amounts(seen) else NAN,
    "variance": lambda _, __, seen: variance_of(seen),
    "min": lambda _, __, seen: min(amounts(seen), default=NAN),
    "max": lambda _, __, seen: max(amounts(seen), default=NAN),
    "last": lambda _, __, seen: last_of(seen),
    "share": lambda _, __, seen: sum(a != 0 for a in amounts(seen)) / len(amounts(seen)) if amounts(seen) else NAN,
    "distinct": lambda _, __, seen: len({u.shop for u in seen if u.shop is not None}),
}


@dataclass(frozen=True)
class Setting:
    """Windows of one `of` over three sizes, and the plan of their stores."""

    of: str
    windows: list[WindowSpec]

    @property
    def plan(self) -> WindowPlan:
        return WindowPlan.of(self.windows, retain_ms=(RETAIN - RING) * HOP_MS)

    def batch(self, found: list[Happening]) -> tuple[Floats, EventBatch, LabelRows]:
        events = [h for h in found if h.is_event]
        before = list(itertools.accumulate(h.is_event for h in found))
        labels = [(at, h) for at, h in zip(before, found, strict=True) if not h.is_event]
        batch = EventBatch(
            np.arange(len(events)), times(events), [h.customer for h in events], ["id"] * len(events), columns(events)
        )
        joined = [h for _, h in labels]
        outcomes = LabelRows(np.array([at for at, _ in labels], dtype=np.int64), times(joined), columns(joined))
        return np.full((len(events), len(self.windows)), np.nan), batch, outcomes


def times(found: list[Happening]) -> Any:
    return np.array([h.time_ms for h in found], dtype=np.int64)


def columns(found: list[Happening]) -> dict[str, Any]:
    return {
        "customer": np.array([h.customer for h in found], dtype=object),
        "shop": np.array([h.shop for h in found], dtype=object),
        "amount": np.array([h.amount for h in found], dtype=np.float64),
    }


def setting_of(of: Any, aggregates: tuple[Aggregate, ...]) -> Setting:
    return Setting(
        of, [WindowSpec(of, ("customer",), size * HOP_MS, HOP_MS, a, FIELDS[a]) for a in aggregates for size in SIZES]
    )


def run(setting: Setting, state: FeatureState, found: list[Happening]) -> list[list[float]]:
    matrix, events, outcomes = setting.batch(found)
    state.apply(matrix, events, outcomes)
    return matrix.tolist()


happenings = st.lists(
    st.builds(
        Happening,
        st.booleans(),
        st.integers(0, 20 * HOP_MS).map(lambda t: t // 250 * 250),
        st.sampled_from("ab"),
        st.sampled_from(["x", "y", "z", None]),
        st.sampled_from([0.0, -0.0, 1.0, -2.5, 1e-7, 4.0, 2.0**37, NAN]),
    ),
    max_size=50,
)
in_order = happenings.map(lambda found: sorted(found, key=lambda h: h.time_ms))
a_little_late = in_order.map(lambda found: [h for at in range(0, len(found), 4) for h in reversed(found[at : at + 4])])
logs = happenings | in_order | a_little_late
cuts = st.lists(st.integers(0, 50), max_size=6)


def same(found: list[list[float]], expected: list[list[float]]) -> bool:
    return np.array(found).tobytes() == (np.array(expected) + 0.0).tobytes() or np.array_equal(
        np.array(found), np.array(expected), equal_nan=True
    )


def pieces(found: list[Happening], places: list[int]) -> list[list[Happening]]:
    edges = [0, *sorted(place % (len(found) + 1) for place in places), len(found)]
    return [found[start:stop] for start, stop in pairwise(edges)]


@pytest.mark.slow
@pytest.mark.parametrize("of", ["events", "labels"])
@pytest.mark.parametrize("aggregate", get_args(Aggregate))
@settings(max_examples=60)
@given(found=logs, places=cuts)
def test_each_aggregate_equals_its_recomputation_from_the_log(
    of: str, aggregate: Aggregate, found: list[Happening], places: list[int]
) -> None:
    setting = setting_of(of, (aggregate,))
    state = FeatureState(setting.plan)

    rows = [row for piece in pieces(found, places) for row in run(setting, state, piece)]

    assert same(rows, Log(of).process(found, setting.windows))


@pytest.mark.slow
@pytest.mark.parametrize("of", ["events", "labels"])
@settings(max_examples=100)
@given(found=logs, places=cuts, restart=st.integers(0, 6), batch=st.integers(1, 9))
def test_all_aggregates_of_one_store_go_on_the_same_after_a_restart(
    of: str, found: list[Happening], places: list[int], restart: int, batch: int
) -> None:
    setting = setting_of(of, get_args(Aggregate))
    state = FeatureState(setting.plan)
    log: list[tuple[bytes, bytes | None]] = []
    rows = []
    for at, piece in enumerate(pieces(found, places)):
        if at == restart:
            state = FeatureState(setting.plan)
            for start in range(0, len(log), batch):
                state.restore(log[start : start + batch])
        rows += run(setting, state, piece)
        log += state.drain_changes()

    assert same(rows, Log(of).process(found, setting.windows))


@pytest.mark.slow
@settings(max_examples=60)
@given(found=logs, places=cuts)
def test_a_compacted_log_restores_the_same_and_holds_no_more_than_what_is_kept(
    found: list[Happening], places: list[int]
) -> None:
    setting = setting_of("events", get_args(Aggregate))
    state = FeatureState(setting.plan)
    log: dict[bytes, bytes | None] = {}
    for piece in pieces(found, places):
        run(setting, state, piece)
        for key, value in state.drain_changes():
            log.pop(key, None)
            log[key] = value
    restored = FeatureState(setting.plan)
    restored.restore(list(log.items()))
    probe = [Happening(True, t * HOP_MS, c, "x", 1.0) for t in (5, 12, 20) for c in "ab"]

    assert same(run(setting, restored, probe), run(setting, state, probe))


def test_windows_of_one_kind_key_and_hop_share_a_store_as_long_as_the_largest() -> None:
    windows = [
        None,
        WindowSpec("events", ("card",), 3_000, 1_000, "count", None),
        WindowSpec("labels", ("shop", "town"), 4_000, 2_000, "mean", "label"),
        None,
        WindowSpec("events", ("card",), 8_000, 1_000, "last", "amount"),
        WindowSpec("events", ("card",), 8_000, 4_000, "rate", None),
        WindowSpec("labels", ("shop", "town"), 4_000, 1_000, "sum", "amount"),
    ]
    plan = WindowPlan.of(windows, retain_ms=4_001)
    assert [(spec.of, spec.key, spec.hop_ms, spec.ring, spec.retain) for spec, _ in plan.stores] == [
        ("events", ("card",), 1_000, 8, 8 + 5),  # whole tiles that hold all that must be kept
        ("labels", ("shop", "town"), 2_000, 2, 2 + 3),
        ("events", ("card",), 4_000, 2, 2 + 2),
        ("labels", ("shop", "town"), 1_000, 4, 4 + 5),
    ]
    assert [[(column.column, column.tiles) for column in columns] for _, columns in plan.stores] == [
        [(1, 3), (4, 8)], [(2, 2)], [(5, 2)], [(6, 4)],
    ]  # fmt: skip
    assert all(column.window == windows[column.column] for _, columns in plan.stores for column in columns)
    assert plan.label_fields == ("amount", "shop", "town")
    assert len({spec.name for spec, _ in plan.stores}) == 4
    assert {len(spec.name) for spec, _ in plan.stores} == {4}


def test_a_store_is_another_when_its_cells_are() -> None:
    def name_of(window: WindowSpec) -> bytes:
        ((spec, _),) = WindowPlan.of([window], retain_ms=0).stores
        return spec.name

    names = [
        name_of(window)
        for window in (
            WindowSpec("events", ("card",), 4_000, 1_000, "sum", "amount"),
            WindowSpec("labels", ("card",), 4_000, 1_000, "sum", "amount"),
            WindowSpec("events", ("shop",), 4_000, 1_000, "sum", "amount"),
            WindowSpec("events", ("card",), 8_000, 1_000, "sum", "amount"),
            WindowSpec("events", ("card",), 8_000, 2_000, "sum", "amount"),  # of as many tiles as the first
            WindowSpec("events", ("card",), 4_000, 1_000, "sum", "price"),
            WindowSpec("events", ("card",), 4_000, 1_000, "mean", "amount"),
            WindowSpec("events", ("card",), 4_000, 1_000, "max", "amount"),
            WindowSpec("events", ("card",), 4_000, 1_000, "min", "amount"),
        )
    ]
    assert len(set(names)) == len(names)
    count, rate = (WindowSpec("events", ("card",), 4_000, 1_000, aggregate, None) for aggregate in ("count", "rate"))
    assert name_of(count) == name_of(rate)


@pytest.mark.parametrize("of", ["events", "labels"])
def test_a_state_that_is_restored_in_pieces_goes_on_the_same(of: str) -> None:
    generator = np.random.default_rng(7)
    found = [
        Happening(bool(n % 3), 400 * n, "ab"[n % 2], [None, "x", "y"][int(generator.integers(3))], float(n % 5))
        for n in range(60)
    ]
    setting = setting_of(of, get_args(Aggregate))
    state, log, rows = FeatureState(setting.plan), [], []
    for piece in pieces(found, [20, 41]):
        state, before = FeatureState(setting.plan), state
        log += before.drain_changes()
        for start in range(0, len(log), 3):
            state.restore(log[start : start + 3])
        state.finish_restore()
        rows += run(setting, state, piece)
        written = dict(log + state.drain_changes())
        log = list(written.items())
        assert set(state.record_keys()) == {key for key, value in written.items() if value is not None}
    assert same(rows, Log(of).process(found, setting.windows))


def test_of_values_of_the_same_time_the_last_is_the_one_that_came_last() -> None:
    setting = setting_of("events", ("last",))
    state = FeatureState(setting.plan)
    found = [Happening(True, HOP_MS, "a", None, value) for value in (1.0, 3.0, 2.0, 5.0, 4.0)]
    rows = [row[-1] for piece in pieces(found, [1, 3]) for row in run(setting, state, piece)]
    assert rows[1:] == [1.0, 3.0, 2.0, 5.0]


def test_where_nothing_is_drained_quiet_keys_are_forgotten_as_time_goes_by() -> None:
    setting = setting_of("events", ("count",))
    for with_changelog in (True, False):
        state = FeatureState(setting.plan, with_changelog=with_changelog)
        for n in range(60):
            run(setting, state, [Happening(True, n * HOP_MS, f"customer {n}", "x", 1.0)])
        assert state.keys == 60 if with_changelog else state.keys <= RETAIN + 2
        state.drain_changes()
        assert state.keys <= RETAIN + 2


def test_keys_of_different_fields_are_counted_by_themselves() -> None:
    windows = [WindowSpec("events", (key,), 8_000, HOP_MS, "count", None) for key in ("customer", "shop")]
    setting = Setting("events", windows)
    state = FeatureState(setting.plan)
    found = [
        Happening(True, n, c, s, 1.0) for n, (c, s) in enumerate([("a", "x"), ("a", "y"), ("b", "x"), ("a", None)])
    ]
    rows = np.array(run(setting, state, found))
    assert np.array_equal(rows, [[0, 0], [1, 0], [0, 1], [2, NAN]], equal_nan=True)
    assert state.keys == 2 + 2
    assert len(state.drain_changes()) == 4 + 2  # a tile of each key, and when each store was


PIPELINE = """
name = "cards"
[events]
entity = "card"
id = "id"
time = "at_ms"
earliest = 1970-01-01T00:00:00Z
max_ahead = "90m"
[events.fields]
id = "string"
card = "string"
at_ms = "int"
[[features]]
name = "n"
type = "int"
window = { of = "events", key = ["card"], size = "2h", hop = "1h", aggregate = "count" }
[[features]]
name = "often"
type = "float"
window = { of = "events", key = ["card"], size = "4h", hop = "2h", aggregate = "rate" }
"""


def test_windows_of_a_pipeline_outlive_an_event_that_is_ahead_and_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cards.toml"
    path.write_text(PIPELINE)
    pipeline = load(path)
    plan = WindowPlan.compile(pipeline)
    assert [(spec.ring, spec.retain) for spec, _ in plan.stores] == [(2, 2 + 26), (2, 2 + 13)]
    monkeypatch.setattr(app.core.features.windows, "NAME_BYTES", 0)
    with pytest.raises(PipelineError, match="two windows have the same 4-byte digest"):
        WindowPlan.compile(pipeline)


def test_variance_is_that_of_the_textbook_to_the_last_bit() -> None:
    setting = setting_of("events", ("variance",))
    values = [1e9 + 0.25, 1e9 + 0.5, 1e9 + 1.0]  # what a sum of squared floats would lose
    events = [Happening(True, at, "a", None, value) for at, value in enumerate([*values, 0.0])]

    rows = run(setting, FeatureState(setting.plan), events)

    assert np.isnan(rows[1][2])  # of one value
    assert rows[-1][2] == statistics.variance([0.25, 0.5, 1.0])


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", get_args(Aggregate))
def test_long_rows_read_in_short_batches_equal_the_recomputation(aggregate: Aggregate) -> None:
    generator = np.random.default_rng(5)
    setting = setting_of("events", (aggregate,))
    found = [
        Happening(
            True, int(at * 400 - generator.integers(0, 3) * 700), "a", f"s{generator.integers(0, 4)}", float(value)
        )
        for at, value in enumerate(generator.integers(-50, 50, 150))
    ]
    state = FeatureState(setting.plan)

    rows = [row for piece in pieces(found, list(range(0, 150, 4))) for row in run(setting, state, piece)]

    assert same(rows, Log("events").process(found, setting.windows))
