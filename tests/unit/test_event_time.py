from __future__ import annotations

import numpy as np
import pytest
from core_setting import DAY_MS, HOUR_MS, START_MS, batch, build, event, label
from hypothesis import given
from hypothesis import strategies as st

from app.core.intake.decode import EventDecoder, LabelDecoder
from app.core.records.event_time import CLOCK_SKEW_MS, TimeBounds
from schemas.pipeline.spec import Pipeline
from schemas.topics import WATERMARK_HEADER

BOUNDS = TimeBounds("at", START_MS, START_MS + 1000 * DAY_MS, DAY_MS)
NOW_MS = START_MS + 500 * DAY_MS


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def why(time_ms: int, stamp_ms: int = NOW_MS, clock_ms: int | None = None) -> tuple[str, str]:
    found = list(BOUNDS.refuse(ints(time_ms), ints(stamp_ms), clock_ms))
    return (found[0].reason, found[0].detail) if found else ("", "")


def test_the_bounds_are_exact_and_the_detail_says_them() -> None:
    assert why(START_MS)[0] == ""
    assert why(NOW_MS + DAY_MS)[0] == ""
    assert why(START_MS - 1) == ("time_too_early", f"at {START_MS - 1} is before events.earliest ({START_MS}).")
    reason, detail = why(NOW_MS + DAY_MS + 1)
    assert reason == "time_ahead"
    assert f"the latest that is believed is {NOW_MS + DAY_MS}." in detail
    late_ms = BOUNDS.latest_ms + 1
    assert why(late_ms, late_ms) == ("time_too_late", f"at {late_ms} is after events.latest ({BOUNDS.latest_ms}).")


def test_at_a_bound_a_time_breaks_another_rule_alone() -> None:
    """At the latest that is believed of any, and at the earliest; each far ahead of its record or of the clock."""
    for time_ms in (BOUNDS.earliest_ms, BOUNDS.latest_ms):
        ahead_ms, clock_ms = time_ms - DAY_MS - 1, time_ms - DAY_MS - CLOCK_SKEW_MS - 1
        assert why(time_ms, ahead_ms)[0] == "time_ahead"
        assert why(time_ms, time_ms, clock_ms)[0] == "clock_ahead"
        assert why(time_ms, ahead_ms + 1, clock_ms + 1)[0] == ""


def test_a_unit_is_named_up_to_the_bounds_themselves() -> None:
    seconds = TimeBounds("at", 5_000, 7_000, DAY_MS)
    said = {number: next(seconds.refuse(ints(number), ints(10**9), None)).detail for number in (4, 5, 7, 8)}
    is_named = {
        number: detail.endswith("; it looks like seconds: write milliseconds.") for number, detail in said.items()
    }
    assert [number for number, named in is_named.items() if named] == [5, 7]


def test_a_time_stamp_that_is_wrong_as_well_is_caught_by_the_clock_of_the_reader() -> None:
    bound = NOW_MS + DAY_MS + CLOCK_SKEW_MS
    assert why(bound, bound, NOW_MS)[0] == ""
    assert why(bound + 1, bound + 1, None)[0] == ""  # a replay follows the verdicts of the stream
    reason, detail = why(bound + 1, bound + 1, NOW_MS)
    assert reason == "clock_ahead"
    assert f"the latest that is believed is {bound}." in detail
    # A reader whose clock is behind by an hour believes what one with a right clock does.
    assert why(NOW_MS + DAY_MS, NOW_MS, NOW_MS - HOUR_MS)[0] == ""


