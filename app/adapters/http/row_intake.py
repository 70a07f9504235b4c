"""Takes rows that commands send to the monitor, which owns ClickHouse: of the tables that commands fill, no others.

Decoding holds Python's lock from its first byte to its last, on whatever thread it runs. So a body may hold no more
than a piece of one of these tables can: known columns, of known types of values, of at most `MOST_ROWS` rows.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from app.adapters.clickhouse.arrow_columns import UnfitRowsError, find_table, to_arrow
from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.http.row_pieces import CONTENT_TYPE, MOST_BYTES, OPEN_TABLES, unpack_rows
from app.adapters.http.server import ProblemError, busy, read_body, respond
from app.ports import Warehouse, WarehouseError

#: At most this many bodies are in memory at a time.
_MOST_AT_ONCE = 2
#: How long one waits for its turn.
_PATIENCE_S = 10.0
_OPEN = ", ".join(OPEN_TABLES)


class RowIntake:
    """The handler of ``POST /api/v1/rows/{table}``."""

    def __init__(self, warehouse: WarehouseThread) -> None:
        self._warehouse = warehouse
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)

    async def take(self, request: web.Request) -> web.Response:
        """Insert the rows of a request; the answer says how many."""
        if request.content_type != CONTENT_TYPE:
            raise ProblemError(415, "Rows are taken from streamgauge's own commands alone.")
        table = request.match_info["table"]
        if table not in OPEN_TABLES:
            raise ProblemError(403, f"Rows of other tables are the monitor's own; commands write {_OPEN}.")
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._turns.acquire()
        except TimeoutError:
            raise busy("Others are sending rows: send these again soon.", 1) from None
        try:
            return respond({"rows": await self._insert(table, await read_body(request, MOST_BYTES))})
        finally:
            self._turns.release()

    async def _insert(self, table: str, body: bytes) -> int:
        try:
            columns = await asyncio.to_thread(unpack_rows, table, body)
            await asyncio.to_thread(to_arrow, find_table(table), columns)
        except (ValueError, UnfitRowsError) as error:
            raise ProblemError(400, f"These are no rows of {table}: {str(error).rstrip('.')}.") from error

        def insert(warehouse: Warehouse) -> int:
            return warehouse.insert(table, columns)

        try:
            return await self._warehouse.try_once(insert)
        except WarehouseError as error:
            raise (busy(str(error), 5) if error.retryable else ProblemError(400, str(error))) from error
