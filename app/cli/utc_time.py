"""Times as they are typed. Every command imports this, so it imports nothing that takes long."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

#: After all times that Kafka gives to records.
LATEST_MS = 2**62


class UtcTime(click.ParamType):
    """A day or a moment as integer milliseconds; without an offset it is UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time; write 2013-01-31 or 2013-01-31T06:00:00Z.", param, ctx)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)


class StartType(UtcTime):
    """Where a group without offsets begins, as the time stamp of a record: 0 the oldest, `LATEST_MS` the next one."""

    name = "TIME|earliest|latest"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        words = {"earliest": 0, "latest": LATEST_MS}
        return words[value] if value in words else super().convert(value, param, ctx)
