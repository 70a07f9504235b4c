"""A refusal is of one version at one place; what may pass is tried again, with pauses that grow."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from app.adapters.own_thread import run_apart
from models.versions.attempts import LONGEST_PAUSE_S, MOST_AGAIN, Attempt, Attempts, content_of
from schemas.wire import ModelUpdate


def update(version: str = "2.0.0", uri: str = "file:///right", sha256: str = "a" * 64) -> ModelUpdate:
    return ModelUpdate("m", version, "champion", uri, sha256, "f", 0)


def due(
    attempts: Attempts, champions: list[ModelUpdate], now_s: float, loaded: list[ModelUpdate] | None = None
) -> list[Attempt]:
    attempts.want(champions)
    return attempts.due(set(map(content_of, loaded or [])), now_s)


def test_each_place_and_each_digest_is_an_attempt_of_its_own() -> None:
    attempts = Attempts()
    updates = [update(uri="file:///forged"), update(), update(sha256="b" * 64), update("3.0.0"), update()]
    attempted = due(attempts, updates, 0)
    assert [attempt.update for attempt in attempted] == [updates[0], *updates[2:]]  # the last one is the second again
    assert len({id(attempt) for attempt in attempted}) == 4
    attempted[0].refuse("nothing is there", None, 0)
    assert updates[0] not in [attempt.update for attempt in due(attempts, updates, 0)]
    assert updates[1] in [attempt.update for attempt in due(attempts, updates, 0)]


def test_what_is_loaded_is_not_tried_wherever_else_it_is_said_to_be() -> None:
    assert due(Attempts(), [update(uri="file:///forged"), update()], 0, loaded=[update()]) == []


def test_pauses_double_up_to_a_minute_and_begin_anew_when_it_is_announced_again() -> None:
    attempts, champions = Attempts(), [update()]
    now, pauses = 0.0, []
    for _ in range(10):
        (attempt,) = due(attempts, champions, now)
        attempt.refuse("nothing is there", None, now)
        assert due(attempts, champions, now) == []
        pauses.append(attempt.due_s - now)
        now = attempt.due_s
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert pauses[-1] == LONGEST_PAUSE_S
    attempt.refuse("it is another model", (("manifest.json", 1, 2, 3),), now)
    attempts.announce(update())
    assert due(attempts, champions, now) == [attempt]
    assert attempt.stamp is None
    assert attempt.pause_s == 1


def test_only_a_new_reason_is_news() -> None:
    attempt = Attempt(update())
    assert [attempt.refuse(why, None, 0) for why in ("a", "a", "b")] == [True, False, True]


def test_what_runs_or_hangs_is_not_tried_beside_itself() -> None:
    attempts = Attempts()
    (attempt,) = due(attempts, [update()], 0)
    attempt.is_running = True
    assert attempts.is_running
    assert due(attempts, [update()], 1_000) == []
    attempt.is_running, attempt.given_up = False, threading.Event()
    assert due(attempts, [update()], 1_000) == []
    attempt.given_up.set()
    assert due(attempts, [update()], 1_000) == [attempt]


def test_a_start_waits_for_the_first_verdict_of_each_and_for_no_further_one() -> None:
    """Hundreds of places where nothing is are looked at again and again, in turn: one of them always is."""
    attempts, places = Attempts(), [update(uri=f"file:///nowhere/{number}") for number in range(60)]
    trying = due(attempts, places, 0)
    for attempt in trying:
        attempt.is_running = True
    for number, attempt in enumerate(trying):
        assert attempts.has_untried
        attempt.is_running = False
        attempt.refuse("nothing is there", None, number)
    assert not attempts.has_untried
    (again,) = due(attempts, places[:1], 1_000)
    again.is_running = True
    assert attempts.is_running
    assert not attempts.has_untried


def test_files_that_were_refused_are_known_wherever_they_are_said_to_be_until_they_are_asked_for_again() -> None:
    attempts, files = Attempts(), (("manifest.json", 1, 2, 3),)
    there, elsewhere = update(), update(uri="file:///the/same/./files")
    (first,) = due(attempts, [there], 0)
    first.refuse("golden: it is another", files, 0)
    second, other = due(attempts, [elsewhere, update("3.0.0"), there], 0)
    assert (second.refused, other.refused) == ({files: "golden: it is another"}, {})
    second.refuse("nothing is there", None, 0)
    assert first.refused == {files: "golden: it is another"}
    attempts.announce(there)
    assert (first.refused, second.refused) == ({}, {})


def test_of_many_that_are_nowhere_each_has_its_turn_and_none_keeps_another_from_its_first() -> None:
    attempts, nowhere = Attempts(), [update(uri=f"file:///nowhere/{number}") for number in range(100)]
    for attempt in due(attempts, nowhere, 0):
        attempt.refuse("nothing is there", None, 0)
    tried: set[str] = set()
    for second in range(1, 6):
        attempted = due(attempts, [*nowhere, update(f"{second}.0.0")], second)
        assert [attempt.update.version for attempt in attempted] == [f"{second}.0.0"] + ["2.0.0"] * MOST_AGAIN
        for attempt in attempted:
            tried.add(attempt.update.uri)
            attempt.refuse("nothing is there", None, second)
    assert tried == {each.uri for each in nowhere} | {update().uri}


def test_work_that_hangs_is_given_up_and_holds_up_nobody() -> None:
    released = threading.Event()

    async def run() -> None:
        with pytest.raises(TimeoutError):
            await run_apart(released.wait, 0.05, "hangs")
        assert await run_apart(lambda: 7, 5, "works") == 7
        with pytest.raises(ZeroDivisionError):
            await run_apart(lambda: 1 // 0, 5, "fails")

    started = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - started < 5
    released.set()
