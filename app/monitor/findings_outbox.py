"""Findings on their way out: saved with the checkpoint before anyone sees them, and shown again after a crash."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

import msgspec

from app.core.findings import Findings
from app.monitor.context import MonitorContext
from app.monitor.reign import Reign
from app.monitor.rows import Columns, findings_columns, findings_records
from app.monitor.takeover import Saved, Witnesses
from app.ports import Warehouse

log = logging.getLogger("streamgauge.monitor")


class FindingsOutbox:
    """What was concluded and is not shown yet, and what the newest checkpoint says of it."""

    def __init__(self, context: MonitorContext, reign: Reign) -> None:
        self._context = context
        self._reign = reign
        self._findings = Findings()
        #: Of the inserts of the findings.
        self._token = ""
        #: One row of each table that earlier findings brought.
        self._shown = Findings()
        self._saved_offsets: dict[str, dict[int, int]] = {}
        #: Whether the newest checkpoint has findings, which a restart would show (again).
        self._has_saved_findings = False

    def restore(self, saved: Saved) -> None:
        """Take over what a checkpoint has; `show` shows it again."""
        self._findings, self._token, self._shown = saved.findings, saved.token, saved.shown
        self._has_saved_findings = bool(saved.findings)

    def put(self, findings: Findings) -> bool:
        """Take what is to be saved and shown next; whether there is anything."""
        self._findings = findings
        if findings:
            self._token = self._reign.new_token()
        return bool(findings)

    async def save(
        self, snapshot: Callable[[], bytes], offsets: dict[str, dict[int, int]], witnesses: Witnesses
    ) -> bool:
        """Save what was read and concluded, and the findings that still have to be shown; False: nothing is new."""
        if offsets == self._saved_offsets and not self._findings and not self._has_saved_findings:
            return False
        state = msgspec.msgpack.encode(Saved(snapshot(), self._findings, self._shown, self._token, witnesses))
        await self._context.warehouse.call(lambda warehouse: self._reign.save(warehouse, offsets, state))
        self._saved_offsets = offsets
        self._has_saved_findings = bool(self._findings)
        return True

    async def show(self) -> None:
        """Write the findings and tell others; done again after a crash, with the same values."""
        findings, context = self._findings, self._context
        if findings:
            for table, columns in findings_columns(findings).items():
                token = f"{self._token}/{table}" if self._token else None
                insert = partial(_insert, table=table, columns=columns, token=token)
                context.count(table, await context.warehouse.call(insert))
            sent = [
                await context.producer.send(topic, value, key=key, partition=0)
                for topic, key, value in findings_records(context.pipeline.topics, findings)
            ]
            await asyncio.gather(*sent)
            for alert in findings.alerts:  # here alerts leave: into the tables, on the topic, into the log
                log.warning("Alert %s %s: %s", alert.rule, alert.state, alert.message)
            self._shown = Findings(
                findings.metadata[-1:] or self._shown.metadata,
                findings.reports[-1:] or self._shown.reports,
                findings.performance[-1:] or self._shown.performance,
            )
        self._findings = Findings()


def _insert(warehouse: Warehouse, *, table: str, columns: Columns, token: str | None) -> int:
    return warehouse.insert(table, columns, token)
