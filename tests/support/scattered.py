"""A stranger whose records lie in any partitions, and workers for them that die: `[events] repartition = true`.

Producer, reader and recomputation share no code with the project: the windows are plain loops over what was sent.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from chaos_pipeline import START_MS, Setup, render_toml
from worker_bench import Bench

from app.kafka_access import KafkaAccess
from schemas.pipeline.file import load

PARTITIONS = 4
STEP_MS = 25
CARDS = 60
MINUTE_MS, SECOND_MS, FIVE_SECONDS_MS = 60_000, 1_000, 5_000
LABEL_AFTER_MS = 2_000


@dataclass(frozen=True)
class Sent:
    """One record as the stranger sends it; ``time_ms``: its own."""

    kind: str
    number: int
    partition: int
    key: bytes | None
    value: bytes
    time_ms: int


def at_ms(number: int) -> int:
    return START_MS + number * STEP_MS


def card_of(number: int) -> str:
    return f"card-{number * 7 % CARDS}"


def amount_of(number: int) -> float:
    return number * 37 % 1000 / 8


def any_partition(what: str) -> int:
    """As a producer that knows of no entity would choose."""
    return crc32(what.encode()) // 7 % PARTITIONS


def is_broken(number: int) -> bool:
    return number % 97 == 96


def stream(start: int, stop: int) -> list[Sent]:
    """Events without keys in any partitions, and labels that are keyed by hand or name their card."""
    found = []
    for number in range(start, stop):
        body = {"id": f"e{number}", "card": card_of(number), "at_ms": at_ms(number), "amount": amount_of(number)}
        value = json.dumps(body).encode()[: 20 if is_broken(number) else None]
        found.append(Sent("event", number, any_partition(f"e{number}"), None, value, at_ms(number)))
        if is_broken(number):
            continue
        label: dict[str, Any] = {"event_id": f"e{number}", "label": number % 3 % 2, "label_time_ms": label_ms(number)}
        card = card_of(number)
        if number % 2:
            label["card"] = card
            found.append(
                Sent("label", number, any_partition(f"l{number}"), None, json.dumps(label).encode(), label_ms(number))
            )
        else:
            place = crc32(card.encode()) % PARTITIONS
            found.append(Sent("label", number, place, card.encode(), json.dumps(label).encode(), label_ms(number)))
    return sorted(found, key=lambda record: (record.time_ms, record.kind != "label"))


def label_ms(number: int) -> int:
    return at_ms(number) + LABEL_AFTER_MS + 7


def windows_by_hand(n: int) -> dict[str, tuple[float, float, float | None]]:
    """Count and sum of a card's events within a minute, and the mean of its labels within five minutes, of each event.

    A window holds the newest tiles up to the event's own; a label counts where it had come by then.
    """
    before: dict[str, list[int]] = defaultdict(list)
    found = {}
    for number in range(n):
        if is_broken(number):
            continue
        now, card = at_ms(number), card_of(number)
        seen = [
            other for other in before[card] if now // SECOND_MS - at_ms(other) // SECOND_MS < MINUTE_MS // SECOND_MS
        ]
        labels = [
            other % 3 % 2
            for other in before[card]
            if label_ms(other) <= now
            and now // FIVE_SECONDS_MS - label_ms(other) // FIVE_SECONDS_MS < 5 * MINUTE_MS // FIVE_SECONDS_MS
        ]
        mean = sum(labels) / len(labels) if labels else None
        found[f"e{number}"] = float(len(seen)), sum(map(amount_of, seen)), mean
        before[card].append(number)
    return found


def check_windows(values: list[dict[str, Any]], n: int) -> None:
    """Each score has the windows that plain loops give, and waited for nothing in vain."""
    expected = windows_by_hand(n)
    for value in values:
        count, total, mean = expected[value["event_id"]]
        features = value["features"]
        assert features["count_1m"] == count, value
        assert math.isclose(features["sum_1m"], total, abs_tol=1e-3), value
        assert (features["bad_5m"] is None) == (mean is None), (value, mean)
        assert mean is None or math.isclose(features["bad_5m"], mean, abs_tol=1e-5), (value, mean)
        assert not value["stale"]


def check_once(scores: list[Any], letters: list[Any], copies: list[Any], n: int) -> None:
    """Each of the first ``n`` events is copied once and has one outcome; a dead letter says where it was sent."""
    sent_to: Counter[int] = Counter()
    places = {}
    for number in range(n):
        partition = any_partition(f"e{number}")
        places[number] = f"{partition}/{sent_to[partition]}"
        sent_to[partition] += 1
    origins = Counter(dict(record.headers)["streamgauge-origin"].decode() for record in copies)
    assert origins == Counter(places.values())
    scored = Counter(json.loads(record.value)["event_id"] for record in scores)
    assert scored == Counter(f"e{number}" for number in range(n) if not is_broken(number))
    details = [dict(letter.headers)["streamgauge-detail"].decode() for letter in letters]
    found = Counter(place for detail in details for place in re.findall(r"\.events (\d+/\d+)\.", detail))
    assert found == Counter(place for number, place in places.items() if is_broken(number))


class Stranger(Bench):
    """A pipeline whose records are put right, with a producer and a reader of its own."""

    def __init__(self, kafka: KafkaAccess, folder: Path, *, features: str = "") -> None:
        super().__init__(kafka, folder, with_labels=True)
        path = self.pipeline.path
        text = render_toml(self.pipeline.name, Setup("exactly_once", True, PARTITIONS, 50, features=features))
        path.write_text(text.replace("[events]", "[events]\nrepartition = true"))
        self.pipeline = load(path)

    async def send(self, records: list[Sent], *, is_live: bool) -> None:
        """``is_live``: each is there before the next is sent, as in the order of time; otherwise each partition is."""
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.servers, enable_idempotence=True)
        await producer.start()
        name = self.pipeline.name
        for record in records:
            topic = f"{name}.{record.kind}s"
            future = await producer.send(
                topic, record.value, key=record.key, partition=record.partition, timestamp_ms=record.time_ms
            )
            if is_live:
                await future
        await producer.flush()
        await producer.stop()

    async def promise(self, until_ms: int, partitions: Iterable[int] = range(PARTITIONS)) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.servers)
        await producer.start()
        headers = [("streamgauge-watermark-ms", str(until_ms).encode())]
        for partition in partitions:
            topic = f"{self.pipeline.name}.labels"
            await producer.send_and_wait(topic, key=b"any", partition=partition, headers=headers, timestamp_ms=until_ms)
        await producer.stop()

    async def read(self, topic: str) -> list[Any]:
        """All records of a topic that are committed."""
        consumer = AIOKafkaConsumer(
            f"{self.pipeline.name}.{topic}",
            bootstrap_servers=self.kafka.servers,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        await consumer.start()
        try:
            ends = await consumer.end_offsets(list(consumer.assignment()))
            found = []
            while any([await consumer.position(tp) < end for tp, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += records
            return found
        finally:
            await consumer.stop()

    def routes(self, worker: int) -> bool:
        """Whether the worker started as number ``worker`` has been the one that routes."""
        return "The router is at work here" in (self.folder / f"worker-{worker}.log").read_text()

    def check(self) -> dict[str, Any]:
        """What `streamgauge check` says, by the names of the checks."""
        _, said = self.command("check")
        return {each["check"]: each for each in said["checks"]}

    def command(self, *words: str) -> tuple[int, Any]:
        """Run a command of ours: its exit code, and what it says."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "app", *words, "--pipeline", str(self.pipeline.path), "--json"],
            env={**os.environ, **self.settings.to_environment()},
            capture_output=True,
            timeout=90,
            check=False,
        )
        assert done.stdout, done.stderr.decode()
        return done.returncode, json.loads(done.stdout)

    async def outcomes(self) -> int:
        return len(await self.read("scores")) + len(await self.read("dead-letters"))

    async def until_outcomes(self, events: int) -> None:
        async def is_done() -> bool:
            return await self.outcomes() >= events

        await self.until(is_done, 120)