@pytest.mark.parametrize(
    ("time_ms", "unit"),
    [(NOW_MS // 1000, "seconds"), (NOW_MS * 1000, "microseconds"), (NOW_MS * 1_000_000, "nanoseconds")],
)
def test_a_likely_unit_is_named(time_ms: int, unit: str) -> None:
    assert why(time_ms)[1].endswith(f"; it looks like {unit}: write milliseconds.")
    assert "looks like" not in why(0)[1]
    assert "looks like" not in why(-(2**63))[1]


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1) | st.integers(NOW_MS - 2 * DAY_MS, NOW_MS + 3 * DAY_MS),
            st.integers(-1, 2**63 - 1) | st.integers(NOW_MS - 2 * DAY_MS, NOW_MS + 2 * DAY_MS),
        ),
        max_size=9,
    ),
    st.none() | st.integers(NOW_MS - DAY_MS, NOW_MS + DAY_MS),
)
def test_a_batch_is_judged_as_its_times_one_by_one(found: list[tuple[int, int]], clock_ms: int | None) -> None:
    times, stamps = ints(*(time for time, _ in found)), ints(*(stamp for _, stamp in found))
    refused = list(BOUNDS.refuse(times, stamps, clock_ms))
    assert [(r.row, r.reason, r.detail) for r in refused] == [
        (row, *why(time, stamp, clock_ms)) for row, (time, stamp) in enumerate(found) if why(time, stamp, clock_ms)[0]
    ]
    for row, (time, stamp) in enumerate(found):
        is_bad = not BOUNDS.earliest_ms <= time <= min(BOUNDS.latest_ms, min(stamp, 2**62) + DAY_MS)
        is_bad |= clock_ms is not None and time > clock_ms + DAY_MS + CLOCK_SKEW_MS
        assert is_bad == (row in {r.row for r in refused})
    for r in refused:
        time, stamp = found[r.row]
        broken = {
            "time_too_early": time < BOUNDS.earliest_ms,
            "time_too_late": time > BOUNDS.latest_ms,
            "time_ahead": time > min(stamp, 2**62) + DAY_MS,
            "clock_ahead": clock_ms is not None and time > clock_ms + DAY_MS + CLOCK_SKEW_MS,
        }
        assert r.reason == next(reason for reason, is_broken in broken.items() if is_broken)


# -- the decoders ask ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return build(tmp_path_factory.mktemp("times")).pipeline


def test_events_labels_and_watermarks_are_held_to_the_clock_of_a_live_reader(pipeline: Pipeline) -> None:
    now_ms, wild_ms = START_MS + DAY_MS, START_MS + 400 * DAY_MS
    events = batch("e", [event(1, wild_ms), event(2, now_ms)], [wild_ms, now_ms])
    good, refused = EventDecoder(pipeline.events).decode(events, now_ms)
    assert (good.event_id, [(r.position, r.reason) for r in refused]) == (["e2"], [(0, "clock_ahead")])
    assert len(EventDecoder(pipeline.events).decode(events)[0]) == 2

    marks = [((WATERMARK_HEADER, str(time).encode()),) for time in (wild_ms, now_ms)]
    records = batch(
        "l",
        [label("e1", wild_ms), label("e2", now_ms), None, None],
        [wild_ms, now_ms, wild_ms, now_ms],
        headers=[(), (), *marks],
    )
    labels, refused = LabelDecoder(pipeline).decode(records, now_ms)
    assert labels.offsets.tolist() == [1, 3]
    assert {r.position: (r.stage, r.reason) for r in refused} == dict.fromkeys((0, 2), ("label", "clock_ahead"))
    assert refused[1].detail.startswith(WATERMARK_HEADER)
    assert len(LabelDecoder(pipeline).decode(records)[0]) == 4


def test_a_promise_may_look_ahead_by_the_horizon_and_no_further(pipeline: Pipeline) -> None:
    assert pipeline.labels is not None
    bound = START_MS + DAY_MS + pipeline.labels.horizon_ms
    marks = [((WATERMARK_HEADER, str(time).encode()),) for time in (bound, bound + 1, START_MS // 1000)]
    labels, refused = LabelDecoder(pipeline).decode(batch("l", [None] * 3, [START_MS] * 3, headers=marks))
    assert labels.label_time_ms.tolist() == [bound]
    assert [(r.position, r.reason) for r in refused] == [(1, "time_ahead"), (2, "time_too_early")]
    assert "seconds" in refused[1].detail
