"""Late labels are of a version while it scores, and for as long as they are expected after it was replaced."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.intake.last_scored import LastScored, Versions
from app.core.intake.pending import REJECTED

#: Per event: time since the one before, and who scored it.
EVENTS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["1", "2", "", REJECTED])), max_size=12)


def stretches(scorers: list[str]) -> Versions:
    found: Versions = []
    for row, scorer in enumerate(scorers):
        start = found.pop()[0] if found and found[-1][2] == scorer else row
        found.append((start, row + 1, scorer))
    return found


@given(
    events=EVENTS,
    labels=st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0, 5, 30])), min_size=1, max_size=5),
    cut=st.integers(0, 12),
    maturity_ms=st.integers(0, 20),
    is_restarted=st.booleans(),
)
def test_a_late_label_counts_by_the_events_before_it_wherever_the_run_is_cut(
    *, events: list[tuple[int, str]], labels: list[tuple[int, int]], cut: int, maturity_ms: int, is_restarted: bool
) -> None:
    """Labels are where they are applied, and how much later than the event before that they come."""
    times = np.cumsum([gap for gap, _ in events]).astype(np.int64)
    scorers = [scorer for _, scorer in events]
    cut = min(cut, len(events))
    known = LastScored(maturity_ms)
    known.begin(stretches(scorers[:cut]), times[:cut])
    is_cut = False
    for before, later in sorted((min(place, len(events)), later) for place, later in labels):
        if before > cut and not is_cut:
            is_cut = True
            known.come_to(cut)
            if is_restarted:
                state = json.loads(json.dumps(known.to_state(0)))
                known = LastScored(maturity_ms)
                known.from_state(state)
            known.begin(stretches(scorers[cut:]), times[cut:])
        at_ms = later + (int(times[before - 1]) if before else 0)
        scored = [(at, by) for at, by in zip(times[:before].tolist(), scorers, strict=False) if by in {"1", "2"}]
        last = max((at for at, by in scored if by == "1"), default=None)
        is_replaced = any(last is None or at > last for at, _ in scored)
        expected = not maturity_ms or not is_replaced or (last is not None and at_ms <= last + maturity_ms)
        assert known.counts(at_ms, "1", before - cut if is_cut else before) == expected


@pytest.mark.parametrize(("since_ms", "kept"), [(14, ["1", "2"]), (16, ["2"]), (31, [])])
def test_what_no_label_can_be_late_for_is_forgotten(since_ms: int, kept: list[str]) -> None:
    known = LastScored(10)
    known.begin([(0, 1, "2"), (1, 2, "1"), (2, 3, "2")], np.array([1, 5, 20]))
    known.come_to(3)
    assert list(known.to_state(since_ms)) == kept
