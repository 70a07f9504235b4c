"""Where a worker goes on reading, and when it must not go on: topics, committed offsets and state are compared.

State and committed offsets come from the same transactions, so they agree. Where they do not, somebody has changed
topics or offsets. Going on would count events twice or never, so a person must decide.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from faust.types import TP

from app.adapters.kafka.log_bounds import GroupBounds, LogBounds
from schemas.pipeline.spec import Pipeline

log = logging.getLogger("streamgauge.worker")


class UnusableInputError(RuntimeError):
    """The topics are not what the committed offsets and the state belong to."""


def check_assignment(pipeline: Pipeline, assigned: set[TP]) -> set[int]:
    """Give the numbers of the partitions assigned.

    Raises
    ------
    UnusableInputError
        When the topics have other numbers of partitions than the pipeline, or than each other.
    """
    topics = pipeline.topics
    mine = {tp.partition for tp in assigned if tp.topic == topics.events}
    if beyond := sorted(partition for partition in mine if partition >= pipeline.partitions):
        raise UnusableInputError(
            f"{topics.events} has got partitions {beyond} beyond the {pipeline.partitions} of {pipeline.path}. Keys "
            "have moved between partitions, and their state has not: give the pipeline a new name and topics of the "
            "new size, and replay the events into it."
        )
    if pipeline.labels is not None:
        labels = {tp.partition for tp in assigned if tp.topic == topics.labels}
        if labels != mine:
            raise UnusableInputError(
                f"Events partitions {sorted(mine)} came without their labels partitions {sorted(labels)}; give "
                f"{topics.labels} as many partitions as {topics.events}."
            )
    return mine


def has_begun(state: Mapping[TP, int], bounds: Mapping[TP, GroupBounds]) -> bool:
    """Whether anything of an input partition (its events and labels) was processed before."""
    return bool(state) or any(bound.committed is not None for bound in bounds.values())


@dataclass(frozen=True)
class Beginning:
    """Where a worker begins to read, as far as a person has said so.

    ``at_ms`` (--from): a group without offsets begins at the first record with this time stamp or a later one; 0: at
    the oldest. ``skip_removed`` (--skip-removed): go on over records that retention removed before they were processed.
    """

    at_ms: int = 0
    skip_removed: bool = False

    async def find(self, logs: LogBounds, bounds: Mapping[TP, GroupBounds]) -> dict[TP, int]:
        """The offsets that ``at_ms`` stands for; a partition without such a record begins at its end."""
        offsets = await logs.offsets_at(bounds, self.at_ms)
        return {tp: offsets.get(tp, bound.end) for tp, bound in bounds.items()}

    def choose_starts(
        self, state: Mapping[TP, int], bounds: Mapping[TP, GroupBounds], begin: Mapping[TP, int]
    ) -> dict[TP, int]:
        """Give the offset to read each partition from.

        Parameters
        ----------
        state
            The offsets up to which the restored state was computed, if there is one. Kafka forgets the offsets of a
            group that was away for long (a week by default); the state does not.
        begin
            Where partitions without an offset begin; those that are not in it begin at their first record.

        Raises
        ------
        UnusableInputError
            When offsets were moved, a topic was made anew, or records are gone.
        """
        return {
            tp: _choose_start(tp, state.get(tp), bound, begin.get(tp, bound.first), skip_removed=self.skip_removed)
            for tp, bound in bounds.items()
        }


def _choose_start(tp: TP, state: int | None, bounds: GroupBounds, begin: int, *, skip_removed: bool) -> int:
    place = f"{tp.topic}[{tp.partition}]"
    if state is not None and bounds.committed not in {None, state}:
        raise UnusableInputError(
            f"{place}: the group's offset was moved to {bounds.committed}, but its state is of offset {state}; events "
            "would be counted twice or not at all. Move it back; to score events again, use `streamgauge replay` or "
            "`streamgauge backfill`."
        )
    start = bounds.committed if state is None else state
    if start is None:
        return begin
    if start > bounds.end:
        raise UnusableInputError(
            f"{place} ends at offset {bounds.end}, before {start}, up to which it was processed: the topic was made "
            "anew. Give the pipeline a new name, or restore the topic."
        )
    if start >= bounds.first:
        return start
    gone = f"{place}: offsets {start} to {bounds.first - 1} were removed by retention before they were processed"
    if not skip_removed:
        raise UnusableInputError(
            f"{gone}. Start the worker with --skip-removed to go on at {bounds.first} without them; raise retention.ms "
            "of the topic to keep records for longer than workers may be down."
        )
    log.error("%s; going on at %s, as --skip-removed says", gone, bounds.first)
    return bounds.first
