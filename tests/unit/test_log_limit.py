from __future__ import annotations

import logging

from app.adapters.stack.log_limit import MOST, PERIOD_S, RepeatLimit


def record(
    second: float, message: str = "no connection to %s", argument: str = "a", name: str = "kafka"
) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.ERROR, "", 0, message, (argument,), None)
    made.created = second
    return made


def test_a_message_passes_a_few_times_a_minute_whatever_its_arguments() -> None:
    limit = RepeatLimit()
    passed = [limit.filter(record(second / 10, argument=str(second))) for second in range(300)]
    assert passed == [True] * MOST + [False] * (300 - MOST)


def test_after_the_period_it_passes_again_and_says_how_many_were_held_back() -> None:
    limit = RepeatLimit()
    for second in range(20):
        limit.filter(record(second))
    again = record(PERIOD_S)
    assert limit.filter(again)
    assert again.getMessage() == f"no connection to a ({20 - MOST} more like this were not logged)"
    later = record(2 * PERIOD_S)
    assert limit.filter(later)
    assert later.getMessage() == "no connection to a"


def test_what_is_no_fault_passes_however_often() -> None:
    limit, owned = RepeatLimit(), record(0)
    owned.levelno = logging.INFO
    assert all(limit.filter(owned) for _ in range(2 * MOST))


def test_other_messages_and_other_loggers_are_not_held_back() -> None:
    limit = RepeatLimit()
    for _ in range(2 * MOST):
        limit.filter(record(0))
    assert limit.filter(record(0, message="gone: %s"))
    assert limit.filter(record(0, name="faust"))
