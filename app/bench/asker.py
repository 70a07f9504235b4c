"""Asks a scoring hook from a process of its own, and says how long the answers took.

With RATE an open loop: request n is due at start + n / rate, and its latency counts from then, also when all
connections were busy. Without (0) a closed loop: each connection asks again as soon as it has its answer.

    python -m app.bench.asker    with URL, WORKLOAD, RATE, SECONDS, CONNECTIONS, LIST, FIRST, STREAM_RATE

The events are those of the stream at that moment (event FIRST + seconds x STREAM_RATE), LIST of them a request.
Prints {"p50_ms": …, "p99_ms": …, "p999_ms": …, "max_ms": …, "requests": …, "seconds": …, "refused": …}.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import urlsplit

import numpy as np

from app.bench.workload import HOOKED, Workload


@dataclass
class Asking:
    """One load: what is asked, how often, and what came of it."""

    url: str
    workload: Workload
    rate: float
    seconds: float
    list_of: int
    first: int
    stream_rate: float
    start_s: float = 0.0
    numbers: count[int] = field(default_factory=count)
    taken_ms: list[float] = field(default_factory=list)
    statuses: Counter[bytes] = field(default_factory=Counter)

    def request(self, number: int) -> bytes:
        """A whole request, as it is sent."""
        place = self.first + int((time.monotonic() - self.start_s) * self.stream_rate)
        bodies = [self.workload.event(place + at)[1] for at in range(self.list_of)]
        # Ids of their own: asked again, an event is another one.
        bodies = [body.replace(b'"id":"e', b'"id":"q%d-%d-' % (number, at), 1) for at, body in enumerate(bodies)]
        body = bodies[0] if self.list_of == 1 else b"[" + b",".join(bodies) + b"]"
        head = f"POST /v1/score HTTP/1.1\r\nHost: {urlsplit(self.url).netloc}\r\nContent-Type: application/json\r\n"
        return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body

    async def connection(self) -> None:
        """Ask, one request after the other, until the time is over."""
        at = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        try:
            while True:
                number = next(self.numbers)
                due_s = self.start_s + number / self.rate if self.rate else time.monotonic()
                if due_s > self.start_s + self.seconds:
                    return
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                writer.write(self.request(number))
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                await reader.readexactly(length)
                self.taken_ms.append((time.monotonic() - due_s) * 1000)
                self.statuses[head[9:12]] += 1
        finally:
            writer.close()

    async def run(self, connections: int) -> dict[str, float]:
        """Ask over some connections; the figures."""
        self.workload.event(self.first)  # draws the numbers, before the clock runs
        self.start_s = time.monotonic() + 0.1
        await asyncio.gather(*(self.connection() for _ in range(connections)))
        taken = np.array(self.taken_ms)
        shares = {"p50_ms": 50, "p99_ms": 99, "p999_ms": 99.9, "max_ms": 100}
        return {
            **{name: float(np.percentile(taken, share)) for name, share in shares.items()},
            "requests": float(len(taken)),
            "seconds": time.monotonic() - self.start_s,
            "refused": float(self.statuses.total() - self.statuses[b"200"]),
        }


async def _main() -> None:
    of = os.environ
    workload = {workload.name: workload for workload in HOOKED}[of["WORKLOAD"]]
    asking = Asking(
        of["URL"], workload, float(of["RATE"]), float(of["SECONDS"]), int(of["LIST"]), int(of["FIRST"]),
        float(of["STREAM_RATE"]),
    )  # fmt: skip
    sys.stdout.write(json.dumps(await asking.run(int(of["CONNECTIONS"]))) + "\n")


if __name__ == "__main__":
    asyncio.run(_main())
