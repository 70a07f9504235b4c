"""Laws of the ClickHouse tables as data and of their numbered SQL files; the real engine is asked in integration."""

from __future__ import annotations

import re

import pytest
from memory_warehouse import MemoryWarehouse

from app.adapters.clickhouse.arrow_columns import to_arrow
from app.adapters.clickhouse.sql_gate import check_one_statement, check_tree
from app.adapters.clickhouse.warehouse import MIGRATIONS_PATH, statements
from app.ports import WarehouseError
from schemas.tables import MODEL_METADATA, TABLES, VIEWS

# The columns that others rely on, from the contract.
CONTRACT = {
    "scores": (
        "pipeline customer_id event_id event_time score decision model version role features topic partition offset "
        "scored_at"
    ),
    "model_metadata": ("pipeline model version stage segment metric decile value timestamp window_start window_end"),
    "drift_reports": (
        "pipeline model version segment metric test window_start window_end statistic p_value threshold effect "
        "n_reference n_detection signal revision"
    ),
    "performance": (
        "pipeline model version segment window_start window_end measure estimated realised low high "
        "n_labels label_maturity"
    ),
    "alerts": "alert_id pipeline state",
    "model_versions": "pipeline model version",
    "model_events": "pipeline model version event who why",
    "dead_letters": "pipeline topic partition offset stage reason detail key value version",
    "monitor_checkpoints": "pipeline revision offsets state saved_at",
}
FILES = sorted(MIGRATIONS_PATH.glob("*.sql"))
TABLE_FUNCTIONS = ["file", "url", "s3", "remote", "python", "executable", "eval", "numbers", "view"]


@pytest.mark.parametrize("name", CONTRACT)
def test_a_table_has_the_columns_of_the_contract(name: str) -> None:
    assert set(CONTRACT[name].split()) <= {column.name for column in TABLES[name].columns}


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_key_and_row_version_are_columns_that_are_never_null(table) -> None:  # noqa: ANN001
    for name in (*table.key, table.row_version):
        column = table.column(name)
        assert column is not None
        assert not column.type.startswith("Nullable")
    assert len({column.name for column in table.columns}) == len(table.columns)


def test_the_sql_files_are_numbered_without_gaps_and_open_with_why() -> None:
    assert [file.name[:4] for file in FILES] == [f"{number:03}_" for number in range(1, len(FILES) + 1)]
    for file in FILES:
        first, second, *_ = file.read_text().splitlines()
        assert first.startswith("-- ")
        assert not second.startswith("--")


def test_every_statement_can_be_repeated() -> None:
    heads = {" ".join(statement.split()[:7]) for file in FILES for statement in statements(file.read_text())}
    assert heads
    again = r"(ADD COLUMN IF NOT|DELETE WHERE|UPDATE)"
    for head in heads:
        assert re.match(rf"CREATE (DATABASE|TABLE) IF NOT EXISTS|CREATE OR REPLACE VIEW|ALTER TABLE \S+ {again}", head)


def test_no_name_is_both_a_table_and_a_view() -> None:
    assert not set(TABLES) & set(VIEWS)


def one_value(**changes: object) -> dict[str, list[object]]:
    row: dict[str, object] = {
        "pipeline": "p",
        "model": "m",
        "version": "1",
        "stage": "scoring",
        "segment": "",
        "metric": "score",
        "decile": "d1",
        "value": 0.5,
        "timestamp": 1,
        "window_start": 0,
        "window_end": 1,
    }
    return {name: [value] for name, value in {**row, **changes}.items()}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (one_value(decil="d1"), "has no column decil"),
        ({name: value for name, value in one_value().items() if name != "metric"}, "lack the column metric"),
        ({**one_value(), "metric": ["a", "b"]}, "differ in length"),
        (one_value(metric=None), "metric .* cannot be null, and is in row 0"),
        (one_value(value="much"), "Column value .* cannot take these values"),
    ],
)
def test_a_wrong_insert_is_one_sentence_that_names_the_column(columns: dict[str, list[object]], words: str) -> None:
    with pytest.raises(WarehouseError, match=words) as caught:
        MemoryWarehouse().insert("model_metadata", columns)
    assert "\n" not in str(caught.value)


