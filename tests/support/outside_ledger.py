"""An outside ledger: processes of the command line under faults, and everything that came of it held against the input.

It shares no code with the project: producers and readers are aiokafka's, ClickHouse is asked over HTTP, every window is
computed again from the topics by plain loops. The project runs as its users run it, in processes of its own::

    python tests/support/outside_ledger.py --faults 200 --behind 60 --seed 1

Workers, the monitor and the broker are killed, frozen and stopped while events and labels are written, and, with a
backlog, while the workers catch up. Then each event must have one score or dead letter, with the features and, in
ClickHouse, the row and the counts that follow from the topics; no score may be stale, for no record was late; and
``streamgauge replay --check`` must find all scores equal. It prints a table; the exit code is 1 when anything is wrong.

Over 500 lines: what stands outside can be read from beginning to end without looking anywhere else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

PARTITIONS = 4
START_MS = 1_700_000_000_000
STEP_MS = 20
CARDS, SHOPS = 120, 30
CHUNK = 100
WORKERS = 3
NAME, TRAINED = "ledger", "training"

#: Windows: name, of, key, size and hop (s), aggregate, field, delay (s; None: of one card), repartitioned.
WINDOWS = (
    ("card_count", "events", ("card",), 60, 1, "count", None, None, False),
    ("card_sum", "events", ("card",), 120, 5, "sum", "amount", None, False),
    ("card_bad", "labels", ("card",), 300, 5, "mean", "label", None, False),
    ("shop_count", "events", ("shop",), 60, 2, "count", None, 5, False),
    ("shop_sum", "events", ("shop",), 600, 60, "sum", "amount", 90, False),
    ("shop_bad", "labels", ("shop",), 240, 15, "mean", "label", 8, False),
    ("kind_rate", "events", ("kind",), 20, 5, "rate", None, 5, True),
    ("pair_mean", "events", ("shop", "kind"), 180, 10, "mean", "amount", 10, True),
    ("kind_bad", "labels", ("kind",), 30, 1, "count", None, 20, True),
)
HORIZON_MS = 3_600_000
DRIFT_WINDOW_MS = 60_000

PIPELINE = """
name = "{name}"
partitions = 4
commit_interval_ms = 50
[model]
name = "m"
[events]
entity = "card"
id = "id"
time = "at"
[events.fields]
id = "string"
card = "string"
at = "int"
amount = "float"
shop = "string?"
kind = "string?"
[labels]
horizon = "1h"
[shared]
idle = "3s"
[drift]
window = "1m"
slice = "10s"
grace = "5s"
bins = 16
[[features]]
name = "amount"
type = "float"
expression = "amount"
"""


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def render(name: str) -> str:
    """The pipeline file."""
    parts = [PIPELINE.format(name=name)]
    for feature, of, key, size, hop, aggregate, what, delay, divided in WINDOWS:
        kind = "int" if aggregate == "count" else "float"
        more = f'field = "{what}"\n' if what else ""
        more += f'delay = "{delay}s"\n' if delay is not None else ""
        more += "repartition = true\n" if divided else ""
        parts.append(
            f'[[features]]\nname = "{feature}"\ntype = "{kind}"\n[features.window]\nof = "{of}"\n'
            f'key = {json.dumps(key)}\nsize = "{size}s"\nhop = "{hop}s"\naggregate = "{aggregate}"\n{more}'
        )
    return "\n".join(parts)


# -- what is written ---------------------------------------------------------------------------------------------------


class Writer:
    """Numbered events and labels, in the order of time, each acknowledged; each label before the first later event."""

    def __init__(self, bootstrap: str, name: str, seed: int, start_ms: int = START_MS) -> None:
        self.bootstrap = bootstrap
        self.start_ms = start_ms
        self.name = name
        self.number = 0
        self._seed = seed
        self._due: list[tuple[int, int, bytes]] = []
        self._producer: AIOKafkaProducer | None = None

    async def write(self, count: int) -> None:
        """The next ``count`` events."""
        end = self.number + count
        while self.number < end:
            numbers = range(self.number, min(end, self.number + CHUNK))
            for number in numbers:
                self._label(number)
            self._due.sort()
            ready = [each for each in self._due if each[0] < numbers.stop]
            self._due = self._due[len(ready) :]
            await self._send("labels", [(partition, value) for _, partition, value in ready])
            await self._send("events", [self._event(number) for number in numbers])
            self.number = numbers.stop

    async def write_last(self) -> None:
        """A late event for each partition: none ends before the others."""
        at = self.start_ms + self.number * STEP_MS + 2 * DRIFT_WINDOW_MS
        bodies = [
            (partition, {"id": f"last{partition}", "card": f"c{partition}", "at": at, "amount": 1.0, "shop": "s1"})
            for partition in range(PARTITIONS)
        ]
        await self._send("events", [(partition, json.dumps(body).encode()) for partition, body in bodies])

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await asyncio.wait_for(producer.stop(), 5)

    def _draw(self, number: int, what: str) -> random.Random:
        return random.Random(f"{self._seed} {self.name} {number} {what}")  # noqa: S311  # nothing here is secret

    def _card(self, number: int) -> int:
        return self._draw(number, "card").randrange(CARDS)

    def _event(self, number: int) -> tuple[int, bytes]:
        draw, card = self._draw(number, "event"), self._card(number)
        if draw.random() < 0.02:
            return card % PARTITIONS, draw.choice(
                (b"{", b"[]", b'{"id": "x"}', b"\xff\xfe", b'{"id": 7, "card": "c1"}')
            )
        late = draw.randrange(1, 40_000) if draw.random() < 0.04 else 0
        body = {
            "id": f"e{number}",
            "card": f"c{card}",
            "at": self.start_ms + number * STEP_MS - late,
            "amount": draw.randrange(-5_000, 50_000) / 7,
            "shop": draw.choice((None, *(f"s{shop}" for shop in range(SHOPS)))),
            "kind": draw.choice((None, "a", "b", "c", "d")),
        }
        return card % PARTITIONS, json.dumps(body).encode()

    def _label(self, number: int) -> None:
        draw = self._draw(number, "label")
        if draw.random() < 0.1:
            return
        after = number + draw.randrange(50, 400)
        body = {
            "event_id": f"e{number}",
            "label": float(draw.random() < 0.3),
            "label_time_ms": self.start_ms + after * STEP_MS,
        }
        self._due.append((after, self._card(number) % PARTITIONS, json.dumps(body).encode()))

    async def _send(self, kind: str, records: list[tuple[int, bytes]]) -> None:
        left = records
        while left:
            try:
                if self._producer is None:
                    self._producer = AIOKafkaProducer(
                        bootstrap_servers=self.bootstrap, enable_idempotence=True, request_timeout_ms=10_000
                    )
                    await self._producer.start()
                topic = f"{self.name}.{kind}"
                sent = [await self._producer.send(topic, value, key=b"k", partition=to) for to, value in left]
                done = await asyncio.gather(*sent, return_exceptions=True)
                left = [record for record, result in zip(left, done, strict=True) if isinstance(result, BaseException)]
            except (KafkaError, OSError, TimeoutError):
                pass
            if left:
                await self.close()
                await asyncio.sleep(0.2)


# -- processes ---------------------------------------------------------------------------------------------------------

#: A broker that starts again whenever it dies.
BROKER = """
import sys, time
from pathlib import Path
from app.adapters.stack.embedded_kafka import EmbeddedKafka
from app.settings import Settings
with EmbeddedKafka(Path(sys.argv[1]), Settings.read().cache) as kafka:
    print(kafka.bootstrap, flush=True)
    while True:
        time.sleep(0.2)
        if not kafka.is_alive():
            try:
                kafka.revive()
            except Exception as error:
                print(error, file=sys.stderr)
