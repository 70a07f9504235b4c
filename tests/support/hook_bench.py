"""Receivers of hooks that behave well and badly, and a sender on a pipeline of its own: what tests of hooks share."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import random
import ssl
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiokafka import AIOKafkaProducer

from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.webhooks.client import Patience, WebhookClient
from app.core.hooks.schedule import Schedule
from app.hooks.context import Pace
from app.hooks.hook_records import read_deliveries
from app.hooks.sender import HookSender
from app.hooks.starts import Beginning
from app.hooks.targets import Outward, count_partitions, read_targets
from app.kafka_access import KafkaAccess
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.topics import Topic
from schemas.wire import HookDelivery, Score, Source, encode_json

CERTIFICATES = Path(__file__).parent / "certificates"
START_MS = 1_767_225_600_000
SECRET, OTHER_SECRET = ("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))

PIPELINE = """
name = "{name}"
partitions = {partitions}

[events]
entity = "card"
id = "payment"
time = "at_ms"

[events.fields]
payment = "string"
card = "string"
at_ms = "int"
amount = "float"

[[features]]
name = "amount"
type = "float"
expression = "amount"

[destinations]
hosts = ["127.0.0.1", "localhost"]
networks = ["127.0.0.0/8", "::1"]
plain_http = true
ca = "{ca}"

{hooks}
"""
HOOK = """
[[hooks]]
name = "{name}"
on = "scores"
url = "{url}"
secrets = ["CRM_SECRET", "CRM_SECRET_NEW"]
"""
#: The schedule of days, in seconds.
EARLIEST = Beginning(0)
FAST = Pace(
    schedule=Schedule(
        soon_ms=(50, 100),
        patience_ms=2_000,
        later_ms=(200, 400, 800, 1_600, 60_000),
        rest_ms=(100, 500),
        most_wait_ms=1_000,
    ),
    patience=Patience(connect_s=1.0, total_s=1.0),
    commit_s=0.05,
    let_go_s=1.0,
)


@dataclass
class Receiver:
    """A receiver on this machine that notes what it is sent.

    ``answer`` says with which status it answers a request, given the webhook-id; it may wait as long as it likes.
    ``taken``: webhook-ids and bodies, in the order in which they were taken; ``known``: ids of these; ``asked``: how
    often each was sent.
    """

    answer: Callable[[str], Awaitable[int]] = field(default=lambda _: _at_once(200))
    headers: dict[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = (SECRET,)
    url: str = ""
    taken: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)
    forged: int = 0
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def ids(self) -> list[str]:
        return [name for name, _ in self.taken]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        name = request.headers["webhook-id"]
        self.asked[name] += 1
        self.times[name].append(time.monotonic())
        if self.keys and not verify(request.headers, body, self.keys):
            self.forged += 1
            return web.Response(status=401)
        status = await self.answer(name)
        if 200 <= status < 300:
            self.known.add(name)
            self.taken.append((name, msgspec.json.decode(body)))
        return web.Response(status=status, headers=self.headers, text="what a receiver says is shown to nobody")


def verify(headers: object, body: bytes, secrets: Iterable[str]) -> bool:
    """As a receiver verifies that was not written by us."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body  # type: ignore[index]
    sent = {signature.removeprefix("v1,") for signature in headers["webhook-signature"].split(" ")}  # type: ignore[index]
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        if base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode() in sent:
            return True
    return False


async def _at_once(status: int) -> int:
    return status


def failing(share: float, seed: int, status: int = 500) -> Callable[[str], Awaitable[int]]:
    """Fail a share of requests."""
    generator = random.Random(seed)  # noqa: S311  # for failures, not for secrets
    return lambda _: _at_once(status if generator.random() < share else 200)


@asynccontextmanager
async def receiving(receiver: Receiver, certificate: str = "") -> AsyncIterator[Receiver]:
    """Serve a receiver; with a certificate over TLS, as localhost."""
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATES / certificate)
    runner = web.ServerRunner(web.Server(receiver.handle, access_log=None), shutdown_timeout=0.1)  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    receiver.url = f"https://localhost:{port}/hook" if certificate else f"http://127.0.0.1:{port}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


