"""The frontier says of each detector what it does, on streams that are the same for all of them."""

from __future__ import annotations

import math

import pytest

from app.evaluation.frontier import CONTESTANTS, Contestant, Size, always_fire, frontier, measure

SIZE = Size(null_events=60_000, null_length=20_000, runs=4, patience=3_000, before=1_000, changed=(0.5,))


def test_always_firing_is_at_once_and_always_wrong() -> None:
    row = measure(always_fire(), SIZE, 1)
    assert (row.between_alarms, row.early) == (1, (1.0,))
    assert math.isnan(row.delay[0])


def test_a_rarer_alarm_comes_later() -> None:
    rows = [measure(Contestant.of("cusum", {}, arl), SIZE, 1) for arl in (2_000.0, 2_000_000.0)]
    assert rows[0].between_alarms < 10_000 < rows[1].between_alarms
    assert rows[0].delay < rows[1].delay
    assert [row.promised for row in rows] == [2_000, 2_000_000]


def test_what_is_never_noticed_is_missed() -> None:
    row = measure(Contestant.of("page_hinkley", {"mode": "up", "threshold": 1e9}, math.nan), SIZE, 1)
    assert (row.between_alarms, row.missed, row.early) == (math.inf, (1.0,), (0.0,))


def test_the_same_seed_gives_the_same_rows() -> None:
    one = Contestant.of("adwin", {"delta": 0.1}, math.nan)
    assert repr(measure(one, SIZE, 3)) == repr(measure(one, SIZE, 3))


@pytest.mark.slow
def test_every_contestant_has_a_row_and_always_fire_is_among_them() -> None:
    size = Size(null_events=10_000, null_length=10_000, runs=2, patience=300, before=200, changed=(0.5,))
    rows = frontier(size, 1, with_slow=False)
    assert [row.detector for row in rows] == [*(kind for kind, _, _ in CONTESTANTS), "always fire"]
    assert [row.delay[0] for row in rows if row.detector == "adwin"] == [pytest.approx(60, abs=60)] * 3
