"""Laws of the delay of labels: counted exactly once, and estimated as if nothing were missing."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.counts.calendar import Window
from app.core.counts.delay_law import EDGES_MS, FEWEST_LABELS, N_CELLS, DelayLaw, Tallied, find_cells, say_ms, tally
from app.core.labels.delays import LabelDelays, cohort_of
from schemas.wire import DelayCounts, SketchRecord

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

Draw = Callable[[np.random.Generator, int], np.ndarray]

#: Delays in days.
LAWS: dict[str, Draw] = {
    "at once": lambda _, n: np.zeros(n),
    "all at 20": lambda _, n: np.full(n, 20.0),
    "uniform 1 to 20": lambda rng, n: rng.uniform(1, 20, n),
    "uniform 15 to 20": lambda rng, n: rng.uniform(15, 20, n),
    "exponential of mean 5": lambda rng, n: rng.exponential(5, n),
    "half at once, half late": lambda rng, n: np.where(rng.random(n) < 0.5, 0.01, rng.uniform(10, 18, n)),
}


def delays(horizon_days: float = 30, maturity_days: float = 21) -> LabelDelays:
    return LabelDelays("p", HOUR_MS, round(horizon_days * DAY_MS), round(maturity_days * DAY_MS))


def put(label_delays: LabelDelays, start_ms: int, label: int, cells: np.ndarray, counts: np.ndarray) -> None:
    label_delays.count(Tallied(start_ms, label, cells, counts, 0))


def grow(
    law: str, known_days: float, *, n: int = 20_000, days: float = 60, seed: int = 1, into: LabelDelays | None = None
) -> LabelDelays:
    """Events of 60 days, their labels 1 by a law, as far as they have come by then."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, days, n))
    took = LAWS[law](rng, n)
    here = times + took <= known_days
    label_delays = delays() if into is None else into
    in_ms = [np.round(each[here] * DAY_MS).astype(np.int64) for each in (times, took)]
    label_delays.count_each(in_ms[0], np.ones(here.sum()), in_ms[1])
    return label_delays


@given(st.lists(st.integers(-(2**45), 2**45), min_size=1, max_size=50))
def test_each_delay_is_in_the_cell_whose_edges_enclose_it(values: list[int]) -> None:
    for value, cell in zip(values, find_cells(np.array(values)).tolist(), strict=True):
        assert 0 <= cell < N_CELLS
        assert cell == 0 or EDGES_MS[cell] <= value
        assert cell == N_CELLS - 1 or value < EDGES_MS[cell + 1]
    widths = np.diff(EDGES_MS)[1:] / EDGES_MS[1:-1]
    assert (np.diff(EDGES_MS) > 0).all()
    assert widths.max() <= 1 / 32


