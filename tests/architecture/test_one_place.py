"""What must be the same everywhere is made in one place: clients of Kafka, readings of the wall clock, HTTP servers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for top in ("app", "models", "schemas", "streamgauge") for path in (ROOT / top).rglob("*.py"))

KAFKA, HTTP = frozenset({"app/adapters/kafka/clients.py"}), frozenset({"app/adapters/http/server.py"})
#: By the last part of what is called: the only files that may.
PLACES = {
    "AIOKafkaProducer": KAFKA,
    "AIOKafkaConsumer": KAFKA,
    "AIOKafkaAdminClient": KAFKA,
    "AIOKafkaClient": KAFKA,
    "LeanConsumer": KAFKA,
    "TransactionalProducer": KAFKA,
    "AppRunner": HTTP,
    "TCPSite": HTTP,
    "run_app": HTTP,
    "HttpServer": frozenset(
        {"app/adapters/http/hooks.py", "app/adapters/http/monitor.py", "app/adapters/http/worker.py"}
    ),
}
#: Readings of the wall clock. A benchmark stamps what it sees as it sees it.
CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "dt.datetime.now", "datetime.utcnow"}
CLOCK_PLACES = frozenset({"app/clock.py", "app/bench/lane.py", "app/bench/probe.py"})


def calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def find_strays(path: str, text: str) -> list[str]:
    strays = []
    for line, name in calls(ast.parse(text)):
        allowed = CLOCK_PLACES if name in CLOCKS else PLACES.get(name.rpartition(".")[2])
        if allowed is not None and path not in allowed:
            strays.append(f"line {line} calls {name}; only {', '.join(sorted(allowed))} may")
    return strays


def test_each_is_made_in_its_place() -> None:
    names = {path: path.relative_to(ROOT).as_posix() for path in FILES}
    strays = {name: find_strays(name, path.read_text(encoding="utf-8")) for path, name in names.items()}

    assert {name: found for name, found in strays.items() if found} == {}


@pytest.mark.parametrize(
    "text",
    [
        "AIOKafkaProducer(bootstrap_servers='x')",
        "aiokafka.AIOKafkaConsumer()",
        "import time\ntime.time()",
        "datetime.now(UTC)",
        "web.AppRunner(app)",
        "HttpServer([])",
    ],
)
def test_a_stray_is_found(text: str) -> None:
    assert find_strays("app/worker/stray.py", text) != []


@pytest.mark.parametrize("path", sorted({*CLOCK_PLACES, *(place for places in PLACES.values() for place in places)}))
def test_every_place_is_there(path: str) -> None:
    assert (ROOT / path).is_file()
