"""Users' questions to ClickHouse: read-only, many at a time, with limits of time, memory and size, and stopped at will.

The engine itself writes the answer as JSON, so that it costs Python a copy of the bytes and nothing else: rows made
into objects and back into text held Python's lock for seconds, and took ten times their size. Each question has a
session (embedded) or a request (server) of its own, whose settings it cannot change.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from app.adapters.clickhouse.errors import ASK_FOR_LESS
from app.adapters.clickhouse.sql_gate import check_one_statement, check_tree, quote
from app.ports import JsonRows, WarehouseError
from schemas.tables import DATABASE

#: What an answer may be, as text.
MOST_ANSWER_BYTES = 32 << 20
#: Memory for one question. The embedded engine is in the monitor, and takes it from the monitor's.
EMBEDDED_MEMORY = 256 << 20
SERVER_MEMORY = 2_000_000_000
#: What does not fit into memory goes to the disk, up to this.
_SPILL_BYTES = 2_000_000_000

_ARRAYS = "JSONCompactEachRowWithNamesAndTypes"
_OBJECTS = "JSONEachRow"
_STREAMED = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(?:select|with|from)\b", re.IGNORECASE | re.DOTALL)
_CHUNK_BYTES = 1 << 20


class ClickHouseReads(ABC):
    """Answers questions; any number of threads may ask at once.

    Parameters
    ----------
    seconds, memory
        What one question may take.
    """

    def __init__(self, seconds: float, memory: int) -> None:
        self._table_functions: frozenset[str] | None = None
        self._settings: dict[str, Any] = {
            "max_execution_time": seconds,
            "timeout_before_checking_execution_speed": 0,
            "max_memory_usage": memory,
            "max_temporary_data_on_disk_size_for_query": _SPILL_BYTES,
            # Of columns, whose text is about as large as they are; a net under the limit of the text.
            "max_result_bytes": 2 * MOST_ANSWER_BYTES,
            "result_overflow_mode": "throw",
            "allow_introspection_functions": 0,
            "date_time_output_format": "iso",
            "output_format_json_quote_64bit_integers": 0,
            "output_format_json_quote_denormals": 0,  # nan and infinity as null
            "output_format_json_validate_utf8": 1,
            "output_format_json_escape_forward_slashes": 0,
        }

    def ask(self, sql: str, limit: int, *, as_objects: bool = False, mark: str = "") -> JsonRows:
        """Answer one statement that reads; at most ``limit`` rows.

        Parameters
        ----------
        as_objects
            Each row as an object, without ``columns`` and ``types``; otherwise as an array.
        mark
            A word of letters and digits by which `stop` knows it.
        """
        if self._table_functions is None:
            names = b"".join(self._run("SELECT name FROM system.table_functions", _OBJECTS, {}))
            self._table_functions = frozenset(row["name"].lower() for row in _lines(names))
        statement = check_one_statement(sql, self._table_functions)
        tree = b"".join(self._run(f"EXPLAIN AST {statement}", _OBJECTS, {}))
        check_tree([row["explain"] for row in _lines(tree)], self._table_functions)
        # One row more than wanted tells whether there are more; what is not a SELECT is short.
        settings = {"limit": limit + 1} if _STREAMED.match(statement) else {}
        # What is left of the answer is dropped here, not when the traceback of an error is no longer held anywhere.
        with closing(self._run(statement, _OBJECTS if as_objects else _ARRAYS, settings, mark)) as pieces:
            answer = _collect(pieces, limit, as_objects)
        if answer.columns or as_objects:
            return answer
        # The embedded engine sends nothing at all for no rows.
        described = _lines(b"".join(self._run(f"DESCRIBE TABLE (\n{statement}\n)", _OBJECTS, {}, mark)))
        return JsonRows([], [row["name"] for row in described], [row["type"] for row in described])

    @abstractmethod
    def stop(self, mark: str) -> None:
        """Stop the question with a mark; nothing happens when there is none."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held between questions."""

    @abstractmethod
    def _run(self, statement: str, form: str, settings: Mapping[str, Any], mark: str = "") -> Generator[bytes]:
        """The answer in a format, in pieces of whole rows; each begins with the format's header, if it has one."""


