"""Which worker is asked: the owner of the entity's partition if it is known, else any of the given addresses."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from itertools import count
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from schemas.partitioning import partition_of

#: How long an address that did not answer is asked last: at first, and at most. Each time in a row is twice as long.
_SILENT_S = 1.0
_MOST_SILENT_S = 15.0

_decode_owners = msgspec.json.Decoder(dict[int, str]).decode


class _Told(NamedTuple):
    header: str
    owners: dict[int, str]


class _Silence(NamedTuple):
    until_s: float
    lasts_s: float


class Routes:
    """The given addresses, and what answers and silences have taught.

    Any number of threads may use it: what is learnt is replaced as a whole, never changed in place.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._given = tuple(dict.fromkeys(_check(address) for address in addresses))
        if not self._given:
            raise ValueError('Give the address of at least one worker, like "http://10.0.3.7:8080".')
        self._turn = count()
        self._told = _Told("", {})
        self._silent: dict[str, _Silence] = {}

    def owner_of(self, entity: bytes | None) -> str:
        """The address of the worker that should have an entity's partition; "" when that is not known."""
        owners = self._told.owners
        return owners.get(partition_of(entity, max(owners) + 1), "") if owners and entity is not None else ""

    def choose(self, entity: bytes | None, tried: Collection[str]) -> str:
        """The best address that was not tried yet; "" when all were. Those that were silent of late come last."""
        turn = next(self._turn) % len(self._given)
        owner = self.owner_of(entity)
        addresses = [*([owner] if owner else ()), *self._given[turn:], *self._given[:turn]]
        now_s = time.monotonic()
        left = [address for address in addresses if address not in tried]
        return min(left, key=lambda address: self._is_silent(address, now_s), default="")

    def learn(self, header: str) -> None:
        """Take over where partitions are served, as the header of an answer says; what cannot be used is ignored."""
        if not header or header == self._told.header:
            return
        try:
            owners = _decode_owners(header)
            self._told = _Told(header, {partition: _check(url) for partition, url in owners.items() if partition >= 0})
        except ValueError:  # msgspec's are ValueErrors
            return

    def note_answer(self, address: str) -> None:
        """An address answered."""
        self._silent.pop(address, None)

    def note_silence(self, address: str, at_least_s: float = 0.0) -> None:
        """An address did not answer."""
        now_s = time.monotonic()
        before = self._silent.get(address)
        if before is not None and before.until_s > now_s:
            return  # of many that ask at once, each hears the same silence
        lasts_s = _SILENT_S if before is None else min(2 * before.lasts_s, _MOST_SILENT_S)
        self._silent[address] = _Silence(now_s + max(lasts_s, at_least_s), lasts_s)
        if len(self._silent) > len(self._given) + len(self._told.owners):  # of workers that are no more
            known = {*self._given, *self._told.owners.values()}
            self._silent = {url: silence for url, silence in list(self._silent.items()) if url in known}

    def _is_silent(self, address: str, now_s: float) -> bool:
        silence = self._silent.get(address)
        return silence is not None and silence.until_s > now_s


def _check(address: str) -> str:
    """An address without the slash at its end; `ValueError` when it is none."""
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1)
    except ValueError:
        is_address = False
    if not is_address or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f'{address!r} is no address of a worker: write it like "http://10.0.3.7:8080".')
    return address.rstrip("/")
