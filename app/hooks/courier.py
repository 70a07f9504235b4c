"""Carries what one hook has to tell to its destination, a bounded number of requests at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from app.adapters.webhooks.client import WebhookClient
from app.core.hooks.delivery import Delivery
from app.core.hooks.requests import Answer, slack, webhook
from app.exits import EXIT_RETRY
from app.hooks.context import SenderContext
from app.hooks.targets import Target
from schemas.pipeline.spec import Hook
from schemas.wire import HookDelivery

log = logging.getLogger("streamgauge.hooks")

#: Between two lines of the log about one hook that fails in the same way.
_SAY_AGAIN_MS = 60_000
#: The least time between two looks at a queue.
_LOOK_S = 0.001


class Courier:
    """Of one hook over HTTP.

    Parameters
    ----------
    on_gone
        Called when the destination says that it is gone.
    on_landed
        Called with the partition of whatever has been tried.
    """

    def __init__(
        self,
        hook: Hook,
        target: Target,
        client: WebhookClient,
        context: SenderContext,
        *,
        on_gone: Callable[[Delivery, str], None],
        on_landed: Callable[[int], None],
    ) -> None:
        self.hook = hook
        self._target = target
        self._client = client
        self._context = context
        self._queue = context.queues[hook.name]
        self._on_gone = on_gone
        self._on_landed = on_landed
        self._wake = asyncio.Event()
        self._is_paused = True
        self._flights: set[asyncio.Task[None]] = set()
        self._said: tuple[str, int] = ("", 0)

    def resume(self) -> None:
        """Carry what is there, from now on; look at once."""
        self._is_paused = False
        self._wake.set()

    async def pause(self, within_s: float) -> None:
        """Begin nothing more, and wait a while for what is under way."""
        self._is_paused = True
        if self._flights:
            await asyncio.wait(set(self._flights), timeout=within_s)

    async def run(self) -> None:
        """Carry until cancelled."""
        try:
            while True:
                self._wake.clear()
                self._start_what_is_due()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._wait_s())
        finally:
            for flight in self._flights:
                flight.cancel()
            await asyncio.gather(*self._flights, return_exceptions=True)

    def _start_what_is_due(self) -> None:
        while not self._is_paused and len(self._flights) < self._context.pace.under_way:
            delivery = self._queue.take(self._context.now_ms())
            if delivery is None:
                return
            flight = asyncio.create_task(self._carry(delivery))
            self._flights.add(flight)
            flight.add_done_callback(self._landed)

    def _wait_s(self) -> float | None:
        due_ms = self._queue.due_ms()
        if self._is_paused or due_ms is None or len(self._flights) >= self._context.pace.under_way:
            return None
        return max(_LOOK_S, (due_ms - self._context.now_ms()) / 1000)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        self._wake.set()
        if not flight.cancelled() and (error := flight.exception()) is not None:
            self._context.fail(f"A defect of this program: {error!r}", EXIT_RETRY)

    async def _carry(self, delivery: Delivery) -> None:
        answer = await post(self._client, self.hook, self._target, delivery.record, self._context.now_ms())
        self._context.counts.tries[self.hook.name, answer.outcome] += 1
        now_ms = self._context.now_ms()
        if answer.outcome == "told":
            self._context.counts.told[self.hook.name] += 1
            self._queue.arrived(delivery, now_ms)
        else:
            self._say(answer, now_ms)
            if answer.outcome == "gone" and not self._queue.disabled:
                self._on_gone(delivery, answer.why)
            self._queue.failed(delivery, now_ms, answer.why, answer.wait_ms)
        self._on_landed(delivery.partition)

    def _say(self, answer: Answer, now_ms: int) -> None:
        why, said_ms = self._said
        if answer.why != why or now_ms - said_ms >= _SAY_AGAIN_MS:
            log.warning("Hook %s: %s", self.hook.name, answer.why)
            self._said = answer.why, now_ms


async def post(client: WebhookClient, hook: Hook, target: Target, record: HookDelivery, now_ms: int) -> Answer:
    """Try once."""
    headers, body = webhook(record, now_ms, target.keys) if hook.form == "webhook" else slack(record)
    return await client.post(target.url.reveal(), headers, body)