"""


@dataclass
class Part:
    """A process that is started again whenever it ends."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = True
    starts: int = 0
    codes: Counter[int] = field(default_factory=Counter)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Stack:
    """Broker, workers and monitor."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.parts: dict[str, Part] = {}
        self.environment = {**os.environ, "STREAMGAUGE_HOME": str(home), "PYTHONPATH": ""}
        self._logs: list[IO[bytes]] = []
        self._keeper: subprocess.Popen[str] | None = None
        self.bootstrap = ""

    def start_broker(self) -> None:
        self._keeper = subprocess.Popen(
            [sys.executable, "-c", BROKER, str(self.home / "broker")], stdout=subprocess.PIPE, text=True
        )
        assert self._keeper.stdout is not None
        self.bootstrap = self._keeper.stdout.readline().strip()
        self.environment["STREAMGAUGE_KAFKA"] = self.bootstrap

    def broker(self) -> psutil.Process | None:
        """The server itself."""
        assert self._keeper is not None
        return next((p for p in psutil.Process(self._keeper.pid).children() if "java" in p.name()), None)

    def cli(self, *words: str) -> str:
        """Run a command to its end; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "app", *words], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            tell(f"streamgauge {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def add(self, name: str, *words: str) -> None:
        self.parts[name] = Part(name, [sys.executable, "-m", "app", *words])

    def is_up(self, name: str) -> bool:
        process = self.parts[name].process
        return process is not None and process.poll() is None

    def workers(self) -> list[str]:
        """Those that run."""
        return [name for name in self.parts if name.startswith("worker") and self.is_up(name)]

    def send(self, name: str, what: int) -> None:
        process = self.parts[name].process
        if process is not None and process.poll() is None:
            process.send_signal(what)

    async def watch(self) -> None:
        """Start what is wanted and does not run."""
        while True:
            for part in self.parts.values():
                ended = part.process is not None and part.process.poll() is not None
                if ended and part.process is not None:
                    part.codes[part.process.returncode] += 1
                    part.process = None
                if part.wanted and part.process is None:
                    part.starts += 1
                    log = (self.home / f"{part.name}-{part.starts}.log").open("wb")
                    self._logs.append(log)
                    part.process = self._start(part, log)
            await asyncio.sleep(0.2)

    def _start(self, part: Part, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(part.command, env=self.environment, stdout=log, stderr=log)

    async def stop(self, *names: str) -> None:
        for name in names:
            self.parts[name].wanted = False
            self.send(name, signal.SIGCONT)
            self.send(name, signal.SIGTERM)
        while any(self.is_up(name) for name in names):  # noqa: ASYNC110  # another process has no event
            await asyncio.sleep(0.1)

    def end(self) -> None:
        for part in self.parts.values():
            if part.process is not None and part.process.poll() is None:
                part.process.kill()
                part.process.wait()
        if self._keeper is not None:
            java = self.broker()
            self._keeper.kill()
            self._keeper.wait()
            if java is not None:
                java.kill()
        for log in self._logs:
            log.close()


# -- faults ------------------------------------------------------------------------------------------------------------


class Faults:
    """One fault after the other, by chance, and how many there were of each."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self.stack = stack
        self.counts: Counter[str] = Counter()
        self.behind = 0
        self.chance = random.Random(f"{seed} faults")  # noqa: S311  # nothing here is secret

    async def strike(self, *, is_behind: bool) -> None:
        """One of them, and its end."""
        stack, chance = self.stack, self.chance
        kind = chance.choices(
            ["kill one", "kill all", "freeze one", "stop one", "kill monitor", "freeze broker", "kill broker"],
            [30, 45, 10, 5, 0, 4, 3] if is_behind else [40, 10, 12, 10, 20, 6, 3],
        )[0]
        running = stack.workers()
        one = chance.choice(running) if running else None
        if one is None and kind not in {"kill monitor", "freeze broker", "kill broker"}:
            return
        self.counts[kind] += 1
        self.behind += is_behind
        if kind == "kill all":
            for name in running:
                stack.send(name, signal.SIGKILL)
        elif kind == "kill monitor":
            stack.send("monitor", signal.SIGKILL)
        elif kind.endswith("broker"):
            java = stack.broker()
            if java is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if kind == "kill broker":
                        java.kill()
                    else:
                        java.suspend()
                        await asyncio.sleep(chance.uniform(1, 5))
                        java.resume()
        elif one is not None and kind == "freeze one":
            stack.send(one, signal.SIGSTOP)
            await asyncio.sleep(chance.choice((1.0, 3.0, 9.0)))
            stack.send(one, signal.SIGCONT)
        elif one is not None:
            stack.send(one, signal.SIGKILL if kind == "kill one" else signal.SIGTERM)


# -- what is read ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """As a reader of committed records sees it."""

    partition: int
    offset: int
    value: bytes
    headers: dict[str, bytes]


async def read(bootstrap: str, topic: str) -> list[Record]:
    """All committed records of a topic, by partition and offset."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest",
        enable_auto_commit=False,
    )  # fmt: skip
    await consumer.start()
    try:
        tps = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        found: list[Record] = []
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += [Record(r.partition, r.offset, r.value, dict(r.headers)) for r in records]
        return sorted(found, key=lambda record: (record.partition, record.offset))
    finally:
        await consumer.stop()


async def lag(bootstrap: str) -> int:
    """Events that are not committed, asked until the broker answers."""
    tps = [TopicPartition(f"{NAME}.events", number) for number in range(PARTITIONS)]
    while True:
        consumer, admin = (
            AIOKafkaConsumer(bootstrap_servers=bootstrap),
            AIOKafkaAdminClient(bootstrap_servers=bootstrap),
        )
        try:
            async with asyncio.timeout(20):
                await consumer.start()
                await admin.start()
                ends = await consumer.end_offsets(tps)
                committed = await admin.list_consumer_group_offsets(f"streamgauge-{NAME}")
                return sum(ends[tp] - (committed[tp].offset if tp in committed else 0) for tp in tps)
        except (KafkaError, OSError, TimeoutError):
            await asyncio.sleep(0.5)
        finally:
            with contextlib.suppress(KafkaError, OSError):
                await consumer.stop()
                await admin.close()


def query(url: str, sql: str) -> list[list[Any]]:
    """Rows of ClickHouse, from the monitor."""
    body = json.dumps({"sql": sql, "limit": 100_000}).encode()
    request = urllib.request.Request(f"{url}/api/v1/query", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.load(answer)
    assert not found.get("truncated"), "ClickHouse has more rows than the ledger asks for"
    rows: list[list[Any]] = found["rows"]
    return [list(row.values()) for row in rows] if rows and isinstance(rows[0], dict) else rows


# -- what should have come of it ---------------------------------------------------------------------------------------

Body = dict[str, Any]
Place = tuple[int, int]


def is_good(record: Record) -> bool:
    """Whether an event can be scored."""
    try:
        body = json.loads(record.value)
    except ValueError:
        return False
    return isinstance(body, dict) and {"id", "card", "at", "amount"} <= body.keys()


def merged(events: list[Record], labels: list[Record]) -> list[tuple[int, int, int, Body]]:
    """Effective time, 0 for a label and 1 for an event, offset and body, in the order in which they count."""
    rows: list[tuple[int, int, int, Body]] = []
    for kind, name, records in ((1, "at", events), (0, "label_time_ms", labels)):
        newest = -1
        for record in records:
            body = json.loads(record.value)
            newest = max(newest, body[name])
            rows.append((newest, kind, record.offset, body))
    return sorted(rows, key=lambda row: row[:3])


def of_key(key: tuple[str, ...], body: Body) -> tuple[Any, ...] | None:
    found = tuple(body.get(name) for name in key)
    return None if None in found else found


def worth(aggregate: str, size_s: int, cells: list[list[int]]) -> float | None:
    n, total = sum(cell[0] for cell in cells), sum(cell[1] for cell in cells) / 2**20
    if aggregate == "count":
        return float(n)
    if aggregate == "rate":
        return n / size_s
    if aggregate == "sum":
        return total
    return total / n if n else None


def facts_of(events: list[Record], labels: list[Record]) -> Iterator[tuple[str, int, int, int, Body]]:
    """What one partition says, in its order: kind, effective time, own time, offset, event (with its label)."""
    waiting: dict[str, tuple[int, Body]] = {}
    newest_ms = -1
    for time_ms, is_event, offset, body in merged(events, labels):
        if is_event:
            yield "events", time_ms, body["at"], offset, body
            waiting[body["id"]] = time_ms, body
            newest_ms = time_ms
        else:
            met = waiting.pop(body["event_id"], None)
            if met is not None and met[0] >= newest_ms - HORIZON_MS:
                yield "labels", time_ms, body["label_time_ms"], offset, {**met[1], "label": body["label"]}


def expect(events: dict[int, list[Record]], labels: dict[int, list[Record]]) -> dict[Place, dict[str, float | None]]:
    """The features of each good event."""
    expected: dict[Place, dict[str, float | None]] = {}
    shared: dict[str, dict[tuple[Any, int], list[int]]] = {window[0]: {} for window in WINDOWS}
    asking: list[tuple[Place, int, Body]] = []
    for partition in range(PARTITIONS):
        rings: dict[tuple[str, Any], dict[int, list[int]]] = defaultdict(dict)
        for kind, time_ms, own_ms, offset, body in facts_of(events[partition], labels[partition]):
            if kind == "events":
                expected[partition, offset] = {"amount": body["amount"], **read_local(rings, body)}
                asking.append(((partition, offset), time_ms, body))
            for name, of, key, size, hop, _, what, delay, _ in WINDOWS:
                found, value = of_key(key, body), body.get(what) if what else 0.0
                if of != kind or found is None or value is None:
                    continue
                if delay is None:
                    add_to_ring(rings[name, found], own_ms // (hop * 1000), size // hop, value)
                else:
                    add(shared[name], (found, time_ms // (hop * 1000)), value)
    for place, time_ms, body in asking:
        expected[place] |= read_shared(shared, body, time_ms)
    return expected


def read_local(rings: dict[tuple[str, Any], dict[int, list[int]]], body: Body) -> dict[str, float | None]:
    """The windows of one card: the newest tiles, that of the event included."""
    values = {}
    for name, _, key, size, hop, aggregate, _, delay, _ in WINDOWS:
        if delay is None:
            tile, kept = body["at"] // (hop * 1000), rings[name, of_key(key, body)]
            cells = [cell for number, cell in kept.items() if tile - size // hop < number <= tile]
            values[name] = worth(aggregate, size, cells)
    return values


def read_shared(
    shared: dict[str, dict[tuple[Any, int], list[int]]], body: Body, time_ms: int
) -> dict[str, float | None]:
    """The windows of all cards: the newest tiles that had ended ``delay`` before."""
    values = {}
    for name, _, key, size, hop, aggregate, _, delay, _ in WINDOWS:
        if delay is not None:
            found, end = of_key(key, body), (time_ms - delay * 1000) // (hop * 1000)
            places = [(found, tile) for tile in range(end - size // hop, end)]
            cells = [shared[name][at] for at in places if at in shared[name]]
            values[name] = worth(aggregate, size, cells) if found is not None else None
    return values


def add(cells: dict[Any, list[int]], at: Any, value: float) -> None:
    cell = cells.setdefault(at, [0, 0])
    cell[0] += 1
    cell[1] += round(value * 2**20)


def add_to_ring(kept: dict[int, list[int]], tile: int, ring: int, value: float) -> None:
    """A window of one card keeps as many tiles as it is long, up to the newest."""
    newest = max(kept, default=tile)
    if tile <= newest - ring:
        return
    add(kept, tile, value)
    for old in [number for number in kept if number <= max(newest, tile) - ring]:
        del kept[old]


# -- the account -------------------------------------------------------------------------------------------------------


@dataclass
class Account:
    """What is wrong, by kind, with a few examples."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def say(self, kind: str, text: str, count: int = 1) -> None:
        self.counts[kind] += count
        if sum(example.startswith(kind) for example in self.examples) < 4:
            self.examples.append(f"{kind}: {text}")


KINDS = ("lost", "doubled", "wrong kind", "stale", "wrong local windows", "wrong shared windows",
         "wrong ClickHouse rows", "wrong ClickHouse counts", "replay differs")  # fmt: skip


async def account(stack: Stack, url: str) -> tuple[Account, dict[str, int]]:
    """Read all topics and tables, and hold them against the input."""
    topics = [f"{NAME}.{kind}" for kind in ("events", "labels", "scores", "dead-letters")]
    events, labels, scores, letters = [await read(stack.bootstrap, topic) for topic in topics]
    found = Account()
    bodies = check_outcomes(found, events, scores, letters)
    good = by_partition([record for record in events if is_good(record)])
    check_features(found, bodies, expect(good, by_partition(labels)))
    check_tables(found, url, bodies)
    said = stack.cli("replay", "--check", "--json", "--pipeline", str(stack.home / f"{NAME}.toml"))
    replayed = json.loads(said or "{}")
    check = replayed.get("check", replayed)
    wrong = len(bodies) - check.get("equal", 0)
    if wrong:
        found.say("replay differs", json.dumps(check)[:400], abs(wrong))
    return found, {"events": len(events), "labels": len(labels), "scores": len(scores), "dead letters": len(letters)}


def by_partition(records: list[Record]) -> dict[int, list[Record]]:
    return {number: [record for record in records if record.partition == number] for number in range(PARTITIONS)}


def check_outcomes(
    found: Account, events: list[Record], scores: list[Record], letters: list[Record]
) -> dict[Place, Body]:
    """Each event has one score or one dead letter; the scores."""
    bodies: dict[Place, Body] = {}
    for record in scores:
        body = json.loads(record.value)
        place = body["source"]["partition"], body["source"]["offset"]
        if place in bodies:
            found.say("doubled", f"{place}")
        bodies[place] = body
    rejected = Counter(letter_place(record) for record in letters)
    for place, times in rejected.items():
        if times > 1:
            found.say("doubled", f"dead letter {place}", times - 1)
    for record in events:
        place = record.partition, record.offset
        if place not in bodies and place not in rejected:
            found.say("lost", f"{place}")
        elif (place in bodies) != is_good(record) or (place in rejected) == is_good(record):
            found.say("wrong kind", f"{place}: {record.value[:80]!r}")
    return bodies


def letter_place(record: Record) -> Place:
    headers = {name.lower(): value.decode() for name, value in record.headers.items()}
    found = [value for name, value in headers.items() if name.endswith("partition")]
    offset = [value for name, value in headers.items() if name.endswith("offset")]
    return int(found[0]), int(offset[0])


def check_features(found: Account, bodies: dict[Place, Body], expected: dict[Place, dict[str, float | None]]) -> None:
    local = {"amount", *(window[0] for window in WINDOWS if window[7] is None)}
    for place, body in bodies.items():
        if body.get("stale"):
            found.say("stale", f"{place}")
        wanted = expected.get(place, {})
        differ = {name for name, value in wanted.items() if body["features"].get(name, "missing") != value}
        for kind, names in (("wrong local windows", differ & local), ("wrong shared windows", differ - local)):
            if names:
                values = {name: (body["features"].get(name), wanted[name]) for name in sorted(names)}
                found.say(kind, f"{place}: {values}")


def check_tables(found: Account, url: str, bodies: dict[Place, Body]) -> None:
    """Rows of scores one by one, and the counts of closed windows by version."""
    rows: dict[Place, list[Any]] = {}
    for partition in range(PARTITIONS):
        last = -1
        while True:
            part = query(
                url,
                "SELECT offset, event_id, score, decision, version, stale, features, "
                "toUnixTimestamp64Milli(event_time) AS at FROM streamgauge.scores "
                f"WHERE topic = '{NAME}.events' AND partition = {partition} AND offset > {last} "
                "ORDER BY offset LIMIT 2000",
            )
            for row in part:
                rows[partition, int(row[0])] = row
            if len(part) < 2000:
                break
            last = int(part[-1][0])
    for place in bodies.keys() | rows.keys():
        body, row = bodies.get(place), rows.get(place)
        if body is None or row is None:
            found.say("wrong ClickHouse rows", f"{place}: topic {body is not None}, table {row is not None}")
            continue
        features = {name: value for name, value in body["features"].items() if value is not None}
        served = {name: value for name, value in dict(row[6]).items() if value is not None and not is_nan(value)}
        wanted = [
            body["event_id"],
            body["score"],
            body["decision"],
            body["version"],
            bool(body.get("stale", False)),
            features,
        ]
        if [row[1], row[2], bool(row[3]), row[4], bool(row[5]), served] != wanted:
            found.say("wrong ClickHouse rows", f"{place}: {row}, not {wanted}")
    check_counts(found, url, bodies, {place: int(row[7]) for place, row in rows.items()})


def check_counts(found: Account, url: str, bodies: dict[Place, Body], times: dict[Place, int]) -> None:
    """How many events each closed window has of each version, and the extremes of the amount."""
    mine: dict[tuple[str, int], list[float]] = defaultdict(list)
    for place, at in times.items():
        if place in bodies:
            mine[bodies[place]["version"], at // DRIFT_WINDOW_MS * DRIFT_WINDOW_MS].append(
                bodies[place]["features"]["amount"]
            )
    table = query(
        url,
        "SELECT version, toUnixTimestamp64Milli(window_start) AS start, decile, value FROM streamgauge.model_metadata "
        f"WHERE pipeline = '{NAME}' AND stage = 'scoring' AND segment = 'all' AND metric = 'amount' "
        "AND decile IN ('n', 'min', 'max')",
    )
    served = {(row[0], int(row[1]), row[2]): row[3] for row in table}
    starts = {start for _, start, _ in served}
    for (version, start), values in mine.items():
        if start not in starts:
            continue  # not closed yet
        for what, value in (("n", len(values)), ("min", min(values)), ("max", max(values))):
            if served.get((version, start, what)) != value:
                found.say(
                    "wrong ClickHouse counts",
                    f"{version} {start} {what}: {served.get((version, start, what))}, not {value}",
                )
    if len(starts) < len({start for _, start in mine}) // 2:
        found.say("wrong ClickHouse counts", f"only {len(starts)} windows are closed of {len({s for _, s in mine})}")


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


# -- the run -----------------------------------------------------------------------------------------------------------


async def prepare(stack: Stack, seed: int) -> None:
    """Train a version on a stream of its own, and two more of the same kind."""
    for name in (NAME, TRAINED):
        (stack.home / f"{name}.toml").write_text(render(name))
    await create_topics(stack.bootstrap)
    writer = Writer(stack.bootstrap, TRAINED, seed, START_MS - 3_600_000)
    pipeline = str(stack.home / f"{TRAINED}.toml")
    await writer.write(4_000)
    await writer.close()
    recording = str(stack.home / "training.parquet")
    stack.cli("record", recording, "--pipeline", pipeline)
    begin, end = to_time(writer.start_ms), to_time(writer.start_ms + writer.number * STEP_MS)
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        stack.cli("model", "train", "--family", "logistic", "--from", begin, "--to", end, "--recording", recording,
                  "--version", version, "--pipeline", pipeline)  # fmt: skip
    promote(stack, "1.0.0", "--valid-from", to_time(START_MS - 60_000))


async def create_topics(bootstrap: str) -> None:
    """Those that are written to; the workers make theirs."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        names = [f"{name}.{kind}" for name in (NAME, TRAINED) for kind in ("events", "labels")]
        names.append(f"{TRAINED}.scores")  # nobody scores it; `record` reads it all the same
        await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
        await admin.create_topics([NewTopic(f"{TRAINED}.model-{what}", 1, 1) for what in ("updates", "status")])
    finally:
        await admin.close()


def to_time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def promote(stack: Stack, version: str, *words: str) -> None:
    stack.cli("model", "promote", version, *words, "--pipeline", str(stack.home / f"{NAME}.toml"))


async def live(writer: Writer, faults: Faults, count: int) -> None:
    """Faults while events are written as they happen."""
    writing = asyncio.create_task(write_on(writer))
    for _ in range(count):
        await asyncio.sleep(faults.chance.uniform(0.5, 5))
        await faults.strike(is_behind=False)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


async def write_on(writer: Writer) -> None:
    while True:
        await asyncio.shield(asyncio.ensure_future(writer.write(CHUNK)))
        await asyncio.sleep(0.25)


async def catch_up(stack: Stack, writer: Writer, faults: Faults, count: int, backlog: int) -> None:
    """Stop all workers, let a backlog grow, and strike while they work it off."""
    names = [name for name in stack.parts if name.startswith("worker")]
    await stack.stop(*names)
    await writer.write(backlog)
    for name in names:
        stack.parts[name].wanted = True
    left = await lag(stack.bootstrap)
    for _ in range(count):
        goal = left - faults.chance.randrange(1, max(2, backlog // count))
        deadline = time.monotonic() + 12  # a fault may also fall on workers that are still starting
        while (left := await lag(stack.bootstrap)) > goal and time.monotonic() < deadline:
            pass
        if left < backlog // 50:
            await writer.write(backlog // 4)  # it is never caught up before the last fault
        await faults.strike(is_behind=True)


async def run(home: Path, words: argparse.Namespace) -> int:
    faults, behind, rounds, backlog, seed = words.faults, words.behind, words.rounds, words.backlog, words.seed
    stack, started = Stack(home), time.monotonic()
    try:
        stack.start_broker()
        tell(f"broker {stack.bootstrap}, home {home}, seed {seed}")
        await prepare(stack, seed)
        pipeline, url = str(home / f"{NAME}.toml"), f"http://127.0.0.1:{free_port()}"
        for number in range(WORKERS):
            stack.add(f"worker{number}", "worker", "--pipeline", pipeline, "--instance", f"w{number}")
        stack.add("monitor", "monitor", "--pipeline", pipeline, "--http-port", url.rsplit(":", 1)[1])
        watching = asyncio.create_task(stack.watch())
        writer, fault = Writer(stack.bootstrap, NAME, seed), Faults(stack, seed)
        versions = ["1.1.0", "1.2.0", "1.0.0"]
        for number in range(rounds):
            soon = to_time(START_MS + (writer.number + backlog // 2) * STEP_MS)
            promoting = asyncio.create_task(
                asyncio.to_thread(promote, stack, versions[number % 3], "--valid-from", soon)
            )
            await catch_up(stack, writer, fault, behind // rounds + (number < behind % rounds), backlog)
            rest = faults - behind
            await live(writer, fault, rest // rounds + (number < rest % rounds))
            await promoting
            tell(f"round {number + 1} of {rounds}: {fault.counts.total()} faults, {fault.behind} of them behind, "
                  f"{writer.number} events, {time.monotonic() - started:.0f} s")  # fmt: skip
        await writer.write_last()
        await writer.close()
        deadline = time.monotonic() + 600
        while await lag(stack.bootstrap) and time.monotonic() < deadline:
            pass
        await settled(stack, url)
        found, sizes = await account(stack, url)
        watching.cancel()
        show(found, sizes, fault, stack, time.monotonic() - started)
        return 1 if found.counts.total() else 0
    finally:
        stack.end()


async def settled(stack: Stack, url: str) -> None:
    """Wait until the monitor has written all scores."""
    wanted = len(await read(stack.bootstrap, f"{NAME}.scores"))
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, AssertionError, KeyError):
            if int(query(url, f"SELECT count() FROM streamgauge.scores WHERE topic = '{NAME}.events'")[0][0]) == wanted:
                break
        await asyncio.sleep(1)
    await asyncio.sleep(10)  # windows close with the next look


def show(found: Account, sizes: dict[str, int], faults: Faults, stack: Stack, seconds: float) -> None:
    ends = {part.name: dict(part.codes) for part in stack.parts.values()}
    lines = [("what", "count"), ("---", "---"), *((name, f"{size:,}") for name, size in sizes.items())]
    lines += [("faults", str(faults.counts.total())), ("of them while catching up", str(faults.behind))]
    lines += [(f"… {name}", str(count)) for name, count in faults.counts.most_common()]
    lines += [(kind, str(found.counts[kind])) for kind in KINDS]
    lines += [("exit codes", str(ends)), ("seconds", f"{seconds:.0f}")]
    tell("\n".join(f"| {name} | {value} |" for name, value in lines))
    tell("\n".join(found.examples))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200, help="how many in all")
    parser.add_argument("--behind", type=int, default=70, help="of them, how many with a backlog")
    parser.add_argument("--rounds", type=int, default=5, help="each a backlog and a stretch of live events")
    parser.add_argument("--backlog", type=int, default=15_000, help="events of a backlog")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    words = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="ledger-"))
    try:
        return asyncio.run(run(home, words))
    finally:
        if not words.keep:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
