"""One thing that a hook has to tell."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from schemas.wire import HookDelivery

#: What a delivery takes in memory beside its bytes, roughly.
_OVERHEAD_BYTES = 1_000


@dataclass(slots=True, eq=False)
class Delivery:
    """A record on its way to one destination.

    ``came_ms``: when it was read. ``is_parked``: whether it is kept in ``<p>.hooks-retry``, so that its record need not
    be read again. ``tries``: how often it has failed here since it was read or parked. ``why``: what went wrong the
    last time.
    """

    record: HookDelivery
    came_ms: int
    is_parked: bool = False
    tries: int = 0
    why: str = ""

    @property
    def id(self) -> str:
        """Its ``webhook-id``."""
        return self.record.id

    @property
    def hook(self) -> str:
        return self.record.hook

    @property
    def partition(self) -> int:
        """The partition that it is kept in."""
        return self.record.source.partition

    @property
    def place(self) -> tuple[str, int]:
        """Topic and offset: the order within an entity."""
        return self.record.source.topic, self.record.source.offset

    @property
    def size_bytes(self) -> int:
        return len(self.record.data) + _OVERHEAD_BYTES

    def parked_for_ms(self, now_ms: int) -> int:
        """How long it has been retried."""
        return now_ms - self.record.parked_at_ms

    def park(self, now_ms: int) -> None:
        """From now on it is retried."""
        self.is_parked = True
        self.tries = 0
        self.record.parked_at_ms = now_ms

    def give_up(self, now_ms: int, why: str) -> HookDelivery:
        """What is kept of it in ``<p>.hooks-dead``."""
        return msgspec.structs.replace(self.record, given_up_at_ms=now_ms, why=why)
