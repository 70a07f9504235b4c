"""One way to serve HTTP, for worker and monitor: who is let in, what a request may cost, and how an error is said.

Whoever reaches the server is trusted, so what is kept out is the browser that was sent by somebody else: a name that is
not ours (DNS rebinding), and a foreign page that changes something. A handler gets a request that is let in, reads its
body by `read_body` or `read_json`, and says what is wrong by `ProblemError`; anything else that it raises is a defect.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web

T = TypeVar("T")

log = logging.getLogger("streamgauge.http")

#: From the connection, or from the last answer, until the head of a request is there.
HEAD_S = 15.0
#: From the head of a request until its body is there.
BODY_S = 15.0
#: How long a peer may leave what is sent to it untaken.
TAKE_S = 30
MOST_CONNECTIONS = 128
#: How long the rest of a refused body is read, so that the peer gets to read the answer.
_LINGER_S = 1.0
#: How long a handler that is at work when the server stops has to end.
_STOP_S = 2.0
#: Each request in the log would be somebody else's way to fill the disk.
_NO_LOG = logging.getLogger("streamgauge.http.access")
_NO_LOG.disabled = True
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: What an HTML form, or a script without being let in by us, may send to anybody.
_FORM_TYPES = frozenset({"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})
_HEADERS = {
    "Server": "streamgauge",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class ProblemError(Exception):
    """A request that is not answered as asked, and why in one sentence."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})


def busy(detail: str, retry_after_s: float) -> ProblemError:
    """What could be answered later: 503, and when to ask again."""
    return ProblemError(503, detail, {"Retry-After": str(max(1, round(retry_after_s)))})


def respond(data: Any, status: int = 200) -> web.Response:
    """Data as JSON; nan is null."""
    return web.Response(body=msgspec.json.encode(data), status=status, content_type="application/json")


