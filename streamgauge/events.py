"""Events as a worker takes them: JSON, with the entity that says whose they are, in parts that are not too large."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from schemas.serving import MOST_BODY_BYTES, MOST_EVENTS

#: A dict, a struct or a dataclass of the event's fields, or one JSON object as bytes.
Event = Any

_encode = msgspec.json.Encoder().encode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode


class Encoded(NamedTuple):
    """An event as it is sent. ``entity``: as a Kafka key; None when it is not known."""

    body: bytes
    entity: bytes | None = None


class EventEncoder:
    """Turns events into JSON.

    Parameters
    ----------
    entity
        Name of the field that says whose an event is; None: nobody looks.
    """

    def __init__(self, entity: str | None) -> None:
        self._decode_head: Callable[[bytes], Any] | None = None
        if entity is not None:
            head = msgspec.defstruct("Head", [("entity", str, msgspec.field(name=entity))])
            self._decode_head = msgspec.json.Decoder(head).decode

    def __call__(self, event: Event) -> Encoded:
        """An event as it is sent; NaN becomes null.

        Raises
        ------
        ValueError
            When it is no JSON object.
        """
        try:
            body = bytes(_decode_raw(event)) if isinstance(event, bytes) else _encode(event)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"The event is not JSON ({error}): give a dict of text, numbers, booleans and None, or JSON as bytes."
            ) from error
        body = body.strip()
        if body[:1] != b"{":
            raise ValueError("One event is one JSON object: give a dict, or several events to score_many.")
        return Encoded(body, self._read_entity(body))

    def all(self, events: Iterable[Event]) -> list[Encoded]:
        """Events as they are sent; `ValueError` says which is none."""
        encoded = []
        for place, event in enumerate(events):
            try:
                encoded.append(self(event))
            except ValueError as error:
                raise ValueError(f"Event {place} of the list: {error}") from error
        return encoded

    def _read_entity(self, body: bytes) -> bytes | None:
        if self._decode_head is None:
            return None
        try:
            entity: str = self._decode_head(body).entity
        except msgspec.MsgspecError:
            return None  # the worker says what is wrong
        return entity.encode()


def join(events: Sequence[Encoded]) -> bytes:
    """The body of a request for events: one as it is, more as a list."""
    return events[0].body if len(events) == 1 else b"[" + b",".join(event.body for event in events) + b"]"


def cut(events: Sequence[Encoded], owner_of: Callable[[bytes | None], str]) -> Iterator[list[int]]:
    """The places of events in parts of one owner each, none of which is too large for a request.

    Within a part places ascend, and each place is in one part. An event that is too large by itself is a part.
    """
    by_owner: dict[str, list[int]] = defaultdict(list)
    for place, event in enumerate(events):
        by_owner[owner_of(event.entity)].append(place)
    for places in by_owner.values():
        part: list[int] = []
        size = 1  # the bracket; each event brings a comma, or the other bracket
        for place in places:
            more = len(events[place].body) + 1
            if part and (len(part) == MOST_EVENTS or size + more > MOST_BODY_BYTES):
                yield part
                part, size = [], 1
            part.append(place)
            size += more
        yield part
