"""Steps have as many events as their time allows, and less time while somebody waits for an answer."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pipeline import STEP_EVENTS
from app.step_size import ASKED_STEP_S, STEP_S, AskedLately, StepSize


@given(fixed_s=st.floats(0, 0.002), event_s=st.floats(1e-6, 0.003), step_s=st.sampled_from([STEP_S, ASKED_STEP_S]))
def test_steps_come_to_take_about_their_time_and_not_more(fixed_s: float, event_s: float, step_s: float) -> None:
    size, taken = StepSize(), []
    for _ in range(30):
        events = size.of(step_s)
        taken.append(fixed_s + events * event_s)
        size.adapt(events, taken[-1])
    assert max(taken[10:]) <= max(step_s, fixed_s + event_s) * 1.0001
    if fixed_s + 2 * event_s < step_s / 2:
        assert min(taken[20:]) > step_s / 4 or size.of(step_s) == STEP_EVENTS


def test_the_first_short_step_is_shorter_at_once() -> None:
    size = StepSize()
    size.adapt(size.of(STEP_S), STEP_S / 2)
    assert size.of(ASKED_STEP_S) <= STEP_EVENTS * ASKED_STEP_S / STEP_S
    assert size.of(STEP_S) == size.of(STEP_S) < STEP_EVENTS  # it grows again by what steps show


def test_a_step_with_fewer_events_than_it_may_have_says_nothing_but_that_it_was_too_slow() -> None:
    size = StepSize()
    size.adapt(10, 1e-5)
    assert size.of(STEP_S) == STEP_EVENTS
    size.adapt(10, 10 * STEP_S)
    assert size.of(STEP_S) == 1


async def test_steps_are_short_for_a_while_after_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    asked = AskedLately()
    assert asked.step_s == STEP_S
    asked.note()
    now[0] += 0.9
    assert asked.step_s == ASKED_STEP_S
    now[0] += 0.2
    assert asked.step_s == STEP_S
