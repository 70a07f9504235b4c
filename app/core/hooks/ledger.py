"""What becomes of the records of one partition: which offsets may be committed, and what is written with them."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from app.core.hooks.delivery import Delivery
from schemas.wire import HookDelivery, HookState


class OpenOffsets:
    """Of one topic: which offsets are not settled yet. They are opened in their order."""

    def __init__(self, start: int) -> None:
        #: The offset after the last one read.
        self.end = start
        self._order: deque[int] = deque()
        self._open: Counter[int] = Counter()

    def open(self, offset: int) -> None:
        """Something is to be told of an offset; once for each hook."""
        if not self._order or self._order[-1] != offset:
            self._order.append(offset)
        self._open[offset] += 1

    def settle(self, offset: int) -> None:
        """It was told, is kept elsewhere, or was given up."""
        self._open[offset] -= 1
        if not self._open[offset]:
            del self._open[offset]
        while self._order and self._order[0] not in self._open:
            self._order.popleft()

    @property
    def position(self) -> int:
        """Everything before it is settled."""
        return self._order[0] if self._order else self.end


@dataclass
class Changes:
    """What one transaction writes.

    ``parked`` and ``settled`` (ids) go to ``<p>.hooks-retry``, ``dead`` to ``<p>.hooks-dead``, ``copies`` to the topics
    of hooks to Kafka, ``disabled`` to ``<p>.hooks-state``. ``offsets``: by topic, only those that have moved.
    """

    parked: list[HookDelivery] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    dead: list[HookDelivery] = field(default_factory=list)
    copies: list[Delivery] = field(default_factory=list)
    disabled: list[HookState] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any((self.parked, self.settled, self.dead, self.copies, self.disabled, self.offsets))


class Ledger:
    """Of one partition.

    Parameters
    ----------
    starts
        By topic, where reading begins.
    committed
        By topic, what the group has committed; topics without are committed at their start.
    """

    def __init__(self, starts: dict[str, int], committed: dict[str, int]) -> None:
        self._topics = {topic: OpenOffsets(start) for topic, start in starts.items()}
        self._drained = dict(committed)
        self._changes = Changes()

    def read_to(self, topic: str, end: int) -> None:
        """All records of a topic before ``end`` were read, and what is to be told of them was `add`-ed."""
        self._topics[topic].end = end

    def add(self, delivery: Delivery) -> None:
        """It is to be told, and its offset stays open until it is settled."""
        topic, offset = delivery.place
        self._topics[topic].open(offset)

    def copy(self, delivery: Delivery) -> None:
        """It is told with the next transaction."""
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
        return bool(self._changes) or any(
            self._drained.get(topic) != offsets.position for topic, offsets in self._topics.items()
        )

    def drain(self) -> Changes:
        """What is new since the last call."""
        changes, self._changes = self._changes, Changes()
        changes.offsets = {
            topic: offsets.position
            for topic, offsets in self._topics.items()
            if self._drained.get(topic) != offsets.position
        }
        self._drained.update(changes.offsets)
        return changes

    def _settle(self, delivery: Delivery) -> None:
        if delivery.is_parked:
            self._changes.settled.append(delivery.id)
        else:
            topic, offset = delivery.place
            self._topics[topic].settle(offset)
