"""Events whose labels did not come within the horizon, by id: so that a label that comes after all is known as late.

An id is remembered for three more horizons, as a hash and a time: 16 bytes. In the changelog they are in records of up
to `FORGOTTEN_IDS` ids, which are cleared as a whole.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from operator import itemgetter

import numpy as np

from app.core.records.state import FORGOTTEN_IDS, read_forgotten
from app.core.tiles.hash_runs import HashRuns, hash64
from app.core.tiles.stored import Change
from schemas.ranges import END_MS

PREFIX = b"x"
#: How many horizons after it was forgotten an id is remembered.
_HORIZONS = 3
_ID = struct.Struct("<qq")


class ForgottenIds:
    """The ids of one partition.

    Parameters
    ----------
    horizon_ms
        How long an event waits for its label.
    """

    def __init__(self, horizon_ms: int) -> None:
        self._kept_ms = (1 + _HORIZONS) * horizon_ms
        self._runs = HashRuns(1)
        #: Number and newest time of each record except the one that is being filled.
        self._chunks: deque[tuple[int, int]] = deque()
        self._open: list[tuple[int, int]] = []
        self._number = 0
        self._is_open_changed = False
        self._n_gone = 0
        self._changes: dict[bytes, bytes | None] = {}
        self._noted: list[tuple[int, str]] = []

    def note(self, effective_ms: int, event_id: str) -> None:
        """Remember an event that the next `add` will not name."""
        self._noted.append((effective_ms, event_id))

    def add(self, expired: list[tuple[int, str]]) -> None:
        """Remember events: their effective times, which never go back from one call to the next, and their ids."""
        forgotten, self._noted = sorted(expired + self._noted), []
        if not forgotten:
            return
        entries = [(hash64(event_id.encode()), effective_ms) for effective_ms, event_id in forgotten]
        rows = np.array(entries, dtype=np.int64)
        self._runs.add(rows[:, 0], rows[None, :, 1])
        for entry in entries:
            self._open.append(entry)
            if len(self._open) == FORGOTTEN_IDS:
                self._write_open()
                self._close()
        self._is_open_changed = bool(self._open)

    def holds(self, event_id: str, watermark_ms: int) -> bool:
        """Whether an event of this id was forgotten, as far as is known when events have come to the watermark."""
        _, columns = self._runs.find(np.array([hash64(event_id.encode())], dtype=np.int64))
        times = [*columns[0].tolist(), *(effective_ms for effective_ms, noted in self._noted if noted == event_id)]
        return any(self.is_known(effective_ms, watermark_ms) for effective_ms in times)

    def is_known(self, effective_ms: int, watermark_ms: int) -> bool:
        """Whether an event of this time is still remembered when events have come as far as the watermark."""
        return effective_ms >= watermark_ms - self._kept_ms

    def expire(self, watermark_ms: int) -> None:
        """Forget for good what `holds` does not know at this watermark, or at a later one."""
        before_ms = watermark_ms - self._kept_ms
        while self._chunks and self._chunks[0][1] < before_ms:
            number, _ = self._chunks.popleft()
            self._changes[_name(number)] = None
            self._n_gone += FORGOTTEN_IDS
        if self._n_gone > max(FORGOTTEN_IDS, len(self._runs) // 8):  # each time costs as much as there is
            hashes, columns = self._runs.rows()
            keep = columns[0] >= before_ms
            self._runs = HashRuns(1)
            self._runs.add(hashes[keep], columns[:, keep])
            self._n_gone = 0

    def drain_changes(self) -> list[Change]:
        """Changelog records since the last drain."""
        if self._is_open_changed:
            self._write_open()
            self._is_open_changed = False
        changes, self._changes = self._changes, {}
        return list(changes.items())

    def record_keys(self) -> Iterator[bytes]:
        """The keys of the records that a changelog holds of this."""
        yield from (_name(number) for number, _ in self._chunks)
        if self._open:
            yield _name(self._number)

    def restore(self, records: Iterable[Change], latest_ms: int = END_MS) -> None:
        """Take more of a changelog, in its order. Keys of others are passed over.

        Parameters
        ----------
        latest_ms
            How far the partition can have come.

        Raises
        ------
        RefusedRecordError
            When a record is not one of these; nothing has been changed then.
        """
        newest = {key: value for key, value in records if key.startswith(PREFIX)}
        held = [read_forgotten(key, value, latest_ms) for key, value in newest.items()]
        for number, rows in sorted(held, key=itemgetter(0)):
            if rows is None:
                self._chunks = deque(chunk for chunk in self._chunks if chunk[0] != number)
                continue
            known = len(self._open) if number == self._number else 0
            self._runs.add(rows[known:, 0], rows[None, known:, 1])
            self._number, self._open = number, [(hashed, at_ms) for hashed, at_ms in rows.tolist()]
            if len(self._open) == FORGOTTEN_IDS:
                self._close()

    def _close(self) -> None:
        self._chunks.append((self._number, self._open[-1][1]))
        self._number, self._open = self._number + 1, []

    def _write_open(self) -> None:
        self._changes[_name(self._number)] = b"".join(_ID.pack(*entry) for entry in self._open)


def _name(number: int) -> bytes:
    return PREFIX + number.to_bytes(8, "big")
