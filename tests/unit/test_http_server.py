"""Laws of our HTTP servers: who is let in, what a request may cost, and that no request is answered with a defect."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
import pytest
from aiohttp import web

from app.adapters.http import server as http_server
from app.adapters.http.server import HttpServer, busy, read_json, respond


class Words(msgspec.Struct, forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(max_length=20)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1


async def _fine(_: web.Request) -> web.Response:
    return respond({"fine": True})


async def _echo(request: web.Request) -> web.Response:
    words = await read_json(request, Words, 1_000, '{"text": "…"}')
    return respond({"text": words.text})


async def _full(_: web.Request) -> web.Response:
    raise busy("Too much to do: ask again.", 2.4)


async def _broken(_: web.Request) -> web.Response:
    raise KeyError("secret")


class Waiting:
    """A handler that waits, and knows how it ended."""

    def __init__(self) -> None:
        self.begun, self.go, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answer(self, _: web.Request) -> web.Response:
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return respond({})


class Served:
    """A server and its raw answers."""

    def __init__(self, port: int, waiting: Waiting) -> None:
        self.port, self.waiting = port, waiting

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await self.connect()
        writer.write(raw)
        try:
            return await read_answer(reader)
        finally:
            writer.close()

    async def ask(
        self, method: str = "GET", path: str = "/fine", body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        given = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"}
        if body or method == "POST":
            given |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
        return await self.send("\r\n".join(lines).encode() + body)


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await asyncio.wait_for(reader.readexactly(int(headers.get("content-length", "0"))), 10)
    return int(head[0].split()[1]), headers, body


@asynccontextmanager
async def serving(host: str = "127.0.0.1", **options: Any) -> AsyncIterator[Served]:
    waiting = Waiting()
    server = HttpServer(
        [
            web.get("/fine", _fine),
            web.post("/echo", _echo),
            web.get("/full", _full),
            web.get("/broken", _broken),
            web.get("/waiting", waiting.answer),
            web.post("/waiting", waiting.answer),
        ],
        **options,
    )
    address = await server.start(host, 0)
    try:
        yield Served(int(address.rpartition(":")[2]), waiting)
    finally:
        await server.stop()


def run(law: Callable[[Served], Awaitable[None]], **options: Any) -> None:
    async def body() -> None:
        async with serving(**options) as served:
            await law(served)

    asyncio.run(asyncio.wait_for(body(), 30))


def is_problem(answer: tuple[int, dict[str, str], bytes], status: int) -> bool:
    found, headers, body = answer
    said = json.loads(body)
    assert found == status, answer
    assert headers["content-type"] == "application/problem+json"
    assert said["status"] == status
    assert said["title"]
    assert said["detail"].endswith(".")
    return True


# -- where it listens --------------------------------------------------------------------------------------------------


def test_a_former_port_is_taken_again_and_a_free_one_when_somebody_else_has_it() -> None:
    async def law() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = other.getsockname()[1]
            with pytest.raises(OSError, match="in use"):
                await HttpServer([]).start("127.0.0.1", taken)
            moved = HttpServer([web.get("/fine", _fine)])
            port = int((await moved.start("127.0.0.1", taken, or_free=True)).rpartition(":")[2])
            assert port != taken
            assert (await Served(port, Waiting()).ask())[0] == 200
            await moved.stop()
        again = HttpServer([web.get("/fine", _fine)])
        assert await again.start("127.0.0.1", port, or_free=True) == f"http://127.0.0.1:{port}"
        await again.stop()

    asyncio.run(asyncio.wait_for(law(), 30))


# -- who is let in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8080", True),
        ("localhost:1", True),
        ("LOCALHOST", True),
        ("[::1]:8080", True),
        ("10.1.2.3:8080", True),  # a probe that calls a pod by its address
        ("gauge.example", True),
        ("Gauge.Example:443", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:127.0.0.1", False),
        ("2130706433", False),
        ("", False),
        ("[::1", False),
        ("user@evil.example", False),
        ("a" * 300, False),
    ],
)
def test_a_request_calls_us_by_an_address_or_by_a_name_that_we_know(host: str, is_ours: bool) -> None:
    async def law(served: Served) -> None:
        answer = await served.ask(Host=host)
        assert answer[0] == 200 if is_ours else is_problem(answer, 421), answer

    run(law, allowed_hosts=["gauge.example:9"])


def test_two_hosts_and_none_are_refused() -> None:
    async def law(served: Served) -> None:
        assert (await served.send(b"GET /fine HTTP/1.1\r\n\r\n"))[0] in {400, 421}
        two = b"GET /fine HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
        assert (await served.send(two))[0] in {400, 421}

    run(law)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec_Fetch_Site": "same-origin", "Origin": "http://localhost:{port}"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
        ({"Origin": "http://localhost:{port}"}, 200),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "text/plain; x=application/json"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content_Type": ""}, 415),
        ({"Content_Type": "application/json; charset=nosuch"}, 415),
        ({"Content_Type": "application/json; charset=utf-16"}, 415),
        ({"Content_Type": "application/json; charset=UTF-8"}, 200),
        ({"Content_Encoding": "gzip"}, 415),
        ({"Content_Encoding": "deflate"}, 415),
    ],
)
def test_a_page_of_another_site_changes_nothing(headers: dict[str, str], status: int) -> None:
    async def law(served: Served) -> None:
        given = {name: value.format(port=served.port) for name, value in headers.items()}
        answer = await served.ask("POST", "/echo", b'{"text": "a"}', **{"Host": f"localhost:{served.port}", **given})
        assert answer[0] == 200 if status == 200 else is_problem(answer, status), answer

    run(law)


def test_no_answer_may_be_read_or_guessed_at_by_another_site() -> None:
    async def law(served: Served) -> None:
        for answer in (await served.ask(), await served.ask(path="/nowhere"), await served.ask(Host="evil.example")):
            headers = answer[1]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert "access-control-allow-origin" not in headers
            assert headers["server"] == "streamgauge"

    run(law)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"text": 1}',
        b'{"text": "a", "more": 1}',
        b'{"text": "a", "limit": 0}',
        b'{"text": "a", "limit": 1.5}',
        b'{"text": "a", "limit": true}',
        b'{"text": "a", "limit": ' + b"9" * 900 + b"}",
        b'{"text": "' + b"a" * 21 + b'"}',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b'{"a":' * 150 + b"1" + b"}" * 150,
        b"[" * 900,
        gzip.compress(b'{"text": "a"}', mtime=0),
    ],
)
def test_a_body_that_is_not_what_is_asked_for_is_a_400(body: bytes) -> None:
    async def law(served: Served) -> None:
        assert is_problem(await served.ask("POST", "/echo", body), 400)

    run(law)


def test_json_as_deep_as_a_body_can_be_is_a_400(monkeypatch: pytest.MonkeyPatch) -> None:
    class Anything(msgspec.Struct):  # that lets unknown fields pass, and so must skip them
        text: str = ""

    async def take(request: web.Request) -> web.Response:
        return respond({"text": (await read_json(request, Anything, 1 << 20, "{}")).text})

    async def law() -> None:
        server = HttpServer([web.post("/deep", take)])
        served = Served(int((await server.start("127.0.0.1", 0)).rpartition(":")[2]), Waiting())
        for body in (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"[" * 900_000):
            assert is_problem(await served.ask("POST", "/deep", body), 400)
        await server.stop()

    asyncio.run(law())


def test_a_body_has_a_limit_whether_its_length_is_told_or_not() -> None:
    async def law(served: Served) -> None:
        assert is_problem(await served.ask("POST", "/echo", b" " * 1_001), 413)
        head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        told = f"{head}Content-Length: 99999999999\r\n\r\n".encode()
        assert is_problem(await served.send(told), 413)
        chunks = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + b"3e9\r\n" + b" " * 1_001 + b"\r\n"
        assert is_problem(await served.send(chunks), 413)

    run(law)


def test_what_is_no_http_is_a_400() -> None:
    async def law(served: Served) -> None:
        for raw in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
            b"GET /fine HTTP/9\r\n\r\n",
            b"FOO BAR\r\n\r\n",
            b"GET /fine HTTP/1.1\r\nHost: localhost\r\nX: \x01\x02\r\n\r\n",
            b"GET /fine HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"a" * 20_000 + b"\r\n\r\n",
            b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        ):
            assert is_problem(await served.send(raw), 400)

    run(law)


def test_what_is_not_served_is_said_as_a_problem() -> None:
    async def law(served: Served) -> None:
        assert is_problem(await served.ask(path="/nowhere"), 404)
        answer = await served.ask("POST", "/fine", b"{}")
        assert is_problem(answer, 405)
        assert answer[1]["allow"] == "GET,HEAD"
        full = await served.ask(path="/full")
        assert is_problem(full, 503)
        assert full[1]["retry-after"] == "2"

    run(law)


def test_a_defect_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    async def law(served: Served) -> None:
        answer = await served.ask(path="/broken?a=%0aforged")
        assert is_problem(answer, 500)
        assert b"secret" not in answer[2]

    run(law)
    assert "KeyError: 'secret'" in caplog.text
    assert "\nforged" not in caplog.text


# -- what a request may cost -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_head_that_does_not_come_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_S", 0.3)

    async def law(served: Served) -> None:
        silent, half, dripping = [await served.connect() for _ in range(3)]
        half[1].write(b"GET /fine HTTP/1.1\r\nHost: localhost\r\n")

        async def drip() -> None:
            with pytest.raises(ConnectionError):  # noqa: PT012  # each write may be the one
                for number in range(1_000):
                    dripping[1].write(b"GET /fine HTTP/1.1\r\nHost: localhost\r\n" if not number else b"X: y\r\n")
                    await dripping[1].drain()
                    await asyncio.sleep(0.02)

        before = time.monotonic()
        await asyncio.gather(drip(), silent[0].read(), half[0].read())
        assert time.monotonic() - before < 10
        for _, writer in (silent, half, dripping):
            writer.close()

    run(law)


@pytest.mark.slow
def test_a_body_that_does_not_come_is_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "BODY_S", 0.2)
    monkeypatch.setattr(http_server, "_LINGER_S", 0.1)

    async def law(served: Served) -> None:
        raw = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        assert is_problem(await served.send(raw), 408)

    run(law)


def test_silent_connections_make_room_for_one_that_asks() -> None:
    async def law(served: Served) -> None:
        silent = [await served.connect() for _ in range(6)]
        silent[5][1].write(b"GET /fine")
        await silent[5][1].drain()
        for _ in range(10):
            assert (await served.ask())[0] == 200
        for _, writer in silent:
            writer.close()

    run(law, most_connections=4)


def test_with_all_connections_at_work_another_is_told_to_come_again() -> None:
    async def law(served: Served) -> None:
        at_work = [asyncio.create_task(served.ask(path="/waiting")) for _ in range(4)]
        await served.waiting.begun.wait()

        async def is_full() -> bool:
            answer = await served.ask()
            return answer[0] == 503 and is_problem(answer, 503) and answer[1]["retry-after"] == "1"

        while not await is_full():
            pass
        served.waiting.go.set()
        assert [answer[0] for answer in await asyncio.gather(*at_work)] == [200] * 4
        assert (await served.ask())[0] == 200

    run(law, most_connections=4)


def test_who_goes_away_is_not_worked_for() -> None:
    async def law(served: Served) -> None:
        _, writer = await served.connect()
        writer.write(b"GET /waiting HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await served.waiting.begun.wait()
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        await served.waiting.cancelled.wait()

    run(law)


def test_a_server_stops_although_somebody_is_connected() -> None:
    async def law() -> None:
        async with serving() as served:
            _, writer = await served.connect()
            writer.write(b"GET /fine")
        writer.close()

    before = time.monotonic()
    asyncio.run(law())
    assert time.monotonic() - before < 10
