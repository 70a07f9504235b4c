"""Events that are sent as well as scored: each is sent once, and its published score can be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from app.core.intake.sent_once import ONCE_MS, SentEvent, SentOnce
from app.core.tiles.hash_runs import hash64
from schemas.pipeline.spec import Pipeline
from schemas.serving import ANSWER_S, Asked, Problem, ScoreAnswer, SendFailedError, problem
from schemas.wire import Source

Answer = ScoreAnswer | Problem

#: How long a published score is waited for: a little less than its caller waits.
WAIT_S = ANSWER_S * 0.85
#: Events that are sent and not committed yet, of one partition; more are refused.
MOST_UNDER_WAY = 10_000


class Send(Protocol):
    """Sends an event to be scored once."""

    async def __call__(self, partition: int, entity: str, event: bytes) -> None:
        """Return when it is acknowledged; raises `SendFailedError`."""


@dataclass(slots=True)
class _UnderWay:
    """An event that was sent, and who waits for its score."""

    entity: str
    digest: int
    began_ms: int
    published: asyncio.Future[Answer]
    preview: ScoreAnswer | None = None
    #: Sends it, whoever has gone meanwhile: half sent, nobody would know. None: a former owner's hook has sent it.
    sending: asyncio.Task[None] | None = None


@dataclass(slots=True)
class CommitCounts:
    """Of all partitions of a worker: events sent by the hook, and those whose published score was not the preview's."""

    sent: int = 0
    differing: int = 0


class Commits:
    """The events of one partition that the hook has sent.

    Parameters
    ----------
    sent_once
        What the flow knows of such events.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        partition: int,
        sent_once: Callable[[], SentOnce],
        send: Send,
        counts: CommitCounts,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self._pipeline = pipeline
        self._partition = partition
        self._sent_once = sent_once
        self._send = send
        self._counts = counts
        self._now_ms = now_ms
        self._under_way: dict[str, _UnderWay] = {}
        #: Offset after the last event whose score is committed.
        self.committed_end = 0

    # -- what is asked -----------------------------------------------------------------------------------------------

    async def commit(
        self, event: bytes, entity: str, event_id: str, asked: Asked, preview: Callable[[], Awaitable[Answer | None]]
    ) -> Answer:
        """Send an event unless that has been done, and answer: with its preview, or with its published score.

        Parameters
        ----------
        preview
            Scores it as if it came next, or gives None where that cannot be known. What has a problem is not sent.
        """
        digest = hash64(event)
        mine = self._look_up(event_id, entity, digest)
        if mine is None:
            said = await preview()
            if isinstance(said, Problem):
                return said
            mine = self._look_up(event_id, entity, digest)  # it may have been sent meanwhile
            if mine is None:
                mine = self._add(event_id, entity, digest)
                mine.preview = said
                mine.sending = asyncio.create_task(self._send_it(mine, event_id, event))
                await asyncio.shield(mine.sending)
        if isinstance(mine, _UnderWay):
            return await (self._wait(mine, event_id) if asked.commit == "wait" else self._as_sent(mine, preview))
        return mine

    def _look_up(self, event_id: str, entity: str, digest: int) -> _UnderWay | Answer | None:
        """An event that was sent before: it is under way, or has its answer, or was another one. None: it was not."""
        mine, known = self._under_way.get(event_id), self._sent_once().get(event_id)
        if known is not None and known.at_ms < self._now_ms() - ONCE_MS:
            known = None
        before = mine or known
        if before is not None and before.digest != digest:
            detail = f"{event_id[:100]} was the id of another event in the last ten minutes: give each event its own."
            return problem("other-body", detail, event_id=event_id, partition=self._partition)
        if mine is not None:
            return mine
        if known is not None and known.offset < self.committed_end:
            return self._published(event_id, entity, known)
        if known is not None:
            mine = self._add(event_id, entity, digest)
        elif len(self._under_way) >= MOST_UNDER_WAY:
            detail = f"{MOST_UNDER_WAY} events of partition {self._partition} wait to be scored: ask again soon."
            return problem("busy", detail, event_id=event_id, partition=self._partition)
        return mine

    def _add(self, event_id: str, entity: str, digest: int) -> _UnderWay:
        published: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        mine = self._under_way[event_id] = _UnderWay(entity, digest, self._now_ms(), published)
        return mine

    async def _send_it(self, mine: _UnderWay, event_id: str, event: bytes) -> None:
        try:
            await self._send(self._partition, mine.entity, event)
            self._counts.sent += 1
        except SendFailedError as error:
            detail = f"Kafka has not acknowledged the event ({error}): ask again with the same id; it counts once."
            failed = problem("kafka-away", detail, event_id=event_id, partition=self._partition)
            self._resolve(event_id, mine, failed)

    async def _wait(self, mine: _UnderWay, event_id: str) -> Answer:
        try:
            return await asyncio.wait_for(asyncio.shield(mine.published), WAIT_S)
        except TimeoutError:
            detail = "The event was sent, and its score is not there yet: ask again with the same id; it counts once."
            return problem("not-yet", detail, event_id=event_id, partition=self._partition)

    async def _as_sent(self, mine: _UnderWay, preview: Callable[[], Awaitable[Answer | None]]) -> Answer:
        if mine.sending is not None:
            await asyncio.shield(mine.sending)
        if mine.published.done():
            return mine.published.result()
        answer = mine.preview or await preview()
        assert answer is not None  # nobody asks without waiting where that cannot be known
        return msgspec.structs.replace(answer, committed=True) if isinstance(answer, ScoreAnswer) else answer

    def _published(self, event_id: str, entity: str, sent: SentEvent) -> Answer:
        """The answer to an event that was sent, processed and committed."""
        if not sent.version:
            detail = f"{event_id[:100]} was sent before and could not be scored: see the dead letters."
            return problem("refused", detail, event_id=event_id, partition=self._partition)
        pipeline = self._pipeline
        return ScoreAnswer(
            event_id,
            entity,
            sent.event_time_ms,
            sent.score,
            sent.decision,
            pipeline.model.name,
            sent.version,
            pipeline.feature_set,
            self._partition,
            sent.offset,
            None,
            sent.stale,
            committed=True,
            served_at_ms=self._now_ms(),
            source=Source(pipeline.topics.events, self._partition, sent.offset),
        )

    # -- what becomes of it ------------------------------------------------------------------------------------------

    def committed(self, events_end: int) -> None:
        """All before this offset is committed: what was scored of it is published."""
        self.committed_end = max(self.committed_end, events_end)
        for event_id, mine in list(self._under_way.items()):
            known = self._sent_once().get(event_id)
            is_this = known is not None and known.at_ms >= mine.began_ms - ONCE_MS  # not one of the same id before
            if known is None or not is_this or known.offset >= self.committed_end:
                continue
            answer = self._published(event_id, mine.entity, known)
            if mine.preview is not None and isinstance(answer, ScoreAnswer):
                self._counts.differing += answer.score != mine.preview.score
            self._resolve(event_id, mine, answer)

    def close(self) -> None:
        """The partition goes: whoever waits is told to ask again."""
        detail = f"Partition {self._partition} changes hands: ask again with the same id; the event counts once."
        for event_id, mine in list(self._under_way.items()):
            self._resolve(
                event_id, mine, problem("partition-moving", detail, event_id=event_id, partition=self._partition)
            )

    def _resolve(self, event_id: str, mine: _UnderWay, answer: Answer) -> None:
        self._under_way.pop(event_id, None)
        if not mine.published.done():
            mine.published.set_result(answer)
