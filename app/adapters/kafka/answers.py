"""Waits for Kafka, but not for ever: at a start, or in a command.

aiokafka waits for some answers without end, and fails at others with errors of many kinds. Here all of them end alike:
with a `StackError` of one sentence, once Kafka has refused or has been silent for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, Self, TypeVar

from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from app.adapters.kafka.topic_reader import answers
from app.exits import EXIT_RETRY, StackError
from app.kafka_access import KafkaAccess

T = TypeVar("T")

#: What a client raises when Kafka is away or has changed meanwhile.
KAFKA_TROUBLE = (KafkaError, ConnectionError, TimeoutError)
#: How long Kafka may be silent.
SILENCE_S = 30.0
#: How often it is asked.
_LOOK_S = 3.0
#: How long work that is cancelled may take to end.
_END_S = 10.0


def describe_trouble(kafka: KafkaAccess, error: BaseException) -> StackError:
    """The one sentence for whatever a client of Kafka has raised."""
    if isinstance(error, StackError):
        return error
    if isinstance(error, OffsetOutOfRangeError):
        places = ", ".join(f"{tp.topic}[{tp.partition}] from {offset} on" for tp, offset in error.args[0].items())
        return StackError(f"Records are gone before they were read ({places}): the next start says what to do.")
    return StackError(f"Kafka at {kafka} does not answer as it should ({error!r:.200}): check that it runs.")


class KafkaWatch:
    """Asks Kafka now and then, within its context, whether it is there."""

    def __init__(self, kafka: KafkaAccess) -> None:
        self._kafka = kafka
        self._asking: asyncio.Task[None] | None = None
        self._answered_at = 0.0

    async def __aenter__(self) -> Self:
        self._answered_at = asyncio.get_running_loop().time()
        self._asking = asyncio.create_task(self._ask(), name="kafka-watch")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._asking is not None
        self._asking.cancel()
        await asyncio.gather(self._asking, return_exceptions=True)

    def check(self) -> None:
        """StackError when Kafka has been silent for too long."""
        silent_s = asyncio.get_running_loop().time() - self._answered_at
        if silent_s > SILENCE_S:
            raise StackError(f"Kafka at {self._kafka} has not answered for {silent_s:.0f} s: check that it runs.")

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(min(_LOOK_S, SILENCE_S / 3))
            try:
                is_there = await answers(self._kafka)
            except KAFKA_TROUBLE:
                is_there = False
            if is_there:
                self._answered_at = asyncio.get_running_loop().time()


class Process(Protocol):
    """What ends when Kafka fails: a worker or a monitor."""

    @property
    def stopping(self) -> asyncio.Event:
        """Set when it shall end."""

    @property
    def app(self) -> Any:
        """Its Faust app."""

    def fail(self, why: str, exit_code: int) -> None:
        """End it because of an error."""


def fail_if_crashed(process: Process, kafka: KafkaAccess) -> bool:
    """Have a process fail, in one sentence, if its Faust app has stopped by itself; return whether it has."""
    if not (process.app.crashed or process.app.should_stop):
        return False
    reason = process.app.crash_reason
    is_kafka = isinstance(reason, KAFKA_TROUBLE)
    process.fail(str(describe_trouble(kafka, reason)) if is_kafka else f"Faust stopped: {reason!r}", EXIT_RETRY)
    return True


async def get_to_work(
    process: Process, kafka: KafkaAccess, start: Coroutine[Any, Any, None], is_at_work: Callable[[], bool]
) -> None:
    """Start a process and wait until it works or is told to stop; have it fail when Kafka fails or is silent."""
    starting = asyncio.create_task(start, name="start")
    try:
        async with KafkaWatch(kafka) as watch:
            while not (process.stopping.is_set() or (starting.done() and is_at_work())):
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.stopping.wait(), 0.1)
                if starting.done():
                    starting.result()
                    fail_if_crashed(process, kafka)
                watch.check()
    except StackError as error:
        process.fail(str(error), error.exit_code)
    except KAFKA_TROUBLE as error:
        process.fail(str(describe_trouble(kafka, error)), EXIT_RETRY)
    finally:
        starting.cancel()
        await asyncio.wait([starting], timeout=_END_S)


async def while_kafka_answers(kafka: KafkaAccess, work: Coroutine[Any, Any, T]) -> T:
    """Await work that needs Kafka; StackError when it fails, or when Kafka has been silent for too long."""
    task = asyncio.create_task(work)
    try:
        async with KafkaWatch(kafka) as watch:
            while not task.done():
                await asyncio.wait([task], timeout=0.5)
                watch.check()
        return task.result()
    except KAFKA_TROUBLE as error:
        raise describe_trouble(kafka, error) from error
    finally:
        task.cancel()


def run_with_kafka(kafka: KafkaAccess, work: Coroutine[Any, Any, T]) -> T:
    """`while_kafka_answers`, for a command."""
    return asyncio.run(while_kafka_answers(kafka, work))


async def end_soon(*work: Coroutine[Any, Any, Any], within_s: float = 10.0) -> None:
    """Run what closes things, one after the other; leave what fails or hangs, as it may without Kafka."""
    for closing in work:
        task = asyncio.create_task(closing)
        _, late = await asyncio.wait([task], timeout=within_s)
        if late:
            task.cancel()
        else:
            task.exception()  # retrieved, so that asyncio does not warn of it
