"""Workers that are asked for scores: their addresses, events keyed as the hook expects, and questions over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer
from worker_bench import Bench

from app.adapters.sources.source import Partitioner

START_MS = 1_700_000_000_000


def event(number: int, card: str, **changes: Any) -> dict[str, Any]:
    """Event ``number``: 40 ms after the one before."""
    fields = {"id": f"e{number}", "card": card, "at_ms": START_MS + number * 40, "amount": (number * 37 % 1000) / 7}
    return {**fields, "kind": "abc"[number % 3], **changes}


def label(number: int) -> dict[str, Any]:
    return {"event_id": f"e{number}", "label": float(number % 3 == 0), "label_time_ms": START_MS + number * 40 + 500}


class Asker:
    """Asks workers over HTTP and sends events to Kafka."""

    def __init__(self, bench: Bench, session: aiohttp.ClientSession, producer: AIOKafkaProducer) -> None:
        self.bench = bench
        self.session = session
        self._producer = producer
        self.partition_of = Partitioner(bench.pipeline.partitions)

    async def address(self, worker: int) -> str:
        """Where the worker started as number ``worker`` listens."""
        path = self.bench.folder / f"worker-{worker}.log"
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            if path.exists() and (found := re.search(r'"http":"?\s*"?(http://[^"]+)', path.read_text())):
                return found[1]
            await asyncio.sleep(0.05)
        pytest.fail(f"worker {worker} does not listen\n{self.bench.logs()}")

    async def until_ready(self, worker: int) -> str:
        """The address of a worker that has its partitions and a model."""
        address = await self.address(worker)

        async def is_ready() -> bool:
            async with self.session.get(f"{address}/readyz") as response:
                return response.status == 200

        await self.bench.until(is_ready)
        return address

    async def ask(self, address: str, body: Any, **query: str) -> tuple[int, Any, Any]:
        """Status, body and headers of the answer to an event, a list, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        async with self.session.post(f"{address}/v1/score", data=data, params=query, headers=headers) as response:
            return response.status, json.loads(await response.read()), response.headers

    async def send(self, events: Sequence[dict[str, Any]], labels: Sequence[tuple[str, dict[str, Any]]] = ()) -> None:
        """Send events by their cards, after labels (card and label)."""
        topics = self.bench.pipeline.topics
        for card, value in labels:
            await self._send(topics.labels, card, value)
        await self._producer.flush()
        for value in events:
            await self._send(topics.events, value["card"], value)
        await self._producer.flush()

    async def _send(self, topic: str, card: str, value: dict[str, Any]) -> None:
        key = card.encode()
        await self._producer.send(topic, json.dumps(value).encode(), key=key, partition=self.partition_of(key))


@asynccontextmanager
async def asking(bench: Bench) -> AsyncIterator[Asker]:
    producer = AIOKafkaProducer(bootstrap_servers=bench.kafka.servers, linger_ms=5)
    await producer.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Asker(bench, session, producer)
    finally:
        await producer.stop()
