"""What the HTTP of a real monitor and a real worker owes to many, to the hostile and to those who come too late."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from monitor_bench import Bench

from app.adapters.http.row_pieces import CONTENT_TYPE
from app.exits import EXIT_CONFIG
from app.kafka_access import KafkaAccess
from app.settings import Settings

SLOW = b'{"sql": "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"}'
#: More than run and wait together, on any machine.
MANY = 2 * max(2, os.cpu_count() or 1) + 30


@pytest.fixture(scope="module")
def address(kafka: KafkaAccess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a monitor that is at work."""
    bench = Bench(kafka, tmp_path_factory.mktemp("serving"))
    asyncio.run(bench.prepare())
    with bench.monitor() as (_, client):
        until = time.monotonic() + 60
        while call(client.address, "/readyz")[0] != 200:
            assert time.monotonic() < until, bench.log()
        yield client.address


def call(
    address: str, path: str, body: bytes | None = None, kind: str = "application/json"
) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(address + path, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            assert isinstance(response, HTTPResponse)
            return response.status, response.read(), dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def test_page_and_status_wait_for_nobody_and_queries_end_with_who_asked(address: str) -> None:
    at = urlsplit(address)
    head = f"POST /api/v1/query HTTP/1.1\r\nHost: {at.netloc}\r\nContent-Type: application/json\r\n"
    raw = f"{head}Content-Length: {len(SLOW)}\r\n\r\n".encode() + SLOW
    askers = [socket.create_connection((str(at.hostname), int(at.port or 0))) for _ in range(MANY)]
    try:
        for asker in askers:
            asker.sendall(raw)
        code, body, headers = call(address, "/api/v1/query", b'{"sql": "SELECT 1"}')
        assert (code, int(headers["Retry-After"]) > 0) == (503, True), body
        assert json.loads(body)["detail"] == "Too many queries run and wait already: ask again soon."
        for path in ("/api/v1/status", "/", "/healthz", "/readyz", "/metrics", "/api/v1/alerts?now=open") * 5:
            before = time.monotonic()
            assert call(address, path)[0] == 200
            assert time.monotonic() - before < 2, path
    finally:
        for asker in askers:
            asker.close()
    until = time.monotonic() + 10  # far less than the time limit of those queries
    while call(address, "/api/v1/query", b'{"sql": "SELECT 1"}')[0] != 200:
        assert time.monotonic() < until
    running = b'{"sql": "SELECT count() FROM system.processes WHERE query LIKE \'%sipHash64%1000000000000%\'"}'
    while json.loads(call(address, "/api/v1/query", running)[1])["rows"] != [[1]]:  # this one itself
        assert time.monotonic() < until


def test_rows_that_are_none_leave_the_monitor_ready(address: str) -> None:
    for body in (b"", b"\xc1", b"\x80", b"\x81\xa5score\xdd\x01\x00\x00\x00" + b"\x90" * (1 << 24)):
        code, said, _ = call(address, "/api/v1/rows/backfilled_scores", body, CONTENT_TYPE)
        assert (code, json.loads(said)["status"]) == (400, 400)
    assert call(address, "/readyz")[0] == 200


def test_large_answers_come_whole_to_many_at_a_time(address: str) -> None:
    body = b'{"sql": "SELECT number, repeat(\'x\', 100) AS word FROM numbers(100000)", "limit": 100000}'
    with ThreadPoolExecutor(4) as threads:
        for code, said, _ in threads.map(lambda _: call(address, "/api/v1/query", body), range(8)):
            assert code == 200
            found = json.loads(said)
            assert [row[0] for row in found["rows"]] == list(range(100_000))
            assert (found["columns"], found["truncated"]) == (["number", "word"], False)


@pytest.mark.parametrize("command", ["monitor", "worker"])
def test_a_taken_port_is_a_persons_to_mend(kafka: KafkaAccess, tmp_path: Path, command: str) -> None:
    """Started again and again, it would say so again and again."""
    settings = Settings.read({"STREAMGAUGE_HOME": str(tmp_path), "STREAMGAUGE_KAFKA": kafka.servers})
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = subprocess.run(
            [sys.executable, "-P", "-m", "app", command, "--http-port", str(port)],
            env={**os.environ, **settings.to_environment()},
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == EXIT_CONFIG
    assert run.stderr.splitlines()[-1] == (
        f"Error: HTTP cannot listen on 127.0.0.1:{port} (Address already in use): choose another --http-port or"
        " --http-host."
    )
    assert "Traceback" not in run.stderr
