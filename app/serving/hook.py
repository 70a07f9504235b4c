"""The scoring hook of one worker: finds the partition of each event, asks there, and puts the answers in order."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import msgspec

from app.core.batches import RecordBatch
from app.core.intake.decode import EventDecoder
from app.serving.commits import Answer
from app.serving.desk import PreviewDesk
from app.serving.places import Elsewhere, Places
from schemas.pipeline.spec import Pipeline
from schemas.serving import (
    IDEMPOTENCY_HEADER,
    MOST_EVENTS,
    Asked,
    Problem,
    ProblemFoundError,
    RankAnswer,
    Ranked,
    RankRequest,
    ScoreAnswer,
    problem,
)

_NO_PREVIEW = "Windows of this pipeline are repartitioned, and only their owners know them: ask with commit=wait."
#: Events of a list that are scored from one state.
_AT_ONCE = 50


class Forward(Protocol):
    """Asks another worker."""

    async def __call__(self, url: str, partition: int, events: Sequence[bytes], asked: Asked) -> list[Answer]:
        """The answers of the worker at ``url``, which is said to have the partition, in the order of the events."""

    async def rank(self, url: str, partition: int, request: RankRequest) -> RankAnswer | Problem:
        """Its answer to candidates."""


class _Head(NamedTuple):
    entity: str
    event_id: str


class ScoringHook:
    """Answers requests for scores.

    Parameters
    ----------
    places
        Who serves which partition.
    forward
        Asks other workers.
    can_preview
        False where features are windows that are repartitioned: only their owners know them.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        places: Places,
        forward: Forward,
        now_ms: Callable[[], int],
        *,
        can_preview: bool = True,
    ) -> None:
        self.pipeline = pipeline
        self._places = places
        self._forward = forward
        self._now_ms = now_ms
        self._can_preview = can_preview
        self._decode_event = EventDecoder(pipeline.events).decode
        names = {pipeline.events.entity, pipeline.events.event_id}
        self._decode_head = msgspec.json.Decoder(msgspec.defstruct("Head", [(name, str) for name in names])).decode
        self._entity_of, self._id_of = attrgetter(pipeline.events.entity), attrgetter(pipeline.events.event_id)
        self._decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode

    def owners(self) -> dict[int, str]:
        """Partition -> address of its worker."""
        return self._places.owners()

    def split(self, body: bytes) -> tuple[list[bytes], bool]:
        """The events of a body, and whether they come as a list.

        Raises
        ------
        ProblemFoundError
            When the body is neither an event nor a list of them.
        """
        if body.lstrip()[:1] != b"[":
            return [body], False
        try:
            events = [bytes(raw) for raw in self._decode_list(body)]
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ProblemFoundError(
                problem("bad-request", f"The list is not JSON ({error}): send an event, or a list of events.")
            ) from error
        if not 1 <= len(events) <= MOST_EVENTS:
            detail = f"A list may hold 1 to {MOST_EVENTS} events, and this one has {len(events)}: send it in parts."
            raise ProblemFoundError(problem("too-large" if events else "bad-request", detail))
        return events, True

    def name(self, event: bytes, event_id: str) -> bytes:
        """An event with this id: it has it, or gets it if it has none.

        Raises
        ------
        ProblemFoundError
            When it has another one.
        """
        field = self.pipeline.events.event_id
        try:
            fields = msgspec.json.decode(event, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return event  # what is wrong with it is said where it is scored
        if fields.setdefault(field, event_id) == event_id:
            return event if self._read_head(event) is not None else msgspec.json.encode(fields)
        detail = (
            f"{IDEMPOTENCY_HEADER} is {event_id[:100]!r} and {field} another: both are the id, so send one of them."
        )
        raise ProblemFoundError(problem("other-body", detail, event_id=event_id))

    async def score(self, events: Sequence[bytes], asked: Asked) -> list[Answer]:
        """The answers to events (JSON), in their order.

        Raises
        ------
        ProblemFoundError
            When two have the same id; nothing is sent then.
        """
        heads = [self._read_head(event) for event in events]
        self._check_ids(heads)
        if len(events) == 1:
            head = heads[0]
            if head is None:
                return [self._refuse(events[0])]
            return await self._ask_partition(self._places.home_of(head.entity), [(events[0], head)], asked)
        rows_of: dict[int, list[int]] = defaultdict(list)
        parts: dict[int, list[tuple[bytes, _Head]]] = defaultdict(list)
        answers: list[Answer | None] = [None] * len(events)
        for row, head in enumerate(heads):
            if head is None:
                answers[row] = self._refuse(events[row])
                continue
            partition = self._places.home_of(head.entity)
            rows_of[partition].append(row)
            parts[partition].append((events[row], head))
        asking = [self._ask_partition(partition, part, asked) for partition, part in parts.items()]
        for rows, of_part in zip(rows_of.values(), await asyncio.gather(*asking), strict=True):
            for row, answer in zip(rows, of_part, strict=True):
                answers[row] = answer
        return [answer for answer in answers if answer is not None]

    async def rank(self, request: RankRequest, *, is_forwarded: bool) -> RankAnswer | Problem:
        """The best of some candidates for one entity."""
        found = self._check_candidates(request)
        if found is not None:
            return found
        events = self.pipeline.events
        entity = request.event[events.entity]
        partition = self._places.home_of(entity)
        place = self._places.find(partition)
        if isinstance(place, Elsewhere):
            if is_forwarded:
                detail = f"Partition {partition} is served at {place.url}: ask there."
                return problem("not-the-owner", detail, partition=partition, owner=place.url)
            return await self._forward.rank(place.url, partition, request)
        if isinstance(place, Problem):
            return place
        base = {events.event_id: "rank", **request.event}
        encoded = [msgspec.json.encode(base | candidate) for candidate in request.candidates]
        return _best(entity, await place.ask(encoded, with_features=False), request.top)

    def _ask_partition(
        self, partition: int, part: Sequence[tuple[bytes, _Head]], asked: Asked
    ) -> Awaitable[list[Answer]]:
        place = self._places.find(partition)
        events = [event for event, _ in part]
        if not self._can_preview and asked.commit != "wait":
            return _same(problem("no-preview", _NO_PREVIEW, partition=partition), len(events))
        if isinstance(place, PreviewDesk):
            return _preview(place, events, asked) if asked.commit == "no" else self._commit(place, part, asked)
        if isinstance(place, Problem):
            return _same(place, len(events))
        if asked.is_forwarded:
            detail = f"Partition {partition} is served at {place.url}: ask there."
            return _same(problem("not-the-owner", detail, partition=partition, owner=place.url), len(events))
        return self._forward(place.url, partition, events, asked)

    def _check_candidates(self, request: RankRequest) -> Problem | None:
        """Why candidates cannot be ranked."""
        name = self.pipeline.events.entity
        entity = request.event.get(name)
        if not self._can_preview:
            return problem("no-preview", _NO_PREVIEW)
        if not isinstance(entity, str) or not entity:
            detail = f"The event names no {name}: whom the candidates are for says whose state is read."
            return problem("refused", detail, reason="missing_field")
        if any(candidate.get(name, entity) != entity for candidate in request.candidates):
            detail = f"A candidate has another {name} than the event: ask once for each."
            return problem("refused", detail, reason="wrong_type")
        return None

    async def _commit(self, desk: PreviewDesk, part: Sequence[tuple[bytes, _Head]], asked: Asked) -> list[Answer]:
        async def commit(event: bytes, head: _Head) -> Answer:
            async def preview() -> Answer | None:
                if not self._can_preview:
                    return self._find_fault(event)
                return (await desk.ask([event], with_features=asked.with_features))[0]

            return await desk.commits.commit(event, head.entity, head.event_id, asked, preview)

        return await asyncio.gather(*(commit(event, head) for event, head in part))

    def _read_head(self, event: bytes) -> _Head | None:
        """Entity and id of an event; None if it has none, or is no event."""
        try:
            decoded = self._decode_head(event)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None
        head = _Head(self._entity_of(decoded), self._id_of(decoded))
        return head if head.entity and head.event_id else None

    def _check_ids(self, heads: list[_Head | None]) -> None:
        ids = [head.event_id for head in heads if head is not None]
        if len(set(ids)) < len(ids):
            twice = next(name for place, name in enumerate(ids) if name in ids[:place])
            detail = f"{twice[:100]} is the id of two events of the list: give each event an id of its own."
            raise ProblemFoundError(problem("duplicate-id", detail, event_id=twice))

    def _refuse(self, event: bytes) -> Problem:
        """Why an event is refused without entity and id."""
        found = self._find_fault(event) or problem("refused", "It cannot be read.", reason="not_json")
        names = ", ".join(field.name for field in self.pipeline.events.fields if not field.nullable)
        found.detail = f"{found.detail.rstrip('.')}. Events of {self.pipeline.name} have the fields {names}."
        return found

    def _find_fault(self, event: bytes) -> Problem | None:
        """Why an event is refused by what it is; None if it is not."""
        now_ms = self._now_ms()
        records = RecordBatch.unsent(self.pipeline.topics.events, 0, [event], now_ms)
        _, rejections = self._decode_event(records, now_ms)
        return problem("refused", rejections[0].detail, reason=rejections[0].reason) if rejections else None


async def _preview(desk: PreviewDesk, events: Sequence[bytes], asked: Asked) -> list[Answer]:
    futures = [
        desk.ask(events[first : first + _AT_ONCE], with_features=asked.with_features)
        for first in range(0, len(events), _AT_ONCE)
    ]
    return [answer for future in futures for answer in await future]


def _best(entity: str, answers: Sequence[Answer], top: int) -> RankAnswer | Problem:
    """The answers with the highest scores; if none has one, why the first has none."""
    scored = [(place, answer) for place, answer in enumerate(answers) if isinstance(answer, ScoreAnswer)]
    refused = {place: answer for place, answer in enumerate(answers) if isinstance(answer, Problem)}
    if not scored:
        return refused[0]
    best = sorted(scored, key=lambda of: -of[1].score)[:top]
    any_of = scored[0][1]
    return RankAnswer(
        entity,
        [Ranked(place, answer.score, answer.decision) for place, answer in best],
        refused,
        any_of.model,
        any_of.version,
        any_of.feature_set,
        any_of.partition,
        any_of.offset,
        any_of.labels_offset,
        any(answer.stale for _, answer in scored),
        any_of.served_at_ms,
    )


async def _same(found: Problem, count: int) -> list[Answer]:
    return [found] * count
