"""Records that are none of ours are counted each, and said at a limit."""

from __future__ import annotations

import logging

import pytest

from app.adapters.kafka.refusals import Refusals, Refused
from schemas.refusal import RefusedRecordError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_every_record_is_counted_and_a_flood_is_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    refusals = Refusals(clock)
    with caplog.at_level(logging.WARNING):
        for number in range(10_000):
            clock.now = number / 100  # 100 s
            refusals.note("p.scores", 1, number, RefusedRecordError("malformed", "It is no JSON."))
    assert refusals.by_topic() == {"p.scores": {"malformed": 10_000}}
    assert [record.getMessage() for record in caplog.records] == [
        f"p.scores: {n} records are none of ours and are passed over (malformed), the last of them partition 1, offset"
        f" {offset}: It is no JSON."
        for n, offset in ((1, 0), (6_000, 6_000))
    ]


def test_a_reason_that_is_new_on_a_topic_is_said_at_once(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(Clock())
    refused = Refused()
    for number, reason in enumerate(("malformed", "foreign", "malformed")):
        refused.add(0, number, RefusedRecordError(reason, f"{reason} {number}."))
    with caplog.at_level(logging.WARNING):
        refusals.take("p.scores", refused)
        refusals.take("p.scores", refused)
        refusals.take("p.sketches", refused)
    assert refusals.by_topic() == {
        "p.scores": {"foreign": 2, "malformed": 4},
        "p.sketches": {"foreign": 1, "malformed": 2},
    }
    assert len(caplog.records) == 4
