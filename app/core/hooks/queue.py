"""What one hook has to tell, in the order of its entities: whose turn it is, and what a failure does.

The deliveries of an entity make a line. Only its head is under way, so an entity is told of things in their order, and
none of its failures holds up another entity. Of a line, what is read last may be parked: kept in ``<p>.hooks-retry``.
Whatever comes behind something parked is parked, too.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from itertools import count, takewhile

from app.core.hooks.delivery import Delivery
from app.core.hooks.ledger import Ledger
from app.core.hooks.rest import Rest
from app.core.hooks.schedule import Schedule

_Key = tuple[int, str]
#: Deliveries of one hook that may wait in memory without being parked.
MOST_WAITING = 1_000
#: Former times of lines that are kept, beside twice as many as there are lines.
_MOST_STALE = 1_000


class _Line:
    """The deliveries of one entity, the oldest first."""

    __slots__ = ("due_ms", "is_under_way", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Delivery] = []
        self.due_ms = 0
        self.is_under_way = False


class HookQueue:
    """The deliveries of one hook in the partitions of this process.

    Parameters
    ----------
    ledger_of
        The ledger of a partition.
    """

    def __init__(
        self, schedule: Schedule, ledger_of: Callable[[int], Ledger], most_waiting: int = MOST_WAITING
    ) -> None:
        self.rest = Rest(*schedule.rest_ms)
        #: Why nothing is sent there any more; "" when it is.
        self.disabled = ""
        self.size_bytes = 0
        self.n_under_way = 0
        self._schedule = schedule
        self._ledger_of = ledger_of
        self._most_waiting = most_waiting
        self._lines: dict[_Key, _Line] = {}
        #: Lines by when they are due; those whose time has changed since stand here more than once.
        self._due: list[tuple[int, int, _Key]] = []
        self._number = count()
        #: By id, in the order in which they were read, and in that in which they were parked.
        self._unparked: OrderedDict[str, Delivery] = OrderedDict()
        self._parked: OrderedDict[str, Delivery] = OrderedDict()

    def __len__(self) -> int:
        return len(self._unparked) + len(self._parked)

    @property
    def n_parked(self) -> int:
        return len(self._parked)

    # -- in ------------------------------------------------------------------------------------------------------------

    def restore(self, parked: Iterable[Delivery], now_ms: int) -> None:
        """Take over what was parked by whoever had the partition; of two with one id, the later counts."""
        newest = {delivery.id: delivery for delivery in parked}
        for delivery in sorted(newest.values(), key=lambda each: (each.record.parked_at_ms, each.place)):
            if delivery.id in self._parked:
                self._forget(self._parked[delivery.id])
            self._put(delivery, now_ms)
        if self.disabled:
            self.disable(self.disabled, now_ms)

    def add(self, delivery: Delivery, now_ms: int) -> None:
        """Take what was read."""
        ledger = self._ledger_of(delivery.partition)
        if delivery.id in self._parked or ledger.is_settled(delivery):
            return  # it was read before, and is parked or told
        ledger.add(delivery)
        if self.disabled:
            ledger.give_up(delivery, now_ms, self.disabled)
            return
        line = self._lines.get(_key(delivery))
        if len(self._unparked) >= self._most_waiting or (line is not None and line.waiting[-1].is_parked):
            ledger.park(delivery, now_ms)
        self._put(delivery, now_ms)

    def drop(self, partition: int) -> None:
        """Forget a partition: another process has it now."""
        for key in [key for key in self._lines if key[0] == partition]:
            for delivery in list(self._lines[key].waiting):
                self._forget(delivery)

    # -- out -----------------------------------------------------------------------------------------------------------

    def take(self, now_ms: int) -> Delivery | None:
        """The delivery whose turn it is, which is under way from now on; None: there is none."""
        if self.disabled or self.rest.rests_at(now_ms) or (self.rest.is_failing and self.n_under_way):
            return None
        line = self._next_line()
        if line is None or line.due_ms > now_ms:
            return None
        heapq.heappop(self._due)
        line.is_under_way = True
        self.n_under_way += 1
        return line.waiting[0]

    def due_ms(self) -> int | None:
        """When `take` should be asked again; None: not before something happens."""
        line = self._next_line()
        if line is None or self.disabled or (self.rest.is_failing and self.n_under_way):
            return None
        return max(line.due_ms, self.rest.until_ms)

    # -- what became of it ---------------------------------------------------------------------------------------------

    def arrived(self, delivery: Delivery, now_ms: int) -> None:
        """The destination has taken it."""
        self.rest.arrived()
        if self._lands(delivery):
            self._ledger_of(delivery.partition).told(delivery)
            self._next_of(delivery, now_ms)

    def failed(self, delivery: Delivery, now_ms: int, why: str, asked_ms: int = 0) -> None:
        """The destination has not taken it.

        Parameters
        ----------
        asked_ms
            For how long the destination wants to be left alone.
        """
        asked_ms = self._schedule.bound(asked_ms)
        self.rest.failed(now_ms, asked_ms)
        if not self._lands(delivery):
            return
        delivery.tries += 1
        delivery.why = why
        due_ms = self._again_ms(delivery, now_ms)
        if due_ms is None:
            self._give_up(delivery, now_ms, why)
        else:
            self._set_due(_key(delivery), max(due_ms, now_ms + asked_ms))

    def disable(self, why: str, now_ms: int) -> None:
        """Give up all that waits, and all that comes; what is under way is given up when it fails."""
        self.disabled = why
        for line in list(self._lines.values()):
            for delivery in line.waiting[line.is_under_way :]:
                self._ledger_of(delivery.partition).give_up(delivery, now_ms, why)
                self._forget(delivery)

    def enable(self) -> None:
        """Send again what comes from now on."""
        self.disabled = ""
        self.rest.arrived()

    def tidy(self, now_ms: int) -> None:
        """Park what has waited for too long, and give up what nobody would take for as long as it was tried."""
        latest_ms = now_ms - self._schedule.patience_ms
        for delivery in _first(self._unparked, lambda each: each.came_ms <= latest_ms):
            line = self._lines[_key(delivery)]
            is_under_way = line.is_under_way and delivery is line.waiting[0]  # it is parked if it fails
            if not delivery.is_parked and not is_under_way:
                self._park_from(line, delivery, now_ms)
        if self.rest.is_failing:
            longest_ms = self._schedule.longest_ms
            for delivery in _first(self._parked, lambda each: each.parked_for_ms(now_ms) > longest_ms(each.id)):
                line = self._lines[_key(delivery)]
                if delivery is line.waiting[0] and not line.is_under_way:
                    self._give_up(delivery, now_ms, delivery.why or "The destination takes nothing.")

    def oldest_parked_ms(self) -> int | None:
        """Since when the oldest of the parked ones is parked."""
        return next((delivery.record.parked_at_ms for delivery in self._parked.values()), None)

    # -- within --------------------------------------------------------------------------------------------------------

    def _put(self, delivery: Delivery, now_ms: int) -> None:
        line = self._lines.setdefault(key := _key(delivery), _Line())
        first = line.waiting[:1]
        # After a crash, records are read again that are older than what is parked.
        insort(line.waiting, delivery, lo=line.is_under_way, key=lambda each: each.place)
        self.size_bytes += delivery.size_bytes
        self._note(delivery)
        if line.waiting[:1] != first:
            self._set_due(key, now_ms)

    def _note(self, delivery: Delivery) -> None:
        (self._parked if delivery.is_parked else self._unparked)[delivery.id] = delivery

    def _forget(self, delivery: Delivery) -> None:
        line = self._lines[key := _key(delivery)]
        line.waiting.remove(delivery)
        if not line.waiting:
            del self._lines[key]
        del (self._parked if delivery.is_parked else self._unparked)[delivery.id]
        self.size_bytes -= delivery.size_bytes

    def _lands(self, delivery: Delivery) -> bool:
        """Whether it was under way here: its partition may have gone to another process meanwhile."""
        self.n_under_way -= 1
        line = self._lines.get(_key(delivery))
        if line is None or line.waiting[0] is not delivery:
            return False
        line.is_under_way = False
        return True

    def _again_ms(self, delivery: Delivery, now_ms: int) -> int | None:
        """When it is tried again, and parked if that is not at once; None: never."""
        if self.disabled:
            return None
        if not delivery.is_parked:
            pause_ms = self._schedule.soon(delivery.id, delivery.tries)
            if pause_ms is not None and now_ms + pause_ms < delivery.came_ms + self._schedule.patience_ms:
                return now_ms + pause_ms
            self._park_from(self._lines[_key(delivery)], delivery, now_ms)
            delivery.tries = 1
        pause_ms = self._schedule.later(delivery.id, delivery.tries, delivery.parked_for_ms(now_ms))
        return now_ms + pause_ms if pause_ms is not None else None

    def _park_from(self, line: _Line, delivery: Delivery, now_ms: int) -> None:
        """Park a delivery and what is behind it."""
        for each in line.waiting[line.waiting.index(delivery) :]:
            if not each.is_parked:
                del self._unparked[each.id]
                self._ledger_of(each.partition).park(each, now_ms)
                self._note(each)

    def _give_up(self, delivery: Delivery, now_ms: int, why: str) -> None:
        self._ledger_of(delivery.partition).give_up(delivery, now_ms, self.disabled or why)
        self._next_of(delivery, now_ms)

    def _next_of(self, delivery: Delivery, now_ms: int) -> None:
        """Let the next of its entity go."""
        self._forget(delivery)
        if _key(delivery) in self._lines:
            self._set_due(_key(delivery), now_ms)

    def _set_due(self, key: _Key, due_ms: int) -> None:
        self._lines[key].due_ms = due_ms
        heapq.heappush(self._due, (due_ms, next(self._number), key))
        if len(self._due) > 2 * len(self._lines) + _MOST_STALE:
            self._due = [(line.due_ms, next(self._number), key) for key, line in self._lines.items()]
            heapq.heapify(self._due)

    def _next_line(self) -> _Line | None:
        """The line that is due first."""
        while self._due:
            due_ms, _, key = self._due[0]
            line = self._lines.get(key)
            if line is not None and not line.is_under_way and line.due_ms == due_ms:
                return line
            heapq.heappop(self._due)
        return None


def _first(deliveries: Mapping[str, Delivery], holds: Callable[[Delivery], bool]) -> list[Delivery]:
    """Those at the beginning of which something holds."""
    return list(takewhile(holds, deliveries.values()))


def _key(delivery: Delivery) -> _Key:
    return delivery.partition, delivery.record.entity
