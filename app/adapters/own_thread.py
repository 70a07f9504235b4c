"""Work that may never end, in a thread of its own: a folder of a server that is gone answers no read.

Nobody can end a thread. One that takes too long is left alone, and holds up neither its caller nor the end of the
process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def run_apart(work: Callable[[], T], limit_s: float, name: str) -> T:
    """Return what the work gives.

    Raises
    ------
    TimeoutError
        When it takes longer than the limit; it goes on, and what it gives is dropped.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return  # it was not waited for any longer
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # of the type that the work gives

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001  # whatever it is, it belongs to whoever waits
            error = raised
        with suppress(RuntimeError):  # the loop is closed by now
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    async with asyncio.timeout(limit_s):
        return await done
