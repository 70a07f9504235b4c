"""Where a sender goes on reading, and when it must not go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from faust.types import TP

from app.adapters.kafka.log_bounds import GroupBounds, LogBounds
from app.exits import EXIT_CONFIG, StackError

log = logging.getLogger("streamgauge.hooks")


class LostRecordsError(StackError):
    """Records are gone that were not told yet."""

    exit_code = EXIT_CONFIG


@dataclass(frozen=True)
class Beginning:
    """Where a sender begins, as far as a person has said so.

    ``at_ms``: topics of which the group has no offset are told from the first record with this time stamp or a later
    one on; `app.cli.utc_time.LATEST_MS` stands for what comes from now on, 0 for everything. ``skip_removed``: go on
    over records that retention removed before they were told.
    """

    at_ms: int
    skip_removed: bool = False

    async def choose(self, logs: LogBounds, bounds: Mapping[TP, GroupBounds]) -> dict[TP, int]:
        """The offset to read each partition from."""
        new = {tp: bound for tp, bound in bounds.items() if bound.committed is None}
        found = await logs.offsets_at(new, self.at_ms) if new else {}
        begins = {tp: found.get(tp, bound.end) if self.at_ms else bound.first for tp, bound in new.items()}
        return {tp: begins[tp] if tp in begins else self._go_on(tp, bound) for tp, bound in bounds.items()}

    def _go_on(self, tp: TP, bounds: GroupBounds) -> int:
        start, place = bounds.committed, f"{tp.topic}[{tp.partition}]"
        assert start is not None
        if start > bounds.end:
            raise LostRecordsError(
                f"{place} ends at offset {bounds.end}, before {start}, up to which it was told: the topic was made"
                " anew. Give the pipeline a new name, or restore the topic."
            )
        if start >= bounds.first:
            return start
        gone = f"{place}: offsets {start} to {bounds.first - 1} were removed by retention before they were told"
        if not self.skip_removed:
            raise LostRecordsError(
                f"{gone}. Start with --skip-removed to go on at {bounds.first} without them; raise retention.ms of the"
                " topic to keep records for longer than senders may be down."
            )
        log.error("%s; going on at %s, as --skip-removed says", gone, bounds.first)
        return bounds.first
