"""One input partition's side of the repartitioned windows: what it asks, and the answers that its events wait for."""

from __future__ import annotations

from app.core.batches import EventBatch, Ints
from app.core.intake.merge import END_MS
from app.core.shared.answers import ComingAnswers
from app.core.shared.asker import Asker
from app.core.shared.plan import SharedPlan

#: Term, number of the last record, and where on the topic of answers to go on: what the state says of it.
Progress = tuple[int, int, int]


class Repartition:
    """`Asker` and `ComingAnswers` of one input partition.

    Parameters
    ----------
    plan
        The windows that are repartitioned.
    partitions, term_ms
        As `Asker`.
    """

    def __init__(self, plan: SharedPlan, feature_set: str, source: int, partitions: int, term_ms: int) -> None:
        self.plan = plan
        self.source = source
        self.asker = Asker(plan, feature_set, source, partitions, term_ms)
        self.answers = ComingAnswers(plan, feature_set)
        self._next_offset = 0

    def hold(self, events: EventBatch, times_ms: Ints, first: int) -> None:
        """Events that are held; those from offset ``first`` on ask for their windows."""
        self.answers.hold(events, self.asker.ask(events, times_ms, first))

    def hear(self, place: int, value: bytes | None, newest_term: int = END_MS) -> None:
        """Take a record of answers; RefusedRecordError when it is none."""
        self.answers.hear(place, value, self.asker.term_ms, newest_term)

    def drain(self, added_ms: int, scored_ms: int, next_offset: int) -> list[tuple[int, bytes]]:
        """As `Asker.drain`."""
        self._next_offset = next_offset
        return self.asker.drain(added_ms, scored_ms, next_offset)

    def position(self) -> Progress:
        """What `restore` goes on from, as of the last `drain`."""
        return *self.asker.position(), self.answers.position(self._next_offset)

    def restore(self, progress: Progress) -> None:
        """Go on from a state."""
        term_ms, sequence, place = progress
        self.asker.restore((term_ms, sequence))
        self.answers.restore(place)
