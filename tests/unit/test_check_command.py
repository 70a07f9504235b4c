"""``streamgauge check`` reads what a file names, and runs it only when told to."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from app.adapters.http.client import MonitorError
from app.cli import check
from app.cli.check import command

PIPELINE = """
name = "payments"
source = "own.py:records"

[events]
entity = "customer"
id = "payment_id"
time = "time_ms"

[events.fields]
payment_id = "string"
customer = "string"
time_ms = "int"
amount = "float"

[[features]]
name = "twice"
type = "float"
python = "own.py:double"
arguments = ["amount"]

[[features]]
name = "four"
type = "float"
expression = "twice * 2"
"""

HOOKS = """
[[features]]
name = "amount"
type = "float"
expression = "amount"

[destinations]
hosts = ["crm.example.com"]

[[hooks]]
name = "crm"
on = "scores"
url = "https://crm.example.com/leads"
secrets = ["CRM_SECRET"]

[[hooks]]
name = "lake"
on = "alerts"
form = "kafka"
topic = "all-alerts"
"""

PYTHON = """
from pathlib import Path

Path({ran!r}).touch()


def double(amount):
    return 2 * amount


def records(from_ms, to_ms, limit):
    return iter(())
"""


@pytest.mark.parametrize("run_python", [False, True])
def test_a_file_from_somebody_else_is_read_and_its_python_run_when_one_says_so(
    tmp_path: Path, run_python: bool
) -> None:
    ran, path = tmp_path / "ran", tmp_path / "payments.toml"
    path.write_text(PIPELINE)
    (tmp_path / "own.py").write_text(PYTHON.format(ran=str(ran)))
    options = ["--pipeline", str(path), "--home", str(tmp_path / "home"), "--json"]
    result = CliRunner().invoke(
        command, [*options, *(["--run-python"] if run_python else [])], env={"STREAMGAUGE_KAFKA": ""}
    )
    features = next(check for check in json.loads(result.output)["checks"] if check["check"] == "features")
    assert ran.exists() == run_python
    if run_python:
        assert (features["state"], "yields no events" in features["detail"]) == ("problem", True)
    else:
        assert features["state"] == "ok"
        assert "own.py:double, own.py:records is there and was not run" in features["detail"]


LABELS = {
    "applied": 9,
    "delays": {"0": {"words": "the labels 0 come at once"}, "1": {"words": "half of the labels 1 come within 6 days"}},
}


@pytest.mark.parametrize(
    ("status", "state", "detail"),
    [
        ({"labels": LABELS | {"maturity_too_short": []}}, "ok", "at once; half of the labels 1 come within 6 days"),
        ({"labels": LABELS | {"maturity_too_short": ["Too short.", "Much."]}}, "problem", "Too short. Much."),
        ({"labels": None}, "skipped", "has not read labels"),
        ({"labels": LABELS | {"applied": 0, "maturity_too_short": []}}, "skipped", "has not read labels"),
        ({"pipeline": "another", "labels": LABELS | {"maturity_too_short": ["No."]}}, "skipped", "of this pipeline"),
        (None, "problem", "does not answer"),
    ],
)
def test_a_running_monitor_is_asked_whether_labels_come_as_soon_as_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: dict[str, Any] | None, state: str, detail: str
) -> None:
    def ask(address: str, path: str, body: bytes | None = None, **_: Any) -> dict[str, Any]:
        assert address == "http://here"
        if path != "/api/v1/status":
            return {}
        if status is None:
            raise MonitorError("The monitor does not answer.")
        return {"pipeline": "payments", **status}

    running = SimpleNamespace(monitor_http="http://here", kafka="")
    monkeypatch.setattr(check, "ask_monitor", ask)
    monkeypatch.setattr(check, "read_run", lambda _: running)
    monkeypatch.setattr(check, "check_kafka", lambda _: iter(()))
    (tmp_path / "own.py").write_text(PYTHON.format(ran=str(tmp_path / "ran")))
    (tmp_path / "payments.toml").write_text(PIPELINE + '\n[labels]\nhorizon = "30d"\n')
    words = ["--pipeline", str(tmp_path / "payments.toml"), "--home", str(tmp_path), "--json"]
    result = CliRunner().invoke(command, words, env={"STREAMGAUGE_CLICKHOUSE": ""})
    (delays,) = [finding for finding in json.loads(result.stdout)["checks"] if finding["check"] == "label delays"]
    assert delays["state"] == state
    assert detail in delays["detail"]
    assert result.exit_code == (state == "problem")


@pytest.mark.parametrize(
    ("environment", "state", "detail"),
    [
        ({}, "skipped", "none of CRM_SECRET is set here; the process of `streamgauge hooks run` needs them"),
        ({"CRM_SECRET": "whsec_" + "QUJD" * 10}, "ok", "crm, lake: 1 over HTTP can be signed and sent"),
        ({"CRM_SECRET": "canary"}, "problem", "CRM_SECRET does not begin with whsec_"),
    ],
)
def test_hooks_are_checked_against_the_environment_where_it_has_their_secrets(
    environment: dict[str, str], state: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CRM_SECRET", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    features = PIPELINE[PIPELINE.index("[[features]]") :]
    head = PIPELINE.replace(features, "").replace('source = "own.py:records"', "")
    file = tmp_path / "payments.toml"
    file.write_text(head + HOOKS)

    done = CliRunner().invoke(command, ["--pipeline", str(file), "--home", str(tmp_path), "--json"])

    (hooks,) = [each for each in json.loads(done.output)["checks"] if each["check"] == "hooks"]
    assert hooks["state"] == state
    assert detail in hooks["detail"]
    assert "canary" not in done.output
