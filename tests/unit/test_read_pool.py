"""Laws of asking: so many run, so many wait, nobody who has gone is worked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from memory_warehouse import MemoryWarehouse

from app.adapters.clickhouse.read_pool import BusyError, ReadPool
from app.ports import JsonRows, WarehouseError


class Slow(MemoryWarehouse):
    """Answers a question when it is let, or when it is stopped, which may fail at first."""

    def __init__(self, *, deaf: int = 0) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.stopped: list[str] = []
        self.at_once = self._now = 0
        self._deaf = deaf
        self._go: dict[str, threading.Event] = {}
        self._sql_of: dict[str, str] = {}
        self._lock = threading.Lock()

    def query_readonly(self, sql: str, limit: int = 1000, *, as_objects: bool = False, mark: str = "") -> JsonRows:  # noqa: ARG002  # the port's signature
        with self._lock:
            self.begun.append(sql)
            self._sql_of[mark] = sql
            self._now += 1
            self.at_once = max(self.at_once, self._now)
            go = self._go.setdefault(sql, threading.Event())
        assert go.wait(20)
        with self._lock:
            self._now -= 1
        if sql in self.stopped:
            raise WarehouseError("It was stopped.")
        if sql == "wrong":
            raise WarehouseError("It is wrong.")
        return JsonRows([f"[{limit}]".encode()])

    def stop(self, mark: str) -> None:
        if self._deaf:
            self._deaf -= 1
            raise WarehouseError("Try again.", retryable=True)
        self.stopped.append(self._sql_of[mark])
        self.let(self._sql_of[mark])

    def let(self, sql: str) -> None:
        with self._lock:
            self._go.setdefault(sql, threading.Event()).set()


def run(law: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(law(), 30))


async def ask(pool: ReadPool, sql: str) -> list[Any]:
    async with pool.answer(sql, 7) as found:
        return found.read()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # of another thread
            await asyncio.sleep(0.001)


def test_so_many_run_so_many_wait_and_one_more_is_told_when_to_come_again() -> None:
    async def law() -> None:
        slow = Slow()
        pool = ReadPool(slow, running=2, waiting=3)
        asked = [asyncio.create_task(ask(pool, f"q{number}")) for number in range(5)]
        await until(lambda: len(slow.begun) == 2)
        with pytest.raises(BusyError, match="ask again") as refused:
            await ask(pool, "one more")
        assert refused.value.retryable
        assert refused.value.retry_after_s > 0
        for number in range(5):
            slow.let(f"q{number}")
        assert await asyncio.gather(*asked) == [[[7]]] * 5
        assert slow.at_once == 2
        slow.let("again")
        assert await ask(pool, "again") == [[7]]
        await pool.close()

    run(law)


def test_one_that_waits_too_long_is_refused_and_leaves_the_rest_as_it_is() -> None:
    async def law() -> None:
        slow = Slow()
        pool = ReadPool(slow, running=1, waiting=3, patience_s=0.05)
        first = asyncio.create_task(ask(pool, "first"))
        await until(lambda: slow.begun == ["first"])
        with pytest.raises(BusyError):
            await ask(pool, "second")
        slow.let("first")
        assert await first == [[7]]
        assert slow.begun == ["first"]
        await pool.close()

    run(law)


def test_what_fails_leaves_its_place() -> None:
    async def law() -> None:
        slow = Slow()
        pool = ReadPool(slow, running=1, waiting=1)
        slow.let("wrong")
        slow.let("right")
        for _ in range(3):
            with pytest.raises(WarehouseError, match="It is wrong"):
                await ask(pool, "wrong")
        assert await ask(pool, "right") == [[7]]
        await pool.close()

    run(law)


@pytest.mark.slow
@pytest.mark.parametrize("deaf", [0, 2])
def test_a_question_whose_asker_has_gone_is_stopped_and_holds_its_place_until_it_has_ended(deaf: int) -> None:
    async def law() -> None:
        slow = Slow(deaf=deaf)
        pool = ReadPool(slow, running=1, waiting=1)
        gone = asyncio.create_task(ask(pool, "gone"))
        await until(lambda: slow.begun == ["gone"])
        after = asyncio.create_task(ask(pool, "after"))
        slow.let("after")
        gone.cancel()
        assert await after == [[7]]
        assert (slow.stopped, slow.at_once) == (["gone"], 1)
        await pool.close()

    run(law)


def test_one_who_goes_while_waiting_is_never_asked_for() -> None:
    async def law() -> None:
        slow = Slow()
        pool = ReadPool(slow, running=1, waiting=1)
        first = asyncio.create_task(ask(pool, "first"))
        await until(lambda: slow.begun == ["first"])
        second = asyncio.create_task(ask(pool, "second"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        slow.let("third")
        third = asyncio.create_task(ask(pool, "third"))
        slow.let("first")
        await asyncio.gather(first, third)
        assert slow.begun == ["first", "third"]
        await pool.close()

    run(law)


def test_an_answer_holds_its_place_until_it_has_been_sent() -> None:
    async def law() -> None:
        slow = Slow()
        pool = ReadPool(slow, running=1, waiting=1, patience_s=0.05)
        slow.let("sent slowly")
        async with pool.answer("sent slowly", 1):
            with pytest.raises(BusyError):
                await ask(pool, "next")
        slow.let("next")
        assert await ask(pool, "next") == [[7]]
        await pool.close()

    run(law)


def test_closing_stops_what_runs() -> None:
    async def law() -> None:
        slow = Slow()
        pool = ReadPool(slow, running=2, waiting=1)
        asked = [asyncio.create_task(ask(pool, sql)) for sql in ("a", "b")]
        await until(lambda: len(slow.begun) == 2)
        await pool.close()
        for each in asked:
            with pytest.raises(WarehouseError, match="stopped"):
                await each

    run(law)
