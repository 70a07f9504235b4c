"""A password is in nothing that is printed, logged, written or listed, whatever goes wrong on the way to its server."""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
import socketserver
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from clickhouse_front import USER, ClickHouseFront
from warm_start import run_warm

from app.adapters.clickhouse.scratch_engine import ScratchEngine
from app.adapters.clickhouse.warehouse import ClickHouseWarehouse
from app.adapters.http import row_writers
from app.adapters.http.row_writers import RowWriter
from app.kafka_access import KafkaAccess
from app.secret import Secret
from app.settings import Settings

PASSWORD = "can/ary#42?x@y:z &+%"  # noqa: S105  # of a server of this test
#: In each form in which somebody may have written it.
FORMS = (
    PASSWORD,
    quote(PASSWORD),
    quote(PASSWORD, safe=""),
    repr(PASSWORD)[1:-1],
    base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
    "ary#42",
    "ary%2342",
)


def leaks(text: str) -> list[str]:
    return [form for form in FORMS if form in text]


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseFront]:
    with ClickHouseFront(tmp_path_factory.mktemp("front"), PASSWORD) as front:
        yield front


class Garbage(socketserver.BaseRequestHandler):
    """Answers with something that a careless client would show: the request itself."""

    def handle(self) -> None:
        asked = self.request.recv(65536)
        text = b"HTTP/1.1 500 Odd\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(asked)
        self.request.sendall(text + asked)


@contextmanager
def garbage() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Garbage) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def connect_all_ways(url: Secret, home: Path) -> Iterator[Callable[[], Any]]:
    yield lambda: ClickHouseWarehouse(url).wait_ready(0)
    yield lambda: ClickHouseWarehouse(url).migrate()
    yield lambda: ClickHouseWarehouse(url).query_readonly("SELECT 1")
    yield lambda: ClickHouseWarehouse(url).query("SELECT nonsense")
    yield lambda: ClickHouseWarehouse(url).latest_checkpoint("p")
    yield lambda: RowWriter(url, home).query("SELECT nonsense")
    yield lambda: RowWriter(url, home).__enter__()
    yield lambda: ScratchEngine(url).__enter__()
    yield lambda: ScratchEngine(url).run("SELECT nonsense")


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid:1", "garbage", "refuses", "takes"])
def test_no_error_of_a_connection_holds_the_password(
    front: ClickHouseFront, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(row_writers, "_READY_SECONDS", 0.1)  # it will not come
    caplog.set_level(logging.DEBUG)
    logging.getLogger("clickhouse_connect").setLevel(logging.DEBUG)
    with garbage() as port:
        where = {
            "garbage": f"127.0.0.1:{port}",
            "refuses": f"127.0.0.1:{front.port}",
            "takes": f"127.0.0.1:{front.port}",
        }
        user = "nobody" if host == "refuses" else USER
        failed = []
        for text in (f"http://{user}:{PASSWORD.replace('%', '%25')}@", f"http://{user}:{quote(PASSWORD, safe='')}@"):
            url = Secret(text + where.get(host, host))
            for way in connect_all_ways(url, tmp_path):
                try:
                    way()
                except Exception as error:  # noqa: BLE001  # whatever it is, it is shown
                    failed.append("".join(traceback.format_exception(error)))
    assert len(failed) >= (4 if host == "takes" else 16)
    assert leaks("\n".join([*failed, caplog.text])) == []


@pytest.mark.parametrize(
    ("command", "where"),
    [
        ("query", "@127.0.0.1:1"),
        ("check", "@127.0.0.1:1"),
        ("query", "@refuses"),
        ("check", "@refuses"),
        *((command, "") for command in ("query", "check", "migrate", "up", "monitor")),  # host and @ are forgotten
    ],
)
def test_no_command_prints_the_password(front: ClickHouseFront, tmp_path: Path, command: str, where: str) -> None:
    user = "nobody" if where == "@refuses" else USER
    at = where.replace("refuses", f"127.0.0.1:{front.port}")
    url = f"http://{user}:{PASSWORD.replace('%', '%25')}{at}"
    run = run_warm(
        [command, *(["SELECT nonsense"] if command == "query" else [])],
        env={
            **os.environ,
            **Settings.read({"STREAMGAUGE_HOME": str(tmp_path), "STREAMGAUGE_CLICKHOUSE": url}).to_environment(),
            "STREAMGAUGE_LOG_LEVEL": "DEBUG",
        },
        timeout=120,
    )
    said = (run.stdout + run.stderr).decode()
    assert run.returncode != 0
    assert leaks(said) == []
    assert "Traceback" not in said


def test_a_stack_with_a_server_of_its_own_keeps_the_password(
    kafka: KafkaAccess, front: ClickHouseFront, tmp_path: Path
) -> None:
    """On the screen, in logs, in the run file, in the list of processes, and in what the server's failure says."""
    settings = Settings.read(
        {
            "STREAMGAUGE_HOME": str(tmp_path),
            "STREAMGAUGE_KAFKA": kafka.servers,
            "STREAMGAUGE_CLICKHOUSE": f"http://{USER}:{PASSWORD.replace('%', '%25')}@127.0.0.1:{front.port}",
            "STREAMGAUGE_LOG_LEVEL": "DEBUG",
        }
    )
    command = [sys.executable, "-P", "-m", "app", "up", "--json"]
    with subprocess.Popen(
        command,
        env={**os.environ, **settings.to_environment()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stdout is not None
        assert up.stderr is not None
        try:
            line = up.stdout.readline()
            shown = [line, (tmp_path / "run.json").read_text()]
            assert json.loads(line)["clickhouse"] == f"http://{USER}:***@127.0.0.1:{front.port}"
            processes = psutil.Process(up.pid).children(recursive=True)
            assert len(processes) >= 2
            for process in (psutil.Process(up.pid), *processes):
                with suppress(psutil.NoSuchProcess):  # what has ended meanwhile shows nothing any more
                    shown.append(" ".join(process.cmdline()))
        finally:
            up.send_signal(signal.SIGINT)
        shown += [up.stdout.read(), up.stderr.read()]
    logs = [path.read_text(errors="replace") for path in (tmp_path / "logs").iterdir()]
    assert any(logs)
    assert leaks("\n".join(shown + logs)) == []