class Fleet:
    """Two workers; for each that is killed another is started."""

    def __init__(self, bench: Stranger) -> None:
        self._bench = bench
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        #: Exit codes of those that ended by themselves.
        self.ended: list[int] = []
        for _ in range(2):
            self._start()

    def _start(self) -> None:
        process = self._bench.start_worker()
        self.running[self._bench.workers] = process

    async def keep(self) -> None:
        """Start another for each that ends by itself, as a supervisor does."""
        while True:
            for number, process in list(self.running.items()):
                if process.poll() is not None:
                    del self.running[number]
                    self.ended.append(process.returncode)
                    self._start()
            await asyncio.sleep(0.2)

    async def kill_the_router(self) -> None:
        self._kill(await self._router())

    def kill_all(self) -> None:
        for number in list(self.running):
            self._kill(number)

    def _kill(self, number: int) -> None:
        process = self.running.pop(number)
        process.kill()
        process.wait()
        self._start()

    async def freeze_the_router(self) -> None:
        """Have it stand still until another one routes, and then go on: it must have no say any more.

        It ends when it was writing, and is a member again when it was not.
        """
        number = await self._router()
        process = self.running.pop(number)
        process.send_signal(signal.SIGSTOP)
        try:
            await self._router()
        finally:
            process.send_signal(signal.SIGCONT)
            self.running[number] = process

    async def _router(self) -> int:
        """The number of the one that is at work, of those that run."""
        router: list[int] = []

        async def is_there() -> bool:
            router[:] = [number for number in self.running if self._bench.routes(number)]
            return bool(router)

        await self._bench.until(is_there, 120)
        return router[0]

    def end(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()
