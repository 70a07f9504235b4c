"""Every query that the documents print is answered by the engine, as it is printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.adapters.clickhouse.warehouse import ClickHouseWarehouse

ROOT = Path(__file__).parents[2]
PRINTED = sorted(
    {
        (path.name, sql)
        for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))
        for sql in re.findall(r'streamgauge query "([^"]+)"', path.read_text())
        if "…" not in sql
    }
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseWarehouse]:
    warehouse = ClickHouseWarehouse(path=tmp_path_factory.mktemp("documented") / "clickhouse")
    warehouse.migrate()
    yield warehouse
    warehouse.close()


def test_queries_are_found() -> None:
    assert {"README.md", "own-stream.md"} <= {document for document, _ in PRINTED}


@pytest.mark.parametrize(("document", "sql"), PRINTED)
def test_a_printed_query_is_answered_for_all_pipelines_and_for_one(
    engine: ClickHouseWarehouse, document: str, sql: str
) -> None:
    """The guide says to add a pipeline to the conditions, where there are several."""
    condition = "WHERE pipeline = 'payments'"
    of_one = (
        sql.replace("WHERE", f"{condition} AND") if "WHERE" in sql else re.sub(r"FROM \w+", rf"\g<0> {condition}", sql)
    )
    assert of_one != sql, document
    answers = [engine.query_readonly(each) for each in (sql, of_one)]
    assert answers[0].columns == answers[1].columns
    assert answers[0].columns
