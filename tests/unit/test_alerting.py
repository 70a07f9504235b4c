"""What is raised, silent, acknowledged and cleared follows from what the windows say, and nothing flaps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replace_struct

from app.core.alerts.book import AlertBook
from app.core.alerts.cases import AcknowledgeError
from app.core.alerts.course import RuleHistory, limits, silence_of
from app.core.alerts.readings import ABSENT, OF_LABELS, RULED_OUT, Answer, Limit, Reading, ask
from app.core.alerts.words import Detected
from app.core.counts.calendar import Window
from schemas.pipeline.spec import AlertRule, Silence
from schemas.wire import Alert

DAY = 86_400_000
RULE = AlertRule("auc-fell", "performance", "auc", "critical", falls_by=0.05, action="retrain", clears_after=1)
ACCURACY = AlertRule("less-accurate", "performance", "accuracy", "warning", below=0.7, clears_after=1)


def make_book(*rules: AlertRule, versions: Sequence[str] = ("1.0.0",)) -> AlertBook:
    book = AlertBook("flights", "late", rules or (RULE,))
    for version in versions:
        book.add_version(version, {"auc": 0.8})
    return book


def window(number: int) -> Window:
    return Window(number * DAY, (number + 1) * DAY)


def measured(auc: float | Reading, accuracy: float | Reading = math.nan) -> dict[str, Reading]:
    values = {"auc": auc, "accuracy": accuracy}
    return {name: value if isinstance(value, Reading) else Reading(value) for name, value in values.items()}


def verdict(kind: str, *names: str, with_labels: bool = True) -> Reading:
    """Of a window with enough labels, or none; whatever its kind, it would be the same without labels, or nothing."""
    unlabelled = "none" if kind in OF_LABELS else kind
    said = kind not in {"", "none", "too_little_data"}
    ruled_out = RULED_OUT.get((kind, with_labels), frozenset()) | RULED_OUT.get((unlabelled, False), frozenset())
    says = tuple((kind, name) for name in names or ("",)) if said else ()
    return Reading(text="", says=says, rules_out=tuple(sorted(ruled_out)), with_labels=with_labels)


def see(book: AlertBook, number: int, auc: float, accuracy: float = math.nan) -> None:
    book.see_performance("1.0.0", window(number), measured(auc, accuracy))


def follow(book: AlertBook, values: Iterable[float]) -> list[tuple[int, str]]:
    """What is said with which window of a series of values."""
    said = []
    for number, value in enumerate(values):
        see(book, number, value)
        said += [(number, alert.state) for alert in book.announce(number)]
        assert book.announce(99) == []
    return said


def test_it_is_raised_once_and_cleared_when_back_within_the_limit() -> None:
    book, said = make_book(), []
    for number, value in enumerate([0.79, 0.74, 0.70, math.nan, 0.75, 0.76, 0.6]):
        see(book, number, value)
        said += [(number, alert) for alert in book.announce(now_ms=number)]
    assert [(number, alert.state, alert.action, alert.revision) for number, alert in said] == [
        (1, "raised", "retrain", 1),
        (4, "cleared", "", 2),
        (6, "raised", "retrain", 1),
    ]
    raised, cleared, again = (alert for _, alert in said)
    assert raised.alert_id == cleared.alert_id != again.alert_id
    assert raised.message == (
        "auc of late 1.0.0 is 0.74 in 1970-01-02 to 1970-01-03 UTC, below its limit 0.75 (0.8 in training - 0.05)"
    )
    assert cleared.message.startswith(
        "auc of late 1.0.0 is 0.75 in 1970-01-05 to 1970-01-06 UTC, back within its limit"
    )
    assert (raised.value, raised.limit, raised.window_start_ms, raised.at_ms) == (0.74, pytest.approx(0.75), DAY, 1)


def test_it_waits_for_so_many_windows_in_a_row_and_says_since_when() -> None:
    book = make_book(replace(RULE, for_windows=3))
    # A window without a value neither counts nor interrupts.
    assert follow(book, [0.7, 0.7, 0.8, 0.7, math.nan, 0.7]) == []
    see(book, 6, 0.7)
    (raised,) = book.announce(6)
    assert (raised.since_ms, raised.window_start_ms) == (3 * DAY, 6 * DAY)
    assert raised.message.endswith("; so since 1970-01-04")


def follow_overlapping(book: AlertBook, values: Iterable[float], k: int) -> list[tuple[int, str]]:
    """As `follow`, with windows of ``k`` days that end each day."""
    said = []
    for number, value in enumerate(values):
        book.see_performance("1.0.0", Window(number * DAY, (number + k) * DAY), measured(value))
        said += [(number, alert.state) for alert in book.announce(number)]
    return said


@pytest.mark.slow
@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 4))
def test_of_windows_that_overlap_those_count_that_do_not_overlap_each_other(
    k: int, for_windows: int, clears_after: int
) -> None:
    rule = replace(RULE, for_windows=for_windows, clears_after=clears_after)
    raised = k * (for_windows - 1)
    cleared = 40 + k * (clears_after - 1)
    said = follow_overlapping(make_book(rule), [0.7] * 40 + [0.8] * 40, k)
    assert said == [(raised, "raised"), (cleared, "cleared")]


def test_one_bad_day_in_all_windows_that_hold_it_is_not_two_windows_in_a_row() -> None:
    rule = replace(RULE, for_windows=2)
    assert follow_overlapping(make_book(rule), [0.8, *[0.7] * 7, 0.8], k=7) == []
    assert follow_overlapping(make_book(rule), [0.8, *[0.7] * 8, 0.8], k=7) == [(8, "raised"), (9, "cleared")]


@pytest.mark.slow
@given(
    values=st.lists(st.sampled_from([0.7, 0.77, 0.8, math.nan]), max_size=40),
    k=st.integers(1, 4),
    for_windows=st.integers(1, 3),
    clears_after=st.integers(1, 3),
    kept=st.integers(0, 4),
)
def test_forgetting_and_restarting_do_not_show_where_windows_overlap(
    values: list[float], k: int, for_windows: int, clears_after: int, kept: int
) -> None:
    book = make_book(replace(RULE, for_windows=for_windows, clears_after=clears_after, clears_at=0.02))
    forgetful = make_book(*book._rules)
    for number, value in enumerate(values):
        here = Window(number * DAY, (number + k) * DAY)
        for each in (book, forgetful):
            each.see_performance("1.0.0", here, measured(value))
        assert book.announce(number) == forgetful.announce(number)
        forgetful.forget((number + 1 - kept) * DAY)
        forgetful = restored(forgetful)


def test_between_the_limit_and_the_milder_one_it_stays_as_it_is() -> None:
    book = make_book(replace(RULE, clears_at=0.01))  # limit 0.75, back from 0.79 on
    assert follow(book, [0.76, 0.74, 0.76, 0.785, 0.75, 0.795, 0.76]) == [(1, "raised"), (5, "cleared")]


def test_it_is_cleared_by_so_many_windows_in_a_row() -> None:
    book = make_book(replace(RULE, clears_after=3))
    assert follow(book, [0.7, 0.8, 0.8, 0.7, 0.8, math.nan, 0.8, 0.8]) == [(0, "raised"), (7, "cleared")]


def test_after_a_clear_it_rests_for_the_cooldown_of_event_time() -> None:
    book = make_book(replace(RULE, cooldown_ms=3 * DAY))
    # Cleared by the window that ends with day 2; those that end before day 5 raise nothing.
    assert follow(book, [0.7, 0.8, 0.7, 0.7, 0.7, 0.7]) == [(0, "raised"), (1, "cleared"), (4, "raised")]


def test_the_alert_of_a_version_that_scores_no_more_is_cleared() -> None:
    upstream = AlertRule("upstream", "verdict", "verdict", kinds=("pipeline_fault",))
    book = make_book(replace(RULE, clears_after=2), upstream)
    see(book, 0, 0.7)
    book.see_verdict("1.0.0", window(0), verdict("pipeline_fault"))
    assert len(book.announce(0)) == 2
    for number in (0, 1, 2):  # of window 0 more is known than that
        book.see_absence("1.0.0", window(number), of_labels=False)
        book.see_absence("1.0.0", window(number), of_labels=True)
    assert {alert.message for alert in book.announce(1)} == {
        f"late 1.0.0 scored nothing in 1970-01-03 to 1970-01-04 UTC, and others did: {name} is over"
        for name in ("auc-fell", "upstream")
    }


def test_an_absence_neither_counts_nor_interrupts_before_an_alert() -> None:
    book = make_book(replace(RULE, for_windows=2))
    see(book, 0, 0.7)
    book.see_absence("1.0.0", window(1), of_labels=True)
    see(book, 2, 0.7)
    assert [alert.window_start_ms for alert in book.announce(0)] == [2 * DAY]


@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(0, 6), st.floats(0, 0.05))
def test_nothing_flaps_around_the_limit(
    data: st.DataObject, for_windows: int, clears_after: int, cooldown: int, margin: float
) -> None:
    rule = replace(
        RULE,
        for_windows=for_windows,
        clears_after=clears_after,
        cooldown_ms=cooldown * DAY,
        falls_by=0.05,
        clears_at=0.05 - margin,
    )
    values = data.draw(st.lists(st.floats(0.70, 0.80), max_size=60))
    n = len(values)
    raises = [number for number, state in follow(make_book(rule), values) if state == "raised"]
    assert len(raises) <= (n + clears_after) // (for_windows + clears_after)
    period = max(for_windows + clears_after, 1 + cooldown)
    assert all(later - earlier >= period for earlier, later in pairwise(raises))


@given(st.lists(st.sampled_from([0.7499, 0.75, 0.7501]), min_size=1, max_size=60))
def test_a_value_that_hovers_within_the_margin_is_raised_at_most_once(values: list[float]) -> None:
    said = follow(make_book(replace(RULE, clears_at=0.049)), values)
    assert [state for _, state in said] == ["raised"] * (min(values) < 0.75)


def test_by_default_a_value_that_changes_sides_with_every_window_is_one_alert() -> None:
    assert AlertRule("a", "drift", "share").clears_after == 2
    rule = replace(RULE, clears_after=AlertRule("a", "drift", "share").clears_after)
    assert follow(make_book(rule), [0.7, 0.8] * 50) == [(0, "raised")]


# -- silence -----------------------------------------------------------------------------------------------------------


def test_in_a_silence_it_is_noted_once_and_raised_when_that_is_over_and_nothing_has_changed() -> None:
    silence = Silence(1 * DAY, 3 * DAY, "stock-taking")
    book = make_book(replace(RULE, silences=(silence,)))
    said = []
    for number, value in enumerate([0.8, 0.7, 0.7, 0.7, 0.8]):
        see(book, number, value)
        said += [(number, alert.state, alert.why, alert.action) for alert in book.announce(number)]
    assert said == [
        (1, "silenced", "stock-taking", ""),
        (3, "raised", "", "retrain"),
        (4, "cleared", "", ""),
    ]


def test_what_is_over_before_the_silence_is_was_never_raised_and_starts_no_cooldown() -> None:
    rule = replace(RULE, silences=(Silence(0, 3 * DAY, "load"),), cooldown_ms=9 * DAY)
    assert follow(make_book(rule), [0.7, 0.8, 0.7, 0.7, 0.8]) == [
        (0, "silenced"),
        (2, "silenced"),
        (3, "raised"),
        (4, "cleared"),
    ]


def test_an_alert_from_before_a_silence_stays_and_is_cleared_in_it() -> None:
    rule = replace(RULE, silences=(Silence(1 * DAY, 9 * DAY, "load"),))
    assert follow(make_book(rule), [0.7, 0.7, 0.8]) == [(0, "raised"), (2, "cleared")]


@pytest.mark.slow
@given(st.integers(0, 10), st.integers(1, 10), st.integers(1, 12), st.integers(0, 60), st.integers(1, 10))
def test_a_silence_comes_again_every_period(start: int, length: int, every: int, at: int, size: int) -> None:
    every = max(every, length)
    silence = Silence(start, start + length, "s", every)
    repeats = [Silence(start + k * every, start + length + k * every, "s") for k in range(-20, 80)]
    here = Window(at, at + size)
    assert silence_of(here, [silence]) == silence_of(here, repeats)


# -- groups ------------------------------------------------------------------------------------------------------------

GROUPED = (replace(ACCURACY, group="quality"), replace(RULE, group="quality", owner="ann", runbook="https://x/y"))


def test_rules_of_a_group_raised_for_one_window_are_one_alert_of_the_most_severe() -> None:
    book = make_book(*GROUPED)
    see(book, 0, 0.7, 0.6)
    (alert,) = book.announce(1)
    assert (alert.rule, alert.severity, alert.others, alert.group) == (
        "auc-fell",
        "critical",
        ["less-accurate"],
        "quality",
    )
    assert (alert.owner, alert.runbook, alert.action) == ("ann", "https://x/y", "retrain")
    assert alert.message.endswith("(with less-accurate)")
    see(book, 1, 0.8, 0.6)
    assert book.announce(2) == []
    see(book, 2, 0.8, 0.75)
    (cleared,) = book.announce(3)
    assert (cleared.alert_id, cleared.state, cleared.rule) == (alert.alert_id, "cleared", "auc-fell")
    assert cleared.message.startswith("accuracy of late 1.0.0 is 0.75")


def test_a_rule_that_joins_an_alert_of_its_group_is_told_and_asks_for_what_it_asks_for() -> None:
    book = make_book(*GROUPED)
    see(book, 0, math.nan, 0.6)
    (first,) = book.announce(1)
    see(book, 0, 0.7, 0.6)
    (second,) = book.announce(2)
    assert (first.rule, first.severity, first.action) == ("less-accurate", "warning", "")
    assert (second.alert_id, second.rule, second.severity, second.action) == (
        first.alert_id,
        "auc-fell",
        "critical",
        "retrain",
    )
    assert (first.revision, second.revision) == (1, 2)


def test_an_alert_of_a_group_asks_for_what_any_of_its_rules_asks_for() -> None:
    book = make_book(replace(GROUPED[0], action="retrain"), replace(GROUPED[1], action=""))
    see(book, 0, 0.7, 0.6)
    (alert,) = book.announce(1)
    assert (alert.rule, alert.action) == ("auc-fell", "retrain")


def test_who_took_on_an_alert_of_no_group_has_not_taken_on_that_of_a_group() -> None:
    book = make_book(*GROUPED, replace(ACCURACY, name="alone", below=0.65))
    see(book, 2, 0.8, 0.6)
    alone = next(alert for alert in book.announce(1) if alert.rule == "alone")
    book.acknowledge(alone.alert_id, "ann", "looking", 5)
    book.announce(6)
    see(book, 1, 0.8, 0.68)  # the group's alert begins earlier
    told = {(alert.rule, alert.state, alert.window_start_ms) for alert in book.announce(7)}
    assert ("less-accurate", "raised", DAY) in told


def test_an_alert_of_a_group_is_so_since_the_first_of_its_rules_was_beyond() -> None:
    book = make_book(GROUPED[0], replace(GROUPED[1], for_windows=2))
    see(book, 0, 0.7, 0.8)
    see(book, 1, 0.7, 0.6)
    (alert,) = book.announce(1)
    assert (alert.others, alert.window_start_ms, alert.since_ms) == (["less-accurate"], DAY, 0)


def test_alerts_of_one_window_are_told_apart_by_group_model_version_and_silence() -> None:
    silence = (Silence(0, DAY, "load"),)
    rules = [*GROUPED, replace(ACCURACY, name="alone", group="other"), replace(RULE, name="silent", silences=silence)]
    ids = []
    for pipeline, model in (("flights", "late"), ("flights", "early"), ("trains", "late")):
        book = AlertBook(pipeline, model, rules)
        for version in ("1.0.0", "2.0.0"):
            book.add_version(version, {"auc": 0.8})
            book.see_performance(version, window(0), measured(0.7, 0.6))
        ids += [alert.alert_id for alert in book.announce(1)]
    assert len(ids) == len(set(ids)) == 3 * 2 * 3


def test_what_was_noted_in_a_silence_is_another_alert_than_that_of_the_rule_without_it() -> None:
    silenced = replace(RULE, silences=(Silence(0, DAY, "load"),))
    book = make_book(silenced)
    see(book, 0, 0.7)
    (note,) = book.announce(1)
    other = restored(book, RULE)
    see(other, 0, 0.7)
    *_, raised = other.announce(2)
    assert (note.state, raised.state, raised.revision) == ("silenced", "raised", 1)
    assert raised.alert_id != note.alert_id


def test_a_rule_that_leaves_an_alert_of_its_group_is_told_unless_its_window_is_forgotten() -> None:
    book = make_book(*GROUPED)
    see(book, 0, 0.7, 0.6)
    (both,) = book.announce(1)
    see(book, 0, 0.7, 0.8)
    (alone,) = book.announce(2)
    assert (both.others, alone.others) == (["less-accurate"], [])
    assert (alone.alert_id, alone.state, alone.revision) == (both.alert_id, "raised", 2)
    see(book, 0, 0.7, 0.6)
    see(book, 1, 0.7, 0.8)
    assert [(alert.state, alert.others) for alert in book.announce(3)] == [("raised", ["less-accurate"])]
    book.forget(DAY)
    assert book.announce(4) == []


def test_rules_of_a_group_raised_for_different_windows_are_different_alerts() -> None:
    book = make_book(*GROUPED)
    see(book, 0, 0.7, 0.8)
    see(book, 1, 0.7, 0.6)
    assert [(alert.rule, alert.others, alert.window_start_ms) for alert in book.announce(1)] == [
        ("auc-fell", [], 0),
        ("less-accurate", [], DAY),
    ]


def test_an_alert_of_a_group_names_who_is_over_until_all_are_though_their_windows_are_forgotten() -> None:
    book = make_book(*GROUPED)
    see(book, 0, 0.7, 0.6)
    (alert,) = book.announce(1)
    see(book, 1, 0.8, 0.6)
    book.forget(2 * DAY)
    book = restored(book)
    assert book.announce(2) == []
    see(book, 2, 0.8, 0.75)
    (cleared,) = book.announce(3)
    assert (cleared.alert_id, cleared.state, cleared.others) == (alert.alert_id, "cleared", ["less-accurate"])
    # The value is that of the window that cleared it, of the member that was cleared last.
    assert (cleared.measure, cleared.value, cleared.limit) == ("accuracy", 0.75, 0.7)
    assert (cleared.window_start_ms, cleared.since_ms) == (2 * DAY, 0)
    book.forget(9 * DAY)
    assert [watch["ended"] for _, watch in book.to_state()["watches"]["1.0.0"].values()] == [[], []]


def test_an_alert_of_a_group_that_was_taken_on_goes_on_when_late_data_move_its_beginning() -> None:
    """The same trouble by its group, whichever of its rules speaks; not that of another rule, and not a later one."""
    other = replace(ACCURACY, name="alone")
    book = make_book(*GROUPED, other)
    see(book, 2, 0.7, 0.8)
    (raised,) = book.announce(1)
    book.acknowledge(raised.alert_id, "ann", "looking", 5)
    book.announce(6)
    see(book, 1, 0.8, 0.6)
    see(book, 2, 0.7, 0.8)
    told = [(alert.rule, alert.state, alert.window_start_ms) for alert in book.announce(7)]
    assert ("less-accurate", "raised", DAY) in told  # over before the other began
    assert ("alone", "raised", DAY) in told
    see(book, 1, 0.7, 0.6)
    moved = {(alert.rule, alert.state): alert for alert in book.announce(8)}
    assert moved["auc-fell", "acknowledged"].window_start_ms == DAY
    assert moved["auc-fell", "acknowledged"].by == "ann"


def test_the_same_trouble_of_a_group_is_told_by_the_group_whichever_rule_speaks() -> None:
    book = make_book(*GROUPED)
    see(book, 2, 0.8, 0.6)
    (raised,) = book.announce(1)
    book.acknowledge(raised.alert_id, "ann", "looking", 5)
    book.announce(6)
    see(book, 1, 0.7, 0.6)
    told = [(alert.rule, alert.state, alert.by) for alert in book.announce(7)]
    assert told == [("less-accurate", "cleared", "ann"), ("auc-fell", "acknowledged", "ann")]


# -- verdicts and detections -------------------------------------------------------------------------------------------


def test_a_verdict_raises_the_rules_that_name_it() -> None:
    rule = AlertRule("upstream", "verdict", "verdict", "critical", kinds=("pipeline_fault",), clears_after=1)
    book = make_book(rule)
    said = []
    for number, kind in enumerate(["none", "pipeline_fault", "", "feature_drift"]):
        book.see_verdict("1.0.0", window(number), verdict(kind))
        said += [(number, alert.state, alert.value, alert.message) for alert in book.announce(number)]
    assert said == [
        (1, "raised", None, "the verdict on late 1.0.0 is pipeline fault in 1970-01-02 to 1970-01-03 UTC"),
        (
            3,
            "cleared",
            None,
            "the verdict on late 1.0.0 is feature drift in 1970-01-04 to 1970-01-05 UTC: upstream is over",
        ),
    ]


def detection(time_ms: int, name: str = "cusum", share: str = "61 %") -> Detected:
    return Detected(time_ms, name, f"the decisions are wrong in {share} of 173 cases since 1969-12-04, 6.5 % before")


def test_a_detection_raises_at_once_and_a_window_without_one_clears() -> None:
    book = make_book(AlertRule("errors", "error", "error", clears_after=1))
    book.see_detections("1.0.0", window(0), [detection(5_000)])
    (raised,) = book.announce(1)
    book.see_detections("1.0.0", window(0), [detection(7_000, "adwin"), detection(5_000)])
    assert book.announce(2) == []
    book.see_detections("1.0.0", window(1), [])
    (cleared,) = book.announce(3)
    assert (raised.state, raised.value) == ("raised", 1.0)
    assert (cleared.state, cleared.alert_id) == ("cleared", raised.alert_id)


def test_an_alert_of_a_detector_says_how_many_are_wrong_since_when_and_what_to_do() -> None:
    """Of several detections, what the first one says: those after it compare with what has changed already."""
    book = make_book(AlertRule("errors", "error", "error"))
    book.see_detections("1.0.0", window(0), [detection(5_000)])
    for number in range(1, 5):
        book.see_detections("1.0.0", window(number), [])
    book.see_detections("1.0.0", window(5), [detection(DAY * 5 + 1_000 * n, share=f"{n} %") for n in (4, 2, 3, 1)])
    first, again = [alert.message for alert in book.announce(1) if alert.state == "raised"]
    assert first == (
        "late 1.0.0 errs more often: the decisions are wrong in 61 % of 173 cases since 1969-12-04, 6.5 % before"
        " (noticed by cusum at 1970-01-01T00:00:05); look for what changed then, and train again on labels from after"
        " it if it stays so"
    )
    assert "wrong in 1 % of 173" in again
    assert (
        "(noticed by cusum at 1970-01-06T00:00:01, cusum at 1970-01-06T00:00:02, cusum at 1970-01-06T00:00:03 and 1"
        " more)"
    ) in again


def test_an_alert_on_labels_speaks_of_percents_and_of_what_finds_no_event() -> None:
    rule = AlertRule("labels-without-event", "labels", "without_event", above=0.05, clears_at=0.02, clears_after=1)
    book = make_book(rule)
    book.see_stream("labels", [(window(0), Reading(0.279, "0 in another partition, 51 too late, 2 unknown"))])
    (raised,) = book.announce(1)
    book.see_stream("labels", [(window(1), Reading(0.004, "0 in another partition, 1 too late, 0 unknown"))])
    (cleared,) = book.announce(2)
    assert raised.message == (
        "28 % of the labels found no event (0 in another partition, 51 too late, 2 unknown) in 1970-01-01 to 1970-01-02"
        " UTC, above the limit of 5 %; labels that come later than the horizon find none, nor do those of another"
        " entity or id than their event"
    )
    assert cleared.message == (
        "0.4 % of the labels found no event (0 in another partition, 1 too late, 0 unknown) in 1970-01-02 to 1970-01-03"
        " UTC, back within the limit of 5 %, and at or below 2 %"
    )


def test_an_alert_on_drift_says_what_share_of_the_metrics_drifts() -> None:
    book = make_book(AlertRule("drifting", "drift", "share", above=0.3, clears_after=1))
    book.see_drift("1.0.0", window(0), Reading(0.4, "", 0.4, 0.5))
    (raised,) = book.announce(1)
    book.see_drift("1.0.0", window(1), Reading(0.0))
    (cleared,) = book.announce(2)
    assert raised.message == (
        "40 % of the metrics of late 1.0.0 drift (up to 50 %, as not all could be judged) in 1970-01-01 to 1970-01-02"
        " UTC, above the limit of 30 %"
    )
    assert cleared.message == (
        "0 % of the metrics of late 1.0.0 drift in 1970-01-02 to 1970-01-03 UTC, back within the limit of 30 %"
    )


# -- acknowledgements --------------------------------------------------------------------------------------------------


def raise_one(book: AlertBook) -> Alert:
    see(book, 2, 0.7)
    (raised,) = book.announce(1)
    return raised


def test_an_acknowledged_alert_says_who_and_why_and_is_cleared_like_others() -> None:
    book = make_book()
    raised = raise_one(book)
    book.acknowledge(raised.alert_id, "ann", "looking", 5)
    (alert,) = book.announce(6)
    assert (alert.state, alert.by, alert.why, alert.at_ms, alert.action) == ("acknowledged", "ann", "looking", 6, "")
    assert (alert.alert_id, alert.message) == (raised.alert_id, raised.message)
    see(book, 3, 0.8)
    (cleared,) = book.announce(7)
    assert (cleared.state, cleared.by, cleared.revision) == ("cleared", "ann", 3)


@pytest.mark.parametrize("values", [[0.8, 0.7], [0.6], [0.7, 0.8, 0.65]])
def test_an_amendment_of_its_window_does_not_raise_an_acknowledged_alert_again(values: list[float]) -> None:
    book = make_book()
    raised = raise_one(book)
    book.acknowledge(raised.alert_id, "ann", "looking", 5)
    states = [alert.state for alert in book.announce(6)]
    for value in values:
        see(book, 2, value)
        states += [alert.state for alert in book.announce(7)]
    assert "raised" not in states
    assert states[-1] == "acknowledged"


def test_late_data_that_move_the_beginning_of_an_acknowledged_alert_wake_nobody() -> None:
    book = make_book()
    raised = raise_one(book)
    book.acknowledge(raised.alert_id, "ann", "looking", 5)
    book.announce(6)
    see(book, 1, 0.7)
    withdrawn, moved = book.announce(7)
    assert (withdrawn.alert_id, withdrawn.state) == (raised.alert_id, "cleared")
    assert "is raised by another window" in withdrawn.message
    assert (moved.state, moved.by, moved.window_start_ms) == ("acknowledged", "ann", DAY)
    with pytest.raises(AcknowledgeError, match=r'was acknowledged by ann: "looking"\.$'):
        book.acknowledge(moved.alert_id, "bob", "me too", 9)


def test_who_took_an_alert_on_is_known_after_a_restart() -> None:
    book = make_book()
    raised = raise_one(book)
    book.acknowledge(raised.alert_id, "ann", "looking", 5_000)
    book.announce(6_000)
    other = restored(book)
    with pytest.raises(AcknowledgeError, match=r'was acknowledged by ann at 1970-01-01T00:00:05 UTC: "looking"\.$'):
        other.acknowledge(raised.alert_id, "bob", "me too", 9_000)
    see(other, 1, 0.7)
    assert [(alert.state, alert.by) for alert in other.announce(9_000)] == [("cleared", "ann"), ("acknowledged", "ann")]


def test_what_is_recalled_of_a_rule_that_is_gone_is_cleared_and_of_a_version_that_is_gone_left_alone() -> None:
    book = make_book(versions=("1.0.0", "9.0.0"))
    for version in ("1.0.0", "9.0.0"):
        book.see_performance(version, window(0), measured(0.7))
    said = book.announce(1)
    other = make_book(ACCURACY)
    assert other.announce(2) == []
    other.recall(said)
    (cleared,) = other.announce(3)
    assert (cleared.version, cleared.state, cleared.revision) == ("1.0.0", "cleared", 2)
    assert cleared.message == "auc-fell is not in the pipeline file any more"


def test_a_person_takes_on_one_alert_of_one_rule_and_version_and_no_other() -> None:
    book = make_book(RULE, ACCURACY, versions=("1.0.0", "2.0.0"))
    see(book, 2, 0.7, 0.6)
    raised = {alert.rule: alert for alert in book.announce(1)}
    book.acknowledge(raised["auc-fell"].alert_id, "ann", "looking", 5)
    assert [(alert.rule, alert.state) for alert in book.announce(6)] == [("auc-fell", "acknowledged")]
    for number in (1, 2):
        book.see_performance("2.0.0", window(number), measured(0.7))
    (other,) = book.announce(7)
    assert (other.version, other.state, other.by) == ("2.0.0", "raised", "")
    see(book, 1, 0.8, 0.6)
    see(book, 3, 0.7, 0.6)
    assert [(alert.rule, alert.state) for alert in book.announce(8)] == [
        ("less-accurate", "cleared"),
        ("less-accurate", "raised"),
    ]


def test_what_was_told_is_recalled_in_any_order_with_who_took_it_on_and_where_it_began() -> None:
    book = make_book()
    said = [raise_one(book)]
    book.acknowledge(said[0].alert_id, "ann", "looking", 5)
    said += book.announce(6)
    see(book, 5, 0.8)
    said += book.announce(7)
    assert [alert.state for alert in said] == ["raised", "acknowledged", "cleared"]
    for order in permutations(said):
        other = make_book()
        other.recall(order)
        # Late data have moved its beginning: the same trouble, which somebody has taken on.
        for number, auc in ((1, 0.7), (2, 0.7), (5, 0.8)):
            see(other, number, auc)
        told = [(alert.state, alert.by, alert.window_start_ms) for alert in other.announce(8)]
        assert told == [("acknowledged", "ann", DAY), ("cleared", "ann", 5 * DAY)]


def test_what_is_recalled_of_several_alerts_is_the_same_state_in_any_order() -> None:
    book = make_book(RULE, ACCURACY)
    said = []
    for number, (auc, accuracy) in enumerate([(0.7, 0.6), (0.8, 0.8), (0.7, 0.6)]):
        see(book, number, auc, accuracy)
        said += book.announce(number)
    states = set()
    for order in (said, said[::-1], said[3:] + said[:3]):
        other = make_book(RULE, ACCURACY)
        other.recall(order)
        states.add(json.dumps(other.to_state()))
    assert len(states) == 1


def test_a_revision_goes_on_from_the_highest_that_was_told() -> None:
    book = make_book()
    raised = raise_one(book)
    book.recall([replace_struct(raised, revision=4), replace_struct(raised, revision=3)])
    book.recall([replace_struct(raised, revision=2)])
    see(book, 3, 0.8)
    (cleared,) = book.announce(2)
    assert (cleared.state, cleared.revision) == ("cleared", 5)


def test_what_cannot_be_acknowledged_is_one_sentence() -> None:
    book = make_book(replace(RULE, silences=(Silence(9 * DAY, 10 * DAY, "load"),)))
    raised = raise_one(book)

    def refuse(alert_id: str, by: str = "bob", why: str = "me too") -> str:
        with pytest.raises(AcknowledgeError) as caught:
            book.acknowledge(alert_id, by, why, 9_000)
        assert caught.value.is_unknown == (alert_id == "nothing")
        return str(caught.value)

    assert refuse("nothing") == "There is no alert nothing of flights."
    book.acknowledge(raised.alert_id, "ann", "looking", 5_000)
    name = f"The alert {raised.alert_id} (auc-fell of late 1.0.0)"
    assert refuse(raised.alert_id) == f'{name} was acknowledged by ann at 1970-01-01T00:00:05 UTC: "looking".'
    book.acknowledge(raised.alert_id, "ann", "looking", 7_000)  # asked again: the same
    book.announce(6_000)
    see(book, 3, 0.8)
    book.announce(8_000)
    assert refuse(raised.alert_id) == f"{name} was cleared at 1970-01-01T00:00:08 UTC: there is nothing to acknowledge."
    see(book, 9, 0.7)
    (note,) = book.announce(9_000)
    assert refuse(note.alert_id).endswith('is silenced ("load"): there is nothing to acknowledge.')


# -- any order, any cut, any restart -----------------------------------------------------------------------------------

RULES = (
    replace(RULE, for_windows=2, cooldown_ms=2 * DAY, group="g", silences=(Silence(4 * DAY, 6 * DAY, "s"),)),
    replace(ACCURACY, group="g"),
    replace(ACCURACY, name="alone", clears_at=0.75, clears_after=2),
    AlertRule("upstream", "verdict", "verdict", "critical", kinds=("pipeline_fault",), clears_after=1),
    AlertRule("errors", "error", "error", "info"),
    AlertRule("worse", "performance", "auc", below_expected=True, group="h", clears_after=1, minimum_effect=0.02),
    AlertRule("concept", "verdict", "verdict", kinds=("concept_drift",), group="h"),
    AlertRule("moved", "verdict", "verdict", kinds=("feature_drift",), for_windows=2, since_ms=3 * DAY),
    AlertRule("labels", "verdict", "verdict", kinds=("label_prior_drift", "concept_drift"), for_windows=2),
)
#: What is sure, what is not, and what is not known; and beside it what the scores promise.
VALUES = st.sampled_from(
    [
        *map(Reading, [0.6, 0.74, 0.76, 0.8, math.nan]),
        Reading(0.74, "", 0.68, 0.8),
        Reading(0.72, "", 0.71, 0.73, expected=0.8, is_worse=True),
        Reading(0.79, "", 0.78, 0.8, expected=0.8),
        Reading(0.79, "", 0.5, 0.9, expected=0.8),
    ]
)
KINDS = ["", "none", "feature_drift", "label_prior_drift", "concept_drift", "pipeline_fault"]
Seen = tuple[Reading, Reading, str, bool, int, bool]
#: What is seen of a window: auc, accuracy, verdict with or without labels, detections, and whether the version scored
#: nothing in it.
SEEN: st.SearchStrategy[Seen] = st.tuples(
    VALUES,
    VALUES,
    st.sampled_from(KINDS),
    st.booleans(),
    st.integers(-1, 2),
    st.sampled_from([False, False, False, True]),
)


def show(book: AlertBook, number: int, seen: Seen, parts: Iterable[int] = range(3)) -> None:
    auc, accuracy, kind, with_labels, n, is_absent = seen
    here = window(number)
    for part in parts:
        if is_absent:
            book.see_absence("1.0.0", here, of_labels=part == 0)
        elif part == 0:
            book.see_performance("1.0.0", here, measured(auc, accuracy))
        elif part == 1:
            book.see_verdict("1.0.0", here, say(kind, with_labels=with_labels))
        else:
            found = [detection(here.start_ms + each) for each in range(n)]
            book.see_detections("1.0.0", here, found, is_steady=n >= 0)


def say(kind: str, *, with_labels: bool) -> Reading:
    """What only labels can show is not said without."""
    return verdict("none" if kind in OF_LABELS and not with_labels else kind, with_labels=with_labels)


def standing(alerts: Iterable[Alert]) -> dict[str, tuple[Any, ...]]:
    """How each alert stands, by what was said of it last."""
    newest: dict[str, Alert] = {}
    for alert in alerts:
        assert alert.revision == (newest[alert.alert_id].revision if alert.alert_id in newest else 0) + 1
        newest[alert.alert_id] = alert
    return {
        key: (alert.state, alert.rule, alert.severity, tuple(alert.others), alert.by) for key, alert in newest.items()
    }


@pytest.mark.slow
@given(
    final=st.lists(SEEN, min_size=1, max_size=10),
    amended=st.lists(st.tuples(st.integers(0, 9), SEEN), max_size=12),
    chance=st.randoms(use_true_random=False),
)
def test_any_order_of_arrival_and_amendment_ends_in_the_same_states(
    final: list[Seen],
    amended: list[tuple[int, Seen]],
    chance: Any,
) -> None:
    in_order = make_book(*RULES)
    for number, seen in enumerate(final):
        show(in_order, number, seen)
    expected = standing(in_order.announce(1))
    # What a version scored once it has scored for good; and a window whose labels were there has them still.
    amended = [
        (number, (*seen[:3], seen[3] and final[number][3], *seen[4:]))
        for number, seen in amended
        if number < len(final) and not final[number][-1]
    ]
    first = [(number, seen, part) for number, seen in amended for part in range(3)]
    last = [(number, seen, part) for number, seen in enumerate(final) for part in range(3)]
    chance.shuffle(first)
    chance.shuffle(last)
    book, said = make_book(*RULES), []
    for number, seen, part in [*first, *last]:
        show(book, number, seen, [part])
        said += book.announce(1)
        if chance.random() < 0.2:
            book = restored(book)
    found = standing(said)
    assert {key: words for key, words in found.items() if key in expected} == expected
    assert {words[0] for key, words in found.items() if key not in expected} <= {"cleared"}
    assert book.announce(2) == []


@given(st.lists(SEEN, min_size=1, max_size=10), st.integers(0, 9), st.integers(0, 30))
def test_acknowledgements_do_not_depend_on_when_windows_are_amended(
    final: list[Seen], seen_before: int, which: int
) -> None:
    """One alert is acknowledged; then the book sees everything again, or only what it had not seen."""
    book, other = make_book(*RULES), make_book(*RULES)
    said = []
    for number, seen in enumerate(final[: seen_before + 1]):
        show(book, number, seen)
    said += book.announce(1)
    open_now = [key for key, words in standing(said).items() if words[0] == "raised"]
    if open_now:
        book.acknowledge(open_now[which % len(open_now)], "ann", "mine", 1)
    said += book.announce(2)
    for number, seen in enumerate(final):
        show(book, number, seen)
    said += book.announce(3)
    other.recall(said)
    for number, seen in enumerate(final):
        show(other, number, seen)
        assert other.announce(4) == []


def ask_all(rule: AlertRule, seen: Seen) -> Answer:
    """What a window says to one of the rules."""
    book = make_book(rule)
    show(book, 9, seen)
    (watch,) = book._watches["1.0.0"]
    reading = watch.readings.get(window(9), Reading())
    return Answer(None, True) if reading.text == ABSENT.text else watch.ask(reading, 0.1)


@pytest.mark.slow
@given(st.lists(SEEN, max_size=10), st.data())
def test_windows_that_decide_nothing_change_nothing_wherever_they_are(series: list[Seen], data: st.DataObject) -> None:
    """Each rule by itself, as a window may decide another one."""
    for rule in RULES:
        undecided = SEEN.filter(lambda seen: ask_all(rule, seen)[:2] == (None, None))  # noqa: B023  # it is drawn at once
        between = data.draw(st.lists(st.tuples(st.integers(0, 10), undecided), max_size=4))
        plain, filled = make_book(rule), make_book(rule)
        for number, seen in enumerate(series):
            for book in (plain, filled):
                show(book, 2 * number, seen)
        for number, seen in between:
            show(filled, 2 * number + 1, seen)
        assert filled.announce(1) == plain.announce(1)


@given(st.lists(SEEN, max_size=12))
def test_nothing_is_raised_or_cleared_by_a_window_that_decides_nothing(series: list[Seen]) -> None:
    for rule in RULES:
        book = make_book(rule)
        for number, seen in enumerate(series):
            show(book, number, seen)
        for alert in book.announce(1):
            answer = ask_all(rule, series[(alert.window_start_ms or 0) // DAY])
            assert (answer.back if alert.state == "cleared" else answer.beyond) is True


def expect(answers: Sequence[Answer], rule: AlertRule) -> list[tuple[int, str]]:
    """The rules in other words: what is said of daily windows that answer so."""
    said, is_open, bad, good, rests_until = [], False, 0, 0, 0
    for day, (beyond, back, *_) in enumerate(answers):
        bad = {True: bad + 1, False: 0, None: bad}[beyond]
        good = {True: good + 1, False: 0, None: good}[back]
        if is_open and back and good >= rule.clears_after:
            said.append((day, "cleared"))
            is_open, bad, good, rests_until = False, 0, 0, day + rule.cooldown_ms // DAY
        elif not is_open and beyond and bad >= rule.for_windows and day >= rests_until:
            said.append((day, "raised"))
            is_open = True
    return said


@given(
    st.lists(st.tuples(st.floats(0.65, 0.85), st.sampled_from([0.0, 0.02, 0.1])), max_size=30),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 4),
)
def test_what_is_said_is_what_the_answers_of_the_windows_make_of_the_rule(
    values: list[tuple[float, float]], for_windows: int, clears_after: int, cooldown: int
) -> None:
    rule = replace(RULE, for_windows=for_windows, clears_after=clears_after, cooldown_ms=cooldown * DAY, clears_at=0.03)
    book, said, answers = make_book(rule), [], []
    for number, (value, half) in enumerate(values):
        low, high = value - half, value + half
        book.see_performance("1.0.0", window(number), measured(Reading(value, "", low, high)))
        said += [(number, alert.state) for alert in book.announce(number)]
        at, milder = 0.8 - 0.05, 0.8 - 0.03
        beyond = True if high < at else False if low >= at else None
        back = True if low >= milder else False if high < milder else None
        answers.append(Answer(beyond, back))
    assert said == expect(answers, rule)


@pytest.mark.slow
@given(st.lists(SEEN, min_size=1, max_size=8), st.integers(0, 8))
def test_reading_the_topics_again_tells_nothing_again_though_labels_come_later(final: list[Seen], mature: int) -> None:
    """Windows are read first without their labels, and then the older ones with them."""
    book, other, said = make_book(*RULES), make_book(*RULES), []
    for number, seen in enumerate(final):
        show(book, number, unlabelled(seen), [1, 2])
        said += book.announce(1)
        if number >= mature:
            show(book, number - mature, labelled(final[number - mature]))
            said += book.announce(1)
    assert len({(alert.alert_id, alert.state, alert.message) for alert in said}) == len(said)
    other.recall(said)
    for number, seen in enumerate(final):
        show(other, number, unlabelled(seen), [1, 2])
        assert other.announce(2) == []
    for number, seen in enumerate(final[: max(len(final) - mature, 0)]):
        show(other, number, labelled(seen))
        assert other.announce(3) == []


def labelled(seen: Seen) -> Seen:
    return (*seen[:3], True, *seen[4:-1], False)


def unlabelled(seen: Seen) -> Seen:
    return (*seen[:3], False, *seen[4:-1], False)


@pytest.mark.slow
@given(st.lists(SEEN, min_size=1, max_size=12), st.integers(0, 4))
def test_forgetting_old_windows_changes_nothing_that_is_said(series: list[Seen], kept: int) -> None:
    book, forgetful = make_book(*RULES), make_book(*RULES)
    for number, seen in enumerate(series):
        for each in (book, forgetful):
            show(each, number, seen)
        assert book.announce(number) == forgetful.announce(number)
        forgetful.forget((number + 1 - kept) * DAY)
        forgetful = restored(forgetful)
        readings = max(len(watch.readings) for watch in forgetful._watches["1.0.0"])
        assert readings <= kept


def restored(book: AlertBook, *rules: AlertRule) -> AlertBook:
    state = json.loads(json.dumps(book.to_state()))
    other = make_book(*(rules or book._rules))
    other.from_state(state)
    if not rules:
        assert json.dumps(other.to_state()) == json.dumps(book.to_state())
    return other


def test_a_window_that_starts_where_it_forgets_is_kept() -> None:
    book = make_book()
    see(book, 1, 0.8)
    see(book, 2, 0.7)
    assert [alert.state for alert in book.announce(1)] == ["raised"]
    book.forget(2 * DAY)
    see(book, 2, 0.8)
    (withdrawn,) = book.announce(2)
    assert "after late data" in withdrawn.message


def test_a_restored_book_says_nothing_twice() -> None:
    book = make_book()
    follow(book, [0.7, 0.9, 0.6])
    other = restored(book)
    assert other.announce(2) == []
    for each in (book, other):
        see(each, 3, 0.9)
    assert other.announce(2) == book.announce(2) != []


def test_an_alert_that_late_data_takes_away_is_cleared() -> None:
    book = make_book()
    see(book, 0, 0.7)
    (raised,) = book.announce(1)
    see(book, 0, 0.79)
    (withdrawn,) = book.announce(2)
    assert (withdrawn.state, withdrawn.alert_id, withdrawn.action) == ("cleared", raised.alert_id, "")
    assert withdrawn.message == (
        "auc of late 1.0.0 is 0.79 in 1970-01-01 to 1970-01-02 UTC after late data: auc-fell is withdrawn"
    )
    assert book.announce(3) == []


def test_a_book_that_starts_anew_takes_back_nothing_before_it_has_seen_the_window() -> None:
    book, other = make_book(), make_book()
    see(book, 0, 0.8)
    see(book, 1, 0.7)
    said = book.announce(1)
    other.recall(said)
    for number, value in enumerate([0.8, 0.7]):
        see(other, number, value)
        assert other.announce(2) == []
    see(other, 2, 0.8)
    assert [(alert.state, alert.revision) for alert in other.announce(3)] == [("cleared", 2)]


def test_an_alert_whose_windows_are_not_there_to_be_read_again_is_cleared_when_newer_ones_are_back() -> None:
    book, other = (make_book(replace(RULE, clears_after=2)) for _ in range(2))
    see(book, 0, 0.7)
    other.recall(book.announce(1))
    said = []
    for number, value in enumerate([0.7, 0.8, math.nan, 0.8], start=3):
        see(other, number, value)
        said += [(number, alert.state, alert.window_start_ms) for alert in other.announce(2)]
    assert said == [(3, "raised", 3 * DAY), (6, "cleared", 0), (6, "cleared", 6 * DAY)]


def test_times_of_an_alert_do_not_go_back_with_the_clock() -> None:
    book = make_book()
    see(book, 0, 0.7)
    book.announce(50)
    see(book, 1, 0.8)
    assert [alert.at_ms for alert in book.announce(20)] == [50]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ((replace(RULE, falls_by=0.2),), "auc-fell was changed in the pipeline file and is judged anew"),
        ((ACCURACY,), "auc-fell is not in the pipeline file any more"),
    ],
)
def test_a_rule_that_was_changed_or_removed_lets_go_of_its_alerts(rules: tuple[AlertRule, ...], words: str) -> None:
    book = make_book()
    follow(book, [0.7, 0.8, 0.7])
    other = restored(restored(book, *rules))
    assert [(alert.state, alert.message, alert.window_start_ms) for alert in other.announce(9)] == [
        ("cleared", words, 2 * DAY)
    ]


def test_a_rule_that_was_changed_goes_on_with_an_alert_that_it_would_raise_as_well_and_late_data_withdraw_that() -> (
    None
):
    book = make_book()
    follow(book, [0.7])
    other = restored(book, replace(RULE, falls_by=0.06))
    assert other.announce(1) == []
    see(other, 0, 0.8)
    (withdrawn,) = other.announce(3)
    assert withdrawn.message.endswith("after late data: auc-fell is withdrawn")
    assert withdrawn.revision == 2


def test_a_rule_that_changes_its_group_tells_what_is_kept_under_the_group() -> None:
    book = make_book()
    follow(book, [0.7, 0.8, 0.7])
    other = restored(book, replace(RULE, group="g"))
    assert [(alert.group, alert.state, alert.window_start_ms) for alert in other.announce(9)] == [
        ("", "cleared", 2 * DAY),
        ("g", "raised", 0),
        ("g", "cleared", DAY),
        ("g", "raised", 2 * DAY),
    ]


def test_what_was_cleared_by_a_window_that_will_not_be_read_again_is_raised_when_what_was_read_says_so() -> None:
    book = make_book()
    said = []
    for number, auc in enumerate((0.7, 0.8)):
        see(book, number, auc)
        said += book.announce(number)
    for is_forgotten in (False, True):
        other = make_book()
        other.recall(said)
        see(other, 0, 0.7)
        assert other.announce(2) == []  # the window that cleared it is still to be read
        if is_forgotten:
            other.forget(2 * DAY)
        see(other, 2, 0.7)
        assert [(alert.state, alert.window_start_ms) for alert in other.announce(3)] == [("raised", 0)] * is_forgotten


def test_slices_of_the_stream_and_absences_from_before_what_is_forgotten_are_not_taken_again() -> None:
    rule = AlertRule("late-labels", "labels", "share", "warning", below=0.5, clears_after=1)
    book = make_book(rule, replace(RULE, clears_after=1))
    book.see_stream("labels", [(window(number), Reading(0.4)) for number in (0, 1)])
    see(book, 1, 0.7)
    assert len(book.announce(1)) == 2
    book.forget(2 * DAY)
    book.forget(DAY)  # it does not go back
    for each in (book, restored_with(book, rule, replace(RULE, clears_after=1))):
        each.see_stream("labels", [(window(number), Reading(0.9)) for number in (0, 1)])
        each.see_absence("1.0.0", window(1), of_labels=True)
        assert each.announce(2) == []
        each.see_stream("labels", [(window(2), Reading(0.9))])
        each.see_absence("1.0.0", window(2), of_labels=True)
        assert {(alert.rule, alert.state) for alert in each.announce(3)} == {
            ("late-labels", "cleared"),
            ("auc-fell", "cleared"),
        }


def restored_with(book: AlertBook, *rules: AlertRule) -> AlertBook:
    other = make_book(*rules)
    other.announce(0)
    other.from_state(json.loads(json.dumps(book.to_state())))
    return other


def test_a_rule_that_was_changed_lets_go_of_its_own_alerts_alone() -> None:
    book = make_book(RULE, ACCURACY)
    see(book, 0, 0.7, 0.6)
    assert len(book.announce(1)) == 2
    other = restored(restored(book, replace(RULE, falls_by=0.2), ACCURACY))
    assert [(alert.rule, alert.state) for alert in other.announce(9)] == [("auc-fell", "cleared")]
    see(other, 0, 0.7, 0.9)
    (withdrawn,) = other.announce(10)
    assert withdrawn.message.endswith("after late data: less-accurate is withdrawn")


def test_a_rule_of_the_stream_that_was_changed_lets_go_of_its_alert() -> None:
    rule = AlertRule("late-labels", "labels", "share", "warning", below=0.5, clears_after=1)
    book = make_book(rule)
    book.see_stream("labels", [(window(0), Reading(0.4))])
    assert [alert.state for alert in book.announce(1)] == ["raised"]
    other = make_book(replace(rule, below=0.3))
    other.announce(2)
    other.from_state(json.loads(json.dumps(book.to_state())))
    assert [(alert.rule, alert.state) for alert in other.announce(3)] == [("late-labels", "cleared")]


def test_a_note_of_a_silence_is_not_cleared_when_its_rule_is_changed() -> None:
    """Nobody was told that it was raised, so nobody is told that it is over."""
    silenced = replace(RULE, silences=(Silence(0, 9 * DAY, "load"),))
    book = make_book(silenced)
    assert follow(book, [0.7]) == [(0, "silenced")]
    for rules in ((replace(silenced, falls_by=0.2),), (ACCURACY,)):
        other = restored(restored(book, *rules))
        assert other.announce(9) == []


def test_owner_severity_and_runbook_may_be_edited_while_an_alert_is_open() -> None:
    book = make_book()
    follow(book, [0.7])
    other = restored(book, replace(RULE, owner="bob", severity="info", runbook="https://a/b", action=""))
    assert other.announce(9) == []
    see(other, 1, 0.8)
    assert [(alert.state, alert.owner, alert.severity) for alert in other.announce(9)] == [("cleared", "bob", "info")]


# -- rules that come later ---------------------------------------------------------------------------------------------


def test_a_rule_that_is_added_judges_the_windows_that_are_kept() -> None:
    book = make_book(ACCURACY)
    for number, value in enumerate([0.7, 0.8, 0.8, 0.7]):
        see(book, number, value, 0.8)
    assert book.announce(1) == []
    book.forget(DAY)
    other = restored(book, ACCURACY, RULE)
    assert [(alert.rule, alert.state, alert.window_start_ms) for alert in other.announce(9)] == [
        ("auc-fell", "raised", 3 * DAY)
    ]


def test_what_is_over_when_a_rule_comes_is_told_as_raised_and_cleared_unless_it_counts_from_later_on() -> None:
    book = make_book(ACCURACY)
    for number, value in enumerate([0.8, 0.7, 0.8, 0.7]):
        see(book, number, value)
    for since_ms, windows in ((None, [1, 2, 3]), (DAY, [1, 2, 3]), (DAY + 1, [3]), (4 * DAY, [])):
        other = restored(book, ACCURACY, replace(RULE, since_ms=since_ms))
        said = other.announce(9)
        assert [alert.window_start_ms for alert in said] == [number * DAY for number in windows]
        assert [alert.state for alert in said] == ["raised", "cleared", "raised"][-len(windows) :] * bool(windows)
        assert restored(other).announce(10) == []


def test_a_rule_that_comes_later_hears_of_everything_that_rules_may_be_on() -> None:
    """Of drift, verdicts, errors and the stream itself, though no rule was on any of them."""
    rules = (
        AlertRule("drifting", "drift", "share", above=0.3),
        AlertRule("upstream", "verdict", "verdict", kinds=("pipeline_fault",)),
        AlertRule("errors", "error", "error"),
        AlertRule("strange", "labels", "without_event", above=0.05),
        AlertRule("astray", "entities", "entities"),
        AlertRule("log-loss", "performance", "log_loss", above=0.5),
    )
    book = make_book()
    book.see_drift("1.0.0", window(0), Reading(0.5))
    book.see_verdict("1.0.0", window(0), verdict("pipeline_fault", "amount"))
    book.see_detections("1.0.0", window(0), [detection(5)])
    book.see_stream("labels", [(window(0), Reading(0.1, "7 unknown"))])
    book.see_stream("entities", [(window(0), Reading(1.0))])
    book.see_performance("1.0.0", window(0), {"log_loss": Reading(0.6, "", 0.55, 0.65)})
    assert book.announce(1) == []
    other = restored_with(book, *rules)
    assert {(alert.rule, alert.state) for alert in other.announce(2)} == {(rule.name, "raised") for rule in rules}


@pytest.mark.slow
@given(st.lists(SEEN, min_size=1, max_size=8), st.sets(st.integers(0, len(RULES) - 1)), st.integers(0, 3))
def test_a_rule_that_comes_later_or_is_edited_says_what_it_would_have_said_from_the_beginning(
    series: list[Seen], old: set[int], edit: int
) -> None:
    edited = tuple(replace(rule, for_windows=edit or rule.for_windows) for rule in RULES)
    book, from_start = make_book(*(RULES[number] for number in sorted(old))), make_book(*edited)
    said = []
    for number, seen in enumerate(series):
        show(book, number, seen)
        show(from_start, number, seen)
        said += book.announce(1)
    wanted = standing(from_start.announce(1))
    other = restored(book, *edited)
    said += other.announce(2)
    found = standing(said)
    assert {key: words for key, words in found.items() if key in wanted} == wanted
    assert {words[0] for key, words in found.items() if key not in wanted} <= {"cleared", "silenced"}
    assert restored(other).announce(3) == []


# -- what is new about an open alert -----------------------------------------------------------------------------------

FAULTS = AlertRule("upstream", "verdict", "verdict", "critical", kinds=("pipeline_fault",), owner="ann")


def fault(*names: str, text: str = "") -> Reading:
    return verdict("pipeline_fault", *names)._replace(text=text)


def test_an_open_alert_is_told_again_when_a_verdict_is_about_something_else_and_once_for_each_thing() -> None:
    book = make_book(FAULTS)
    said = []
    for number, reading in enumerate(
        [
            fault("amount", text="`amount` is constant."),
            fault("amount", text="`amount` is constant, more than before."),
            fault("amount", "kind", text="`kind` is all null; there is more to look at in `amount`."),
            fault("kind"),
            verdict("none"),
            fault("amount", "traffic"),
        ]
    ):
        book.see_verdict("1.0.0", window(number), reading)
        said += [(number, alert.state, alert.revision, alert.window_start_ms) for alert in book.announce(number)]
    assert said == [(0, "raised", 1, 0), (2, "raised", 2, 0), (5, "raised", 3, 0)]
    (told, _) = next(iter(book._told.values()))
    assert told.message == (
        "the verdict on late 1.0.0 is pipeline fault of `amount` in 1970-01-01 to 1970-01-02 UTC: `amount` is"
        " constant; new in 1970-01-03 to 1970-01-04 UTC: pipeline fault of `kind`: `kind` is all null; there is more to"
        " look at in `amount`; new in 1970-01-06 to 1970-01-07 UTC: pipeline fault of `traffic`"
    )
    other = restored(book)
    assert other.announce(9) == []
    book.forget(6 * DAY)
    assert restored(book).announce(9) == []


def test_another_kind_of_verdict_is_something_else_where_a_rule_is_on_both() -> None:
    book = make_book(AlertRule("moved", "verdict", "verdict", kinds=("score_drift", "feature_drift")), FAULTS)
    kinds = ["feature_drift", "score_drift", "feature_drift"]
    said = []
    for number, kind in enumerate(kinds):
        book.see_verdict("1.0.0", window(number), verdict(kind))
        said += [(number, alert.message) for alert in book.announce(number)]
    first = "the verdict on late 1.0.0 is feature drift in 1970-01-01 to 1970-01-02 UTC"
    assert said == [(0, first), (1, f"{first}; new in 1970-01-02 to 1970-01-03 UTC: score drift")]


def test_who_took_an_alert_on_is_told_what_is_new_in_the_state_that_it_has() -> None:
    book = make_book(FAULTS)
    book.see_verdict("1.0.0", window(0), fault("amount"))
    (raised,) = book.announce(1)
    book.acknowledge(raised.alert_id, "ann", "looking", 2)
    book.announce(3)
    book.see_verdict("1.0.0", window(1), fault("kind"))
    (again,) = book.announce(4)
    assert (again.state, again.by, again.revision, again.alert_id) == ("acknowledged", "ann", 3, raised.alert_id)
    assert "pipeline fault of `kind`" in again.message


def test_who_recalls_what_was_told_tells_nothing_new_again_and_what_is_noted_in_a_silence_is_noted_once() -> None:
    silent = replace(FAULTS, silences=(Silence(0, 9 * DAY, "load"),))
    readings = [fault("amount"), fault("kind"), fault("amount_usd")]
    for rule, n in ((FAULTS, 3), (silent, 1)):
        book, other, said = make_book(rule), make_book(rule), []
        for number, reading in enumerate(readings):
            book.see_verdict("1.0.0", window(number), reading)
            said += book.announce(number)
        assert len(said) == n
        other.recall(said)
        for number, reading in enumerate(readings):
            other.see_verdict("1.0.0", window(number), reading)
            assert other.announce(9) == []


def test_what_is_new_is_not_told_of_an_alert_that_is_over() -> None:
    book = make_book(FAULTS)
    for number, reading in enumerate([fault("amount"), fault("kind"), verdict("none"), verdict("none")]):
        book.see_verdict("1.0.0", window(number), reading)
    assert [alert.state for alert in book.announce(1)] == ["raised", "cleared"]
    book.see_verdict("1.0.0", window(4), verdict("none"))
    assert book.announce(2) == []


def test_what_a_rule_of_a_group_finds_anew_is_told_by_its_alert() -> None:
    book = make_book(replace(FAULTS, group="g"), replace(RULE, group="g"))
    see(book, 0, 0.7)
    book.see_verdict("1.0.0", window(0), fault("amount"))
    assert len(book.announce(1)) == 1
    book.see_verdict("1.0.0", window(1), fault("amount", "kind"))
    (again,) = book.announce(2)
    assert "(with auc-fell)" in again.message
    assert "pipeline fault of `kind`" in again.message


# -- limits ------------------------------------------------------------------------------------------------------------


def test_falls_by_is_towards_the_worse_and_needs_a_training_value() -> None:
    loss = AlertRule("loss", "performance", "log_loss", falls_by=0.1, clears_at=0.05)
    assert limits(loss, 0.5)[0][:3] == (0.6, "above", 0.55)
    assert limits(RULE, 0.8)[0].side == "below"
    assert limits(RULE, math.nan) == []
    assert limits(ACCURACY, 0.8) == [Limit(0.7, "below", 0.7)]
    both = AlertRule("a", "performance", "auc", below=0.2, above=0.8, falls_by=0.1, clears_at=0.3)
    assert [limit[:3] for limit in limits(both, 0.5)] == [
        (0.2, "below", 0.3),
        (0.8, "above", 0.3),
        (0.4, "below", 0.2),
    ]
    share = AlertRule("more", "drift", "share", falls_by=0.25)
    assert limits(share, 0.5) == [Limit(0.75, "above", 0.75, "0.5 in training + 0.25")]
    for on in ("verdict", "error", "entities"):
        assert limits(AlertRule("a", on, on, below=3.0), 0.5) == [Limit(0.0, "above", 0.0)]
    watch = RuleHistory(RULE, [], {window(0): Reading(0.0)})
    assert watch.episodes() == []


def test_a_value_on_the_limit_is_within_it() -> None:
    rule = AlertRule("a", "performance", "auc", below=0.2, above=0.8)
    both = [Limit(0.2, "below", 0.3), Limit(0.8, "above", 0.7)]
    answers = [ask(rule, both, Reading(value)) for value in (0.1, 0.2, 0.5, 0.8, 0.9)]
    assert [answer.beyond for answer in answers] == [True, False, False, False, True]
    assert [answer.limit for answer in answers] == [both[0], None, None, None, both[1]]
    assert [ask(rule, both, Reading(value)).back for value in (0.29, 0.3, 0.7, 0.71)] == [False, True, True, False]
