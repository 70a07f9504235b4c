"""The scoring hook of one worker: finds the partition of each event, asks there, and puts the answers in order."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from app.core.batches import RecordBatch
from app.core.intake.decode import EventDecoder
from app.serving.commits import Answer
from app.serving.desk import PreviewDesk
from app.serving.places import Places
from schemas.pipeline.spec import Pipeline
from schemas.serving import IDEMPOTENCY_HEADER, MOST_EVENTS, Asked, Problem, ProblemFoundError, problem


class Forward(Protocol):
    """Asks another worker."""

    async def __call__(self, url: str, partition: int, events: Sequence[bytes], asked: Asked) -> list[Answer]:
        """The answers of the worker at ``url``, which is said to have the partition, in the order of the events."""


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
    """

    def __init__(self, pipeline: Pipeline, places: Places, forward: Forward, now_ms: Callable[[], int]) -> None:
        self.pipeline = pipeline
        self._places = places
        self._forward = forward
        self._now_ms = now_ms
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

    def _ask_partition(
        self, partition: int, part: Sequence[tuple[bytes, _Head]], asked: Asked
    ) -> Awaitable[list[Answer]]:
        place = self._places.find(partition)
        if isinstance(place, PreviewDesk):
            return _preview(place, part, asked) if asked.commit == "no" else _commit(place, part, asked)
        events = [event for event, _ in part]
        if isinstance(place, Problem):
            return _same(place, len(events))
        if asked.is_forwarded:
            detail = f"Partition {partition} is served at {place.url}: ask there."
            return _same(problem("not-the-owner", detail, partition=partition, owner=place.url), len(events))
        return self._forward(place.url, partition, events, asked)

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
        now_ms = self._now_ms()
        zero, stamp = np.zeros(1, dtype=np.int64), np.full(1, now_ms, dtype=np.int64)
        records = RecordBatch(self.pipeline.topics.events, 0, zero, stamp, [None], [event])
        _, rejections = self._decode_event(records, now_ms)
        names = ", ".join(field.name for field in self.pipeline.events.fields if not field.nullable)
        said = rejections[0].detail.rstrip(".") if rejections else "It cannot be read"
        detail = f"{said}. Events of {self.pipeline.name} have the fields {names}."
        return problem("refused", detail, reason=rejections[0].reason if rejections else "not_json")


async def _preview(desk: PreviewDesk, part: Sequence[tuple[bytes, _Head]], asked: Asked) -> list[Answer]:
    futures = [desk.ask(event, with_features=asked.with_features) for event, _ in part]
    return [await future for future in futures]


async def _commit(desk: PreviewDesk, part: Sequence[tuple[bytes, _Head]], asked: Asked) -> list[Answer]:
    async def commit(event: bytes, head: _Head) -> Answer:
        def preview() -> Awaitable[Answer]:
            return desk.ask(event, with_features=asked.with_features)

        return await desk.commits.commit(event, head.entity, head.event_id, asked, preview)

    return await asyncio.gather(*(commit(event, head) for event, head in part))


async def _same(found: Problem, count: int) -> list[Answer]:
    return [found] * count