class HookBench:
    """A pipeline with hooks on the shared broker; its scores are written by the test.

    Parameters
    ----------
    hooks
        The tables ``[[hooks]]`` of its file, and more at the end of it.
    """

    def __init__(self, kafka: KafkaAccess, folder: Path, hooks: str, partitions: int = 2) -> None:
        self.kafka = kafka
        self.name = f"h{uuid.uuid4().hex[:10]}"
        self.path = folder / f"{self.name}.toml"
        self.environment = {"CRM_SECRET": SECRET}
        self._partitions = partitions
        self._next = Counter[int]()
        self.write(hooks)

    def write(self, hooks: str) -> None:
        text = PIPELINE.format(
            name=self.name, partitions=self._partitions, hooks=hooks, ca=CERTIFICATES / "authority.pem"
        )
        self.path.write_text(text)
        self.pipeline: Pipeline = load(self.path)

    async def prepare(self, *topics: str) -> None:
        await ensure_topics(self.kafka, [*self.pipeline.topics.all(), *(Topic(name, 3) for name in topics)])

    async def publish(self, *scores: Score) -> None:
        """Write scores to the partitions of their sources."""
        topic = self.pipeline.topics.scores
        records = [(topic, score.source.partition, score.entity.encode(), encode_json(score)) for score in scores]
        await self.write_records(records)

    async def write_records(self, records: Iterable[tuple[str, int, bytes, bytes]]) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.servers, linger_ms=5, enable_idempotence=True)
        await producer.start()
        try:
            for topic, partition, key, value in records:
                await producer.send(topic, value, key=key, partition=partition)
            await producer.flush()
        finally:
            await producer.stop()

    def score(self, entity: str, value: float = 0.9, partition: int = 0) -> Score:
        offset = self._next[partition]
        self._next[partition] += 1
        return Score(
            event_id=f"{partition}-{offset}",
            entity=entity,
            event_time_ms=START_MS + offset,
            score=value,
            decision=value >= 0.5,
            model=self.pipeline.model.name,
            version="1.0.0",
            role="champion",
            feature_set=self.pipeline.feature_set,
            source=Source(self.pipeline.topics.events, partition, offset),
            scored_at_ms=START_MS + offset,
            features={"amount": value * 100},
        )

    @asynccontextmanager
    async def sending(self, pace: Pace = FAST, beginning: Beginning = EARLIEST) -> AsyncIterator[HookSender]:
        """A sender in this process."""
        outward = Outward(
            read_targets(self.pipeline, self.environment), await count_partitions(self.pipeline, self.kafka)
        )
        async with WebhookClient(self.pipeline.destinations, pace.patience) as client:
            sender = HookSender(self.pipeline, self.kafka, client, outward, beginning=beginning, pace=pace)
            running = asyncio.create_task(sender.run())
            try:
                await until(lambda: sender.health().ready or running.done(), 60, lambda: sender.health().why)
                yield sender
            finally:
                sender.stop()
                await running
            assert sender.failure == ""

    async def parked(self) -> dict[str, HookDelivery]:
        return await read_deliveries(self.kafka, self.pipeline.topics, self.pipeline.topics.hooks_retry)

    async def dead(self) -> dict[str, HookDelivery]:
        return await read_deliveries(self.kafka, self.pipeline.topics, self.pipeline.topics.hooks_dead)


async def until(condition: Callable[[], object], deadline_s: float = 30, say: Callable[[], str] = lambda: "") -> None:
    """Wait until something is so; a condition may be a coroutine. ``say``: what to tell when it is not."""
    limit = time.monotonic() + deadline_s
    while True:
        holds = condition()
        if asyncio.iscoroutine(holds):
            holds = await holds
        if holds:
            return
        if time.monotonic() > limit:
            pytest.fail(f"not within {deadline_s} s: {say() or condition}")
        await asyncio.sleep(0.02)
