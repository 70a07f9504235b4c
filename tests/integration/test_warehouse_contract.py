"""One contract for every warehouse: in memory, the embedded ClickHouse engine, by HTTP to it, a server in Docker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from unittest.mock import ANY

import numpy as np
import pytest
from click.testing import CliRunner
from clickhouse_front import ClickHouseFront
from memory_warehouse import MemoryWarehouse

from app.adapters.clickhouse.warehouse import MIGRATIONS_PATH, ClickHouseWarehouse, lock_holder
from app.adapters.stack.child_process import birth_mark
from app.adapters.stack.run_file import Run, RunningChild, RunningKafka, write_run
from app.cli.migrate import command as migrate_command
from app.cli.query import command as query_command
from app.monitor.reign import Plan, Reign
from app.monitor.takeover import inherit
from app.ports import FencedError, FloatMaps, Warehouse, WarehouseError
from schemas.tables import TABLES, VIEWS
from schemas.wire import Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY_MS = 86_400_000


def has_docker() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0


HAS_DOCKER = has_docker()


@pytest.mark.docker
@pytest.mark.skipif(not HAS_DOCKER, reason="no Docker: the warehouse contract runs without a ClickHouse server")
def test_the_contract_runs_on_a_server_as_well(server_url: str) -> None:
    assert server_url  # the suite's parameter "server" stands or falls with it


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415  # only where Docker is there
    from testcontainers.core.wait_strategies import HttpWaitStrategy  # noqa: PLC0415

    container = DockerContainer("clickhouse/clickhouse-server:25.8").with_exposed_ports(8123)
    container.with_env("CLICKHOUSE_USER", "gauge").with_env("CLICKHOUSE_PASSWORD", "secret")
    with container.waiting_for(HttpWaitStrategy(8123, "/ping")):
        yield f"http://gauge:secret@{container.get_container_host_ip()}:{container.get_exposed_port(8123)}"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ClickHouseWarehouse]:
    warehouse = ClickHouseWarehouse(path=tmp_path / "clickhouse", query_seconds=2)
    warehouse.migrate()
    yield warehouse
    warehouse.close()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseFront]:
    with ClickHouseFront(tmp_path_factory.mktemp("front")) as front:
        yield front


SERVER = [pytest.param("server", marks=pytest.mark.docker)] if HAS_DOCKER else []


@pytest.fixture(params=["memory", "engine", "http", *SERVER])
def warehouse(request: pytest.FixtureRequest) -> Iterator[Warehouse]:
    if request.param == "engine":
        yield request.getfixturevalue("engine")
        return
    if request.param == "memory":
        memory = MemoryWarehouse()
        memory.migrate()
        yield memory
        return
    by_http = request.param == "http"
    url = request.getfixturevalue("front").url if by_http else request.getfixturevalue("server_url")
    server = ClickHouseWarehouse(url, query_seconds=2)
    server.wait_ready(60)
    server.query("SELECT 1")
    server._write_client().command("DROP DATABASE streamgauge SYNC")
    server.close()
    server.migrate()
    yield server
    server.close()


@pytest.fixture
def sql(request: pytest.FixtureRequest, warehouse: Warehouse) -> Warehouse:
    """Return the warehouse for a test that needs SQL."""
    if isinstance(warehouse, MemoryWarehouse):
        request.applymarker(pytest.mark.xfail(strict=True, raises=WarehouseError, reason="the fake knows no SQL"))
    return warehouse


def scores(
    offsets: list[int], *, score: float = 0.5, scored_at_ms: int = 1_000, customer: str = "c"
) -> dict[str, object]:
    n = len(offsets)
    return {
        "pipeline": ["p"] * n,
        "customer_id": [customer] * n,
        "event_id": [f"e{offset}" for offset in offsets],
        "event_time": np.array(offsets) * 1_000,
        "score": np.full(n, score),
        "decision": np.full(n, score >= 0.5),
        "model": ["m"] * n,
        "version": ["1.0.0"] * n,
        "role": ["champion"] * n,
        "features": [{"hour": float(offset), "seats": None} for offset in offsets],
        "topic": ["p.events"] * n,
        "partition": [0] * n,
        "offset": offsets,
        "scored_at": [scored_at_ms] * n,
    }


def report(window_end_ms: int, revision: int, signal: str, metric: str = "hour") -> dict[str, object]:
    return {
        "pipeline": ["p"],
        "model": ["m"],
        "version": ["1.0.0"],
        "segment": [""],
        "metric": [metric],
        "test": ["psi"],
        "window_start": [window_end_ms - DAY_MS],
        "window_end": [window_end_ms],
        "statistic": [0.25],
        "p_value": [None],
        "threshold": [0.2],
        "effect": [float("nan")],
        "n_reference": [10],
        "n_detection": [20],
        "signal": [signal],
        "revision": [revision],
    }


def test_migrating_twice_applies_nothing_the_second_time(warehouse: Warehouse) -> None:
    assert warehouse.migrate() == []


def test_what_goes_in_comes_out(warehouse: Warehouse) -> None:
    warehouse.insert("scores", scores([7]))
    (row,) = warehouse.read("scores")
    features = row.pop("features")
    assert features["hour"] == 7.0
    assert np.isnan(features["seats"])
    assert row == {
        **{name: values[0] for name, values in scores([7]).items() if name != "features"},  # type: ignore[index]
        "event_time": datetime(1970, 1, 1, 0, 0, 7, tzinfo=UTC),
        "scored_at": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        "feature_set": "",
        "reasons": [],
        "stale": False,
        "shadow": "",
    }


def test_a_matrix_of_features_is_the_same_as_maps(warehouse: Warehouse) -> None:
    warehouse.insert(
        "scores", {**scores([1, 2]), "features": FloatMaps(("a", "b"), np.array([[1.0, 2.0], [3.0, 4.0]]))}
    )
    assert [row["features"] for row in warehouse.read("scores")] == [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}]


def test_rows_of_one_source_record_are_one_row(warehouse: Warehouse) -> None:
    warehouse.insert("scores", scores([1, 2, 3]))
    warehouse.insert("scores", scores([2, 3, 4]))
    assert [row["offset"] for row in warehouse.read("scores")] == [1, 2, 3, 4]


def test_the_higher_row_version_wins_in_any_order(warehouse: Warehouse) -> None:
    for revision, signal in ((2, "DRIFT"), (1, "NONE")):
        warehouse.insert("drift_reports", report(DAY_MS, revision, signal))
    (row,) = warehouse.read("drift_reports", {"metric": "hour"})
    assert (row["revision"], row["signal"], row["p_value"], row["effect"]) == (2, "DRIFT", None, None)


def test_no_more_columns_are_read_than_are_wanted_and_each_must_be_known(warehouse: Warehouse) -> None:
    for revision, signal in ((2, "DRIFT"), (1, "NONE")):
        warehouse.insert("drift_reports", report(DAY_MS, revision, signal))
    assert warehouse.read("drift_reports", {"metric": "hour"}, ["signal"]) == [{"signal": "DRIFT"}]
    for where, columns in (({"hours": 1}, None), (None, ["signal", "hours"])):
        with pytest.raises(WarehouseError, match="has no column hours"):
            warehouse.read("drift_reports", where, columns)


def test_a_token_takes_effect_once(warehouse: Warehouse) -> None:
    warehouse.insert("scores", scores([1]), token="t")  # noqa: S106  # of an insert
    warehouse.insert("scores", scores([1], score=0.9, scored_at_ms=2_000), token="t")  # noqa: S106  # of an insert
    assert [row["score"] for row in warehouse.read("scores")] == [0.5]
    warehouse.insert("scores", scores([1], score=0.9, scored_at_ms=2_000), token="u")  # noqa: S106  # of an insert
    assert [row["score"] for row in warehouse.read("scores")] == [0.9]


def test_of_rows_of_one_version_the_last_one_inserted_counts_also_when_it_was_there_before(
    warehouse: Warehouse,
) -> None:
    for score in (0.5, 0.9, 0.5):
        warehouse.insert("scores", scores([1], score=score))
        assert [row["score"] for row in warehouse.read("scores")] == [score]


def test_original_bytes_of_a_dead_letter_survive(warehouse: Warehouse) -> None:
    letter = {
        "pipeline": ["p"],
        "topic": ["t"],
        "partition": [0],
        "offset": [1],
        "stage": ["decode"],
        "reason": ["json"],
    }
    bytes_in = {"detail": ["é"], "key": [None], "value": [b"\xff\x00{"], "record_time": [1], "rejected_at": [2]}
    warehouse.insert("dead_letters", {**letter, **bytes_in})
    (row,) = warehouse.read("dead_letters")
    assert (row["key"], row["value"], row["detail"]) == (None, b"\xff\x00{", "é")


def test_the_newest_checkpoint_is_returned_whole(warehouse: Warehouse) -> None:
    assert warehouse.latest_checkpoint("p") is None
    warehouse.save_checkpoint("p", {"p.sketches": {0: 1}}, b"one", term=1)
    revision = warehouse.save_checkpoint("p", {"p.sketches": {0: 5, 1: 7}}, b"\x00\xff", term=1)
    warehouse.save_checkpoint("other", {}, b"", term=1)
    latest = warehouse.latest_checkpoint("p")
    assert latest is not None
    assert (latest.revision, latest.offsets, latest.state) == (revision, {"p.sketches": {0: 5, 1: 7}}, b"\x00\xff")


def test_a_checkpoint_of_an_older_term_never_takes_the_place_of_a_newer(warehouse: Warehouse) -> None:
    for term, state in ((3, b"old"), (4, b"new"), (3, b"older"), (3, b"oldest")):
        warehouse.save_checkpoint("p", {}, state, term=term)
    latest = warehouse.latest_checkpoint("p")
    assert latest is not None
    assert latest.state == b"new"


def test_who_claims_fences_all_before_and_reads_what_they_left(warehouse: Warehouse) -> None:
    first = Reign.claim(warehouse, "p", "a", 1)
    first.plan(warehouse, [Plan("p.scores", 0, 0, 7), Plan("p.scores", 1, 0, 2)])
    first.plan(warehouse, [Plan("p.scores", 0, 7, 9, held=Source("p.events", 0, 5))])
    first.save(warehouse, {"p.scores": {0: 7}}, b"a")
    second = Reign.claim(warehouse, "p", "b", 2)
    Reign.claim(warehouse, "other", "c", 3)
    assert second.term == first.term + 1
    second.save(warehouse, {"p.scores": {0: 7}}, b"b")
    for write in (lambda: first.plan(warehouse, [Plan("p.scores", 0, 9, 99)]), lambda: first.save(warehouse, {}, b"?")):
        with pytest.raises(FencedError, match="has taken over"):
            write()
    again = Plan("p.scores", 0, 7, 9, held=Source("p.events", 0, 5))
    second.plan(warehouse, [again, Plan("p.scores", 1, 2, 4)])
    legacy = inherit(warehouse, "p", {"p.scores": "scores"})
    assert legacy.checkpoint is not None
    assert legacy.checkpoint.state == b"b"
    assert legacy.plans == {("p.scores", 0): again, ("p.scores", 1): Plan("p.scores", 1, 2, 4)}
    assert legacy.missing == {("p.scores", 0)}  # nobody inserted the row that the plan says is in
    warehouse.insert("scores", scores([5]))
    assert not inherit(warehouse, "p", {"p.scores": "scores"}).missing


@pytest.mark.parametrize("time_ms", [2**62, -(2**62), 253_402_300_800_000])
def test_a_time_that_no_table_can_hold_stops_no_take_over(warehouse: Warehouse, time_ms: int) -> None:
    """Some other program, or an older release, may have written it."""
    warehouse.insert("scores", {**scores([5]), "event_time": [time_ms]})
    (row,) = warehouse.read("scores")
    assert row["event_time"].year == (2299 if time_ms > 0 else 1900)
    place = ("p.scores", 0)
    Reign.claim(warehouse, "p", "a", 1).plan(warehouse, [Plan(*place, 7, 9, held=Source("p.events", 0, 5))])
    assert not inherit(warehouse, "p", {"p.scores": "scores"}).missing


def test_rows_of_alerts_that_are_none_are_passed_over(warehouse: Warehouse) -> None:
    words = {name: ["x"] for name in ("rule", "severity", "state", "model", "version", "measure", "message", "action")}
    rest = {"value": [None], "threshold": [None], "at": [2**62], "window_start": [None], "window_end": [2**62]}
    warehouse.insert("alerts", {**words, **rest, "alert_id": ["a"], "pipeline": ["p"]})
    assert inherit(warehouse, "p", {}).alerts == ()


def test_a_refused_insert_leaves_nothing(warehouse: Warehouse) -> None:
    with pytest.raises(WarehouseError, match="lack the column score"):
        warehouse.insert("scores", {name: values for name, values in scores([1]).items() if name != "score"})
    with pytest.raises(WarehouseError, match="no table 'nope'"):
        warehouse.insert("nope", {})
    assert warehouse.read("scores") == []


def test_a_table_by_its_name_counts_each_record_once(sql: Warehouse) -> None:
    for _ in range(3):
        sql.insert("scores", scores([1, 2, 3]), token=None)
    sql.insert("scores", scores([3, 4], scored_at_ms=2_000))
    sql.insert("scores", {**scores([3]), "role": ["shadow"], "shadow": ["2.0.0"]})
    assert sql.query("SELECT count() FROM scores").rows == [(4,)]
    assert sql.query("SELECT count() FROM shadow_scores").rows == [(1,)]
    assert sql.query("SELECT {word:String}, count() FROM scores", {"word": "hé"}).rows == [("hé", 4)]


def test_tables_and_views_are_as_described(sql: Warehouse) -> None:
    rows = sql.query(
        "SELECT table, name, type FROM system.columns WHERE database = 'streamgauge' ORDER BY position"
    ).rows
    found: dict[str, dict[str, str]] = {}
    for table, name, kind in rows:
        found.setdefault(table, {})[name] = kind
    for table in TABLES.values():
        assert found[table.storage] == {column.name: column.type for column in table.columns}, table.name
        assert {**found[table.name], "shadow": ""}.keys() >= found[table.storage].keys()
    for view in VIEWS.values():
        assert list(found[view.name].items()) == [(column.name, column.type) for column in view.columns], view.name
    assert set(found) == {t.name for t in TABLES.values()} | {t.storage for t in TABLES.values()} | set(VIEWS)
    keys = dict(sql.query("SELECT name, sorting_key FROM system.tables WHERE database = 'streamgauge'").rows)
    for table in TABLES.values():
        assert tuple(keys[table.storage].split(", ")) == table.key


def test_daily_scores_hold_the_latest_score_of_the_day(sql: Warehouse) -> None:
    sql.insert("scores", scores([1], score=0.1))
    sql.insert("scores", scores([2], score=0.2))
    sql.insert("scores", scores([86_400], score=0.3))
    rows = sql.query("SELECT toString(day), score, n_scores FROM daily_scores ORDER BY day").rows
    assert rows == [("1970-01-01", 0.2, 2), ("1970-01-02", 0.3, 1)]


def test_the_star_joins_each_score_once(sql: Warehouse) -> None:
    sql.insert("scores", scores([1, 86_400]))
    version = {
        "pipeline": ["p"],
        "model": ["m"],
        "version": ["1.0.0"],
        "role": ["champion"],
        "uri": ["u"],
        "sha256": ["s"],
    }
    times = {"feature_set": ["f"], "valid_from": [None], "trained_from": [0], "trained_to": [1], "updated_at": [1]}
    sql.insert("model_versions", {**version, **times})
    rows = sql.query(
        "SELECT d.weekday, m.version, e.customer_id, count() FROM fact_scores f JOIN dim_model m USING model_key"
        " JOIN dim_entity e USING entity_key JOIN dim_date d USING date_key GROUP BY ALL ORDER BY 1"
    ).rows
    assert rows == [(4, "1.0.0", "c", 1), (5, "1.0.0", "c", 1)]  # 1970-01-01 was a Thursday


def test_drift_now_shows_the_newest_window_at_its_last_revision(sql: Warehouse) -> None:
    for values in (report(DAY_MS, 1, "DRIFT"), report(2 * DAY_MS, 1, "DRIFT"), report(2 * DAY_MS, 2, "NONE")):
        sql.insert("drift_reports", values)
    sql.insert("drift_reports", report(DAY_MS, 1, "WARNING", metric="seats"))
    assert sql.query("SELECT metric, signal FROM drift_now ORDER BY metric").rows == [
        ("hour", "NONE"),
        ("seats", "WARNING"),
    ]


def test_a_result_is_cut_at_its_limit_and_says_so(sql: Warehouse) -> None:
    result = sql.query_readonly("SELECT number FROM numbers(10000000)", limit=2)
    assert (result.read(), result.types, result.truncated) == ([[0], [1]], ["UInt64"], True)
    assert not sql.query_readonly("SELECT number FROM numbers(2)", limit=2).truncated


def test_a_result_without_rows_has_its_columns(sql: Warehouse) -> None:
    result = sql.query_readonly("SELECT score, event_time FROM scores WHERE 0;")
    assert (result.columns, result.types, result.read()) == (
        ["score", "event_time"],
        ["Float64", "DateTime64(3, 'UTC')"],
        [],
    )


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO scores_raw (offset) VALUES (1)",
        "ALTER TABLE scores_raw DELETE WHERE 1",
        "DROP TABLE scores_raw",
        "SYSTEM FLUSH LOGS",
        "SELECT file('{path}')",
        "SELECT * FROM file('{path}', 'LineAsString')",
        "SELECT * FROM default.`{path}`",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "SELECT 1 INTO OUTFILE '{path}.out'",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT 1; DROP TABLE scores_raw",
    ],
)
def test_users_sql_only_reads(engine: ClickHouseWarehouse, tmp_path: Path, statement: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("word\n")
    engine.insert("scores", scores([1]))
    with pytest.raises(WarehouseError) as caught:
        engine.query_readonly(statement.format(path=secret))
    assert "word" not in str(caught.value)
    assert not (tmp_path / "secret.out").exists()
    assert engine.query_readonly("SELECT count() FROM scores").read() == [[1]]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO scores_raw (offset) VALUES (1)",
        "DROP TABLE scores_raw",
        "SELECT * FROM url('http://127.0.0.1:1/', 'TSV')",
    ],
)
def test_the_session_itself_only_reads(engine: ClickHouseWarehouse, statement: str) -> None:
    with pytest.raises(Exception, match="READONLY"):
        b"".join(engine._reads._run(statement, "TabSeparated", {}))


def test_a_slow_query_is_stopped(engine: ClickHouseWarehouse) -> None:
    with pytest.raises(WarehouseError, match="time limit"):
        engine.query_readonly("SELECT count() FROM numbers(1000000000000)")


def test_users_may_ask_from_a_second_thread_while_rows_go_in(engine: ClickHouseWarehouse) -> None:
    answers: list[int] = []
    asking = threading.Thread(
        target=lambda: answers.extend(
            engine.query_readonly("SELECT count() FROM scores").read()[0][0] for _ in range(20)
        )
    )
    asking.start()
    for start in range(0, 200, 10):
        engine.insert("scores", scores(list(range(start, start + 10))))
    asking.join(60)
    assert len(answers) == 20
    assert answers == sorted(answers)
    assert engine.query("SELECT count() FROM scores").rows == [(200,)]


def test_rows_and_checkpoints_outlive_the_engine(engine: ClickHouseWarehouse) -> None:
    engine.insert("scores", scores([1]), token="t")  # noqa: S106  # of an insert
    engine.save_checkpoint("p", {"t": {0: 1}}, b"x", term=0)
    engine.close()
    engine.insert("scores", scores([1]), token="t")  # noqa: S106  # of an insert
    assert engine.query("SELECT count() FROM scores_raw").rows == [(1,)]
    assert engine.save_checkpoint("p", {"t": {0: 2}}, b"y", term=0) == 2


def test_a_changed_migration_is_refused(tmp_path: Path) -> None:
    files = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS_PATH, files)
    warehouse = ClickHouseWarehouse(path=tmp_path / "clickhouse", migrations_path=files)
    try:
        assert warehouse.migrate() == sorted(file.name for file in files.glob("*.sql"))
        (files / "900_more.sql").write_text("-- why\nCREATE OR REPLACE VIEW streamgauge.more AS SELECT 1 AS one;\n")
        assert warehouse.migrate() == ["900_more.sql"]
        (files / "900_more.sql").write_text("-- why not\nSELECT 1;\n")
        with pytest.raises(WarehouseError, match=r"900_more.sql was changed after it was applied"):
            warehouse.migrate()
    finally:
        warehouse.close()


def test_what_was_stored_of_times_that_cannot_be_is_cleared_once(tmp_path: Path) -> None:
    """A dead letter is not: only its record's time stamp is what its producer's clock said."""
    files = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS_PATH, files)
    (files / "010_times.sql").unlink()
    warehouse = ClickHouseWarehouse(path=tmp_path / "clickhouse", migrations_path=files)
    letter = {name: ["p"] for name in ("pipeline", "topic", "stage", "reason", "detail", "key", "value")}
    try:
        warehouse.migrate()
        warehouse.insert("scores", {**scores([1, 2, 3]), "event_time": [2**62, 5, -(2**62)]})
        place = {"partition": [0], "offset": [1], "rejected_at": [7]}
        warehouse.insert("dead_letters", {**letter, **place, "record_time": [2**62]})
        shutil.copy(MIGRATIONS_PATH / "010_times.sql", files)
        assert warehouse.migrate() == ["010_times.sql"]
        assert warehouse.query("SELECT offset, event_time FROM scores").rows == [(2, ANY)]
        ((record_time,),) = warehouse.query("SELECT record_time FROM dead_letters").rows
        assert record_time.year == 2299
    finally:
        warehouse.close()


def test_a_second_process_is_told_who_holds_the_engine(engine: ClickHouseWarehouse, tmp_path: Path) -> None:
    assert lock_holder(tmp_path / "clickhouse") is not None
    for arguments in (["query", "SELECT 1", "--home", str(tmp_path)], ["migrate", "--home", str(tmp_path)]):
        run = subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin"},
        )
        said = run.stdout + run.stderr
        assert "held by process" in said, said
        assert run.returncode == (1 if arguments[0] == "query" else 0)
        assert "Traceback" not in said


def test_a_server_that_is_not_there_is_one_retryable_sentence() -> None:
    warehouse = ClickHouseWarehouse("http://user:hidden@127.0.0.1:1")
    with pytest.raises(WarehouseError, match=r"http://127.0.0.1:1 does not answer") as caught:
        warehouse.wait_ready(0.2)
    assert caught.value.retryable
    assert "hidden" not in str(caught.value)


class MonitorFake(BaseHTTPRequestHandler):
    """Answers like the monitor, and refuses what says DROP."""

    def do_POST(self) -> None:  # http.server's name
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_refused = self.path != "/api/v1/query" or "DROP" in asked["sql"]
        answer = {
            "columns": ["sql", "limit"],
            "types": ["String", "Int64"],
            "rows": [[*asked.values()]],
            "truncated": True,
        }
        body = json.dumps({"detail": "Only reading is allowed."} if is_refused else answer).encode()
        self.send_response(400 if is_refused else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_query_asks_the_running_monitor(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), MonitorFake) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        address = f"http://127.0.0.1:{server.server_port}"
        mark = birth_mark(os.getpid()) or ""
        monitor = RunningChild(os.getpid(), address)
        write_run(
            tmp_path, Run(os.getpid(), mark, "p", "now", RunningKafka("k", True), "embedded", {"monitor": monitor})
        )
        home = ["--home", str(tmp_path)]
        fine = CliRunner().invoke(query_command, ["SELECT 1", "--limit", "5", "--csv", *home])
        refused = CliRunner().invoke(query_command, ["DROP TABLE scores", *home])
        server.shutdown()
        serving.join()
    assert (fine.exit_code, fine.stdout, fine.stderr) == (
        0,
        "sql,limit\nSELECT 1,5\n",
        "There are more rows than 5: raise --limit.\n",
    )
    assert (refused.exit_code, refused.stderr) == (1, "Error: Only reading is allowed.\n")


def test_the_commands_work_on_an_engine_at_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMGAUGE_CLICKHOUSE", raising=False)
    home = ["--home", str(tmp_path)]
    missing = CliRunner().invoke(query_command, ["SELECT 1", *home])
    assert (missing.exit_code, "no running stack" in missing.output) == (1, True)
    assert "applied 001_" in CliRunner().invoke(migrate_command, home).output
    assert "up to date" in CliRunner().invoke(migrate_command, home).output
    asked = CliRunner().invoke(query_command, ["SELECT 1 AS one, 'a|b' AS word, NULL AS nothing", "--json", *home])
    assert json.loads(asked.output) == {
        "columns": ["one", "word", "nothing"],
        "types": ["UInt8", "String", "Nullable(Nothing)"],
        "rows": [[1, "a|b", None]],
        "truncated": False,
    }
    as_csv = CliRunner().invoke(query_command, ["SELECT number FROM numbers(3)", "--csv", "--limit", "2", *home])
    assert as_csv.stdout == "number\n0\n1\n"
    pretty = CliRunner().invoke(query_command, ["SELECT metric, decile, value FROM model_metadata LIMIT 20", *home])
    assert (pretty.exit_code, "decile" in pretty.output, "0 rows" in pretty.output) == (0, True, True)
    wrong = CliRunner().invoke(query_command, ["SELECT nope FROM scores", *home])
    assert (wrong.exit_code, "Unknown expression identifier `nope`" in wrong.output) == (1, True)
    assert CliRunner().invoke(query_command, ["SELECT 1", "--json", "--csv", *home]).exit_code == 2
