"""Who writes for a pipeline, and where each partition is: what a monitor leaves so that another goes on exactly there.

A monitor that takes over first claims the next term, and only then reads what the one before it left. Whoever writes
something that counts on being the only one — a checkpoint, the plan of a block — writes it first and then looks whether
a higher term was claimed. So of two that meet, either the older sees the claim and stops, or the newer sees what the
older wrote: no order of the four steps escapes both. Rows of an older term never take the place of those of a newer.

Holds where a read sees what was written before it: one server, or one replica that all monitors of a pipeline use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.ports import FencedError, Warehouse, WarehouseError
from schemas.wire import Source

_CLAIMS = 20
#: Counts what one term writes, below the term itself.
_TERM_BITS = 32


@dataclass(frozen=True)
class Plan:
    """A block that is about to be written: the records of a partition from ``first`` up to ``next_offset``.

    Parameters
    ----------
    attempt
        The term in which the partition was last written from its beginning because the table had lost rows: the engine
        may still know the tokens of those, and would drop them.
    held
        A row of an earlier block, by its source, which must therefore be in the table.
    """

    topic: str
    partition: int
    first: int
    next_offset: int
    attempt: int = 0
    held: Source | None = None


class Reign:
    """The right to write for one pipeline, from its claim until another's. Called in the warehouse's thread."""

    def __init__(self, pipeline: str, term: int) -> None:
        self.pipeline = pipeline
        self.term = term
        self._n_plans = 0
        self._n_tokens = 0

    @classmethod
    def claim(cls, warehouse: Warehouse, pipeline: str, owner: str, now_ms: int) -> Reign:
        """Take the next term; ``owner``: a name that nobody else has."""
        term = 0
        for _ in range(_CLAIMS):
            term = max(term, _newest_term(warehouse, pipeline)) + 1
            warehouse.insert(
                "monitor_terms", {"pipeline": [pipeline], "term": [term], "owner": [owner], "claimed_at": [now_ms]}
            )
            claims = warehouse.read("monitor_terms", {"pipeline": pipeline, "term": term})
            # Two that claim one term at a time both leave it.
            if [claim["owner"] for claim in claims] == [owner] and _newest_term(warehouse, pipeline) == term:
                return cls(pipeline, term)
        raise WarehouseError(
            f"Too many monitors of {pipeline} start at once: start them one after another.", retryable=True
        )

    def new_token(self) -> str:
        """A token for inserts that no other insert has."""
        self._n_tokens += 1
        return f"{self.pipeline}/{self.term}/{self._n_tokens}"

    def check(self, warehouse: Warehouse) -> None:
        """Raise `FencedError` when another monitor has taken over."""
        newest = _newest_term(warehouse, self.pipeline)
        if newest > self.term:
            raise FencedError(
                f"Another monitor of {self.pipeline} has taken over (term {newest}, this one's was {self.term}): "
                "this one stops writing; started again, it stands by."
            )

    def plan(self, warehouse: Warehouse, plans: Sequence[Plan]) -> None:
        """Say which blocks come next, before any of them is written."""
        self._n_plans += 1
        version = (self.term << _TERM_BITS) + self._n_plans
        held = [plan.held or Source("", 0, 0) for plan in plans]
        warehouse.insert(
            "monitor_blocks",
            {
                "pipeline": [self.pipeline] * len(plans),
                "topic": [plan.topic for plan in plans],
                "partition": [plan.partition for plan in plans],
                "first_offset": [plan.first for plan in plans],
                "next_offset": [plan.next_offset for plan in plans],
                "attempt": [plan.attempt for plan in plans],
                "held_topic": [source.topic for source in held],
                "held_partition": [source.partition for source in held],
                "held_offset": [source.offset for source in held],
                "version": [version] * len(plans),
            },
        )
        self.check(warehouse)

    def save(self, warehouse: Warehouse, offsets: Mapping[str, Mapping[int, int]], state: bytes) -> None:
        """Save a checkpoint; once this returns, whoever takes over later goes on from it or from a newer one."""
        warehouse.save_checkpoint(self.pipeline, offsets, state, term=self.term)
        self.check(warehouse)


def _newest_term(warehouse: Warehouse, pipeline: str) -> int:
    return max((row["term"] for row in warehouse.read("monitor_terms", {"pipeline": pipeline})), default=0)