def test_nan_in_a_nullable_column_is_null() -> None:
    assert to_arrow(MODEL_METADATA, one_value(value=float("nan")))["value"].to_pylist() == [None]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT metric, decile, value FROM model_metadata LIMIT 20",
        "-- file('/x')\nSELECT 'file(''/x'')', 'it\\'s; DROP', `model` /* url( */ FROM scores;",
        "with x as (select number from numbers(3)) select * from x ; -- the end",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "SHOW TABLES",
        "EXPLAIN SELECT 1",
        "SELECT features['hour'], {a:String}, x -> x + 1, 1e-3, 0x1F, a::Int8 FROM scores",
    ],
)
def test_the_gate_lets_reading_through(sql: str) -> None:
    assert check_one_statement(sql, TABLE_FUNCTIONS)


@pytest.mark.parametrize(
    "sql",
    [
        "",
        " -- nothing",
        "INSERT INTO scores VALUES (1)",
        "DROP TABLE scores",
        "USE system",
        "SET readonly = 0",
        "KILL QUERY WHERE 1",
        "SYSTEM FLUSH LOGS",
        "SELECT 1; DROP TABLE scores",
        "SELECT 1; SELECT 2",
        "SELECT file('/etc/passwd')",
        "SELECT `file`('/etc/passwd')",
        "SELECT \"file\" /* x */ ('/etc/passwd')",
        "SELECT FILE\n('/etc/passwd')",
        "SELECT `\\x66ile`('/etc/passwd')",
        "SELECT arrayMap(file, ['/etc/passwd'])",
        "SELECT * APPLY file FROM (SELECT '/etc/passwd')",
        "SELECT '\\\\', file('/etc/passwd')",
        "SELECT * FROM url('http://127.0.0.1/')",
        "SELECT * FROM eval('SELECT 1')",
        "SELECT * FROM view(SELECT * FROM s3('x'))",
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "SELECT 1 INTO /* x */ OUTFILE '/tmp/x'",
        "SELECT 1 FORMAT CSV",
        "SELECT $$a$$, file('x')",
        "SELECT \u2018a\u2019",
        "SELECT 'open",
        "SELECT 1 /* open",
        "SELECT 1 /* /* */ , file('x') */",
    ],
)
def test_the_gate_refuses_what_does_more_than_read(sql: str) -> None:
    with pytest.raises(WarehouseError):
        check_one_statement(sql, TABLE_FUNCTIONS)


SELECT = [
    "SelectWithUnionQuery (children 1)",
    " ExpressionList (children 1)",
    "  SelectQuery (children 2)",
    "   ExpressionList (children 1)",
    "    Asterisk",
]


@pytest.mark.parametrize(
    "parts",
    [
        ["   TableIdentifier scores"],
        ["   TableIdentifier streamgauge.scores (alias s)"],
        ["   TableIdentifier system.tables"],
        ["   Function count (children 1)", "    Identifier default./etc/passwd"],  # a column of a quoted name
    ],
)
def test_the_gate_lets_a_parse_through_that_reads_our_tables(parts: list[str]) -> None:
    check_tree([*SELECT, *parts], TABLE_FUNCTIONS)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([*SELECT, "   TableIdentifier default./etc/passwd"], "no table of the database"),
        ([*SELECT, "   TableIdentifier /etc/passwd"], "no table of the database"),
        ([*SELECT, "   TableIdentifier passwd.csv"], "no table of the database"),
        ([*SELECT, "   TableIdentifier streamgauge.a.b"], "no table of the database"),
        ([*SELECT, "   TableIdentifier system.users"], "no table of the database"),
        ([*SELECT, "   TableExpression (children 1)", "    Function newFunction (alias a)"], "reads outside"),
        ([*SELECT, "   Function dictGetString"], "reads outside"),
        ([*SELECT, "   Set"], "SETTINGS is not allowed"),
        ([*SELECT, "   NewPart something"], "part of this kind"),
        (["DropQuery streamgauge scores (children 1)", " Identifier scores"], "statement of another kind"),
        (["Explain EXPLAIN AST (children 1)", " DropQuery streamgauge scores"], "part of this kind"),
        (["Explain EXPLAIN NEW (children 1)", *(" " + line for line in SELECT)], "statement of another kind"),
        (["ExistsTableQuery default /etc/shadow (children 2)", " Identifier default", " Identifier x"], "no table"),
        (["ExistsTableQuery (children 0)"], "no table"),
        (["ShowTables (children 1)", " Identifier default"], "no table"),
        ([*SELECT, *SELECT], "one statement"),
        ([], "one statement"),
    ],
)
def test_the_gate_refuses_a_parse_of_which_it_does_not_know_each_part(lines: list[str], why: str) -> None:
    with pytest.raises(WarehouseError, match=why):
        check_tree(lines, TABLE_FUNCTIONS)
