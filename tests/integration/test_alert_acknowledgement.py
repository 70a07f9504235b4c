"""A person takes an alert on: once, by name, and for as long as it lasts, whatever is killed or lost meanwhile."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from memory_warehouse import MemoryWarehouse
from monitor_bench import N_PERFORMANCE, START_MS, Bench, Client

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.http.alert_answers import NotAtWorkError
from app.adapters.kafka.topic_reader import read_to_end
from app.cli.alerts import command
from app.core.alerts.cases import AcknowledgeError
from app.kafka_access import KafkaAccess
from app.monitor.context import Pace
from app.monitor.monitor import Monitor
from schemas.wire import Alert, decode_json

QUICK = Pace(flush=0.05, collect=0.05, checkpoint=0.2, housekeeping=0.2)


async def read_alerts(bench: Bench) -> list[Alert]:
    found = []
    async for batch in read_to_end(bench.kafka, [bench.pipeline.topics.alerts]):
        found.extend(decode_json(value, Alert) for value in batch.values if value is not None)
    return found


def call(*arguments: str) -> tuple[int, str, str]:
    ended = CliRunner(env={"STREAMGAUGE_HOME": "/nowhere"}).invoke(command, arguments)
    return ended.exit_code, ended.stdout, ended.stderr


def post(client: Client, path: str, body: bytes, kind: str = "application/json") -> tuple[int, Any]:
    request = urllib.request.Request(client.address + path, body, {"Content-Type": kind}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def test_an_acknowledgement_is_told_once_and_survives_a_kill(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path)
    await bench.prepare()
    with bench.monitor() as (_, client):  # killed at the end of the block
        await bench.produce(0, 1)
        await bench.wait_for_rows(client, 1_000, N_PERFORMANCE, 20)
        alert_id = await asyncio.to_thread(check_commands, client)
    with bench.monitor() as (_, client):

        async def is_up() -> bool:
            status = await asyncio.to_thread(client.get, "/api/v1/status")
            return status["state"] == "at work"

        await bench.until(is_up)
        (alert,) = client.get("/api/v1/alerts?now=open")["alerts"]
        assert (alert["alert_id"], alert["state"], alert["who"], alert["why"]) == (
            alert_id,
            "acknowledged",
            "ann",
            "asked upstream",
        )
        await asyncio.to_thread(client.see, "asked upstream")
        code, answer = await asyncio.to_thread(
            post, client, f"/api/v1/alerts/{alert_id}/acknowledge", b'{"by": "bob", "why": "mine"}'
        )
        assert (code, "was acknowledged by ann" in answer["detail"]) == (409, True)
    said = [alert for alert in await read_alerts(bench) if alert.alert_id == alert_id]
    assert [(alert.state, alert.revision, alert.by) for alert in said] == [
        ("raised", 1, ""),
        ("acknowledged", 2, "ann"),
    ]


def check_commands(client: Client) -> str:
    monitor = ["--monitor", client.address]
    code, out, _ = call("list", *monitor, "--json")
    (alert,) = json.loads(out)["alerts"]
    alert_id: str = alert["alert_id"]
    assert (code, alert["state"], alert["rule"], alert["action"]) == (0, "raised", "auc-fell", "retrain")
    path = f"/api/v1/alerts/{alert_id}/acknowledge"
    for body, kind, status, words in (
        (b"[]", "application/json", 400, "Expected `object`"),
        (b'{"by": " ", "why": "x"}', "application/json", 400, "Say who and why"),
        (json.dumps({"by": "a" * 201, "why": "x"}).encode(), "application/json", 400, "length <= 200"),
        (b'{"by": "a", "why": "x"}', "text/plain", 415, "Content-Type"),
    ):
        code, answer = post(client, path, body, kind)
        assert (code, words in answer["detail"]) == (status, True)
    assert post(client, "/api/v1/alerts/none/acknowledge", b'{"by": "a", "why": "x"}')[0] == 404
    taken = ["ack", alert_id, "--by", "ann", "--why", "asked upstream", *monitor]
    assert call(*taken) == (0, f"{alert_id} is acknowledged by ann: asked upstream\n", "")
    assert call(*taken)[0] == 0  # an answer may get lost: the same words again are the same
    code, _, told = call("ack", alert_id, "--by", "bob", "--why", "mine", *monitor)
    assert code == 1
    assert told.startswith(f"Error: The alert {alert_id} (auc-fell of m 1.0.0) was acknowledged by ann at ")
    assert told.rstrip().endswith('"asked upstream".')
    code, _, told = call("ack", "none", "--by", "bob", "--why", "mine", *monitor)
    assert (code, told.startswith("Error: There is no alert none of m")) == (1, True)
    code, out, _ = call("list", *monitor)
    assert (code, "taken on by ann: asked upstream" in out) == (0, True)
    assert call("list", "--monitor", "nowhere")[0] == 2
    assert call("ack", alert_id, "--by", "bob")[0] == 2
    code, _, told = call("list")
    assert (code, "No stack runs in /nowhere" in told) == (1, True)
    states = {row["state"]: row["revision"] for row in client.get("/api/v1/alerts")["alerts"]}
    assert states == {"raised": 1, "acknowledged": 2}
    with pytest.raises(urllib.error.HTTPError, match="400"):
        client.get("/api/v1/alerts?now=later")
    return alert_id


async def test_a_monitor_whose_checkpoint_is_of_no_use_tells_no_alert_again(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path)
    await bench.prepare()
    await bench.produce(0, 1)
    warehouse = MemoryWarehouse()
    for term in (1, 2):
        thread = WarehouseThread(warehouse)
        monitor = Monitor(bench.pipeline, kafka, thread, lambda: START_MS, QUICK)
        with pytest.raises(NotAtWorkError, match="not at work"):
            await monitor.acknowledge("any", "ann", "mine")
        running = asyncio.create_task(monitor.run())

        async def has_read_all(monitor: Monitor = monitor) -> bool:
            watch = monitor.term
            return (
                watch is not None
                and sum(row["label_maturity"] is not None for row in warehouse.read("performance")) == N_PERFORMANCE
                and all(position.lag == 0 for position in monitor.lag.of_monitor.values())
                and bool(monitor.lag.of_monitor)
            )

        await bench.until(has_read_all)
        (alert_id,) = {row["alert_id"] for row in warehouse.read("alerts")}
        if term == 1:
            await monitor.acknowledge(alert_id, "ann", "mine")
        else:
            with pytest.raises(AcknowledgeError, match=r'was acknowledged by ann at .*: "mine"'):
                await monitor.acknowledge(alert_id, "bob", "no, mine")
        monitor.stop()
        assert await running == 0, monitor.failure
        saved = warehouse.latest_checkpoint(bench.pipeline.name)
        assert saved is not None
        warehouse.save_checkpoint(bench.pipeline.name, saved.offsets, b"of another release", term=term)
    assert [(alert.state, alert.by) for alert in await read_alerts(bench)] == [
        ("raised", ""),
        ("acknowledged", "ann"),
    ]
