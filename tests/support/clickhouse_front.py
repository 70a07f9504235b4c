"""A ClickHouse server as far as our client can tell: its HTTP interface over the embedded engine, and faults on demand.

``ClickHouseFront`` starts this file as a process of its own, so that it can be killed. What goes wrong is drawn by a
seeded generator for each insert: see `Faults`. A request has an engine session of its own, as over HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gzip
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

USER, PASSWORD = "gauge", os.environ.get("FRONT_PASSWORD", "secret word")
#: A second user, who may only read.
READER = "reader"
#: Query parameters of the HTTP interface that are no settings of the engine.
_TRANSPORT = frozenset(
    {
        *("query", "query_id", "database", "user", "password", "role", "quota_key"),
        *("session_id", "session_timeout", "session_check", "compress", "decompress", "buffer_size"),
        *("wait_end_of_query", "client_protocol_version", "enable_http_compression", "send_progress_in_http_headers"),
        *("http_headers_progress_interval_ms", "cancel_http_readonly_queries_on_client_close"),
    }
)
_INSERT = re.compile(rb"\s*INSERT INTO (.+?) FORMAT (\w+)[ \t]*(?:\n|$)", re.DOTALL)
_CODE = re.compile(r"Code: (\d+)\.")
#: What a busy, a starting and a broken server says: code, HTTP status, words.
ERRORS = (
    (202, 503, "Too many simultaneous queries. Maximum: 100. (TOO_MANY_SIMULTANEOUS_QUERIES)"),
    (241, 500, "(total) memory limit exceeded: would use 1.80 GiB, maximum: 1.80 GiB. (MEMORY_LIMIT_EXCEEDED)"),
    (252, 500, "Too many parts (3000 with average size of 1.00 KiB) in table. Merges are slower. (TOO_MANY_PARTS)"),
    (999, 500, "Coordination error: Connection loss. (KEEPER_EXCEPTION)"),
)


@dataclass
class Faults:
    """Shares of inserts (0 to 1) that go wrong, each in its way.

    Parameters
    ----------
    error
        Answered with one of ``errors``; nothing is applied.
    drop_before, drop_after
        The connection ends without an answer, before or after the insert was applied.
    half_before, half_after
        The answer stops within its headers, before or after the insert was applied.
    slow, slow_s
        So many are applied only after so many seconds.
    every
        Whether queries and commands go wrong as well.
    errors
        Code, HTTP status and words to choose from.
    """

    seed: int = 1
    error: float = 0.0
    drop_before: float = 0.0
    drop_after: float = 0.0
    half_before: float = 0.0
    half_after: float = 0.0
    slow: float = 0.0
    slow_s: float = 0.0
    every: bool = False
    errors: list[tuple[int, int, str]] = field(default_factory=lambda: list(ERRORS))


class ClickHouseFront:
    """Starts, harms and stops the server; ``url`` stays the same over all of it."""

    def __init__(self, folder: Path, password: str = PASSWORD) -> None:
        self.folder = folder
        self._password = password
        self.port, self._control = _free_port(), _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_of(USER, self._password)

    def url_of(self, user: str, password: str = PASSWORD) -> str:
        return f"http://{user}:{quote(password)}@127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start, or start again on what an earlier one left; returns when it answers."""
        command = [sys.executable, "-P", str(Path(__file__)), str(self.folder), str(self.port), str(self._control)]
        environment = {**os.environ, "FRONT_PASSWORD": self._password}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != b"ready":
            raise RuntimeError(f"the front ended with {self.process.wait()}")
        return self

    def kill(self) -> None:
        """End it without a warning."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def harm(self, faults: Faults | None = None) -> None:
        """Let inserts go wrong from now on; without an argument, let all be well again."""
        self._ask("faults", asdict(faults or Faults()))

    def set_down(self, is_down: bool) -> None:
        """Refuse connections and end those there are, or listen again."""
        self._ask("down", {"is_down": is_down})

    def set_hanging(self, is_hanging: bool) -> None:
        """Take requests and answer none of them, or go on."""
        self._ask("hang", {"is_hanging": is_hanging})

    def query(self, sql: str) -> list[list[Any]]:
        """Ask the engine itself, without faults, as its owner."""
        return list(self._ask("sql", {"sql": sql})["rows"])

    def stats(self) -> dict[str, int]:
        """Count requests: "insert" applied, "repeated" (a query_id seen before), and one entry per fault."""
        return dict(self._ask("stats", {}))

    def _ask(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self._control}/{what}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as response:
            return dict(json.load(response))


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


# -- the process -------------------------------------------------------------------------------------------------------


class Refused(Exception):  # noqa: N818  # an answer rather than an error
    """A query that the engine did not run."""

    def __init__(self, code: int, words: str, status: int = 500) -> None:
        super().__init__(words)
        self.code, self.status = code, status
        self.words = words if words.startswith("Code:") else f"Code: {code}. DB::Exception: {words} (version 25.8.1.1)"


class Engine:
    """The embedded engine: a session for each request."""

    def __init__(self, path: Path) -> None:
        import chdb  # noqa: PLC0415  # half a second, and only the process needs it

        self._connect = lambda: chdb.connect(str(path))
        self._first = self._connect()  # keeps the engine open
        self._uploads = tempfile.mkdtemp(prefix="front-", dir=path.parent)

    def run(self, sql: bytes, settings: dict[str, str], params: dict[str, str], database: str, form: str) -> bytes:
        session = self._connect()
        try:
            if database:
                session.query(f"USE `{database}`")
            for name, value in settings.items():
                session.query(f"SET {name} = {_literal(value)}")
            upload = _INSERT.match(sql)
            if upload is None:
                return bytes(session.query(sql, form, params=params).bytes() or b"")
            return self._insert(session, upload, sql)
        except RuntimeError as error:
            text = str(error)
            code = int(found[1]) if (found := _CODE.search(text)) else 1001
            raise Refused(code, text[text.find("Code: ") :], 404 if code in {60, 81} else 500) from error
        finally:
            with suppress(Exception):
                session.close()

    def _insert(self, session: Any, upload: re.Match[bytes], sql: bytes) -> bytes:
        into, kind = upload[1].decode(), upload[2].decode()
        handle, name = tempfile.mkstemp(dir=self._uploads)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(sql[upload.end() :])
            session.query(f"INSERT INTO {into} FROM INFILE '{name}' FORMAT {kind}")
        finally:
            Path(name).unlink()
        return b""


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Front:
    """The HTTP interface."""

    def __init__(self, engine: Engine, port: int) -> None:
        self._engine = engine
        self._port = port
        self._threads = ThreadPoolExecutor(4)
        self._faults, self._chance = Faults(), random.Random(1)  # noqa: S311  # chance that can be repeated
        self._counts: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._may_answer = asyncio.Event()
        self._may_answer.set()
        self._runner: Any = None
        self._connections: set[asyncio.Transport] = set()

    async def listen(self) -> None:
        from aiohttp import web  # noqa: PLC0415  # only the process needs it

        app = web.Application(client_max_size=1 << 30)
        app.add_routes([web.get("/ping", self._ping), web.route("*", "/", self._answer)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()

    async def control(self, request: Any) -> Any:
        from aiohttp import web  # noqa: PLC0415

        body, what = await request.json(), request.match_info["what"]
        if what == "faults":
            self._faults, self._chance = Faults(**body), random.Random(body["seed"])  # noqa: S311  # as above
        elif what == "hang":
            (self._may_answer.clear if body["is_hanging"] else self._may_answer.set)()
        elif what == "down":
            if body["is_down"] and self._runner is not None:
                for transport in self._connections:
                    transport.abort()
                runner, self._runner = self._runner, None
                await runner.cleanup()
            elif not body["is_down"] and self._runner is None:
                await self.listen()
        elif what == "sql":
            found = await self._run(body["sql"].encode() + b"\n FORMAT JSONCompactEachRow" * _reads(body["sql"]))
            return web.json_response({"rows": [json.loads(line) for line in found.splitlines()]})
        return web.json_response(self._counts)

    async def _ping(self, _: Any) -> Any:
        from aiohttp import web  # noqa: PLC0415

        return web.Response(text="Ok.\n")

    async def _answer(self, request: Any) -> Any:
        from aiohttp import web  # noqa: PLC0415

        self._connections = {each for each in self._connections if not each.is_closing()} | {request.transport}
        parameters = dict(request.query)
        body = await request.read()
        if request.content_type == "multipart/form-data":
            parameters |= {name: str(value) for name, value in (await request.post()).items()}
            body = b""
        sql = b"\n".join(filter(None, [parameters.pop("query", "").encode(), body]))
        is_insert = sql.lstrip()[:6].upper() == b"INSERT"
        await self._may_answer.wait()
        fault = self._draw() if is_insert or self._faults.every else ""
        self._count(fault, parameters.get("query_id", ""))
        if fault.endswith("before"):
            return self._cut(request, fault)
        if self._faults.slow and self._chance.random() < self._faults.slow:
            await asyncio.sleep(self._faults.slow_s)
        headers = {"X-ClickHouse-Query-Id": parameters.get("query_id", ""), "X-ClickHouse-Timezone": "UTC"}
        try:
            self._refuse_if(fault == "error")
            form = request.headers.get("X-ClickHouse-Format", "TabSeparated")
            found = await self._run(sql, parameters, self._user(request), form)
        except Refused as refused:
            headers["X-ClickHouse-Exception-Code"] = str(refused.code)
            return web.Response(text=refused.words + "\n", status=refused.status, headers=headers)
        self._counts["insert"] += is_insert
        if fault:
            return self._cut(request, fault)
        headers["X-ClickHouse-Summary"] = "{}"
        if found:
            headers["X-ClickHouse-Format"] = "TabSeparated"
        accepted = request.headers.get("Accept-Encoding", "")
        if found and parameters.get("enable_http_compression") == "1" and "gzip" in accepted:
            headers["Content-Encoding"], found = "gzip", gzip.compress(found, 1)
        return web.Response(body=found, headers=headers)

    def _refuse_if(self, is_error: bool) -> None:
        if is_error:
            code, status, words = self._chance.choice(self._faults.errors)
            raise Refused(code, words, status)

    def _user(self, request: Any) -> str:
        given = request.headers.get("Authorization", "").removeprefix("Basic ")
        user, _, password = base64.b64decode(given).decode().partition(":")
        if user not in {USER, READER} or password != PASSWORD:
            words = f"{user}: Authentication failed: password is incorrect, or there is no user with such name."
            raise Refused(516, f"{words} (AUTHENTICATION_FAILED)", 403)
        return user

    async def _run(
        self, sql: bytes, parameters: dict[str, str] | None = None, user: str = USER, form: str = "TabSeparated"
    ) -> bytes:
        given = parameters or {}
        settings = {k: v for k, v in given.items() if k not in _TRANSPORT and not k.startswith("param_")}
        if user == READER:
            settings = {"readonly": "1"}
        elif (readonly := settings.pop("readonly", None)) is not None:
            settings["readonly"] = readonly  # locks the others, so it comes last
        if query_id := given.get("query_id"):  # the engine in process takes none
            settings = {"log_comment": query_id, **settings}
        sql = sql.replace(b"KILL QUERY WHERE query_id", b"KILL QUERY WHERE Settings['log_comment']")
        params = {name[6:]: value for name, value in given.items() if name.startswith("param_")}
        work = self._engine.run, sql, settings, params, given.get("database", ""), form
        return await asyncio.get_running_loop().run_in_executor(self._threads, *work)

    def _draw(self) -> str:
        drawn, faults = self._chance.random(), self._faults
        for name in ("error", "drop_before", "drop_after", "half_before", "half_after"):
            share = getattr(faults, name)
            if drawn < share:
                return name
            drawn -= share
        return ""

    def _count(self, fault: str, query_id: str) -> None:
        if fault:
            self._counts[fault] += 1
        if query_id in self._seen:
            self._counts["repeated"] += 1
        self._seen.add(query_id)

    def _cut(self, request: Any, fault: str) -> Any:
        from aiohttp import web  # noqa: PLC0415

        if fault.startswith("half"):  # a status and progress, as a server sends them before it is done
            request.transport.write(b'HTTP/1.1 200 OK\r\nX-ClickHouse-Progress: {"read_rows":"1"}\r\n')
        request.transport.close()
        return web.Response()


def _reads(sql: str) -> bool:
    return sql.lstrip()[:6].upper() in {"SELECT", "SHOW T"}


async def serve(folder: Path, port: int, control: int) -> None:
    from aiohttp import web  # noqa: PLC0415

    deadline = time.monotonic() + 30
    while True:
        try:
            engine = Engine(folder)
            break
        except RuntimeError:  # the one that was killed still holds the folder
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
    front = Front(engine, port)
    await front.listen()
    app = web.Application()
    app.add_routes([web.post("/{what}", front.control)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", control).start()
    print("ready", flush=True)  # noqa: T201  # what the parent waits for
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("control", type=int)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(serve(given.folder, given.port, given.control))


if __name__ == "__main__":
    main()
