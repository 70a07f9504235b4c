"""The warehouse on ClickHouse: a server by HTTP(S), or the same engine in process on a directory.

One process owns the directory of the embedded engine. Rows travel as Arrow; users' SQL runs by
`app.adapters.clickhouse.reads`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import schemas
from app.adapters.clickhouse.arrow_columns import find_column, find_table, to_arrow, to_rows
from app.adapters.clickhouse.reads import ClickHouseReads, EmbeddedReads, ServerReads
from app.adapters.clickhouse.url import ClickHouseUrl, explain_of
from app.adapters.stack.private_folder import private_folder
from app.clock import wall_clock_ms
from app.ports import Checkpoint, ColumnValues, JsonRows, QueryResult, WarehouseError
from app.secret import Secret
from schemas.tables import DATABASE, SCORES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

T = TypeVar("T")

MIGRATIONS_PATH = Path(schemas.__file__).parent / "clickhouse"
#: The types and settings that the tables need are all known from here on.
OLDEST_SERVER = (24, 8)

#: A server that has not answered for this long hangs; what it was asked is asked again.
_ANSWER_S = 60

# The embedded engine's own default is async_insert=1, which would answer before the rows are in.
_INSERT_SETTINGS = {"async_insert": 0, "insert_deduplicate": 1}


def lock_holder(path: Path) -> str | None:
    """Return the process that holds the embedded engine's directory, in words; None when it is free."""
    try:
        with (path / "status").open() as status:
            try:
                fcntl.flock(status, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                match = re.search(r"PID: (\d+)", status.read())
                return f"process {match.group(1)}" if match else "another process"
    except FileNotFoundError:
        return None
    return None


class ClickHouseWarehouse:
    """`app.ports.Warehouse` on ClickHouse.

    Nothing is opened before the first call, so it may be built in one thread and used in another.

    Parameters
    ----------
    url
        ``http[s]://user:password@host:port`` of a server; empty: the embedded engine.
    path
        Directory of the embedded engine.
    migrations_path
        Directory of the numbered SQL files.
    query_seconds
        Time limit of a user's query.
    """

    def __init__(
        self,
        url: Secret | str = "",
        path: Path | None = None,
        *,
        migrations_path: Path = MIGRATIONS_PATH,
        query_seconds: float = 30,
    ) -> None:
        if bool(url) == (path is not None):
            msg = "Give either the URL of a ClickHouse server or the directory of the embedded engine."
            raise ValueError(msg)
        self._path = path
        self._url = ClickHouseUrl.parse(url if isinstance(url, Secret) else Secret(url)) if url else None
        self.where = self._url.where if self._url is not None else str(path)
        self._migrations_path = migrations_path
        self._writer: Any = None
        self._reads: ClickHouseReads = (
            EmbeddedReads(path, query_seconds)
            if path is not None
            else ServerReads(lambda: self._connect(database=DATABASE, compress=False), query_seconds)
        )
        # In process, each takes a processor for itself.
        self.most_reads = max(2, os.cpu_count() or 1) if path is not None else 8
        self._revisions: dict[tuple[str, int], int] = {}

    def wait_ready(self, deadline_s: float) -> None:
        end = time.monotonic() + deadline_s
        pause_s = 0.05
        while True:
            try:
                self._call(lambda: self._write_client().query("SELECT 1"))
            except WarehouseError as error:
                if not error.retryable or time.monotonic() + pause_s > end:
                    raise
            else:
                return
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)

    def migrate(self) -> list[str]:
        return self._call(self._migrate)

    def insert(self, table: str, columns: Mapping[str, ColumnValues], token: str | None = None) -> int:
        known = find_table(table)
        arrow = to_arrow(known, columns)
        if arrow.num_rows == 0:
            return 0
        # Without a token the engine drops a block whose rows are those of an earlier one, whatever came since.
        settings = {**_INSERT_SETTINGS, "insert_deduplication_token": token if token is not None else uuid.uuid4().hex}
        storage = f"{DATABASE}.{known.storage}"
        self._call(lambda: self._write_client().insert_arrow(storage, arrow, settings=settings), known.storage)
        return int(arrow.num_rows)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, limit: int | None = None) -> QueryResult:
        return self._call(lambda: _fetch(self._write_client(), sql, parameters, limit))

    def query_readonly(self, sql: str, limit: int = 1000, *, as_objects: bool = False, mark: str = "") -> JsonRows:
        def run() -> JsonRows:
            if self._writer is None:
                self._refuse_second_owner()
            return self._reads.ask(sql, limit, as_objects=as_objects, mark=mark)

        return self._call(run, reading=True)

    def stop(self, mark: str) -> None:
        self._call(lambda: self._reads.stop(mark))

    def read(
        self, table: str, where: Mapping[str, Any] | None = None, columns: Collection[str] | None = None
    ) -> list[dict[str, Any]]:
        known = find_table(table)
        source = known.storage if known is SCORES else known.name
        final = " FINAL" if source == known.storage else ""
        conditions, parameters = ["1"], {}
        for position, (name, value) in enumerate((where or {}).items()):
            conditions.append(f"`{name}` = {{p{position}:{find_column(known, name).type}}}")
            parameters[f"p{position}"] = value
        wanted = known.columns if columns is None else [find_column(known, name) for name in columns]
        names = ", ".join(f"`{column.name}`" for column in wanted)
        sql = (
            f"SELECT {names} FROM {DATABASE}.{source}{final} WHERE {' AND '.join(conditions)}"  # noqa: S608  # names from schemas.tables
            f" ORDER BY {', '.join(f'`{name}`' for name in known.key)}"
        )
        settings = {"output_format_arrow_string_as_string": 0, "output_format_arrow_low_cardinality_as_dictionary": 0}
        arrow = self._call(
            lambda: self._write_client().query_arrow(sql, parameters=parameters, settings=settings), known.storage
        )
        return list(to_rows(known, arrow))

    def latest_checkpoint(self, pipeline: str) -> Checkpoint | None:
        sql = (
            f"SELECT revision, offsets, state FROM {DATABASE}.monitor_checkpoints"  # noqa: S608  # a constant
            " WHERE pipeline = {pipeline:String} ORDER BY revision DESC LIMIT 1"
        )

        def run() -> list[Any]:
            result = self._write_client().query(
                sql, parameters={"pipeline": pipeline}, query_formats={"String": "bytes"}
            )
            return list(result.result_rows)

        rows = self._call(run, "monitor_checkpoints")
        if not rows:
            return None
        revision, offsets, state = rows[0]
        by_topic = {topic: {int(k): int(v) for k, v in of.items()} for topic, of in json.loads(offsets).items()}
        return Checkpoint(int(revision), by_topic, bytes(state))

    def save_checkpoint(
        self, pipeline: str, offsets: Mapping[str, Mapping[int, int]], state: bytes, *, term: int
    ) -> int:
        if (pipeline, term) not in self._revisions:
            latest = self.latest_checkpoint(pipeline)
            newest = latest.revision if latest else 0
            self._revisions[pipeline, term] = newest if newest >> 32 == term else term << 32
        revision = self._revisions[pipeline, term] + 1
        text = json.dumps(
            {topic: {str(k): int(v) for k, v in of.items()} for topic, of in offsets.items()}, sort_keys=True
        )
        self.insert(
            "monitor_checkpoints",
            {
                "pipeline": [pipeline],
                "revision": [revision],
                "offsets": [text],
                "state": [state],
                "saved_at": [wall_clock_ms()],
            },
        )
        self._revisions[pipeline, term] = revision
        return revision

    def close(self) -> None:
        for client in (self._reads, self._writer):
            if client is not None:
                with suppress(Exception):  # nothing can be done about a session that does not close
                    client.close()
        self._writer = None

    def _call(self, run: Callable[[], T], table: str = "", *, reading: bool = False) -> T:
        try:
            return run()
        except Exception as error:  # noqa: BLE001  # the driver's own, urllib3's, the engine's RuntimeError, ImportError
            said, cause = explain_of(error, self._url, self.where, table, reading=reading)
            raise said from cause

    def _write_client(self) -> Any:
        if self._writer is None:
            client = self._connect()
            if tuple(int(part) for part in client.server_version.split(".")[:2]) < OLDEST_SERVER:
                version = client.server_version
                client.close()
                oldest = ".".join(map(str, OLDEST_SERVER))
                msg = f"ClickHouse at {self.where} is version {version}; streamgauge needs {oldest} or later."
                raise WarehouseError(msg)
            exists = f"SELECT count() FROM system.databases WHERE name = '{DATABASE}'"  # noqa: S608  # a constant
            if not client.query(exists).first_row[0]:
                client.command(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
            client.database = DATABASE
            self._writer = client
        return self._writer

    def _connect(self, **options: Any) -> Any:
        import clickhouse_connect  # noqa: PLC0415  # takes 0.3 s, and `--help` does not need it

        # The driver logs with its trace what it also raises, and what we say in one sentence.
        logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
        if self._url is not None:
            options.setdefault("database", "default")
            return clickhouse_connect.get_client(
                dsn=self._url.to_dsn(),
                connect_timeout=5,
                send_receive_timeout=_ANSWER_S,
                autogenerate_session_id=False,
                **options,
            )
        assert self._path is not None
        self._refuse_second_owner()
        try:
            private_folder(self._path)
        except OSError as error:
            msg = f"The embedded ClickHouse cannot use {self._path}: {error.strerror}; give another --home."
            raise WarehouseError(msg) from error
        return clickhouse_connect.get_client(interface="chdb", path=str(self._path), **options)

    def _refuse_second_owner(self) -> None:
        """Say who else has the directory; our own sessions share it."""
        holder = lock_holder(self._path) if self._path is not None else None
        if holder is not None and holder != f"process {os.getpid()}":
            msg = f"The embedded ClickHouse at {self._path} is in use by {holder}: stop it, or ask the running monitor."
            raise WarehouseError(msg, retryable=True)

    def _migrate(self) -> list[str]:
        client = self._write_client()
        exists = f"SELECT count() FROM system.tables WHERE database = '{DATABASE}' AND name = 'schema_migrations'"  # noqa: S608
        seen: dict[str, str] = {}
        if client.query(exists).first_row[0]:
            seen = dict(client.query(f"SELECT name, checksum FROM {DATABASE}.schema_migrations FINAL").result_rows)  # noqa: S608
        applied = []
        for file in sorted(self._migrations_path.glob("*.sql")):
            text = file.read_text()
            checksum = hashlib.sha256(text.encode()).hexdigest()
            if seen.get(file.name, checksum) != checksum:
                msg = f"Migration {file.name} was changed after it was applied: restore it and add a new file instead."
                raise WarehouseError(msg)
            if file.name in seen:
                continue
            # Each statement can be repeated, so a crash before the next line only means that the file runs once more.
            for statement in statements(text):
                client.command(statement)
            row: dict[str, ColumnValues] = {
                "name": [file.name],
                "checksum": [checksum],
                "applied_at": [wall_clock_ms()],
            }
            self.insert("schema_migrations", row)
            applied.append(file.name)
        return applied


def statements(text: str) -> list[str]:
    """Return the statements of an SQL file; each ends with a semicolon at the end of a line."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    return [part.strip() for part in re.split(r";[ \t]*(?:\n|$)", body) if part.strip()]


def _fetch(client: Any, sql: str, parameters: Mapping[str, Any] | None, limit: int | None) -> QueryResult:
    """Read blocks until there is one row more than ``limit``, and leave the rest unread."""
    rows: list[tuple[Any, ...]] = []
    with client.query_row_block_stream(sql, parameters=parameters) as stream:
        for block in stream:
            rows.extend(tuple(row) for row in block)
            if limit is not None and len(rows) > limit:
                break
        columns, types = list(stream.source.column_names), [column.name for column in stream.source.column_types]
    if not columns:  # the embedded engine sends nothing at all for no rows
        described = client.query(f"DESCRIBE TABLE (\n{sql}\n)", parameters=parameters).result_rows
        columns, types = [row[0] for row in described], [row[1] for row in described]
    truncated = limit is not None and len(rows) > limit
    return QueryResult(columns, types, rows[:limit], truncated=truncated)
