"""A TCP proxy that breaks connections: between workers and a broker whose advertised port is the proxy's.

Each fault is a state of the proxy; what chance decides comes from one seed. A black hole swallows one direction and
keeps the connection open (half-open); what it swallowed is gone, so the connection is cut when the hole closes, as a
TCP that lost bytes would.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Self

Direction = Literal["up", "down"]  # to the broker, to the client

_CHUNK = 64 << 10


@dataclass(frozen=True)
class Weather:
    """What the network is like.

    ``latency_ms``, ``jitter_ms``: added to each chunk, each way. ``bytes_per_s``: of each connection and direction.
    ``slice_bytes``: chunks are cut into pieces of 1 to that many bytes. ``hole``: directions that swallow everything.
    ``refuses``: new connections are closed at once. ``reset_share``: chance that a chunk resets its connection.
    """

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    bytes_per_s: float | None = None
    slice_bytes: int | None = None
    hole: frozenset[Direction] = frozenset()
    refuses: bool = False
    reset_share: float = 0.0


@dataclass
class Tally:
    """What the proxy did."""

    connections: int = 0
    refused: int = 0
    resets: int = 0
    chunks: int = 0
    slices: int = 0
    bytes: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    swallowed: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})


class Proxy:
    """Listens on a port of its own and passes on to ``target``, as the weather allows."""

    def __init__(self, seed: int, target: tuple[str, int] | None = None) -> None:
        self.tally = Tally()
        self.weather = Weather()
        self.target = target
        self.port = 0
        self._random = random.Random(seed)  # noqa: S311  # nothing here is secret
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()

    async def start(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self.reset_all()
            await asyncio.gather(*(link.done for link in self._links), return_exceptions=True)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def connections(self) -> int:
        """Open ones."""
        return len(self._links)

    def reset_all(self) -> None:
        """Cut every connection, with RST."""
        for link in list(self._links):
            self.tally.resets += 1
            link.reset()

    @contextlib.asynccontextmanager
    async def during(self, weather: Weather) -> AsyncIterator[Self]:
        """Have this weather for a while. Where bytes were swallowed, the connection is cut afterwards."""
        before, self.weather = self.weather, weather
        try:
            yield self
        finally:
            self.weather = before
            for link in list(self._links):
                if link.has_lost_bytes:
                    self.tally.resets += 1
                    link.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tally.connections += 1
        if self.weather.refuses or self.target is None:
            self.tally.refused += 1
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self.target)
        except OSError:
            self.tally.refused += 1
            writer.transport.abort()
            return
        link = _Link(self, writer, up_writer, self._random.random())
        self._links.add(link)
        try:
            await link.run(reader, up_reader)
        finally:
            self._links.discard(link)


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter, seed: float) -> None:
        self.has_lost_bytes = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._proxy = proxy
        self._client = client
        self._server = server
        self._chance = random.Random(seed)  # noqa: S311  # as above
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, reader: asyncio.StreamReader, up_reader: asyncio.StreamReader) -> None:
        self._tasks = [
            asyncio.create_task(self._pump(reader, self._server, "up")),
            asyncio.create_task(self._pump(up_reader, self._client, "down")),
        ]
        try:
            # The end of either direction ends both: Kafka's clients never close one half.
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.reset()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if not self.done.done():
                self.done.set_result(None)

    def reset(self) -> None:
        for task in self._tasks:
            task.cancel()
        for writer in (self._client, self._server):
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                weather, tally = self._proxy.weather, self._proxy.tally
                tally.chunks += 1
                if weather.reset_share and self._chance.random() < weather.reset_share:
                    tally.resets += 1
                    return
                if way in weather.hole:
                    tally.swallowed[way] += len(chunk)
                    self.has_lost_bytes = True
                    continue
                delay_ms = weather.latency_ms + self._chance.uniform(-weather.jitter_ms, weather.jitter_ms)
                if delay_ms > 0:
                    await asyncio.sleep(delay_ms / 1000)
                for piece in self._slices(chunk, weather):
                    if weather.bytes_per_s:
                        await asyncio.sleep(len(piece) / weather.bytes_per_s)
                    writer.write(piece)
                    await writer.drain()
                    tally.bytes[way] += len(piece)
                    if weather.slice_bytes:
                        tally.slices += 1
                        await asyncio.sleep(0)

    def _slices(self, chunk: bytes, weather: Weather) -> list[bytes]:
        most = weather.slice_bytes or (4096 if weather.bytes_per_s else 0)
        if not most:
            return [chunk]
        pieces, at = [], 0
        while at < len(chunk):
            size = self._chance.randint(1, most) if weather.slice_bytes else most
            pieces.append(chunk[at : at + size])
            at += size
        return pieces