@pytest.mark.slow
@settings(max_examples=30)
@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 300), max_size=4))
def test_counts_of_parts_make_those_of_the_whole_in_any_order(seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    times, labels = rng.integers(0, 40 * DAY_MS, 300), rng.integers(0, 2, 300).astype(float)
    took = rng.integers(0, 20 * DAY_MS, 300)
    whole, parts = delays(), delays()
    whole.count_each(times, labels, took)
    edges = sorted({0, 300, *cuts})
    for start, stop in reversed(list(itertools.pairwise(edges))):
        counts = [
            DelayCounts(at, label, cells.astype("<u4").tobytes(), n.astype("<i8").tobytes(), newest)
            for at, label, cells, n, newest in tally(times[start:stop], HOUR_MS, labels[start:stop], took[start:stop])
        ]
        parts.add(SketchRecord(0, 0, 0, [], delays=counts))
    assert parts.to_state() == whole.to_state()
    again = delays()
    again.from_state(json.loads(json.dumps(whole.to_state())))
    assert again.to_state() == whole.to_state()


@pytest.mark.parametrize("law", sorted(LAWS))
def test_the_law_of_half_the_labels_is_the_law_of_all(law: str) -> None:
    """At day 62 half of the slow labels of 40 days are missing: what is here alone would look much too fast."""
    known = 62.0
    estimated = grow(law, known).law(round(known * DAY_MS))
    rng = np.random.default_rng(2)
    truth = LAWS[law](rng, 400_000)
    for age in (0.5, 3, 7, 12, 16, 20.7):
        share = float(estimated.arrived(1, np.array([age * DAY_MS]))[0])
        assert share == pytest.approx(float((truth <= age).mean()), abs=0.03), age
    if law != "half at once, half late":  # whose median is anything between the two
        assert estimated.within_ms(1, 0.5) / DAY_MS == pytest.approx(float(np.median(truth)), rel=0.07, abs=0.05)


def test_taken_as_they_are_here_delays_would_look_too_short() -> None:
    """The estimate is needed: of the events of the last 20 days the raw counts say 63 % where 32 % is true."""
    known = 20.0
    rng = np.random.default_rng(3)
    times, took = rng.uniform(0, known, 40_000), rng.uniform(1, 20, 40_000)
    here = times + took <= known
    raw = float((took[here] <= 7).mean())
    label_delays = delays()
    label_delays.count_each(
        (times[here] * DAY_MS).astype(np.int64), np.ones(here.sum()), (took[here] * DAY_MS).astype(np.int64)
    )
    law = label_delays.law(round(known * DAY_MS))
    reach = law.reach_ms[1] / DAY_MS
    assert law.arrived(1, np.array([7.0 * DAY_MS]))[0] == pytest.approx(6 / (reach - 1), abs=0.03)
    assert raw > 0.5


def test_the_law_is_that_of_lagakos_worked_by_hand() -> None:
    """Ages 3 and 1 hours; of those within an hour and within three: 1 - 30/90 took less than the longest."""
    label_delays = delays(1, 1)
    hours = cohort_of(HOUR_MS, DAY_MS) // HOUR_MS
    assert hours == 1
    for start, took, n in ((0, 0.5, 60), (0, 2.5, 30), (3, 0.5, 40)):
        put(label_delays, start * HOUR_MS, 0, find_cells(np.array([round(took * HOUR_MS)])), np.array([n]))
    law = label_delays.law(5 * HOUR_MS)
    assert law.n == (130, 0)
    assert law.arrived(0, np.array([0.4, 1.5, 4]) * HOUR_MS).tolist() == pytest.approx([0, 2 / 3, 1])


def test_a_cell_counts_once_the_youngest_events_of_its_cohort_have_shown_all_of_it() -> None:
    label_delays, cell = delays(1, 1), 100
    put(label_delays, 0, 1, np.array([cell]), np.array([FEWEST_LABELS]))
    known_ms = label_delays.cohort_ms + int(EDGES_MS[cell + 1])
    assert (label_delays.law(known_ms).n, label_delays.law(known_ms).reach_ms) == ((0, 50), (0, EDGES_MS[cell + 1]))
    assert (label_delays.law(known_ms - 1).n, label_delays.law(known_ms - 1).reach_ms) == ((0, 0), (0, 0))


def test_what_came_later_does_not_change_what_was_known_then() -> None:
    """A verdict on a window must not depend on when the monitor came to it."""
    then, now = grow("uniform 1 to 20", 45.0), grow("uniform 1 to 20", 80.0)
    for known_ms in (30 * DAY_MS, 45 * DAY_MS):
        assert then.law(known_ms).shares.tobytes() == now.law(known_ms).shares.tobytes()
    window = Window(18 * DAY_MS, 23 * DAY_MS)
    assert then.arrived(window) == now.arrived(window)


def law_of(label_delays: LabelDelays, window: Window) -> list[list[float]] | None:
    """What is kept with a window: shares of labels 0 and 1 by age."""
    label_delays.arrived(window)
    return label_delays._shares[window]


def test_what_is_forgotten_changes_no_window_to_come() -> None:
    def hasty() -> LabelDelays:
        """So early that a window's shares are no round numbers."""
        return grow("uniform 1 to 20", 300.0, days=280, into=delays(30, 5))

    windows = [Window(at * DAY_MS, (at + 5) * DAY_MS) for at in range(0, 290, 5)]
    kept, pruned = hasty(), hasty()
    truth = [law_of(kept, window) for window in windows]
    assert len(set(map(repr, truth[20:]))) > 20
    n_before = len(kept.to_state()["cohorts"])
    for label_watermark, closed_before, closed, n_mature in (
        (190, 190, windows[20:38], 10),  # some wait for their labels
        (210, 150, windows[20:30], 10),  # labels that are ahead of what closes
        (290, 290, windows[20:58], 38),
    ):
        pruned.prune(label_watermark * DAY_MS, closed_before * DAY_MS, closed, closed[:n_mature])
        assert [law_of(pruned, window) for window in windows[20:40]] == truth[20:40]
    assert len(pruned.to_state()["cohorts"]) < n_before
    pruned.prune(300 * DAY_MS, 300 * DAY_MS, [], [])
    assert len(pruned.to_state()["cohorts"]) <= 3 * 32 + 2
    assert pruned.to_state()["shares"] == []


def test_a_window_keeps_its_shares_when_the_cohorts_that_say_them_are_gone() -> None:
    label_delays = grow("uniform 1 to 20", 300.0, days=280, into=delays(30, 5))
    window = Window(100 * DAY_MS, 105 * DAY_MS)
    truth = law_of(label_delays, window)
    pruned = grow("uniform 1 to 20", 300.0, days=280, into=delays(30, 5))
    pruned.prune(300 * DAY_MS, 300 * DAY_MS, [window], [window])
    again = delays(30, 5)
    again.from_state(json.loads(json.dumps(pruned.to_state())))
    assert min(start for start, *_ in again.to_state()["cohorts"]) > 200 * DAY_MS
    assert law_of(again, window) == law_of(pruned, window) == truth


def test_a_window_is_judged_by_the_shares_that_are_here_at_its_maturity() -> None:
    label_delays = delays(30, 10)
    rng = np.random.default_rng(5)
    times = rng.uniform(0, 80 * DAY_MS, 60_000).astype(np.int64)
    labels = (rng.random(60_000) < 0.3).astype(float)
    took = np.where(labels == 1, rng.uniform(1, 20, 60_000), 11.0) * DAY_MS
    window = Window(60 * DAY_MS, 64 * DAY_MS)
    here = times + took <= window.end_ms + 10 * DAY_MS
    label_delays.count_each(times[here], labels[here], took[here].astype(np.int64))
    told = label_delays.arrived(window)
    assert told is not None
    # Ages 10 to 14 days: of the negatives those of the three days that are 11 days old.
    assert told[0] == pytest.approx(0.75, abs=0.06)
    assert told[1] == pytest.approx((12 - 1) / 19, abs=0.03)
    # Half a day of labels later, and when all are here.
    for days, zero, one in ((10.5, 0.875, (12.5 - 1) / 19), (30, 1.0, 1.0)):
        more = ~here & (times + took <= window.end_ms + days * DAY_MS)
        here |= more
        label_delays.count_each(times[more], labels[more], took[more].astype(np.int64))
        assert label_delays.arrived(window) == (pytest.approx(zero, abs=0.06), pytest.approx(one, abs=0.03))


def test_without_enough_labels_nothing_is_corrected_and_nothing_claimed() -> None:
    label_delays = delays()
    put(label_delays, 0, 1, np.array([7]), np.array([FEWEST_LABELS - 1]))
    law = label_delays.law(90 * DAY_MS)
    assert not law.is_known(1)
    assert math.isnan(law.within_ms(1, 0.5))
    assert np.isnan(law.arrived(1, np.array([1.0]))).all()
    assert law.describe(1) == "only 49 labels 1 so far, too few to say how long they take"
    assert label_delays.arrived(Window(0, DAY_MS)) is None  # of a stream that is younger than the horizon
    assert label_delays.arrived(Window(60 * DAY_MS, 61 * DAY_MS)) == (1.0, 1.0)
    assert delays().arrived(Window(0, DAY_MS)) == (1.0, 1.0)  # of workers that do not tell
    put(label_delays, 0, 1, np.array([8]), np.array([1]))
    assert label_delays.law(90 * DAY_MS).is_known(1)
    assert delays().law(0).describe(0) == "no label 0 has come yet"


@pytest.mark.parametrize(
    ("law", "words"),
    [
        ("at once", "the labels 1 come at once"),
        ("all at 20", "nearly all labels 1 come at about 20 days"),
        ("uniform 15 to 20", "half of the labels 1 come within 18 days, 99 % within 20 days"),
        ("uniform 1 to 20", "half of the labels 1 come within 10 days, 99 % within 20 days"),
    ],
)
def test_the_law_is_said_in_words(law: str, words: str) -> None:
    assert grow(law, 90.0).law(90 * DAY_MS).describe(1) == words


def test_a_cohort_is_reported_when_it_is_mature_and_again_when_no_label_of_it_counts_any_more() -> None:
    label_delays = delays(20, 10)
    cohort_ms = label_delays.cohort_ms
    put(label_delays, 0, 1, find_cells(np.array([DAY_MS, 2 * DAY_MS])), np.array([90, 10]))
    assert label_delays.rows(None) == label_delays.rows(cohort_ms + 10 * DAY_MS - 1) == []
    zero, one = label_delays.rows(cohort_ms + 10 * DAY_MS)
    assert (zero.label, zero.n, one.label, one.n, one.revision) == (0, 0, 1, 100, 100)
    assert math.isnan(zero.half_s)
    assert (one.window_start_ms, one.window_end_ms) == (0, cohort_ms)
    assert DAY_MS / 1000 < one.half_s == one.share_90_s <= 1.032 * DAY_MS / 1000
    assert 2 * DAY_MS / 1000 < one.share_99_s == one.slowest_s <= 2.063 * DAY_MS / 1000
    put(label_delays, 0, 1, find_cells(np.array([15 * DAY_MS])), np.array([5]))
    assert label_delays.rows(cohort_ms + 19 * DAY_MS) == []
    assert [(row.label, row.n, row.revision) for row in label_delays.rows(cohort_ms + 20 * DAY_MS)] == [
        (0, 0, 105),
        (1, 105, 105),
    ]
    assert label_delays.rows(cohort_ms + 40 * DAY_MS) == []


def test_a_law_never_falls_and_stays_between_0_and_1() -> None:
    for law in laws():
        for label in (0, 1):
            if law.is_known(label):
                assert (np.diff(law.shares[label]) >= -1e-12).all()
                assert 0 <= law.shares[label].min() <= law.shares[label].max() == 1


def laws() -> Iterator[DelayLaw]:
    rng = np.random.default_rng(8)
    for _ in range(30):
        label_delays, n = delays(), int(rng.integers(1, 3_000))
        times = rng.integers(0, 40 * DAY_MS, n)
        took = (rng.exponential(rng.uniform(0.1, 9), n) * DAY_MS).astype(np.int64)
        here = times + took <= 40 * DAY_MS
        label_delays.count_each(times[here], (rng.random(n) < 0.1).astype(float)[here], took[here])
        yield label_delays.law(40 * DAY_MS)


def test_durations_are_said_in_the_unit_that_a_person_would_take() -> None:
    assert [say_ms(each * 1000) for each in (0.5, 119, 120, 7_200, 172_800, 1_814_400)] == [
        *("0.5 seconds", "119 seconds", "2 minutes", "2 hours", "2 days", "21 days")
    ]
