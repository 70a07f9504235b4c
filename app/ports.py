"""The ports: what the application asks of the outside, and what a caller may not assume about the answer."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from app.exits import EXIT_CONFIG, EXIT_RETRY

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class FloatMaps:
    """A column of maps from name to number as one matrix: row i holds ``{names[j]: values[i, j]}``; nan stays nan."""

    names: tuple[str, ...]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)


ColumnValues = Sequence[Any] | NDArray[Any] | FloatMaps


@dataclass(frozen=True)
class QueryResult:
    """Rows of a query with their column names and ClickHouse types; ``truncated``: there were more than asked for."""

    columns: list[str]
    types: list[str]
    rows: list[tuple[Any, ...]]
    truncated: bool = False


@dataclass(frozen=True)
class JsonRows:
    """Rows of a user's query as the JSON that the engine wrote: times as ISO 8601 in UTC, nan and infinity as null.

    ``pieces`` hold rows with commas between them, and belong together with commas between them.
    """

    pieces: list[bytes]
    columns: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    truncated: bool = False

    def read(self) -> list[Any]:
        """The rows as values."""
        return list(json.loads(b"[" + b",".join(self.pieces) + b"]"))

    def to_json(self) -> dict[str, Any]:
        """What ``POST /api/v1/query`` answers."""
        return {"columns": self.columns, "types": self.types, "rows": self.read(), "truncated": self.truncated}


@dataclass(frozen=True)
class Checkpoint:
    """What the monitor saved last: next offset to read by ``topic`` and partition, and its windows.

    The upper 32 bits of ``revision`` are the term of the monitor.
    """

    revision: int
    offsets: dict[str, dict[int, int]] = field(default_factory=dict)
    state: bytes = b""


class WarehouseError(RuntimeError):
    """What went wrong, in one sentence; ``retryable`` when the same call may succeed later without anyone's help.

    After a retryable error of ``insert`` it is unknown whether the rows are in: repeat it with the same rows and token.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable

    @property
    def exit_code(self) -> int:
        """That of a process that it ends."""
        return EXIT_RETRY if self.retryable else EXIT_CONFIG


class FencedError(WarehouseError):
    """Another monitor has taken over: nothing of this one counts any more."""


class Warehouse(Protocol):
    """The tables of `schemas.tables`.

    Thread-confined: every call comes from one thread, but ``query_readonly`` and ``stop`` from any. Every call may
    raise `WarehouseError`. A caller may not assume that an insert is in as a whole when it was interrupted, nor that
    storage holds a row once: only reading by a table's name is exact.
    """

    #: Users' questions that it answers at a time without those who write feeling it.
    most_reads: int

    def wait_ready(self, deadline_s: float) -> None:
        """Return when the warehouse answers; raise after ``deadline_s`` seconds, or at once if waiting cannot help."""
        ...

    def migrate(self) -> list[str]:
        """Create or update the tables; the names of the migrations applied now, in order."""
        ...

    def insert(self, table: str, columns: Mapping[str, ColumnValues], token: str | None = None) -> int:
        """Insert rows by columns; the number of rows given.

        Integers in a time column are milliseconds since 1970 UTC. None and nan in a Nullable column are null. A second
        insert with the same ``token`` into the same table does nothing, also when its rows differ: derive it from them.
        Without one, rows are inserted each time: of those that replace each other the last count.
        """
        ...

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, limit: int | None = None) -> QueryResult:
        """Run our own SQL, with ``{name:Type}`` parameters; at most ``limit`` rows."""
        ...

    def query_readonly(self, sql: str, limit: int = 1000, *, as_objects: bool = False, mark: str = "") -> JsonRows:
        """Run a user's SQL: one statement that reads, within limits of rows, bytes, time and memory.

        With ``as_objects`` each row is an object, and ``columns`` and ``types`` are left out. ``mark``: a word of
        letters and digits by which `stop` knows it.
        """
        ...

    def stop(self, mark: str) -> None:
        """Stop the user's SQL with a mark, if it runs."""
        ...

    def read(
        self, table: str, where: Mapping[str, Any] | None = None, columns: Collection[str] | None = None
    ) -> list[dict[str, Any]]:
        """Return the rows of a table, exact, in the order of its key; ``where``: columns and what they must equal.

        ``columns``: those that are wanted, None: all. Times are aware datetimes; strings that are not UTF-8 are bytes.
        """
        ...

    def latest_checkpoint(self, pipeline: str) -> Checkpoint | None:
        """Return what was saved last; None before the first time."""
        ...

    def save_checkpoint(
        self, pipeline: str, offsets: Mapping[str, Mapping[int, int]], state: bytes, *, term: int
    ) -> int:
        """Save and return the revision; only the newest is kept, and that of a higher term is newer."""
        ...

    def close(self) -> None:
        """Let go of the engine, so that another process may have it; a later call opens it again."""
        ...
