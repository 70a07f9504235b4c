"""What an alert says when it is over: the limit that it is within again, and the milder one that it had to reach."""

from __future__ import annotations

import pytest

from app.core.alerts.course import Episode, Limit, Reading
from app.core.alerts.words import say_cleared
from app.core.counts.calendar import Window
from schemas.pipeline.spec import AlertRule

AT = Window(0, 3_600_000)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Limit(0.5, "below", 0.5), "back within its limit 0.5"),
        (Limit(0.5, "below", 0.625), "back within its limit 0.5, and at or above 0.625"),
        (Limit(0.5, "above", 0.25), "back within its limit 0.5, and at or below 0.25"),
        (Limit(0.5, "below", 0.6, "so much"), "back within its limit 0.5 (so much), and at or above 0.6"),
    ],
)
def test_a_cleared_alert_says_the_milder_limit_where_there_is_one(limit: Limit, words: str) -> None:
    rule = AlertRule("auc-fell", "performance", "auc", below=0.5)
    episode = Episode(AT, AT, Reading(0.4), limit, cleared=AT, last=Reading(0.7))
    said = say_cleared(rule, "m 1.0.0", episode)
    assert said.startswith("auc of m 1.0.0 is 0.7 in ")
    assert said.endswith(words)
