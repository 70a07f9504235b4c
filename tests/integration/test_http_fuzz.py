"""No request, right, wrong or broken, is answered with a defect, held up, or lasts."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from core_setting import build
from hook_without_kafka import World
from http_fuzz import Fuzzer, Outcome

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.clickhouse.warehouse import ClickHouseWarehouse
from app.adapters.http import server as http_server
from app.adapters.http.monitor import MonitorHttp, Sources
from app.adapters.http.worker import METRICS, Health, Sample, WorkerHttp
from app.core.alerts.cases import AcknowledgeError

FULL = os.environ.get("STREAMGAUGE_CHAOS") == "full"
REQUESTS = 5_000 if FULL else 300
#: 2 s by itself (`make chaos`); tests beside this one may hold up any answer.
NO_HANG_S = 2 if FULL else 15


async def _refuse(alert_id: str, by: str, why: str) -> None:
    raise AcknowledgeError(f"There is no alert {alert_id}.", is_unknown=True)


def sources() -> Sources:
    return Sources(
        pipeline="p",
        health=lambda: Health(live=True, ready=True, why=""),
        samples=list,
        status=lambda: {"pipeline": "p"},
        lag=lambda: {"worker": [], "monitor": []},
        acknowledge=_refuse,
    )


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of requests that are not whole: what ends them is tested elsewhere."""
    monkeypatch.setattr(http_server, "HEAD_S", 0.5)
    monkeypatch.setattr(http_server, "BODY_S", 0.5)
    monkeypatch.setattr(http_server, "_LINGER_S", 0.2)


def check(outcome: Outcome) -> None:
    assert outcome.wrong == []
    assert outcome.slowest_s < NO_HANG_S, outcome.answers
    assert outcome.answers.total() == REQUESTS
    assert {"200", "400", "404", "405", "421"} <= outcome.answers.keys()


@pytest.mark.parametrize("seed", [1, 2] if FULL else [1])
def test_a_monitor_answers_strangers(tmp_path: Path, seed: int) -> None:
    async def run() -> Outcome:
        engine = ClickHouseWarehouse(path=tmp_path / "clickhouse", query_seconds=1)
        thread = WarehouseThread(engine)
        await thread.open(30)
        http = MonitorHttp(sources(), thread, engine)
        address = await http.start("127.0.0.1", 0)
        try:
            outcome = await asyncio.to_thread(Fuzzer(address, seed).run, REQUESTS)
        finally:
            await http.stop()
        assert (thread.error, thread.failures) == ("", 0)
        await thread.close()
        return outcome

    check(asyncio.run(run()))


def test_a_worker_answers_strangers(tmp_path: Path) -> None:
    async def run() -> Outcome:
        samples = [Sample(metric.name, 0.0, {}) for metric in METRICS]
        http = WorkerHttp(lambda: Health(live=True, ready=True, why=""), lambda: samples, World(build(tmp_path)).hook)
        address = await http.start("127.0.0.1", 0)
        try:
            return await asyncio.to_thread(Fuzzer(address, 3).run, REQUESTS)
        finally:
            await http.stop()

    outcome = asyncio.run(run())
    check(outcome)
    assert "422" in outcome.answers


@pytest.mark.parametrize("expected", [b"100-co\xa3", b"\xff", b"x", b""])
@pytest.mark.parametrize("path", [b"/healthz", b"/nowhere"])
def test_what_nobody_can_expect_is_no_defect(tmp_path: Path, expected: bytes, path: bytes) -> None:
    async def run() -> bytes:
        http = WorkerHttp(lambda: Health(live=True, ready=True, why=""), list, World(build(tmp_path)).hook)
        address = await http.start("127.0.0.1", 0)
        raw = b"GET %s HTTP/1.1\r\nHost: %s\r\nExpect: %s\r\nConnection: close\r\n\r\n"
        raw %= (path, address[7:].encode(), expected)
        try:
            return await asyncio.to_thread(Fuzzer(address, 0)._send, raw)
        finally:
            await http.stop()

    assert asyncio.run(run())[9:10] in {b"2", b"4"}
