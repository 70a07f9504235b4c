"""Laws of the model timeline."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.core.scoring import ActiveModel, ChampionTimeline
from models.versions.timeline import ALWAYS_MS, Begins, Timeline
from schemas.ranges import EARLIEST_TABLE_MS
from schemas.wire import ModelUpdate


def update(
    version: str, role: str = "champion", valid_from_ms: int | None = None, *, is_rollback: bool = False
) -> ModelUpdate:
    return ModelUpdate(
        model="m",
        version=version,
        role=role,  # type: ignore[arg-type]  # one of ModelRole
        uri="file:///m",
        sha256="",
        feature_set="",
        announced_at_ms=0,
        valid_from_ms=valid_from_ms,
        is_rollback=is_rollback,
    )


def roll_back(timeline: Timeline) -> str | None:
    """As the command does it."""
    previous = timeline.previous()
    if previous is None:
        return None
    timeline.observe(replace(previous, is_rollback=True))
    return previous.version


UPDATES = st.lists(
    st.builds(
        update,
        st.sampled_from(["1.0.0", "2.0.0", "3.0.0"]),
        st.sampled_from(["champion", "champion", "champion", "retired", "unusable", "challenger"]),
        st.none() | st.integers(0, 10),
        is_rollback=st.sampled_from([False, False, True]),
    ),
    max_size=12,
)
TIMES = range(-1, 12)


def version_at(timeline: Timeline, event_time_ms: int) -> str | None:
    champion = timeline.champion_at(event_time_ms)
    return champion and champion.version


def test_before_any_promotion_there_is_no_champion() -> None:
    assert Timeline().champion_at(0) is None
    assert Timeline([update("1.0.0", "challenger"), update("1.0.0", "shadow")]).champion_at(0) is None


def test_a_version_scores_from_its_event_time_on() -> None:
    timeline = Timeline([update("1.0.0"), update("2.0.0", valid_from_ms=100)])
    assert [version_at(timeline, time_ms) for time_ms in (0, 99, 100, 101)] == ["1.0.0", "1.0.0", "2.0.0", "2.0.0"]


def test_of_those_in_force_the_last_announced_scores_not_the_one_with_the_latest_time() -> None:
    timeline = Timeline([update("1.0.0"), update("2.0.0", valid_from_ms=100), update("3.0.0", valid_from_ms=50)])
    assert [version_at(timeline, time_ms) for time_ms in (49, 50, 100)] == ["1.0.0", "3.0.0", "3.0.0"]


def test_a_version_called_unusable_falls_back_to_the_one_before_until_it_is_promoted_again() -> None:
    timeline = Timeline([update("1.0.0"), update("2.0.0"), update("2.0.0", "unusable")])
    assert version_at(timeline, 5) == "1.0.0"
    timeline.observe(update("2.0.0"))
    assert version_at(timeline, 5) == "2.0.0"


def test_before_the_first_valid_time_nobody_scores() -> None:
    timeline = Timeline([update("1.0.0", valid_from_ms=50), update("2.0.0", valid_from_ms=100)])
    assert [version_at(timeline, time_ms) for time_ms in (49, 50, 99, 100)] == [None, "1.0.0", "1.0.0", "2.0.0"]


@given(UPDATES)
def test_the_champion_is_the_one_that_the_rule_in_words_picks(updates: list[ModelUpdate]) -> None:
    """Walked backwards, as the rule is not written: what is undone or taken off later does not count."""
    standing: list[ModelUpdate] = []
    for place, update in enumerate(updates):
        if update.role == "champion":
            below = [n for n, each in enumerate(standing[:-1]) if each.version == update.version]
            said = [(each.version, each.valid_from_ms) for each in [*standing[-1:], update]]
            kept = standing[:-1] if said == said[-1:] * 2 else standing
            standing = standing[: below[-1] + 1] if update.is_rollback and below else [*kept, update]
        elif update.role in {"retired", "unusable"}:
            standing = [each for each in standing if each.version != update.version]
        timeline = Timeline(updates[: place + 1])
        assert timeline.champions == tuple(standing)
        for time_ms in TIMES:
            valid = [each for each in standing if each.valid_from_ms is None or each.valid_from_ms <= time_ms]
            assert timeline.champion_at(time_ms) == (valid[-1] if valid else None)


@given(UPDATES)
def test_spans_say_for_every_time_who_scores_it(updates: list[ModelUpdate]) -> None:
    timeline = Timeline(updates)
    spans = list(timeline.spans())
    assert spans[0].from_ms is None
    assert spans[-1].to_ms is None
    assert [span.to_ms for span in spans[:-1]] == [span.from_ms for span in spans[1:]]
    for span in spans:
        inside = [
            time_ms
            for time_ms in TIMES
            if (span.from_ms is None or span.from_ms <= time_ms) and (span.to_ms is None or time_ms < span.to_ms)
        ]
        assert {version_at(timeline, time_ms) for time_ms in inside} <= {span.champion and span.champion.version}
    versions = [span.champion and span.champion.version for span in spans]
    assert all(one != other for one, other in pairwise(versions))


@given(UPDATES, st.none() | st.integers(0, 10))
def test_workers_pick_whom_the_timeline_picks(updates: list[ModelUpdate], score_from_ms: int | None) -> None:
    timeline = Timeline(updates)
    loaded = [
        ActiveModel("m", each.version, "champion", "", 0.5, None, None, each.valid_from_ms)  # type: ignore[arg-type]  # no event is scored
        for each in timeline.champions
    ]
    times = np.array(TIMES, np.int64)
    champions: list[str | None] = [None] * len(times)
    for run in ChampionTimeline(loaded, score_from_ms).runs(times, times):
        assert run.start < run.stop
        champions[run.start : run.stop] = [run.model.version] * (run.stop - run.start)
    begins = score_from_ms if score_from_ms is not None else -1
    assert champions == [version_at(timeline, time_ms) if time_ms >= begins else None for time_ms in TIMES]


@given(UPDATES, UPDATES)
def test_one_by_one_is_the_same_as_all_at_once(first: list[ModelUpdate], then: list[ModelUpdate]) -> None:
    grown = Timeline(first)
    for update in then:
        grown.observe(update)
    whole = Timeline(first + then)
    assert (grown.champions, grown.updates, grown.previous()) == (whole.champions, whole.updates, whole.previous())
    assert grown.announced == whole.announced


def test_rolling_back_again_and_again_goes_further_back_and_then_ends() -> None:
    timeline = Timeline([update("1.0.0"), update("2.0.0"), update("3.0.0")])
    assert [roll_back(timeline) for _ in range(3)] == ["2.0.0", "1.0.0", None]


def test_an_older_version_that_was_promoted_again_rolls_back_to_the_one_before_it() -> None:
    timeline = Timeline([update("1.0.0"), update("2.0.0"), update("1.0.0")])
    assert [roll_back(timeline) for _ in range(3)] == ["2.0.0", "1.0.0", None]


def test_the_champion_announced_once_more_is_promoted_once() -> None:
    timeline = Timeline([update("1.0.0"), update("2.0.0", valid_from_ms=5)])
    timeline.observe(replace(update("2.0.0", valid_from_ms=5), announced_at_ms=9))
    assert [each.announced_at_ms for each in timeline.champions] == [0, 9]
    assert [roll_back(timeline) for _ in range(2)] == ["1.0.0", None]


@pytest.mark.parametrize("wrong", [{"uri": "file:///nowhere"}, {"sha256": "f"}])
def test_who_announces_the_champion_wrongly_takes_nothing_from_the_right_one(wrong: dict[str, str]) -> None:
    right = update("2.0.0")
    timeline = Timeline([update("1.0.0"), right, replace(right, **wrong)])
    assert timeline.champions[1:] == (right, replace(right, **wrong))


def test_the_champion_promoted_from_another_time_on_rolls_back_to_the_time_before() -> None:
    timeline = Timeline([update("1.0.0"), update("2.0.0", valid_from_ms=5), update("2.0.0", valid_from_ms=7)])
    assert [roll_back(timeline) for _ in range(3)] == ["2.0.0", "1.0.0", None]
    assert len(timeline.champions) == 1


def test_after_a_roll_back_a_new_version_rolls_back_to_what_was_in_force() -> None:
    timeline = Timeline([update("1.0.0"), update("2.0.0")])
    roll_back(timeline)
    timeline.observe(update("3.0.0"))
    assert [roll_back(timeline) for _ in range(2)] == ["1.0.0", None]


def test_what_is_rolled_back_scores_nothing_any_more_but_is_still_known() -> None:
    timeline = Timeline([update("1.0.0", valid_from_ms=100), update("2.0.0", valid_from_ms=50)])
    roll_back(timeline)
    assert [version_at(timeline, time_ms) for time_ms in (50, 99, 100)] == [None, None, "1.0.0"]
    assert {each.version for each in timeline.announced} == {"1.0.0", "2.0.0"}


@given(UPDATES, st.lists(UPDATES.filter(bool).map(lambda some: replace(some[0], role="champion", is_rollback=False))))
def test_a_roll_back_undoes_exactly_the_last_promotion(before: list[ModelUpdate], promoted: list[ModelUpdate]) -> None:
    timeline = Timeline(before)
    states = []
    for each in promoted:
        before_it = timeline.champions
        timeline.observe(each)
        if timeline.champions != before_it:  # it is no promotion when the champion is announced once more
            states.append(before_it)
    for state in reversed(states):
        if roll_back(timeline) is None:
            assert state == ()  # before it there was no champion: there is nothing to go back to
            break
        assert timeline.champions == state


# -- from when on a stream has scored --------------------------------------------------------------------------------


@given(UPDATES, st.none() | st.integers(0, 10), st.sets(st.sampled_from(["1.0.0", "2.0.0", "3.0.0"])))
def test_a_stream_has_scored_from_the_latest_time_that_the_rest_of_its_timeline_began_at(
    updates: list[ModelUpdate], score_from_ms: int | None, refused: set[str]
) -> None:
    """Each promotion that stood and was not refused scores from its time on; where all were, any of them may have."""
    begins, first = [], {}
    for place in range(len(updates)):
        standing = Timeline(updates[: place + 1]).champions
        served = [each for each in standing if each.version not in refused] or list(standing)
        begins.append(
            ALWAYS_MS
            if not served or any(each.valid_from_ms is None for each in served)
            else min(each.valid_from_ms for each in served)
        )
        if updates[place].role == "champion":
            first[updates[place].version] = min(place, first.get(updates[place].version, place))
    computed = Begins(updates, score_from_ms, frozenset(refused))
    least = ALWAYS_MS if score_from_ms is None else score_from_ms
    latest = [max([least, *begins[place:]]) for place in range(len(updates) + 1)]
    assert computed.highest_ms == latest[0]
    # A partition that has seen a version has come at least to where it was announced, whatever it scores with later.
    for starts in (["1.0.0"], ["2.0.0", "1.0.0", "9.0.0"], ["3.0.0", "3.0.0"]):
        places = [first.get(version, 0) for version in starts]
        expected = [latest[0], *(latest[max(places[: n + 1])] for n in range(len(starts)))]
        assert computed.of([(10 * n, version) for n, version in enumerate(starts)]) == expected
    assert computed.of([]) == [latest[0]] * 2


def test_a_refused_version_began_nothing_unless_nobody_else_stood() -> None:
    updates = [update("1.0.0", valid_from_ms=50), update("2.0.0", valid_from_ms=5)]
    assert Begins(updates, None).of([(0, "1.0.0"), (7, "2.0.0")]) == [50, 50, 5]
    assert Begins(updates, None, frozenset({"2.0.0"})).of([(0, "2.0.0")]) == [50, 50]
    assert Begins(updates[1:], None, frozenset({"2.0.0"})).highest_ms == 5
    assert Begins(updates, 60).of([(7, "2.0.0")]) == [60, 60]
    assert Begins([], None).highest_ms == ALWAYS_MS < EARLIEST_TABLE_MS


def test_the_newest_promotion_is_the_champion_and_what_is_taken_off_is_announced_no_more() -> None:
    assert Timeline().newest() is None
    updates = [update("1.0.0"), update("2.0.0", valid_from_ms=10**15), update("3.0.0", "challenger")]
    timeline = Timeline(updates)
    assert timeline.newest() == updates[1]
    assert timeline.announced == tuple(updates[:2])
    timeline.observe(update("2.0.0", "unusable"))
    assert (timeline.newest(), timeline.announced) == (updates[0], (updates[0],))
    timeline.observe(update("2.0.0", "retired"))  # off already
    timeline.observe(update("1.0.0", valid_from_ms=7))
    assert timeline.announced == (update("1.0.0", valid_from_ms=7),)


def test_a_version_of_another_model_is_another_version() -> None:
    timeline = Timeline([update("1.0.0"), replace(update("1.0.0", valid_from_ms=3), model="other")])
    assert len(list(timeline.spans())) == len(timeline.announced) == 2
    timeline.observe(update("1.0.0", "retired"))
    assert [each.model for each in timeline.champions] == ["other"]
