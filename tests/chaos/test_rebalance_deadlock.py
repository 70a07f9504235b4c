"""A fetch that meets a rebalance ends: the revocation waits for it, and the assignment for the revocation."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from aiokafka.consumer.subscription_state import SubscriptionState
from faust.types import TP

from app.adapters.kafka.batch_consumer import ConsumerThread


async def test_a_fetch_during_a_rebalance_gives_nothing_instead_of_waiting_for_its_end() -> None:
    subscriptions = SubscriptionState()
    subscriptions.subscribe({"events"})
    subscriptions.begin_reassignment()

    async def fetched_records(*_: Any, **__: Any) -> Any:  # what aiokafka's fetcher does first
        if subscriptions.reassignment_in_progress:
            await subscriptions.wait_for_assignment()

    fetcher = SimpleNamespace(_subscriptions=subscriptions, _closed=False, fetched_records=fetched_records)
    thread = object.__new__(ConsumerThread)
    thread.consumer = SimpleNamespace(flow_active=True)  # type: ignore[assignment]  # all that a fetch asks of it
    consumer = SimpleNamespace(_fetcher=fetcher, _closed=False)
    found = await asyncio.wait_for(thread._fetch_records(consumer, {TP("events", 0)}, timeout=0.05), 10)
    assert found == {}
