"""``streamgauge check`` reads what a file names, and runs it only when told to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

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
    found = CliRunner().invoke(
        command, [*options, *(["--run-python"] if run_python else [])], env={"STREAMGAUGE_KAFKA": ""}
    )
    features = next(each for each in json.loads(found.output)["checks"] if each["check"] == "features")
    assert ran.exists() == run_python
    if run_python:
        assert (features["state"], "yields no events" in features["detail"]) == ("problem", True)
    else:
        assert features["state"] == "ok"
        assert "own.py:double, own.py:records is there and was not run" in features["detail"]
