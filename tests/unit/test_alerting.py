"""An alert is raised once, cleared once, and follows from the values of the windows alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.alerting import Limit, Watch, limits, passed
from app.core.drift_calendar import Window
from schemas.pipeline import AlertRule

RULE = AlertRule("auc-fell", "performance", "auc", "critical", falls_by=0.05, action="retrain")


def make_watch(rule: AlertRule = RULE, training_value: float = 0.8) -> Watch:
    return Watch("flights", "late", "1.0.0", rule, limits(rule, training_value))


def window(number: int) -> Window:
    return Window(number * 86_400_000, (number + 1) * 86_400_000)


def test_it_is_raised_once_and_cleared_when_back_within_the_limit() -> None:
    watch = make_watch()
    said = []
    for number, value in enumerate([0.79, 0.74, 0.70, math.nan, 0.75, 0.76, 0.6]):
        watch.see(window(number), value)
        said += [(number, alert) for alert in watch.announce(now_ms=number)]
        assert watch.announce(now_ms=99) == []
    assert [(number, alert.state, alert.action) for number, alert in said] == [
        (1, "raised", "retrain"),
        (4, "cleared", ""),
        (6, "raised", "retrain"),
    ]
    raised, cleared, again = (alert for _, alert in said)
    assert raised.alert_id == cleared.alert_id != again.alert_id
    assert raised.message == (
        "auc of late 1.0.0 is 0.74 in 1970-01-02 to 1970-01-03 UTC, below its limit 0.75 (0.8 in training - 0.05)"
    )
    assert cleared.message.startswith(
        "auc of late 1.0.0 is 0.75 in 1970-01-05 to 1970-01-06 UTC, back within its limit"
    )
    assert (raised.value, raised.limit, raised.window_start_ms, raised.at_ms) == (
        0.74,
        pytest.approx(0.75),
        86_400_000,
        1,
    )


@given(st.lists(st.floats(0.5, 1.0), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_order_in_which_windows_are_seen_does_not_matter_at_the_end(values: list[float], chance: object) -> None:
    numbered = list(enumerate(values))
    in_order, shuffled = make_watch(), make_watch()
    for number, value in numbered:
        in_order.see(window(number), value)
    chance.shuffle(numbered)  # type: ignore[attr-defined]  # Hypothesis's Random
    for number, value in numbered:
        shuffled.see(window(number), 0.0)
        shuffled.see(window(number), value)
    assert shuffled.announce(5) == in_order.announce(5)


def test_an_alert_that_late_data_takes_away_is_cleared() -> None:
    watch = make_watch()
    watch.see(window(0), 0.7)
    (raised,) = watch.announce(1)
    watch.see(window(0), 0.79)
    (withdrawn,) = watch.announce(2)
    assert (withdrawn.state, withdrawn.alert_id, withdrawn.value) == ("cleared", raised.alert_id, 0.79)
    assert "after late data" in withdrawn.message
    assert watch.announce(3) == []


def test_a_restored_watch_says_nothing_twice() -> None:
    watch, other = make_watch(), make_watch()
    for number, value in enumerate([0.7, 0.9, 0.6]):
        watch.see(window(number), value)
    watch.announce(1)
    other.from_state(watch.to_state())
    assert other.announce(2) == []
    other.see(window(3), 0.9)
    watch.see(window(3), 0.9)
    assert other.announce(2) == watch.announce(2) != []


def test_falls_by_is_towards_the_worse_and_needs_a_training_value() -> None:
    loss = AlertRule("loss", "performance", "log_loss", falls_by=0.1)
    share = AlertRule("drift", "drift", "share", falls_by=0.1)
    assert limits(loss, 0.5)[0][:2] == (0.6, "above")
    assert limits(share, 0.0)[0].side == "above"
    assert limits(RULE, 0.8)[0].side == "below"
    assert limits(RULE, math.nan) == []


def test_a_value_on_the_limit_is_within_it() -> None:
    both = [Limit(0.2, "below", ""), Limit(0.8, "above", "")]
    assert [passed(value, both) for value in (0.2, 0.5, 0.8)] == [None, None, None]
    assert passed(0.1, both) == both[0]
    assert passed(0.9, both) == both[1]
