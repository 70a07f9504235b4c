"""Takes rows that commands send to the monitor, which owns ClickHouse: of the tables that commands fill, no others.

The content type is one that a foreign web page may not send without being let in by us.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from app.adapters.row_writers import CONTENT_TYPE, unpack_rows
from app.adapters.warehouse_thread import WarehouseThread
from app.ports import Warehouse, WarehouseError
from schemas.tables import BACKFILLED_SCORES, SCORE_DIFFS

#: What commands may write; the monitor's own tables are its own.
OPEN_TABLES = (BACKFILLED_SCORES.name, SCORE_DIFFS.name)
MOST_BYTES = 64 << 20


class RowIntake:
    """The handler of ``POST /api/v1/rows``."""

    def __init__(self, warehouse: WarehouseThread) -> None:
        self._warehouse = warehouse

    async def take(self, request: web.Request) -> web.Response:
        """Insert the rows of a request; the answer says how many."""
        if request.content_type != CONTENT_TYPE:
            return _refuse("Rows are taken from streamgauge's own commands alone.", 415)
        body = bytearray()
        async for chunk in request.content.iter_chunked(1 << 20):
            body += chunk
            if len(body) > MOST_BYTES:
                return _refuse(f"Send at most {MOST_BYTES >> 20} MiB of rows at a time.", 413)
        try:
            table, columns, token = unpack_rows(bytes(body))
        except (msgspec.DecodeError, ValueError) as error:
            return _refuse(f"These are no rows: {error}.", 400)
        if table not in OPEN_TABLES:
            return _refuse(f"Rows of {table} are the monitor's own; commands write {', '.join(OPEN_TABLES)}.", 403)

        def insert(warehouse: Warehouse) -> int:
            return warehouse.insert(table, columns, token)

        try:
            rows = await self._warehouse.call(insert)
        except WarehouseError as error:
            return _refuse(str(error), 503 if error.retryable else 400)
        return web.json_response({"rows": rows})


def _refuse(why: str, status: int) -> web.Response:
    return web.json_response({"error": why}, status=status)
