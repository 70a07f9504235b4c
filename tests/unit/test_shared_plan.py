"""The plan of shared windows: which tiles an event sees, how long it waits for them, and what is one store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_logs import Setting, Window

import app.core.shared.plan
from app.core.shared.plan import SharedColumn, SharedPlan, SharedStore
from schemas.pipeline.file import load
from schemas.pipeline.spec import PipelineError

COLUMNS = st.lists(
    st.builds(
        SharedColumn, st.just(0), st.just(0), st.integers(1, 6), st.integers(1, 4), st.integers(0, 9), st.just("sum")
    ),
    min_size=1,
    max_size=4,
)


def newest_of(column: SharedColumn, time_ms: int) -> int:
    """The last tile that ends at or before the time less the delay."""
    return max(t for t in range(-30, 130) if (t + 1) * column.hop_ms <= time_ms - column.delay_ms)


@settings(max_examples=40)
@given(COLUMNS)
def test_an_event_waits_for_the_end_of_the_newest_tile_that_it_sees_and_reaches_back_to_its_oldest(
    columns: list[SharedColumn],
) -> None:
    plan, times = SharedPlan((), tuple(columns)), list(range(0, 60, 7))
    newest = [[newest_of(column, time_ms) for time_ms in times] for column in columns]
    for column, expected in zip(columns, newest, strict=True):
        assert column.newest_tiles(np.array(times)).tolist() == expected
    assert plan.needed_ms(np.array(times)).tolist() == [
        max((tiles[at] + 1) * column.hop_ms for column, tiles in zip(columns, newest, strict=True))
        for at in range(len(times))
    ]
    assert plan.least_delay_ms == min(column.delay_ms for column in columns)
    every = range(60)
    behind = [t - (newest_of(c, t) - c.tiles + 1) * c.hop_ms for c in columns for t in every]
    assert plan.reach_ms == max(behind) + 1  # the hop is at most 6: some event is as far behind as can be


SHOP = Window("events", ("shop",), 4, 2, 1, "sum", "amount")
WINDOWS = [
    SHOP,
    Window("events", ("shop",), 6, 2, 3, "mean", "amount"),  # of the same tiles
    Window("events", ("shop",), 4, 2, 1, "count"),
    Window("labels", ("town", "shop"), 4, 2, 1, "sum", "label"),
    Window("labels", ("shop",), 4, 1, 1, "sum", "amount"),
    Window("events", ("shop",), 4, 2, 5, "sum", "amount", is_divided=True),
    Window("events", ("town",), 4, 4, 0, "count", is_divided=True),
]


def plan_of(folder: Path, windows: list[Window]) -> SharedPlan:
    return Setting.of(folder, windows, 2, with_labels=any(w.of == "labels" for w in windows)).plan.shared


def test_windows_over_the_same_tiles_share_a_store_and_each_has_its_column(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, WINDOWS)
    minute = 60_000
    assert [(s.of, s.key, s.hop_ms // minute, s.field, s.repartition) for s in plan.stores] == [
        ("events", ("shop",), 2, "amount", False),
        ("events", ("shop",), 2, None, False),
        ("labels", ("town", "shop"), 2, "label", False),
        ("labels", ("shop",), 1, "amount", False),
        ("events", ("shop",), 2, "amount", True),
        ("events", ("town",), 4, None, True),
    ]
    assert plan.columns == tuple(
        SharedColumn(at, store, w.hop * minute, w.size // w.hop, w.delay * minute, w.aggregate)
        for at, (store, w) in enumerate(zip([0, 0, 1, 2, 3, 4, 5], WINDOWS, strict=True))
    )
    assert {len(name) for name in (plan.name, *(store.name for store in plan.stores))} == {4}
    assert plan.keys == (("shop",), ("town", "shop"), ("town",))
    assert plan.with_labels
    assert plan.label_fields == ("amount", "shop", "town")  # of labels, without "label" itself
    assert bool(plan)


def test_the_part_that_is_repartitioned_has_its_own_stores(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, WINDOWS)
    part = plan.repartitioned()
    assert part.stores == plan.stores[4:]
    assert [(c.column, c.store, c.delay_ms) for c in part.columns] == [(5, 0, 300_000), (6, 1, 0)]
    assert part.name != plan.name
    assert not part.with_labels
    assert part.label_fields == ()
    assert not plan_of(tmp_path, [SHOP]).repartitioned()


def test_windows_of_changed_features_begin_anew(tmp_path: Path) -> None:
    one, same, more = (plan_of(tmp_path, windows) for windows in ([SHOP], [SHOP], [SHOP, WINDOWS[2]]))
    assert (one.name, one.stores) == (same.name, same.stores)
    assert one.name != more.name
    assert one.stores[0].name not in {store.name for store in more.stores}
    assert len({store.name for store in plan_of(tmp_path, WINDOWS).stores}) == 6


def test_features_that_are_no_shared_windows_have_no_part_in_the_plan(tmp_path: Path) -> None:
    Setting.of(tmp_path, [SHOP], 2, with_labels=False)
    path = tmp_path / "cards.toml"
    feature = '[[features]]\nname = "{}"\ntype = "float"\n{}\n'
    path.write_text(
        path.read_text().replace(
            "[[features]]",
            feature.format("amount", 'expression = "amount"')
            + feature.format(
                "n", 'window = { of = "events", key = ["card"], size = "4m", hop = "2m", aggregate = "count" }'
            )
            + "[[features]]",
            1,
        )
    )
    pipeline = load(path)
    plan = SharedPlan.compile(pipeline)
    assert [feature.name for feature in pipeline.features] == ["amount", "n", "w0"]
    assert [(column.column, column.store) for column in plan.columns] == [(2, 0)]
    assert len(plan.stores) == 1


def test_stores_that_cannot_be_told_apart_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.core.shared.plan, "NAME_BYTES", 0)
    plan_of(tmp_path, WINDOWS[:2])
    with pytest.raises(PipelineError, match="two shared windows have the same digest"):
        plan_of(tmp_path, WINDOWS[:3])


def test_a_plan_without_a_column_is_none() -> None:
    assert not SharedPlan((SharedStore("events", ("shop",), 10, None, b"aaaa"),), ())
