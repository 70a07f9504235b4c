"""Laws of what many are shown: it is found once, nobody waits for what takes long, and nobody is told of long ago."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from app.adapters.http.kept import Kept
from app.ports import WarehouseError


def run(law: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(law(), 30))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # of anything
        await asyncio.sleep(0.001)


class Source:
    """Finds numbers, when it is let."""

    def __init__(self) -> None:
        self.looked = 0
        self.go = asyncio.Event()
        self.error: WarehouseError | None = None

    async def find(self) -> int:
        self.looked += 1
        number = self.looked
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return number


def test_all_who_ask_at_once_share_one_search() -> None:
    async def law() -> None:
        source = Source()
        kept = Kept(source.find)
        asking = [asyncio.create_task(kept.get()) for _ in range(20)]
        await asyncio.sleep(0)
        source.go.set()
        assert {found.value for found in await asyncio.gather(*asking)} == {1}
        assert (await kept.get()).value == 2  # nobody gets what was found before they asked, if there is time
        await kept.close()

    run(law)


def test_what_takes_too_long_is_answered_by_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.adapters.http.kept.PATIENCE_S", 0.02)
    monkeypatch.setattr("app.adapters.http.kept.FIRST_PATIENCE_S", 0.04)

    async def law() -> None:
        source = Source()
        kept = Kept(source.find)
        assert (await kept.get()).value is None
        source.go.set()
        await until(lambda: kept._finding.value == 1)
        source.go.clear()
        before = time.monotonic()
        found = await kept.get()
        assert time.monotonic() - before < 1
        assert found.value == 1
        assert found.found_at is not None
        assert (await kept.get()).value == 1
        assert source.looked == 2  # the search that is under way is not begun again
        source.go.set()
        await until(lambda: kept._finding.value == 2)
        await kept.close()

    run(law)


def test_what_was_found_a_moment_ago_is_as_good_as_new() -> None:
    async def law() -> None:
        source, now = Source(), 100.0
        source.go.set()
        kept = Kept(source.find, pause_s=2, clock=lambda: now)
        assert (await kept.get()).value == 1
        now = 101.9
        assert (await kept.get()).value == 1
        now = 102.0
        assert (await kept.get()).value == 2
        await kept.close()

    run(law)


def test_what_fails_leaves_what_is_kept_and_says_why() -> None:
    async def law() -> None:
        source = Source()
        source.go.set()
        kept = Kept(source.find)
        first = await kept.get()
        source.error = WarehouseError("ClickHouse is away.", retryable=True)
        found = await kept.get()
        assert (found.value, found.found_at, found.error) == (1, first.found_at, "ClickHouse is away.")
        source.error = None
        assert (await kept.get()).error == ""
        await kept.close()

    run(law)


def test_one_who_goes_does_not_end_the_search_of_the_others() -> None:
    async def law() -> None:
        source = Source()
        kept = Kept(source.find)
        goes, stays = (asyncio.create_task(kept.get()) for _ in range(2))
        await asyncio.sleep(0)
        goes.cancel()
        await asyncio.wait([goes])
        source.go.set()
        assert (await stays).value == 1
        await kept.close()

    run(law)


@pytest.mark.parametrize("error", [None, WarehouseError("ClickHouse is away.")])
def test_who_asks_after_a_long_time_is_told_at_once_of_the_present(
    monkeypatch: pytest.MonkeyPatch, error: WarehouseError | None
) -> None:
    """It is looked for by itself, now and then, and again after it failed."""
    monkeypatch.setattr("app.adapters.http.kept.REFRESH_S", 0.001)

    async def law() -> None:
        source = Source()
        source.go.set()
        source.error = error
        kept = Kept(source.find, pause_s=1000)
        looking = asyncio.create_task(kept.keep_fresh())
        await until(lambda: source.looked > 5)
        source.error = None
        seen = source.looked
        await until(lambda: source.looked > seen + 2)
        found = await kept.get()
        assert found.value is not None
        assert (found.value > seen, found.error) == (True, "")
        await stop(looking, kept)

    run(law)


def test_what_takes_long_is_seldom_looked_for_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large table shall not be counted all the time because nobody asks."""
    monkeypatch.setattr("app.adapters.http.kept.REFRESH_S", 0.001)

    async def law() -> None:
        source, now = Source(), [0.0]
        kept = Kept(source.find, clock=lambda: now[0])
        looking = asyncio.create_task(kept.keep_fresh())
        await until(lambda: source.looked == 1)
        now[0] = 60.0
        source.go.set()
        await asyncio.sleep(0.1)
        assert source.looked == 1
        await stop(looking, kept)

    run(law)


async def stop(looking: asyncio.Task[None], kept: Kept[int]) -> None:
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
    await kept.close()
