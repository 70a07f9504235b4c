"""The proxy does what it says to a connection, and counts it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from chaos_proxy import Proxy, Weather


@contextlib.asynccontextmanager
async def echo_behind_proxy(seed: int = 1) -> AsyncIterator[Proxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with Proxy(seed, server.sockets[0].getsockname()[:2]) as proxy:
        yield proxy
    server.close()


def run(scenario: Callable[[Proxy], Awaitable[None]], seed: int = 1) -> None:
    async def main() -> None:
        async with echo_behind_proxy(seed) as proxy:
            await asyncio.wait_for(scenario(proxy), 60)

    asyncio.run(main())


async def ask(proxy: Proxy, data: bytes) -> bytes:
    """What comes back for ``data`` on a new connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(data)
        return await reader.readexactly(len(data))
    finally:
        writer.transport.abort()


def test_fair_weather_changes_nothing() -> None:
    async def scenario(proxy: Proxy) -> None:
        data = bytes(range(256)) * 2_000
        assert await ask(proxy, data) == data
        assert proxy.tally.bytes == {"up": len(data), "down": len(data)}

    run(scenario)


def test_latency_and_bandwidth_take_their_time() -> None:
    async def scenario(proxy: Proxy) -> None:
        started = time.monotonic()
        async with proxy.during(Weather(latency_ms=150)):
            await ask(proxy, b"ping")
        assert time.monotonic() - started >= 0.3
        started = time.monotonic()
        async with proxy.during(Weather(bytes_per_s=20_000)):
            await ask(proxy, bytes(10_000))
        assert time.monotonic() - started >= 0.5

    run(scenario)


def test_slices_keep_the_bytes_and_their_order() -> None:
    async def scenario(proxy: Proxy) -> None:
        data = bytes(range(256)) * 20
        async with proxy.during(Weather(slice_bytes=7)):
            assert await ask(proxy, data) == data
        assert proxy.tally.slices > 2 * len(data) / 7

    run(scenario)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_black_hole_keeps_the_connection_open_and_cuts_it_when_it_closes(way: str) -> None:
    async def scenario(proxy: Proxy) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        async with proxy.during(Weather(hole=frozenset({way}))):  # type: ignore[arg-type]  # one of the two
            writer.write(b"hello")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.3)
            assert proxy.connections == 1
        assert proxy.tally.swallowed[way] == 5
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.transport.abort()

    run(scenario)


def test_refused_and_reset_connections_end() -> None:
    async def scenario(proxy: Proxy) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"a")
        assert await reader.read(1) == b"a"
        async with proxy.during(Weather(refuses=True)):
            proxy.reset_all()
            with pytest.raises(OSError):  # noqa: PT011  # reset or closed, as the system has it
                await read_or_fail(reader)
            with pytest.raises(OSError):  # noqa: PT011
                await ask(proxy, b"b")
        assert await ask(proxy, b"c") == b"c"
        assert (proxy.tally.resets, proxy.tally.refused) == (1, 1)
        writer.transport.abort()

    run(scenario)


async def read_or_fail(reader: asyncio.StreamReader) -> None:
    if not await reader.read(1):
        raise ConnectionResetError


def test_the_same_seed_cuts_the_same_connections() -> None:
    def fates(seed: int) -> list[bool]:
        survived: list[bool] = []

        async def scenario(proxy: Proxy) -> None:
            async with proxy.during(Weather(reset_share=0.3)):
                for number in range(20):
                    try:
                        survived.append(await ask(proxy, bytes([number])) == bytes([number]))
                    except (OSError, asyncio.IncompleteReadError):
                        survived.append(False)

        run(scenario, seed)
        return survived

    assert fates(3) == fates(3)
    assert fates(3) != fates(4)
    assert 0 < sum(fates(3)) < 20
