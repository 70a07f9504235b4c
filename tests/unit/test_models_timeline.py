"""Laws of the model timeline."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.timeline import Timeline
from schemas.wire import ModelUpdate


def update(version: str, role: str = "champion", valid_from_ms: int | None = None) -> ModelUpdate:
    return ModelUpdate(
        model="m",
        version=version,
        role=role,  # type: ignore[arg-type]  # one of ModelRole
        uri="file:///m",
        sha256="",
        feature_set="",
        announced_at_ms=0,
        valid_from_ms=valid_from_ms,
    )


UPDATES = st.lists(
    st.builds(
        update,
        st.sampled_from(["1.0.0", "2.0.0", "3.0.0"]),
        st.sampled_from(["champion", "champion", "champion", "retired", "unusable", "challenger"]),
        st.none() | st.integers(0, 10),
    ),
    max_size=12,
)


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


@given(UPDATES, st.integers(0, 10))
def test_the_champion_is_the_one_that_the_rule_in_words_picks(updates: list[ModelUpdate], time_ms: int) -> None:
    standing = [
        found
        for offset, found in enumerate(updates)
        if found.role == "champion"
        and (found.valid_from_ms is None or found.valid_from_ms <= time_ms)
        and not any(
            later.version == found.version and later.role in ("retired", "unusable") for later in updates[offset:]
        )
    ]
    assert Timeline(updates).champion_at(time_ms) == (standing[-1] if standing else None)


@given(UPDATES, UPDATES)
def test_one_by_one_is_the_same_as_all_at_once(first: list[ModelUpdate], then: list[ModelUpdate]) -> None:
    grown = Timeline(first)
    for found in then:
        grown.observe(found)
    whole = Timeline(first + then)
    assert (grown.champions, grown.updates, grown.previous()) == (whole.champions, whole.updates, whole.previous())


def test_rolling_back_again_and_again_goes_further_back_and_then_ends() -> None:
    timeline = Timeline([update("1.0.0"), update("2.0.0"), update("3.0.0")])
    seen = []
    while (previous := timeline.previous()) is not None:
        seen.append(previous.version)
        timeline.observe(update(previous.version))
    assert seen == ["2.0.0", "1.0.0"]


def test_after_a_roll_back_a_new_version_rolls_back_to_what_was_in_force() -> None:
    timeline = Timeline([update("1.0.0"), update("2.0.0"), update("1.0.0"), update("3.0.0")])
    previous = timeline.previous()
    assert previous is not None
    assert previous.version == "1.0.0"


@given(UPDATES)
def test_a_roll_back_goes_to_another_version_that_still_stands(updates: list[ModelUpdate]) -> None:
    timeline = Timeline(updates)
    previous, newest = timeline.previous(), timeline.newest()
    if previous is not None:
        assert newest is not None
        assert previous.version != newest.version
        assert previous in timeline.champions
