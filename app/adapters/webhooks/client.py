"""Sends requests to receivers of hooks, and says of each what became of it, in words for a person."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import aiohttp

from app.adapters.webhooks.resolver import GuardedResolver, LookUp, RefusedAddressError
from app.clock import wall_clock_ms
from app.core.hooks.requests import Answer, read_status
from app.exits import HookSetupError
from schemas.pipeline.destinations import refuse_url
from schemas.pipeline.spec import Destinations

#: What is read of an answer, and not kept: a receiver's words are shown to nobody.
ANSWER_BYTES = 4096
#: How long it is read.
_ANSWER_S = 2.0
_HEADERS = {"Content-Type": "application/json", "User-Agent": "streamgauge", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Patience:
    """How long a receiver may take: to be connected to, and for all of a try."""

    connect_s: float = 5.0
    total_s: float = 15.0


class WebhookClient:
    """A client for all hooks of a process; use it as a context in the running event loop.

    Parameters
    ----------
    look_up
        The addresses of a name; None: those that the system knows.
    """

    def __init__(
        self,
        destinations: Destinations,
        patience: Patience = Patience(),
        *,
        now_ms: Callable[[], int] = wall_clock_ms,
        look_up: LookUp | None = None,
    ) -> None:
        self._destinations = destinations
        self._patience = patience
        self._now_ms = now_ms
        self._look_up = look_up
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        trusted = _load_authorities(self._destinations.ca)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=GuardedResolver(self._destinations, self._look_up), ssl=trusted, limit=0
            ),
            timeout=aiohttp.ClientTimeout(total=self._patience.total_s, connect=self._patience.connect_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers=_HEADERS,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send once. Whatever the receiver or the network does is an answer, never an exception."""
        assert self._session is not None
        if why := refuse_url(self._destinations, url):  # an address in a URL is never looked up
            return Answer("address", why=f"It {why}.")
        host = urlsplit(url).hostname
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                await _read_some(response)
                return read_status(response.status, response.headers.get("Retry-After"), self._now_ms())
        except RefusedAddressError as error:
            return Answer("address", why=f"{host} {error}.")
        except aiohttp.ClientSSLError as error:
            return Answer("certificate", why=_describe_tls(host, error))
        except TimeoutError:
            return Answer("timeout", why=f"{host} gave no answer within {self._patience.total_s:g} s.")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer("connection", why=f"{host} cannot be reached, or breaks off ({_name(error)}).")


def _load_authorities(ca: Path | None) -> ssl.SSLContext:
    trusted = ssl.create_default_context()
    if ca is not None:
        try:
            trusted.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as error:
            raise HookSetupError(
                f"{ca} cannot be read as certificate authorities ({error.strerror or type(error).__name__}): give a PEM"
                " file as ca in [destinations]."
            ) from error
    return trusted


async def _read_some(response: aiohttp.ClientResponse) -> None:
    """Read a short answer, so that the connection can be used again; a longer or slower one ends it."""
    left = ANSWER_BYTES
    try:
        async with asyncio.timeout(_ANSWER_S):
            async for chunk in response.content.iter_chunked(ANSWER_BYTES):
                left -= len(chunk)
                if left < 0:
                    break
            else:
                return
    except (TimeoutError, aiohttp.ClientError):
        pass  # the status has said what there is to say
    response.close()


def _describe_tls(host: str | None, error: aiohttp.ClientSSLError) -> str:
    cause = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error.os_error
    why = getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or type(cause).__name__
    return (
        f"{host} shows a certificate that is not trusted ({str(why).rstrip('.')}): have it show one for this name, or"
        " name its authority by ca in [destinations]."
    )


def _name(error: Exception) -> str:
    """What has happened, without what a receiver may have written."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(error).__name__
