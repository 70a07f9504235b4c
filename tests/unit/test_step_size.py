"""Steps have as many events as their time allows, and less time while somebody waits for an answer."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pipeline import STEP_EVENTS
from app.step_size import ASKED_STEP_S, STEP_S, AskedLately, StepSize


@given(fixed_s=st.floats(0, 0.002), event_s=st.floats(1e-6, 0.002), step_s=st.sampled_from([STEP_S, ASKED_STEP_S]))
def test_full_steps_come_to_take_about_their_time_and_not_more(fixed_s: float, event_s: float, step_s: float) -> None:
    size, taken = StepSize(), []
    for _ in range(60):
        events = size.of(step_s)
        taken.append(fixed_s + events * event_s)
        size.adapt(events, taken[-1], step_s)
    assert max(taken[20:]) <= 1.3 * step_s
    assert min(taken[40:]) > step_s / 5 or events in {1, STEP_EVENTS}


@given(times=st.floats(1, 50))
def test_where_a_step_costs_more_than_its_time_whatever_its_size_it_stays_large(times: float) -> None:
    """Smaller ones would take as long, and be more."""
    size, event_s = StepSize(), 1e-5
    size.adapt(STEP_EVENTS, STEP_EVENTS * event_s, STEP_S)
    for _ in range(200):
        events = size.of(ASKED_STEP_S)
        size.adapt(events, times * ASKED_STEP_S + events * event_s, ASKED_STEP_S)
    assert size.of(ASKED_STEP_S) >= ASKED_STEP_S / event_s / 6


def test_the_first_short_step_is_shorter_at_once_and_long_ones_come_back() -> None:
    size = StepSize()
    size.adapt(STEP_EVENTS, STEP_S, STEP_S)
    assert size.of(ASKED_STEP_S) <= STEP_EVENTS * ASKED_STEP_S / STEP_S
    assert size.of(STEP_S) > STEP_EVENTS / 2


def test_a_step_with_few_events_says_nothing_of_a_full_one() -> None:
    size = StepSize()
    size.adapt(STEP_EVENTS, STEP_S, STEP_S)
    before = size.of(ASKED_STEP_S)
    for _ in range(1000):
        size.adapt(5, ASKED_STEP_S / 2, ASKED_STEP_S)
    assert size.of(ASKED_STEP_S) == before


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


async def test_while_questions_are_open_steps_wait_and_never_share_a_turn() -> None:
    asked, turns, turn = AskedLately(), [], 0
    asked.note()

    async def step(name: str) -> None:
        await asked.wait_for_turn()
        turns.append((name, turn))

    steps = [asyncio.create_task(step(name)) for name in "abc"]
    for turn in range(3):  # noqa: B007  # what steps see
        await asyncio.sleep(0)
    assert turns == []
    asked.answered(1)
    for turn in range(3, 30):  # noqa: B007  # as above
        await asyncio.sleep(0)
    await asyncio.gather(*steps)
    assert [name for name, _ in turns] == ["a", "b", "c"]
    assert len({at for _, at in turns}) == 3


async def test_no_step_waits_for_long() -> None:
    asked = AskedLately()
    asked.note()
    await asyncio.wait_for(asked.wait_for_turn(), 5)
