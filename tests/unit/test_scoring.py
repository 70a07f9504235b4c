"""Who scores an event is a function of its event time and of the order of the promotions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.core.scoring import UNSCORED, ActiveModel, ChampionTimeline, cut_runs

LEAST, MOST = -(2**63), 2**63 - 1
TIMES = st.integers(-3, 9) | st.sampled_from([LEAST, MOST])


def version(number: int, valid_from_ms: int | None) -> ActiveModel:
    of_no_use: Any = None
    return ActiveModel("m", str(number), "champion", "f", 0.5, of_no_use, of_no_use, valid_from_ms)


@given(
    begins=st.lists(st.none() | TIMES, max_size=5),
    score_from_ms=st.none() | TIMES,
    times=st.lists(TIMES, max_size=12),
)
def test_in_force_is_the_one_promoted_last_of_those_that_are_valid_at_the_time(
    begins: list[int | None], score_from_ms: int | None, times: list[int]
) -> None:
    champions = [version(number, begin) for number, begin in enumerate(begins)]
    timeline = ChampionTimeline(champions, score_from_ms)
    assert timeline.is_ready() == bool(champions)
    assert timeline.champions == tuple(champions)
    by_hand = []
    for time in times:
        valid = [each for each in champions if each.valid_from_ms is None or each.valid_from_ms <= time]
        is_wanted = score_from_ms is None or time >= score_from_ms
        by_hand.append(valid[-1] if valid and is_wanted else None)
    runs = timeline.runs(np.arange(len(times)), np.array(times, dtype=np.int64))
    found: list[ActiveModel | None] = [None] * len(times)
    for run in runs:
        assert run.start < run.stop
        found[run.start : run.stop] = [run.model] * (run.stop - run.start)
    assert found == by_hand
    # Stretches are as long as they can be, and in order.
    for before, after in pairwise(runs):
        assert before.stop < after.start or (before.stop == after.start and before.model is not after.model)


def test_runs_are_cut_where_the_model_changes_and_leave_out_what_has_none() -> None:
    models = [version(0, None), version(1, None)]
    places = np.array([UNSCORED, 0, 0, 1, UNSCORED, UNSCORED, 1, 1])
    assert [(run.start, run.stop, run.model.version) for run in cut_runs(models, places)] == [
        (1, 3, "0"),
        (3, 4, "1"),
        (6, 8, "1"),
    ]
    assert cut_runs(models, places[:1]) == cut_runs(models, places[:0]) == []
