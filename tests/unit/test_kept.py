from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.adapters.kept import OLD_S, Kept


def look(moments: list[float], slow: Callable[[], Awaitable[None]]) -> list[int]:
    """Ask at each of these moments (s); what is said. What is found is the number of the search."""

    async def run() -> list[int]:
        now, searches = [0.0], [0]

        async def find() -> int:
            searches[0] += 1
            found = searches[0]
            await slow()
            return found

        kept = Kept(find, pause_s=2.0, clock=lambda: now[0])
        said = []
        for moment in moments:
            now[0] = moment
            found = await kept.get()
            assert found.value is not None
            said.append(found.value)
        await kept.close()
        return said

    return asyncio.run(run())


async def at_once() -> None:
    pass


async def in_a_while() -> None:
    await asyncio.sleep(0.3)  # longer than somebody waits for what is newer


def test_what_was_just_found_is_not_looked_for_again() -> None:
    assert look([0.0, 1.9, 2.1], at_once) == [1, 1, 2]


def test_who_asks_often_is_told_at_once_what_was_found_before() -> None:
    assert look([0.0, 5.0], in_a_while) == [1, 1]


def test_who_asks_rarely_is_not_told_of_the_time_before() -> None:
    assert look([0.0, OLD_S + 5, 3 * OLD_S], in_a_while) == [1, 2, 3]