class EmbeddedReads(ClickHouseReads):
    """Questions to the engine in process, whose directory is shared with those who write."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__(seconds, EMBEDDED_MEMORY)
        self._path = os.path.realpath(path)
        # Writing and the event loop want a processor too.
        self._settings["max_threads"] = 1

    def stop(self, mark: str) -> None:
        session = self._connect()
        try:
            session.query(f"KILL QUERY WHERE Settings['log_comment'] = {quote(mark)} ASYNC")
        finally:
            session.close()

    def close(self) -> None:
        """Nothing is held."""

    def _run(self, statement: str, form: str, settings: Mapping[str, Any], mark: str = "") -> Generator[bytes]:
        session = self._connect()
        try:
            session.query(f"USE {DATABASE}")
            given = {**self._settings, **settings, "log_comment": mark}
            session.query("SET " + ", ".join(f"{name} = {quote(str(value))}" for name, value in given.items()))
            session.query("SET readonly = 1")
            if not _STREAMED.match(statement):
                yield bytes(session.query(statement, form).bytes() or b"")
                return
            with session.send_query(statement, form) as stream:
                for piece in stream:
                    yield bytes(piece.bytes())
        finally:
            session.close()

    def _connect(self) -> Any:
        import chdb  # noqa: PLC0415  # takes half a second, and an extra

        return chdb.connect(self._path)  # type: ignore[no-untyped-call]


class ServerReads(ClickHouseReads):
    """Questions to a server by HTTP; ``connect`` opens a client that compresses nothing."""

    def __init__(self, connect: Callable[[], Any], seconds: float) -> None:
        super().__init__(seconds, SERVER_MEMORY)
        self._connect = connect
        self._client: Any = None

    def stop(self, mark: str) -> None:
        if self._client is not None:
            self._client.command(f"KILL QUERY WHERE query_id = {quote(mark)} ASYNC")

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _run(self, statement: str, form: str, settings: Mapping[str, Any], mark: str = "") -> Generator[bytes]:
        if self._client is None:
            self._client = self._connect()
        given = {**self._settings, **settings, "readonly": 1, "wait_end_of_query": 1} | (
            {"query_id": mark} if mark else {}
        )
        head = b""
        rest = b""
        # By the header, since a FORMAT at the end would be taken for a part of what EXPLAIN AST explains.
        default = {"X-ClickHouse-Format": form}
        with self._client.raw_stream(statement, settings=given, transport_settings=default) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                rest += chunk
                if form == _ARRAYS and not head:
                    parts = rest.split(b"\n", 2)
                    if len(parts) < 3:
                        continue
                    head, rest = b"\n".join(parts[:2]) + b"\n", parts[2]
                whole, newline, rest = rest.rpartition(b"\n")
                if newline:
                    yield head + whole + newline
        if head or rest:
            yield head + rest


def _collect(pieces: Iterator[bytes], limit: int, as_objects: bool) -> JsonRows:
    """Take pieces until there is one row more than wanted; `WarehouseError` when they are too large."""
    rows: list[bytes] = []
    names, types = b"[]", b"[]"
    left, size = limit, 0
    for piece in pieces:
        body = piece
        if not as_objects:
            names, types, body = piece.split(b"\n", 2)
        size += len(body)
        if size > MOST_ANSWER_BYTES:
            raise WarehouseError(f"The answer is larger than {MOST_ANSWER_BYTES >> 20} MiB: {ASK_FOR_LESS}")
        body = body.removesuffix(b"\n")
        if not body:
            continue
        lines = body.count(b"\n") + 1
        if lines > left:
            if left:
                rows.append(_commas(b"\n".join(body.split(b"\n", left)[:left])))
            return JsonRows(rows, msgspec.json.decode(names), msgspec.json.decode(types), truncated=True)
        left -= lines
        rows.append(_commas(body))
    return JsonRows(rows, msgspec.json.decode(names), msgspec.json.decode(types))


def _commas(rows: bytes) -> bytes:
    return rows.replace(b"\n", b",")  # within a row a line break is escaped


def _lines(rows: bytes) -> list[Any]:
    return msgspec.json.Decoder().decode_lines(rows)
