"""What becomes of the records of one partition: which offsets may be committed, and what is written with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from app.core.hooks.delivery import Delivery
from app.core.hooks.marks import Mark
from schemas.wire import HookDelivery, HookState


class OpenOffsets:
    """Of one topic: which offsets are not settled yet, by hook. They are opened in their order.

    Parameters
    ----------
    start
        The first offset that is read.
    former
        What the former owner had settled behind it.
    """

    def __init__(self, start: int, former: Mark) -> None:
        #: The offset after the last one read.
        self.end = start
        self._former = former
        self._order: deque[int] = deque()
        self._open: dict[int, set[str]] = {}

    def open(self, offset: int, hook: str) -> None:
        """A hook has something to tell of an offset."""
        if not self._order or self._order[-1] != offset:
            self._order.append(offset)
        self._open.setdefault(offset, set()).add(hook)

    def settle(self, offset: int, hook: str) -> None:
        """It was told, is kept elsewhere, or was given up."""
        hooks = self._open[offset]
        hooks.remove(hook)
        if not hooks:
            del self._open[offset]
        while self._order and self._order[0] not in self._open:
            self._order.popleft()

    @property
    def has_caught_up(self) -> bool:
        """Whether all that the former owner had read is read again."""
        return self.end >= self._former.read_to

    @property
    def position(self) -> int:
        """Everything before it is settled."""
        return self._order[0] if self._order else self.end

    def mark(self) -> Mark:
        """What is settled behind the position."""
        former = self._former
        open_ones: dict[str, set[int]] = {}
        for offset, hooks in self._open.items():
            for hook in hooks:
                open_ones.setdefault(hook, set()).add(offset)
        if self.end < former.end:  # not all of what the former owner had read is read again
            for hook, offsets in former.beyond(self.end).items():
                open_ones.setdefault(hook, set()).update(offsets)
        found = {hook: frozenset(offsets) for hook, offsets in open_ones.items()}
        return Mark(max(self.end, former.read_to), max(self.end, former.end), found)


@dataclass
class Changes:
    """What one transaction writes.

    ``parked`` and ``settled`` (ids) go to ``<p>.hooks-retry``, ``dead`` to ``<p>.hooks-dead``, ``copies`` to the topics
    of hooks to Kafka, ``disabled`` to ``<p>.hooks-state``. ``offsets``: by topic, those that have moved and those
    behind which something was settled, with what is settled behind them.
    """

    parked: list[HookDelivery] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    dead: list[HookDelivery] = field(default_factory=list)
    copies: list[Delivery] = field(default_factory=list)
    disabled: list[HookState] = field(default_factory=list)
    offsets: dict[str, tuple[int, Mark]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any((self.parked, self.settled, self.dead, self.copies, self.disabled, self.offsets))


class Ledger:
    """Of one partition.

    Parameters
    ----------
    starts
        By topic, where reading begins.
    marks
        By topic, what the former owner had settled behind its commit.
    committed
        The topics of which the group has committed an offset; the others are committed at their start.
    """

    def __init__(self, starts: Mapping[str, int], marks: Mapping[str, Mark], committed: Collection[str]) -> None:
        self._marks = {topic: marks.get(topic, Mark()) for topic in starts}
        self._topics = {topic: OpenOffsets(start, self._marks[topic]) for topic, start in starts.items()}
        #: Topics of which there is something to commit.
        self._moved = starts.keys() - set(committed)
        self._changes = Changes()

    def read_to(self, topic: str, end: int) -> None:
        """All records of a topic before ``end`` were read, and what is to be told of them was added."""
        self._topics[topic].end = end
        self._moved.add(topic)

    @property
    def has_caught_up(self) -> bool:
        """Whether all that the former owner had read is read again, of all topics.

        Until then nothing of the partition may be told: what is parked may be younger than what is not read yet.
        """
        return all(offsets.has_caught_up for offsets in self._topics.values())

    def is_settled(self, delivery: Delivery) -> bool:
        """Whether the former owner has told it, or kept it elsewhere."""
        topic, offset = delivery.place
        return self._marks[topic].settles(delivery.hook, offset)

    def add(self, delivery: Delivery) -> None:
        """It is to be told, and its offset stays open until it is settled."""
        topic, offset = delivery.place
        self._topics[topic].open(offset, delivery.hook)

    def copy(self, delivery: Delivery) -> None:
        """It is told with the next transaction, unless it was told with one of the former owner."""
        topic, offset = delivery.place
        if delivery.is_parked or offset >= self._marks[topic].read_to:
            self._changes.copies.append(delivery)

    def park(self, delivery: Delivery, now_ms: int) -> None:
        """Keep it elsewhere: its record need not be read again."""
        self._settle(delivery)
        delivery.park(now_ms)
        delivery.record.why = delivery.why
        self._changes.parked.append(delivery.record)

    def told(self, delivery: Delivery) -> None:
        """It has arrived."""
        self._settle(delivery)

    def give_up(self, delivery: Delivery, now_ms: int, why: str) -> None:
        """It is kept for a person to send again."""
        self._settle(delivery)
        self._changes.dead.append(delivery.give_up(now_ms, why))

    def disable(self, state: HookState) -> None:
        """Let all senders know that a hook is disabled."""
        self._changes.disabled.append(state)

    @property
    def is_changed(self) -> bool:
        """Whether there is something new to commit."""
        return bool(self._moved) or bool(self._changes)

    def drain(self) -> Changes:
        """What is new since the last call."""
        changes, self._changes = self._changes, Changes()
        moved, self._moved = self._moved, set()
        changes.offsets = {topic: (self._topics[topic].position, self._topics[topic].mark()) for topic in moved}
        return changes

    def _settle(self, delivery: Delivery) -> None:
        if delivery.is_parked:
            self._changes.settled.append(delivery.id)
        else:
            topic, offset = delivery.place
            self._topics[topic].settle(offset, delivery.hook)
            self._moved.add(topic)