async def send(request: web.Request, pieces: Sequence[bytes]) -> web.StreamResponse:
    """JSON in pieces, which are not joined; whoever does not take them in time gets no more of them."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = sum(map(len, pieces))
    await response.prepare(request)
    if request.method != "HEAD":
        try:
            async with asyncio.timeout(TAKE_S):
                for piece in pieces:
                    await response.write(piece)
                await response.write_eof()
        except TimeoutError as error:
            raise ConnectionError("the peer does not take the answer") from error
    return response


async def read_body(request: web.Request, most: int) -> bytes:
    """Read the body, which may take neither more than ``most`` bytes nor for ever."""
    too_large = ProblemError(413, f"Send at most {most} bytes at a time.")
    if (request.content_length or 0) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise ProblemError(408, f"The body was not there after {BODY_S:g} s.", {"Connection": "close"}) from None
    except (web.RequestPayloadError, ValueError) as error:
        raise ProblemError(
            400, "The body broke off, or is cut into chunks wrongly.", {"Connection": "close"}
        ) from error
    return bytes(body)


async def read_json(request: web.Request, shape: type[T], most: int, example: str) -> T:
    """Read a JSON body of a shape; ``example`` says what one looks like."""
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() != "utf-8":
        raise ProblemError(415, "Send JSON in UTF-8, with the header Content-Type: application/json.")
    body = await read_body(request, most)
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProblemError(400, f"The body is not what is asked for ({error}): send {example}.") from error


class HttpServer:
    """Serves routes.

    Parameters
    ----------
    routes
        What is served.
    allowed_hosts
        Names by which requests may call this server, besides ``localhost`` and the name that it listens on. An address
        is always let in: a foreign page can have its own name point at us, but not be an address of ours.
    most_connections
        When there are this many, the one that has been silent for longest is closed for a new one; when all are at
        work, the new one is refused.
    """

    def __init__(
        self,
        routes: Iterable[web.AbstractRouteDef],
        allowed_hosts: Iterable[str] = (),
        most_connections: int = MOST_CONNECTIONS,
    ) -> None:
        self._app = web.Application(middlewares=[self._guard])
        self._app.add_routes(routes)
        self._app.on_response_prepare.append(_add_headers)
        self._names = {"localhost", *(_bare(name) for name in allowed_hosts)}
        self._most_connections = most_connections
        # A client that goes cancels its handler, so that nobody computes what nobody waits for.
        self._runner = web.AppRunner(self._app, handler_cancellation=True, shutdown_timeout=_STOP_S)
        self._listening: asyncio.Server | None = None

    async def start(self, host: str, port: int, *, or_free: bool = False) -> str:
        """Listen (port 0: a free one) and return the address; `OSError` when that is not possible.

        ``or_free``: when somebody else has the port, a free one will do.
        """
        self._names.add(_bare(host))
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._listening = await loop.create_server(self._accept, host, port)
        except OSError as error:
            if not or_free or error.errno != errno.EADDRINUSE:
                raise
            self._listening = await loop.create_server(self._accept, host, 0)
        bound = self._listening.sockets[0].getsockname()
        name = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        return f"http://{name}:{bound[1]}"

    async def stop(self) -> None:
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()

    def _accept(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None
        open_ones = [
            connection
            for connection in server.connections
            if isinstance(connection, _Connection) and connection.is_open
        ]
        if len(open_ones) >= self._most_connections:
            silent = next((connection for connection in open_ones if connection.is_silent), None)
            if silent is None:
                return _Refusal()
            silent.force_close()
        return _Connection(
            server,
            loop=asyncio.get_running_loop(),
            access_log=_NO_LOG,
            keepalive_timeout=HEAD_S,
            lingering_time=_LINGER_S,
            auto_decompress=False,
        )

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            self._let_in(request)
            return await handler(request)
        except ProblemError as error:
            return _problem(error.status, str(error), error.headers)
        except web.HTTPException as error:
            allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return _problem(error.status, f"{request.method} {request.path} is not served here.", allowed)
        except ConnectionError:
            raise  # the peer has gone
        except Exception:
            log.exception("%s %r failed", request.method, request.path)
            return _problem(500, "A defect of this program; its log says more.", {})

    def _let_in(self, request: web.Request) -> None:
        hosts = request.headers.getall(hdrs.HOST, [])
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            said = hosts[0][:100] if hosts else ""
            raise ProblemError(
                421, f"This server is not known as {said!r}: ask it by an address, or start it with --allow-host NAME."
            )
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise ProblemError(
                415, "Send the body as it is, without Content-Encoding.", {"Accept-Encoding": "identity"}
            )
        if request.method in _SAFE_METHODS:
            return
        site = request.headers.get("Sec-Fetch-Site")
        origin = request.headers.get(hdrs.ORIGIN)
        is_foreign = (
            site not in {"same-origin", "none"} if site else origin is not None and urlsplit(origin).netloc != hosts[0]
        )
        if is_foreign:
            raise ProblemError(403, "A page of another site may not change anything here.")
        if request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower() in _FORM_TYPES:
            raise ProblemError(415, "Send JSON in UTF-8, with the header Content-Type: application/json.")

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)


class _Connection(web.RequestHandler):
    """A connection that tells whether it is idle, and that refuses in our words what is not HTTP."""

    __slots__ = ()

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    @property
    def is_silent(self) -> bool:
        """Whether none of its requests is being answered."""
        return self._current_request is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        taken = getattr(socket, "TCP_USER_TIMEOUT", None)
        if taken is not None:
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, taken, TAKE_S * 1000)
        super().connection_made(transport)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # holds what was sent
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already") from exc
        if isinstance(exc, UnicodeEncodeError):  # of a header that is not text, which aiohttp repeats in its answer
            status = HTTPStatus.BAD_REQUEST
        if status == HTTPStatus.BAD_REQUEST:
            said = "This is no HTTP/1.1 request that can be understood."
        else:
            log.error("A request failed", exc_info=exc)
            said = "A defect of this program; its log says more."
        response = _problem(status, said, _HEADERS)
        response.force_close()
        return response


class _Refusal(asyncio.Protocol):
    """Says that there are too many connections, and ends this one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        error = busy("Too many connections are at work here: ask again soon.", 1)
        response = _problem(error.status, str(error), error.headers | _HEADERS)
        assert isinstance(response.body, bytes)
        head = [f"{name}: {value}" for name, value in response.headers.items()]
        head += [f"Content-Length: {len(response.body)}", "Connection: close"]
        transport.write("\r\n".join(["HTTP/1.1 503 Service Unavailable", *head, "", ""]).encode() + response.body)
        transport.write_eof()
        # Closed at once, what the peer sends meanwhile would have the answer thrown away.
        asyncio.get_running_loop().call_later(_LINGER_S, transport.abort)


def _problem(status: int, detail: str, headers: Mapping[str, str]) -> web.Response:
    """An error as RFC 9457 has it."""
    body = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/problem+json", headers=headers
    )


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _bare(host: str) -> str:
    """A host name as it is compared: without port, in lower case."""
    return (urlsplit(f"//{host}").hostname or host).lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
