"""A past window speaks through the version that scored most of it; the score only through the version's own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from app.core.counts.calendar import Window
from app.core.drift.describer import Statistics
from app.core.drift.history import History
from models.reference.reference import SCORE

FEATURES = ("a", "b")


def statistics(metrics: tuple[str, ...], level: float) -> Statistics:
    """Deciles of each metric: ``level`` plus its place, ten times."""
    deciles = level + np.arange(len(metrics))[:, None] + np.zeros((1, 10))
    return Statistics(metrics, deciles, (), np.empty(0))


def window(number: int, size: int = 1) -> Window:
    return Window(number * 10, (number + size) * 10)


def levels(history: History, windows: list[Window], version: str, metrics: tuple[str, ...]) -> list[list[float]]:
    """The first decile of each window and metric."""
    found = history.past(windows, version, "all", metrics)
    assert found.shape == (len(windows), len(metrics), 10)
    return found[:, :, 0].tolist()


def test_the_version_of_most_events_speaks_and_the_first_by_name_among_equals() -> None:
    history = History(9)
    history.remember(window(0), "1", "all", 10, statistics(FEATURES, 100.0))
    history.remember(window(0), "2", "all", 30, statistics(FEATURES, 200.0))
    history.remember(window(1), "2", "all", 20, statistics(FEATURES, 300.0))
    history.remember(window(1), "1", "all", 20, statistics(FEATURES, 400.0))

    assert levels(history, [window(0), window(1)], "3", FEATURES) == [[200, 201], [400, 401]]
    assert levels(history, [window(0)], "3", ("b",)) == [[201]]


def test_events_are_counted_over_all_versions_and_what_is_noted_again_is_no_news() -> None:
    history = History(9)
    numbers = {"1": {"all": 10, "k=1": 3}, "2": {"all": 30, "k=2": 30}}

    assert history.note_events(window(0), numbers)
    assert not history.note_events(window(0), numbers)
    assert history.events(window(0)) == {"all": 40, "k=1": 3, "k=2": 30}
    assert history.note_events(window(0), {"2": {"all": 31}})
    assert history.events(window(0)) == {"all": 31}


def test_the_score_is_the_versions_own_and_unknown_where_it_had_none() -> None:
    history = History(9)
    metrics = ("a", SCORE)
    history.remember(window(0), "1", "all", 10, statistics(metrics, 100.0))
    history.remember(window(0), "2", "all", 30, statistics(metrics, 200.0))
    history.remember(window(1), "1", "all", 10, statistics(metrics, 300.0))

    assert levels(history, [window(0), window(1)], "1", metrics) == [[200, 101], [300, 301]]
    np.testing.assert_array_equal(levels(history, [window(0), window(1)], "2", metrics), [[200, 201], [300, np.nan]])


def test_what_the_speaker_does_not_know_another_version_tells() -> None:
    history = History(9)
    history.remember(window(0), "1", "all", 10, statistics(("a", "b"), 100.0))
    history.remember(window(0), "2", "all", 30, statistics(("b", "c"), 200.0))

    np.testing.assert_array_equal(levels(history, [window(0)], "2", ("a", "b", "c", "d")), [[100, 200, 201, np.nan]])
    assert np.isnan(history.past([window(0)], "2", "other", ("a",))).all()


def test_windows_before_one_are_the_newest_that_do_not_overlap_it_or_each_other() -> None:
    history = History(2)
    for number in range(8):
        history.remember(window(number, 2), "1", "all", 1, statistics(FEATURES, 0.0))

    assert history.before(window(7, 2)) == [window(3, 2), window(5, 2)]
    assert history.before(window(3, 2)) == [window(1, 2)]
    assert history.before(window(0, 2)) == []


def test_a_state_is_the_same_in_whatever_order_it_was_told() -> None:
    one, other = History(9), History(9)
    for history, numbers in ((one, (2, 0, 1)), (other, (0, 1, 2))):
        for number in numbers:
            for metrics in (("a",), ("b", "c"))[:: 1 - 2 * (number % 2)]:
                history.remember(window(number), "1", "all", 5, statistics(metrics, float(number)))
    assert one.to_state() == other.to_state()


def test_what_is_told_again_replaces_what_was_told() -> None:
    history = History(9)
    history.remember(window(0), "1", "all", 10, statistics(FEATURES, 100.0))
    history.remember(window(0), "2", "all", 9, statistics(FEATURES, 200.0))
    history.remember(window(0), "1", "all", 8, statistics(FEATURES, 300.0))

    assert levels(history, [window(0)], "3", FEATURES) == [[200, 201]]
    assert history.current(window(0), "1", "all", FEATURES)[:, 0].tolist() == [300, 301]


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_only_the_newest_windows_are_kept_and_a_restored_history_says_the_same(keep: int) -> None:
    history, other = History(9), History(9)
    for number in range(4):
        history.remember(window(number), "1", "all", number, statistics(FEATURES, float(number)))
        history.remember(window(number), "2", "k=1", number, statistics(("a",), float(number)))
        history.note_events(window(number), {"1": {"all": number}, "2": {"k=1": number}})
    history.prune(keep)
    other.from_state(json.loads(json.dumps(history.to_state())))

    kept = [window(number) for number in range(4)][-keep:]
    for each in (history, other):
        assert each.before(window(9)) == kept
        assert [each.events(at) for at in kept] == [dict.fromkeys(("all", "k=1"), at.start_ms / 10) for at in kept]
        assert levels(each, kept, "1", FEATURES) == [[at.start_ms / 10, at.start_ms / 10 + 1] for at in kept]
    assert other.to_state() == history.to_state()


def test_of_windows_that_nobody_judges_no_more_numbers_are_kept_either() -> None:
    history = History(9)
    for number in range(20):
        history.note_events(window(number), {"9": {"all": number}})
    history.prune(3)
    history.remember(window(0), "1", "all", 1, statistics(FEATURES, 0.0))
    assert history.note_events(window(0), {"9": {"all": 0}})  # it was forgotten
    assert not history.note_events(window(19), {"9": {"all": 19}})
