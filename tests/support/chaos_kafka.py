"""A broker for one test to break: a second listener behind a proxy, and a way to die."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
from chaos_proxy import Proxy

from app.adapters.stack.embedded_kafka import HOST, EmbeddedKafka
from app.exits import StackError
from app.kafka_access import KafkaAccess


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class BreakableKafka(EmbeddedKafka):
    """An embedded Kafka that can be killed, with a second listener that advertises the port of a proxy.

    Parameters
    ----------
    proxy_port
        Where clients that ask at ``inner_port`` are told to connect.
    settings
        Broker settings to add or replace.
    """

    def __init__(self, home: Path, cache: Path, proxy_port: int, settings: dict[str, str] | None = None) -> None:
        super().__init__(home, cache)
        self.proxy_port = proxy_port
        self.inner_port = free_port()
        self.deaths = 0
        self._settings = settings or {}

    @property
    def target(self) -> tuple[str, int]:
        """Where the proxy passes on to."""
        return HOST, self.inner_port

    @property
    def proxied(self) -> KafkaAccess:
        """How clients reach it that go through the proxy."""
        return KafkaAccess(f"{HOST}:{self.proxy_port}")

    def crash(self) -> None:
        """Kill -9."""
        pid = self.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self.deaths += 1

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, and nothing answers."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGCONT)

    def fill_disk(self) -> None:
        """Let no file grow beyond what it has: each append fails, until another process starts with room again."""
        psutil.Process(self.pid).rlimit(psutil.RLIMIT_FSIZE, (1024, 1024))
        self.deaths += 1

    def revive(self) -> None:
        """Start again on the same ports; a second time when the first did not come up."""
        try:
            super().revive()
        except StackError:
            super().revive()

    def _properties(self, port: int) -> str:
        lines = dict(line.split("=", 1) for line in super()._properties(port).splitlines())
        lines["listeners"] += f",PROXIED://{HOST}:{self.inner_port}"
        lines["advertised.listeners"] += f",PROXIED://{HOST}:{self.proxy_port}"
        lines["listener.security.protocol.map"] += ",PROXIED:PLAINTEXT"
        return "".join(f"{name}={value}\n" for name, value in {**lines, **self._settings}.items())


@asynccontextmanager
async def breakable(folder: Path, cache: Path, seed: int) -> AsyncIterator[tuple[BreakableKafka, Proxy]]:
    """A broker of one's own, and the proxy before its second listener."""
    async with Proxy(seed) as proxy:
        broker = BreakableKafka(folder / "kafka", cache, proxy.port)
        proxy.target = broker.target
        try:
            await asyncio.to_thread(broker.start)
            yield broker, proxy
        finally:
            await asyncio.to_thread(broker.stop)
