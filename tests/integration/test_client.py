"""Clients of real workers, one of which dies or hangs while it is asked."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from asked_workers import asking, event
from worker_bench import N_PARTITIONS, Bench

from app.kafka_access import KafkaAccess
from schemas.partitioning import partition_of
from schemas.serving import PROBLEMS, Problem, ScoreAnswer
from streamgauge.client import NO_ANSWER, AsyncClient, Client, ScoringError

Event = dict[str, Any]

CARDS = [f"card-{number}" for number in range(60)]
TIMEOUT_S = 3.0
#: What a caller may hear while a worker dies.
MAY_PASS = {NO_ANSWER, *(code for code, kind in PROBLEMS.items() if kind.status == 503)}


class Callers:
    """Ask on and on, each kind of call in a loop of its own, and note what they heard."""

    def __init__(self, blocking: Client, on_loop: AsyncClient) -> None:
        self._blocking = blocking
        self._on_loop = on_loop
        self._numbers = count()
        self.is_over = False
        #: Of each call how long it took, and the codes of its problems.
        self.calls: list[tuple[float, set[str]]] = []
        self.answers: dict[str, ScoreAnswer] = {}
        self.left: dict[str, Event] = {}

    def start(self) -> list[asyncio.Task[None]]:
        kinds = [(self._previews, 30), (self._preview, 1), (self._published, 1), (self._all_published, 20)]
        return [asyncio.create_task(self._call(*kind)) for kind in kinds]

    async def _previews(self, events: list[Event]) -> list[ScoreAnswer | Problem]:
        return await asyncio.to_thread(self._blocking.score_many, events)

    async def _preview(self, events: list[Event]) -> list[ScoreAnswer | Problem]:
        return [await asyncio.to_thread(self._blocking.score, events[0])]

    async def _published(self, events: list[Event]) -> list[ScoreAnswer | Problem]:
        return [await self._on_loop.score(events[0], commit="wait")]

    async def _all_published(self, events: list[Event]) -> list[ScoreAnswer | Problem]:
        return await self._on_loop.score_many(events, commit="wait")

    async def _call(self, kind: Callable[[list[Event]], Awaitable[list[ScoreAnswer | Problem]]], size: int) -> None:
        while not self.is_over:
            events = [event(number, CARDS[number % len(CARDS)]) for number in islice(self._numbers, size)]
            began_s = time.monotonic()
            try:
                said = await kind(events)
            except ScoringError as error:
                said = [error.problem]
            codes = {answer.code for answer in said if isinstance(answer, Problem)}
            self.calls.append((time.monotonic() - began_s, codes))
            for each, answer in zip(events, said, strict=True):
                if isinstance(answer, Problem):
                    self.left[each["id"]] = each
                else:
                    self.answers[each["id"]] = answer
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_worker_dies_or_hangs_and_callers_hear_of_it_in_time_or_not_at_all(
    kafka: KafkaAccess, tmp_path: Path, sent: signal.Signals
) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    async with asking(bench) as asker, AsyncExitStack() as stack:
        workers = [stack.enter_context(bench.worker()) for _ in range(2)]
        addresses = [await asker.until_ready(worker) for worker in (1, 2)]
        await bench.until(bench.is_shared)
        blocking = stack.enter_context(Client(*addresses, entity="card", timeout_s=TIMEOUT_S))
        on_loop = await stack.enter_async_context(AsyncClient(*addresses, entity="card", timeout_s=TIMEOUT_S))
        callers = Callers(blocking, on_loop)
        tasks = callers.start()

        async def know_the_owners() -> bool:
            return all(
                client._asker._routes.owner_of(card.encode())
                == addresses[0 if partition_of(card.encode(), N_PARTITIONS) in bench.partitions_of(1) else 1]
                for client in (blocking, on_loop)
                for card in CARDS
            )

        await bench.until(know_the_owners)
        workers[0].send_signal(sent)

        async def have_heard_of_it() -> bool:
            return bool(callers.left)

        async def are_served() -> bool:
            assert not any(task.done() for task in tasks), await asyncio.gather(*tasks)
            return len(bench.partitions_of(2)) == N_PARTITIONS and not any(codes for _, codes in callers.calls[-50:])

        await bench.until(have_heard_of_it)  # it takes the group longer to notice than a call may take
        await bench.until(are_served)
        callers.is_over = True
        await asyncio.gather(*tasks)
        late = await on_loop.score_many(callers.left.values(), commit="wait", timeout_s=60)
        scores = {score.event_id: score for score in await bench.scores()}
        assert len(await bench.scores()) == len(scores)
    assert {code for _, codes in callers.calls for code in codes} <= MAY_PASS
    assert max(took_s for took_s, _ in callers.calls) < TIMEOUT_S + 1
    assert [answer for answer in late if isinstance(answer, Problem)] == []
    committed = [of for of in [*callers.answers.values(), *late] if isinstance(of, ScoreAnswer) and of.committed]
    assert len(committed) > 100
    for answer in committed:
        assert (answer.score, answer.source) == (scores[answer.event_id].score, scores[answer.event_id].source)
