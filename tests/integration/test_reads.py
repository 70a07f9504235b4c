"""Users' SQL on the real engine: what may be asked, what an answer looks like, what a question may cost."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from clickhouse_front import ClickHouseFront

from app.adapters.clickhouse import reads as clickhouse_reads
from app.adapters.clickhouse.warehouse import ClickHouseWarehouse
from app.ports import WarehouseError

CANARY = "CANARY42"
SLOW = "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"

#: Every kind of clause, statement and expression that somebody who reads our tables may use, a statement a line.
ALLOWED = (Path(__file__).parents[1] / "support" / "allowed.sql").read_text().splitlines()

#: Ways to name something outside: {path} is a file, {name} one in the folder that the engine takes relative paths from.
OUTSIDE = [
    *('default."{path}"', "default.`{path}`", '"default"."{path}"', "`default`.`{path}`", '_local."{path}"'),
    *(
        '"{path}"',
        "`{path}`",
        'default."file://{path}"',
        "default.{name}",
        'default."{name}"',
        '"streamgauge/../{path}"',
    ),
    *("file('{path}')", "FILE('{path}')", "`file`('{path}')", "\"file\"('{path}')", "file/**/('{path}')"),
    *("url('http://127.0.0.1:9/')", "s3('http://127.0.0.1:9/b/x')", "remote('127.0.0.1:9', 'system', 'one')"),
    *(
        "executable('id', 'LineAsString', 'x String')",
        "mysql('127.0.0.1:9', 'a', 'b', 'c', 'd')",
        "sqlite('{path}', 't')",
    ),
    *("fileCluster('default', '{path}')", "deltaLakeLocal('{path}')", "icebergLocal('{path}')", "input('x Int8')"),
    *("merge('default', '.*')", "merge(REGEXP('.*'), '.*')", "loop(default, `{path}`)", "dictionary('x')"),
    *("cluster('default', system.one)", "python('os')", "arrowFlight('127.0.0.1:9', 'x')", "filesystem('{path}')"),
    *("view(SELECT * FROM file('{path}'))", "system.stack_trace", "system.remote_data_paths", "system.users"),
    *("system.named_collections", "system.certificates", "system.query_log", "other.tables", "no_such_function(1)"),
]
#: Every kind of statement, and of place in one, that may name a table.
PLACES = [
    *("SELECT * FROM {}", "FROM {} SELECT *", "(SELECT * FROM {})", "SELECT 1 UNION ALL SELECT * FROM {}"),
    *("WITH x AS (SELECT * FROM {}) SELECT * FROM x", "SELECT (SELECT count() FROM {})", "SELECT 1 WHERE 1 IN {}"),
    *("SELECT 1 WHERE 1 IN (SELECT 1 FROM {})", "SELECT 1 WHERE EXISTS (SELECT * FROM {})", "SELECT in(1, {})"),
    *(
        "SELECT * FROM scores JOIN {} AS b ON 1",
        "SELECT * FROM scores, {} AS b",
        "SELECT * FROM view(SELECT * FROM {})",
    ),
    *("SELECT 1 INTERSECT SELECT * FROM {}", "SELECT arrayMap(x -> (SELECT count() FROM {}), [1])"),
    *("DESCRIBE TABLE {}", "DESC {}", "DESCRIBE TABLE (SELECT * FROM {})"),
    *(
        "EXISTS {}",
        "EXISTS TABLE {}",
        "EXISTS VIEW {}",
        "EXISTS DICTIONARY {}",
        "SHOW CREATE TABLE {}",
        "SHOW CREATE {}",
    ),
    *(
        "SHOW CREATE VIEW {}",
        "SHOW CREATE DICTIONARY {}",
        "SHOW COLUMNS FROM {}",
        "SHOW INDEX FROM {}",
        "CHECK TABLE {}",
    ),
    *("EXPLAIN SELECT * FROM {}", "EXPLAIN AST SELECT * FROM {}", "EXPLAIN SYNTAX SELECT * FROM {}"),
    *("EXPLAIN ESTIMATE SELECT * FROM {}", "EXPLAIN QUERY TREE SELECT * FROM {}", "EXPLAIN PIPELINE SELECT * FROM {}"),
    *("EXPLAIN TABLE OVERRIDE {} COLUMNS(x Int8)", "INSERT INTO {} SELECT 1", "WITH 1 AS x INSERT INTO {} SELECT x"),
]
REFUSED = [
    "SELECT file('{path}')",
    "SELECT arrayMap(file, ['{path}'])",
    "SELECT * APPLY file FROM (SELECT '{path}')",
    "SELECT * APPLY(file) FROM (SELECT '{path}')",
    "SELECT dictGet('default.{name}', 'a', 1)",
    "SELECT joinGet('default.{name}', 'a', 1)",
    "SELECT hasColumnInTable('127.0.0.1:9', 'system', 'one', 'dummy')",
    "SELECT reverseDNSQuery('127.0.0.1')",
    "SELECT aiGenerate('x')",
    "SELECT filesystemAvailable()",
    "SELECT getServerSetting('path')",
    "SELECT addressToLine(1)",
    "SELECT 1 INTO OUTFILE '{path}.out'",
    "SELECT 1 INTO/**/OUTFILE '{path}.out'",
    "(SELECT 1) INTO OUTFILE '{path}.out' TRUNCATE FORMAT CSV",
    "EXPLAIN SELECT 1 INTO OUTFILE '{path}.out'",
    "SHOW TABLES INTO OUTFILE '{path}.out'",
    "SELECT 1 FORMAT Null",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_threads = 1, limit = 0",
    "SELECT * FROM (SELECT 1 SETTINGS max_memory_usage = 0)",
    "SELECT 1; SELECT 2",
    "SELECT 1;INSERT INTO FUNCTION file('{path}.out') SELECT 1",
    "SHOW TABLES FROM default",
    "SHOW PROCESSLIST",
    "SHOW GRANTS",
    "SHOW USERS",
    "SHOW CREATE USER default",
    "SHOW CREATE DATABASE default",
    "EXISTS DATABASE default",
    "EXPLAIN AST DROP TABLE scores_raw",
    "EXPLAIN SYNTAX INSERT INTO scores_raw SELECT 1",
    "EXPLAIN PIPELINE INSERT INTO scores_raw SELECT 1",
    "EXPLAIN CURRENT TRANSACTION",
    "DESCRIBE FILESYSTEM CACHE 'x'",
    "SELECT {{x:Identifier}} FROM {{y:Identifier}}",
    *(
        "SET readonly = 0",
        "USE system",
        "KILL QUERY WHERE 1",
        "SYSTEM SHUTDOWN",
        "CREATE TABLE x (a Int8) ENGINE = Memory",
    ),
    *(
        "CREATE FUNCTION f AS x -> x",
        "DROP TABLE scores_raw",
        "ALTER TABLE scores_raw DELETE WHERE 1",
        "ATTACH TABLE x",
    ),
    *("TRUNCATE scores_raw", "BACKUP DATABASE streamgauge TO Disk('default', 'x')", "GRANT ALL ON *.* TO default"),
    *("OPTIMIZE TABLE scores_raw", "", ";", "(", "'", "SELECT", "VALUES (1)", "SELECT 1 /* /* */ ; DROP TABLE x */"),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseWarehouse]:
    warehouse = ClickHouseWarehouse(path=tmp_path_factory.mktemp("reads") / "clickhouse", query_seconds=20)
    warehouse.migrate()
    yield warehouse
    warehouse.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseWarehouse]:
    with ClickHouseFront(tmp_path_factory.mktemp("server")) as front:
        warehouse = ClickHouseWarehouse(front.url, query_seconds=20)
        warehouse.migrate()
        yield warehouse
        warehouse.close()


@pytest.fixture(params=["engine", "server"])
def reads(request: pytest.FixtureRequest) -> ClickHouseWarehouse:
    found: ClickHouseWarehouse = request.getfixturevalue(request.param)
    return found


# -- what may be asked -------------------------------------------------------------------------------------------------


def test_whatever_only_reads_our_tables_is_answered(reads: ClickHouseWarehouse) -> None:
    refused = {}
    for statement in ALLOWED:
        try:
            reads.query_readonly(statement.replace("\\n", "\n"), 10)
        except WarehouseError as error:
            refused[statement] = str(error)
    assert refused == {}


def test_nothing_outside_is_read_whatever_names_it_and_wherever(engine: ClickHouseWarehouse, tmp_path: Path) -> None:
    """Told apart from a file that is not there, too: what exists is a secret as well."""
    there, nowhere = tmp_path / "there.csv", tmp_path / "where.csv"
    there.write_text(f"{CANARY}\n")
    # The engine keeps tables that somebody who may has opened, and then reads them for those who may not.
    for way in ('default."{}"', "file('{}')"):
        assert engine.query(f"SELECT count() FROM {way.format(there)}").rows
    statements = [place.format(way) for way in OUTSIDE for place in PLACES] + REFUSED
    answered = []
    for statement in statements:
        said = []
        for path in (there, nowhere):
            try:
                found = engine.query_readonly(statement.format(path=path, name=os.path.relpath(path)), 10)
            except WarehouseError as error:
                said.append(re.sub(r"^'[^']*'|[^ ]*here.csv", "…", str(error)))  # what was asked for
            else:
                answered.append((statement, found.read()))
        if CANARY in "".join(said) or len(set(said)) > 1:
            answered.append((statement, said))
    assert answered == []
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


# -- what an answer looks like -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value", "kind"),
    [
        ("toUInt64(18446744073709551615)", 18446744073709551615, "UInt64"),
        ("-1", -1, "Int8"),
        ("1.5", 1.5, "Float64"),
        ("nan", None, "Float64"),
        ("-inf", None, "Float64"),
        ("NULL", None, "Nullable(Nothing)"),
        ("true", True, "Bool"),
        ("'a\"b\\\\c\\n\\t/é\\0'", 'a"b\\c\n\t/é\0', "String"),
        ("unhex('ff')", "\ufffd", "String"),
        ("toDateTime64('2020-01-02 03:04:05.678', 3, 'UTC')", "2020-01-02T03:04:05.678Z", "DateTime64(3, 'UTC')"),
        (
            "toDateTime64('2020-01-02 03:04:05', 3, 'Asia/Tokyo')",
            "2020-01-01T18:04:05.000Z",
            "DateTime64(3, 'Asia/Tokyo')",
        ),
        ("toDate('2020-01-02')", "2020-01-02", "Date"),
        ("[1, 2]", [1, 2], "Array(UInt8)"),
        ("map('a', nan, 'b', 1.)", {"a": None, "b": 1}, "Map(String, Float64)"),
        ("tuple(1, 'x')", [1, "x"], "Tuple(UInt8, String)"),
        ("toDecimal64(1.25, 2)", 1.25, "Decimal(18, 2)"),
        ("toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0')", "61f0c404-5cb3-11e7-907b-a6006ad3dba0", "UUID"),
    ],
)
def test_a_value_is_what_json_has_for_it(reads: ClickHouseWarehouse, expression: str, value: Any, kind: str) -> None:
    found = reads.query_readonly(f"SELECT {expression} AS value")
    assert found.to_json() == {"columns": ["value"], "types": [kind], "rows": [[value]], "truncated": False}
    assert reads.query_readonly(f"SELECT {expression} AS value", as_objects=True).read() == [{"value": value}]


@pytest.mark.parametrize("n", [0, 1, 999, 1_000, 1_001, 200_000])
def test_rows_are_cut_at_the_limit_and_each_is_there_once(reads: ClickHouseWarehouse, n: int) -> None:
    """Over many blocks; the text of each is a piece."""
    found = reads.query_readonly(f"SELECT number, toString(number) AS word FROM numbers({n})", 1_000)
    assert found.read() == [[number, str(number)] for number in range(min(n, 1_000))]
    assert (found.columns, found.types, found.truncated) == (["number", "word"], ["UInt64", "String"], n > 1_000)
    all_of_it = reads.query_readonly(f"SELECT number FROM numbers({n})", 1_000_000)
    assert all_of_it.read() == [[number] for number in range(n)]
    assert not all_of_it.truncated


@pytest.mark.parametrize(
    "statement", ["SHOW TABLES", "SELECT number FROM numbers(5) UNION ALL SELECT number FROM numbers(5)"]
)
def test_a_limit_holds_for_every_statement(reads: ClickHouseWarehouse, statement: str) -> None:
    found = reads.query_readonly(statement, 2)
    assert (len(found.read()), found.truncated) == (2, True)


# -- what a question may cost ------------------------------------------------------------------------------------------


def test_an_answer_that_is_too_large_is_an_error_however_few_its_rows(
    reads: ClickHouseWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clickhouse_reads, "MOST_ANSWER_BYTES", 100_000)
    for statement in (
        "SELECT repeat('x', 1000) FROM numbers(1000)",
        "SELECT repeat('x', 200000)",
        "SELECT unhex(repeat('00', 30000))",  # text of six times its size
        "SELECT number FROM numbers(100000)",
    ):
        with pytest.raises(WarehouseError, match="larger than") as caught:
            reads.query_readonly(statement, 100_000)
        assert "in parts" in str(caught.value)
        assert "`streamgauge record`" in str(caught.value)
        assert not caught.value.retryable
        # Who holds the error, as a log or a test does, holds none of the engine.
        assert reads.query("SELECT count() FROM system.processes").rows == [(1,)], statement
    assert len(reads.query_readonly("SELECT repeat('x', 1000) FROM numbers(1000)", 50).read()) == 50


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT repeat('x', 1000000) FROM numbers(1500)",
        "SELECT length(groupArray(repeat('x', 1000000))) FROM numbers(10000)",
        "SELECT repeat('x', 1000000000)",
        "SELECT a FROM (SELECT number FROM numbers(1500)) ARRAY JOIN [repeat(toString(number), 300000)] AS a",
    ],
)
def test_a_question_takes_no_more_memory_than_it_may(engine: ClickHouseWarehouse, statement: str) -> None:
    before = peak_mb(reset=True)
    with pytest.raises(WarehouseError, match=r"more memory|too large|larger than") as caught:
        engine.query_readonly(statement, 1_500)
    assert not caught.value.retryable
    assert peak_mb() - before < 1.5 * clickhouse_reads.EMBEDDED_MEMORY / 1e6


def peak_mb(*, reset: bool = False) -> float:
    """Of this process; ``reset``: what it is now."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def test_what_is_stopped_ends_at_once(reads: ClickHouseWarehouse) -> None:
    with ThreadPoolExecutor(1) as threads:
        work = threads.submit(reads.query_readonly, SLOW, 1, mark="m1")
        before = time.monotonic()
        while not work.done():
            reads.stop("m1")
            time.sleep(0.05)
        assert time.monotonic() - before < 10
        with pytest.raises(WarehouseError, match="nobody waited"):
            work.result()
    assert reads.query_readonly("SELECT 1").read() == [[1]]


def test_many_ask_at_a_time(engine: ClickHouseWarehouse) -> None:
    """Each sleeps a second, and all are done in far less than their sum."""
    with ThreadPoolExecutor(6) as threads:
        before = time.monotonic()
        found = list(threads.map(lambda number: engine.query_readonly(f"SELECT {number}, sleep(1)").read(), range(6)))
        assert time.monotonic() - before < 4
    assert found == [[[number, 0]] for number in range(6)]


def test_rows_go_in_while_slow_questions_run(engine: ClickHouseWarehouse) -> None:
    marks = [f"w{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        work = [threads.submit(engine.query_readonly, SLOW, 1, mark=mark) for mark in marks]
        for number in range(20):
            assert (
                engine.insert("schema_migrations", {"name": [f"m{number}"], "checksum": ["x"], "applied_at": [1]}) == 1
            )
        assert not any(each.done() for each in work)
        while not all(each.done() for each in work):
            for mark in marks:
                engine.stop(mark)
            time.sleep(0.05)
    assert engine.query_readonly("SELECT count() FROM schema_migrations WHERE checksum = 'x'").read() == [[20]]
