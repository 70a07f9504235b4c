"""README.md names everything that a user can call, set, read or query, and its generated tables are fresh."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.cli import COMMANDS
from app.settings import SETTINGS
from schemas.tables import TABLES, VIEWS
from schemas.topics import Topics
from schemas.wire import Score

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE_IN_TEXT = set(re.findall(r"`([^`\n]+)`", README))
DDL = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "schemas" / "clickhouse").glob("*.sql")))
CREATED = set(
    re.findall(r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:TABLE|VIEW)\s+(?:IF NOT EXISTS\s+)?(?:streamgauge\.)?(\w+)", DDL)
)
#: Behind a view of a name without the suffix, or the monitor's own.
INTERNAL = {name for name in CREATED if name.endswith("_raw")} | {"schema_migrations", "monitor_checkpoints"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert command in CODE_IN_TEXT


@pytest.mark.parametrize("setting", [setting.name for setting in SETTINGS])
def test_every_setting_is_in_the_readme(setting: str) -> None:
    assert setting in CODE_IN_TEXT


@pytest.mark.parametrize("module", ["monitor", "worker"])
def test_every_endpoint_is_in_the_readme(module: str) -> None:
    source = (ROOT / "app" / "adapters" / "http" / f"{module}.py").read_text(encoding="utf-8")
    paths = re.findall(r'web\.(?:get|post)\("([^"]+)"', source)
    assert len(paths) >= 3
    assert set(paths) <= CODE_IN_TEXT


@pytest.mark.parametrize("topic", [topic.name for topic in Topics("<p>", 1, with_hooks=True).all()])
def test_every_topic_is_in_the_readme(topic: str) -> None:
    assert topic in CODE_IN_TEXT


@pytest.mark.parametrize("table", sorted(CREATED - INTERNAL))
def test_every_table_that_users_select_from_is_in_the_readme(table: str) -> None:
    assert table in CODE_IN_TEXT


def test_the_tables_are_found_in_the_ddl() -> None:
    assert {"scores", "model_metadata", "drift_reports", "performance", "alerts"} <= CREATED - INTERNAL


def test_the_generated_tables_are_fresh() -> None:
    docs_tables = runpy.run_path(str(ROOT / "scripts" / "docs_tables.py"))

    assert docs_tables["fill_in"](README) == README, "a generated table of README.md is stale; run make docs"
    hook = (ROOT / "docs" / "hook.md").read_text(encoding="utf-8")
    assert docs_tables["fill_in"](hook, docs_tables["make_problems"]()) == hook, "docs/hook.md is stale; run make docs"


def test_the_columns_of_all_tables_are_written_down() -> None:
    docs_tables = runpy.run_path(str(ROOT / "scripts" / "docs_tables.py"))
    written = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")

    assert docs_tables["write_columns"]() == written, "docs/tables.md is stale; run make docs"
    for table in (*TABLES.values(), *VIEWS.values()):
        part = written.split(f"## `{table.name}`", 1)[1].split("\n## ", 1)[0]
        assert [column.name for column in table.columns] == re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)


def test_every_field_of_a_score_is_written_down_with_its_type() -> None:
    text = (ROOT / "docs" / "scores.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", text, re.MULTILINE)
    assert rows == list(_describe_fields(msgspec.json.schema(Score)))
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    score = msgspec.json.decode(example.encode(), type=Score)
    # Every field is there, and none that no score has.
    assert json.loads(msgspec.json.encode(score)) == json.loads(example)


def _describe_fields(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and JSON type of each field, those of an object within after it."""

    def describe(of: dict[str, Any]) -> str:
        if "anyOf" in of:
            return " or ".join(describe(each) for each in of["anyOf"])
        within = of.get("items", of.get("additionalProperties"))
        return f"{of['type']} of {describe(within)}" if within else str(of["type"])

    def resolve(of: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = schema["$defs"][of["$ref"].rpartition("/")[2]] if "$ref" in of else of
        return found

    for name, of in resolve(schema)["properties"].items():
        yield name, describe(resolve(of))
        yield from ((f"{name}.{part}", describe(each)) for part, each in resolve(of).get("properties", {}).items())


def test_a_stale_table_is_noticed() -> None:
    docs_tables = runpy.run_path(str(ROOT / "scripts" / "docs_tables.py"))

    assert docs_tables["fill_in"](README.replace("STREAMGAUGE_HOME", "STREAMGAUGE_HUT")) != README.replace(
        "STREAMGAUGE_HOME", "STREAMGAUGE_HUT"
    )


def test_a_table_without_its_place_is_an_error() -> None:
    docs_tables = runpy.run_path(str(ROOT / "scripts" / "docs_tables.py"))

    with pytest.raises(ValueError, match="places for the table 'settings'"):
        docs_tables["fill_in"](README.replace("<!-- settings: end -->", ""))


def test_the_picture_is_the_same_everywhere() -> None:
    def find_picture(text: str) -> list[str]:
        lines = text.splitlines()
        start = next(i for i, line in enumerate(lines) if "events ─▶ decode" in line)
        margin = len(lines[start]) - len(lines[start].lstrip())
        return [line[margin:].rstrip() for line in lines[start : start + 6]]

    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "ARCHITECTURE.md", "app/__init__.py")]
    first, *others = map(find_picture, texts)

    assert all(other == first for other in others)
