from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from app.core.intake.rejection_limit import RejectionLimit, TooManyDeadLettersError
from schemas.pipeline.spec import Limits
from schemas.wire import DeadLetter, Source

LETTER = DeadLetter(Source("events", 0, 7), "decode", "invalid", "no JSON", None, b"{", 0, 0)
LOGS = st.lists(st.booleans(), max_size=60)  # True: rejected
LIMITS = st.builds(Limits, st.integers(1, 12), st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]), st.integers(1, 25))


def stops_at(log: list[bool], limits: Limits) -> int | None:
    """The first record at which a limit is reached, by definition."""
    for end in range(1, len(log) + 1):
        row = 0
        for is_bad in log[:end]:
            row = row + 1 if is_bad else 0
        if row >= limits.consecutive or sum(log[max(0, end - limits.of_last) : end]) > limits.share * limits.of_last:
            return end - 1
    return None


def observe(limit: RejectionLimit, log: list[bool], start: int, stop: int) -> None:
    good = [3 * at for at in range(start, stop) if not log[at]]
    limit.observe(np.array(good, dtype=np.int64), [3 * at for at in range(start, stop) if log[at]])


@given(
    log=LOGS, limits=LIMITS, cuts=st.lists(st.integers(0, 60), max_size=8), restarts=st.lists(st.booleans(), max_size=9)
)
def test_a_limit_stops_at_the_same_record_wherever_steps_are_cut_and_workers_restart(
    log: list[bool], limits: Limits, cuts: list[int], restarts: list[bool]
) -> None:
    stop = stops_at(log, limits)
    places = sorted({0, len(log), *(cut for cut in cuts if cut < len(log))})
    limit = RejectionLimit(limits)
    for number, (start, end) in enumerate(pairwise(places)):
        if stop is not None and start <= stop < end:
            with pytest.raises(TooManyDeadLettersError):
                observe(limit, log, start, end)
            return
        observe(limit, log, start, end)
        if number < len(restarts) and restarts[number]:
            saved = limit.state()
            limit = RejectionLimit(limits)
            limit.restore(saved)
    assert stop is None


def test_the_share_is_of_the_last_events_whatever_steps_they_came_in() -> None:
    """Two of every three are bad: of the last 90, the 46th is one too many, at the 69th record."""
    limits = Limits(consecutive=1000, share=0.5, of_last=90)
    log = [at % 3 > 0 for at in range(90)]
    assert stops_at(log, limits) == 68
    limit = RejectionLimit(limits)
    for at in range(68):
        observe(limit, log, at, at + 1)
    with pytest.raises(TooManyDeadLettersError, match="2 events in a row and 46 of 90"):
        observe(limit, log, 68, 69)


@pytest.mark.parametrize(("apart", "is_too_many"), [(9, True), (10, False)])
def test_rejections_as_far_apart_as_what_is_looked_at_never_count_together(apart: int, is_too_many: bool) -> None:
    limits = Limits(consecutive=1000, share=0.1, of_last=10)
    log = [at in {0, apart} for at in range(20)]
    assert stops_at(log, limits) == (apart if is_too_many else None)
    limit = RejectionLimit(limits)
    if is_too_many:
        with pytest.raises(TooManyDeadLettersError, match="2 of 10"):
            observe(limit, log, 0, 20)
    else:
        observe(limit, log, 0, 20)


def test_what_is_kept_is_small_while_little_is_rejected() -> None:
    limit = RejectionLimit(Limits(consecutive=1000, share=0.5, of_last=5000))
    observe(limit, [True, False] * 100, 0, 200)
    limit.observe(np.arange(600, 600 + 4900, dtype=np.int64), [])
    assert limit.state() == {"consecutive": 0, "ago": list(range(5000, 4900, -2))}
    limit.observe(np.arange(10_000, 15_000, dtype=np.int64), [])
    assert limit.state() == {"consecutive": 0, "ago": []}


def test_the_error_says_how_many_of_what_and_the_last_reason() -> None:
    letters = [LETTER, structs.replace(LETTER, reason="late", detail="by an hour")]
    with pytest.raises(TooManyDeadLettersError) as told:
        RejectionLimit(Limits(2, 0.5, 10), "labels").observe(np.array([1, 4]), [2, 3, 6], letters)
    assert str(told.value).startswith(
        "2 labels in a row and 3 of 10 were rejected (last: late, by an hour). Nothing of"
    )
    # A share of one is never exceeded, and not counted; letters may not be at hand.
    with pytest.raises(TooManyDeadLettersError, match=r"3 events in a row and 0 of 10 were rejected \(last: -\)"):
        RejectionLimit(Limits(3, 1.0, 10)).observe(np.array([], np.int64), [2, 3, 6])


def test_a_row_goes_on_over_stretches_and_ends_with_a_good_record_alone() -> None:
    limit = RejectionLimit(Limits(3, 1.0, 10))
    nothing = np.array([], np.int64)
    limit.observe(nothing, [1, 2])
    limit.observe(nothing, [])
    assert limit.state()["consecutive"] == 2
    limit.observe(np.array([3]), [])
    assert limit.state()["consecutive"] == 0
    limit.observe(np.array([4]), [5, 6])
    with pytest.raises(TooManyDeadLettersError, match="3 events in a row"):
        limit.observe(np.array([8]), [7])


def test_a_share_of_one_keeps_nothing() -> None:
    limit = RejectionLimit(Limits(consecutive=10**9, share=1.0, of_last=10**9))
    observe(limit, [True] * 1000, 0, 1000)
    assert limit.state()["ago"] == []
