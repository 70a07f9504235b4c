"""What docs/hooks.md and docs/lead-scores.md print runs as it stands."""

from __future__ import annotations

import contextlib
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.adapters.sources.score_tables import ScoreWriter
from app.cli import main
from app.core.hooks.requests import webhook
from app.core.hooks.schedule import Schedule
from app.core.hooks.signature import read_secret
from app.hooks.context import Pace
from app.hooks.targets import read_targets
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.wire import HookDelivery, Source

DOCS = Path(__file__).parents[2] / "docs"
HOOKS, LEADS, FILE = (
    (DOCS / name).read_text(encoding="utf-8") for name in ("hooks.md", "lead-scores.md", "pipeline-file.md")
)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105  # of the standard's own tests
HEAD = """
name = "shop"
[events]
entity = "customer"
id = "order"
time = "at_ms"
[events.fields]
order = "string"
customer = "string"
at_ms = "int"
amount = "float"
[[features]]
name = "{feature}"
type = "float"
expression = "amount"
"""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def read(tmp_path: Path, text: str) -> Pipeline:
    path = tmp_path / "printed.toml"
    path.write_text(text)
    (tmp_path / "company.pem").touch()
    return load(path)


def test_the_printed_hooks_are_valid_and_find_their_secrets(tmp_path: Path) -> None:
    pipeline = read(tmp_path, HEAD.format(feature="amount") + blocks(HOOKS, "toml")[0])
    environment = {"CRM_SECRET": SECRET, "SLACK_URL": "https://hooks.slack.com/services/T/B/x"}

    assert [hook.name for hook in pipeline.hooks] == ["crm", "chat", "high"]
    assert read_targets(pipeline, environment).keys() == {"crm", "chat"}


def test_the_printed_hooks_of_the_reference_are_valid(tmp_path: Path) -> None:
    (text,) = [block for block in blocks(FILE, "toml") if "[[hooks]]" in block]
    assert read(tmp_path, HEAD.format(feature="log_amount") + text).destinations.networks == ("10.1.0.0/16",)


def test_the_pipeline_of_the_leads_is_valid(tmp_path: Path) -> None:
    (text,) = blocks(LEADS, "toml")
    pipeline = read(tmp_path, text)

    assert pipeline.hooks[0].where == "score >= 0.7"
    assert read_targets(pipeline, {"CRM_SECRET": SECRET})["crm"].keys


def test_the_printed_receiver_takes_what_is_sent_once_and_refuses_what_is_forged_or_old() -> None:
    names: dict[str, Any] = {}
    exec(compile(blocks(HOOKS, "python")[0], "docs/hooks.md", "exec"), names)  # noqa: S102  # what a reader runs
    record = HookDelivery(
        "crm",
        Source("shop.scores", 0, 7),
        "ann",
        "score.published",
        1_767_225_600_000,
        msgspec.Raw(b'{"score":0.9}'),
        0,
    )
    now_ms, known = int(time.time()) * 1000, set[str]()
    keys = [bytes(32), read_secret(SECRET)]  # another one is being replaced by it
    headers, body = webhook(record, now_ms, keys)

    first = names["receive"](headers, body, SECRET, known)

    assert first == {"type": "score.published", "timestamp": "2026-01-01T00:00:00.000Z", "data": {"score": 0.9}}
    assert names["receive"](headers, body, SECRET, known) is None
    for forged in (
        (headers, body + b" "),
        ({**headers, "webhook-id": "x"}, body),
        webhook(record, now_ms - 400_000, keys),
    ):
        with pytest.raises(ValueError, match="not from streamgauge"):
            names["receive"](*forged, SECRET, set())


def test_the_printed_program_makes_json_lines_of_a_file_of_scores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with ScoreWriter(tmp_path / "scores.csv", read(tmp_path, blocks(LEADS, "toml")[0]), with_features=False):
        pass  # the columns that `streamgauge score` writes
    columns = (tmp_path / "scores.csv").read_text().strip().replace('"', "").split(",")
    values = {"customer_id": "ann", "score": "0.71", "version": "1.0.0"}
    low = {**values, "customer_id": "bob", "score": "0.2"}
    rows = [",".join(row.get(name, "") for name in columns) for row in (values, low)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([",".join(columns), *rows])))
    output = io.StringIO()

    with contextlib.redirect_stdout(output):
        exec(compile(blocks(LEADS, "python")[0], "docs/lead-scores.md", "exec"), {})  # noqa: S102

    assert [json.loads(line) for line in output.getvalue().splitlines()] == [
        {"lead": "ann", "score": 0.71, "version": "1.0.0"}
    ]
    assert all(f"`{name}`" in LEADS for name in columns)


def test_each_command_that_is_printed_is_there() -> None:
    import click  # noqa: PLC0415  # here alone

    group = main.get_command(click.Context(main), "hooks")
    assert isinstance(group, click.Group)
    printed = set(re.findall(r"streamgauge hooks (\w+)", HOOKS + LEADS))
    assert printed == set(group.commands)
    for words in re.findall(r"streamgauge hooks (\w+.*?)(?:\s+#.*|`|$)", HOOKS, re.MULTILINE):
        name, *options = words.split()
        known = {option for parameter in group.commands[name].params for option in parameter.opts}
        assert {option for option in options if option.startswith("--")} <= known


def test_the_times_that_are_printed_are_those_of_the_program() -> None:
    schedule, pace = Schedule(), Pace()
    hours = sum(schedule.later_ms) / 3_600_000

    assert "0.5 s and 1.5 s, then 5 s, 5 min, 30 min, 2 h, 8 h and 24 h, each up to a tenth longer" in HOOKS
    assert schedule.soon_ms == (500, 1_500)
    assert [ms // 1000 for ms in schedule.later_ms] == [5, 300, 1_800, 7_200, 28_800, 86_400]
    assert schedule.jitter == 0.1
    assert f"After {hours:.1f} hours" in HOOKS
    assert f"longer than {pace.patience.total_s:.0f} s" in HOOKS
    assert f"bounded ({pace.most_bytes >> 20} MiB)" in HOOKS
    assert schedule.rest_ms == (1_000, 60_000)
    assert schedule.most_wait_ms == 3_600_000
    assert schedule.patience_ms == 10_000
    assert pace.commit_s == 0.2
