"""A numbered load: events at a steady rate that the broker has acknowledged, whatever happens to it meanwhile.

Some events come late, some twice, some are poison; each is a function of the seed and its number. The topic is the
truth about what was written: a retry may have written a record twice, which is then two events.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from chaos_checker import POISON_HEADER
from chaos_pipeline import START_MS

from app.core.batches import RecordBatch
from app.kafka_access import KafkaAccess
from schemas.topics import Topics

STEP_MS = 40
_TICKS_PER_S = 20
#: After so many events most labels are the other ones: what detectors of wrong decisions are to see.
_TURN = 700
_SHOPS = tuple(f"s{number}" for number in range(40))

#: Values that no worker can score.
POISON: tuple[bytes | None, ...] = (
    None,
    b"",
    b"{",
    b'{"id": "broken", ',
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b'{"id": "a"}',
    b'{"id": "a", "card": "c1", "at_ms": "noon", "amount": 1.0}',
    b'{"id": "a", "card": "c1", "at_ms": 1700000000000, "amount": NaN}',
    b'{"id": "a", "card": "c1", "at_ms": 1700000000000, "amount": null}',
    b'{"id": "a", "card": "", "at_ms": 1700000000000, "amount": 1.0}',
    b'{"id": "a", "card": "c1", "at_ms": 9223372036854775807, "amount": 1.0}',
    b'{"id": "a", "card": "c1", "at_ms": -1, "amount": 1.0}',
    b'{"id": "a", "card": "c1", "at_ms": 1700999999999, "amount": 1.0}',
    b'{"id": "a", "card": "c1", "at_ms": 1700000000000, "amount": 1' + b"0" * 400 + b"}",
    b"[" * 3_000,
)


def new_random(seed: object) -> random.Random:
    """Chance that repeats itself."""
    return random.Random(str(seed))  # noqa: S311  # nothing here is secret


@dataclass(frozen=True)
class Sent:
    """One record to send."""

    topic: str
    partition: int
    value: bytes | None
    time_ms: int
    headers: tuple[tuple[str, bytes], ...] = ()


def to_batch(sent: Sequence[Sent], first: int) -> RecordBatch:
    """Records of one partition as they are read, from this offset on."""
    return RecordBatch(
        sent[0].topic,
        sent[0].partition,
        np.arange(first, first + len(sent), dtype=np.int64),
        np.array([one.time_ms for one in sent], dtype=np.int64),
        [b"k"] * len(sent),
        [one.value for one in sent],
        [one.headers for one in sent],
    )


@dataclass(frozen=True)
class Load:
    """What is produced: up to ``n`` events.

    ``rate``: events a second; ``late``, ``repeated``, ``poison``: shares. ``cards``: entities, spread over partitions.
    ``in_turn``: cards take turns instead of being drawn. ``pad``, ``label_pad``: bytes added to each event, each label.
    """

    seed: int
    n: int
    rate: int = 400
    partitions: int = 4
    cards: int = 200
    with_labels: bool = False
    late: float = 0.05
    repeated: float = 0.02
    poison: float = 0.02
    pad: int = 0
    label_pad: int = 0
    in_turn: bool = False

    def describe(self) -> str:
        """The load in words."""
        return f"{self.rate}/s" + (", labels" if self.with_labels else "")

    def event(self, topics: Topics, number: int) -> Sent:
        draw = new_random(f"{self.seed} {number}")
        what = draw.random()
        body = self._body(number, draw)
        if what < self.poison:
            value = POISON[draw.randrange(len(POISON))]
            time_ms = START_MS + number * STEP_MS
            partition = int(body["card"][1:]) % self.partitions
            return Sent(topics.events, partition, value, time_ms, ((POISON_HEADER, b""),))
        if what < self.poison + self.late:
            body["at_ms"] -= draw.randrange(1, 90_000)
        elif what < self.poison + self.late + self.repeated and number:
            earlier = max(0, number - draw.randrange(1, 100))
            body = self._body(earlier, new_random(f"{self.seed} {earlier} again"))
        partition = int(body["card"][1:]) % self.partitions
        return Sent(topics.events, partition, json.dumps(body).encode(), START_MS + number * STEP_MS)

    def label(self, topics: Topics, number: int) -> tuple[int, Sent] | None:
        """The number of the first event that comes after the label of event ``number``, and the label."""
        draw = new_random(f"{self.seed} {number} label")
        if draw.random() < 0.1:
            return None
        card = self._card(number)
        steps = draw.randrange(50, 120)
        time_ms = START_MS + (number + steps) * STEP_MS
        is_bad = draw.random() < (0.8 if number // _TURN % 2 else 0.2)
        body = {"event_id": f"e{number}", "label": float(is_bad), "label_time_ms": time_ms}
        if self.label_pad:
            body["note"] = "x" * self.label_pad
        return number + steps, Sent(topics.labels, card % self.partitions, json.dumps(body).encode(), time_ms)

    def labels(self, topics: Topics) -> list[Sent]:
        """All labels, in the order in which they are written."""
        due = [(label[0], number, label[1]) for number in range(self.n) if (label := self.label(topics, number))]
        return [sent for _, _, sent in sorted(due, key=lambda each: each[:2])]

    def last(self, topics: Topics, number: int) -> list[Sent]:
        """One more event for each partition, later than all else: no partition ends before the others."""
        time_ms = START_MS + (number + 1_000) * STEP_MS
        bodies = [
            {"id": f"last{partition}", "card": f"c{partition}", "at_ms": time_ms, "amount": 1.0, "shop": "s0"}
            for partition in range(self.partitions)
        ]
        return [
            Sent(topics.events, partition, json.dumps(body).encode(), time_ms) for partition, body in enumerate(bodies)
        ]

    def _card(self, number: int) -> int:
        if self.in_turn:
            return number % self.cards
        return new_random(f"{self.seed} {number} card").randrange(self.cards)

    def _body(self, number: int, draw: random.Random) -> dict[str, Any]:
        body = {
            "id": f"e{number}",
            "card": f"c{self._card(number)}",
            "at_ms": START_MS + number * STEP_MS,
            "amount": draw.randrange(-5_000, 50_000) / 7,
            "kind": draw.choice(("a", "b", "c", "of no vocabulary", None)),
            "shop": draw.choice((None, *_SHOPS)),
        }
        return {**body, "note": "x" * self.pad} if self.pad else body


class LoadProducer:
    """Writes a `Load`; `run` returns when every record up to its end, or to `finish`, has been acknowledged.

    Parameters
    ----------
    pace
        Multiplies the rate; asked at each tick.
    """

    def __init__(self, kafka: KafkaAccess, topics: Topics, load: Load, pace: Callable[[], float] = lambda: 1.0) -> None:
        self.load = load
        self.sent = 0
        self.retries = 0
        self.written_at: list[float] = []
        self._is_over = False
        self._due: list[tuple[int, int, Sent]] = []
        self._kafka = kafka
        self._topics = topics
        self._pace = pace
        self._producer: AIOKafkaProducer | None = None

    def finish(self) -> None:
        """Write no more than what is under way."""
        self._is_over = True

    async def run(self) -> None:
        """Write everything, at the load's rate; what the broker does not take is sent until it does."""
        load = self.load
        loop = asyncio.get_running_loop()
        owed = 0.0
        at = loop.time()
        try:
            while self.sent < load.n and not self._is_over:
                load = self.load  # may be replaced under way
                owed += load.rate * self._pace() / _TICKS_PER_S
                first, stop = self.sent, min(load.n, self.sent + int(owed))
                owed -= stop - first
                await self._write_until(stop)
                at = max(at + 1 / _TICKS_PER_S, loop.time() - 0.5)  # after an outage: on at the same rate
                await asyncio.sleep(max(0.0, at - loop.time()))
        finally:
            await self._close()

    async def write_ahead(self, count: int, most: int = 500) -> None:
        """Write the next ``count`` events as fast as that goes; `run` or `write` end it."""
        end = min(self.load.n, self.sent + count)
        while self.sent < end:
            await self._write_until(min(end, self.sent + most))

    async def close(self) -> None:
        await self._close()

    async def _write_until(self, stop: int) -> None:
        """The events up to this number, with the labels that come before them."""
        load, topics = self.load, self._topics
        numbers = range(self.sent, stop)
        if load.with_labels:
            for number in numbers:
                label = load.label(topics, number)
                if label is not None:
                    heapq.heappush(self._due, (label[0], number, label[1]))
            ready = []
            while self._due and self._due[0][0] < stop:
                ready.append(heapq.heappop(self._due)[2])
            await self._write(ready)
        self.written_at.extend([time.monotonic()] * len(numbers))
        await self._write([load.event(topics, number) for number in numbers])
        self.sent = stop

    async def write(self, records: Sequence[Sent]) -> None:
        """Write records that are not part of the load."""
        try:
            await self._write(records)
        finally:
            await self._close()

    async def _write(self, records: Sequence[Sent]) -> None:
        left = list(records)
        while left:
            try:
                producer = await self._open()
                futures = [
                    await producer.send(
                        record.topic,
                        record.value,
                        key=b"k",
                        partition=record.partition,
                        timestamp_ms=record.time_ms,
                        headers=list(record.headers),
                    )
                    for record in left
                ]
                done = await asyncio.gather(*futures, return_exceptions=True)
                left = [record for record, outcome in zip(left, done, strict=True) if isinstance(outcome, Exception)]
            except (KafkaError, OSError, TimeoutError):
                pass
            if left:
                self.retries += 1
                await self._close()
                await asyncio.sleep(0.2)

    async def _open(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._kafka.servers,
                enable_idempotence=True,
                request_timeout_ms=10_000,
                linger_ms=2,
                max_request_size=3_000_000,
            )
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            # With the broker away, stopping would wait for what cannot be sent.
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await asyncio.wait_for(producer.stop(), 5)
