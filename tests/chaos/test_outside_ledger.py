"""Someone who shares no code with the project finds nothing wrong after faults (P1 to P5, P10, P13)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import outside_ledger as ledger
import pytest

LEDGER = Path(ledger.__file__)


def record(offset: int, body: dict[str, Any] | bytes) -> ledger.Record:
    return ledger.Record(0, offset, body if isinstance(body, bytes) else json.dumps(body).encode(), {})


def event(number: int, **more: Any) -> dict[str, Any]:
    at = ledger.START_MS + number * 1_000
    return {"id": f"e{number}", "card": "c0", "at": at, "amount": 1.5, "shop": "s1", "kind": "a", **more}


EVENTS = {0: [record(number, event(number)) for number in range(200)], 1: [], 2: [], 3: []}
NOTHING: dict[int, list[ledger.Record]] = {0: [], 1: [], 2: [], 3: []}
LABEL = {"event_id": "e3", "label": 1.0, "label_time_ms": ledger.START_MS + 10_000}


def test_the_ledger_knows_what_windows_hold() -> None:
    expected = ledger.expect(EVENTS, {**NOTHING, 0: [record(0, LABEL)]})
    last = expected[0, 199]
    assert last["card_count"] == 59  # of the last 60 s the one under way is its own
    assert last["shop_count"] == 60
    assert last["kind_rate"] == 20 / 20
    assert last["pair_mean"] == 1.5
    assert last["shop_sum"] == 100 * 1.5  # the first second is 20 s before a minute; 90 s ago it was 9 s after one
    assert (last["shop_bad"], last["card_bad"], expected[0, 9]["card_bad"]) == (1.0, 1.0, None)
    assert expected[0, 40]["kind_bad"] == 1.0


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"features": {"card_count": 1.0}}, "wrong local windows"),
        ({"features": {"shop_sum": 1.0}}, "wrong shared windows"),
        ({"features": {}}, ""),
        ({"stale": True}, "stale"),
    ],
)
def test_the_ledger_notices(change: dict[str, Any], kind: str) -> None:
    expected = ledger.expect(EVENTS, NOTHING)
    bodies: dict[ledger.Place, Any] = {place: {"features": dict(values)} for place, values in expected.items()}
    body = bodies[0, 150]
    body["features"] |= change.get("features", {})
    body["stale"] = change.get("stale", False)
    found = ledger.Account()
    ledger.check_features(found, bodies, expected)
    assert dict(found.counts) == ({kind: 1} if kind else {})


def score(offset: int) -> ledger.Record:
    return record(offset, {"source": {"partition": 0, "offset": offset}})


def test_the_ledger_misses_and_counts_each_outcome() -> None:
    events = [record(0, event(0)), record(1, event(1)), record(2, b"{"), record(3, event(3))]
    found = ledger.Account()
    ledger.check_outcomes(found, events, [score(0), score(0), score(2)], [])
    assert dict(found.counts) == {"doubled": 1, "wrong kind": 1, "lost": 2}


@pytest.mark.chaos_full
def test_an_outside_ledger_balances(seed: int) -> None:
    words = ["--faults", "60", "--behind", "24", "--rounds", "2", "--backlog", "12000", "--seed", str(seed)]
    done = subprocess.run([sys.executable, str(LEDGER), *words], capture_output=True, text=True, check=False)
    print(done.stdout)  # noqa: T201  # pytest shows it when the test fails
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-2_000:]
