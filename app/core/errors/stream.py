"""The wrong decisions of each version as one stream, in an order that no worker, batch or restart can change.

An error counts from the effective time of its label, or from when its event is mature (its time plus
``performance.maturity``), whichever is later (`PartitionPipeline`). Labels that come early are mostly of one outcome,
and the first ones of a stream all are. Taken as they come, they would look like a change.

What partitions bring is handed out in the order (time, partition, place within the partition), up to the label
watermark of all partitions and strictly below it: at the watermark itself, more may come. The sequence is a function
of the logs alone:

* the time of an error is, because those of its label (`app.core.intake.merge.effective_times`, `PartitionPipeline`) and
  of its event are;
* no error is older than the label watermark that its partition has published before, because its label is not. So when
  a watermark of all partitions is known, all errors before it are known;
* hence each call gives exactly the errors from the last watermark to this one, in their order, and calls one after the
  other give all of them in that order, wherever the watermarks were.

Times within a partition need not ascend: labels come in another order than their events. An idle partition holds
nothing back, and what it then brings from before the watermark is late: it comes out next.

A version's errors are held until the watermark passes them: 10 bytes a label, which with labels that come at once is
10 bytes for each event of ``performance.maturity``. They are held by the hour in which they count, so that a hand-out
does not look at those that are for later.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from models.reference.error_hours import HOUR_MS, HOURS, hours_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from app.core.batches import Ints
    from app.core.errors.detectors import Bits
    from schemas.wire import ErrorRun, SketchRecord


#: What is added to a decision whose label is 1.
_POSITIVE = 2


class Errors(NamedTuple):
    """From when each decision counts, what became of it (see `schemas.wire.ErrorRun`), and the hour of its event."""

    times_ms: Ints
    decisions: Bits
    hours: Bits

    @property
    def wrong(self) -> Bits:
        """1: it was wrong."""
        return self.decisions & np.uint8(1)

    @property
    def is_positive(self) -> NDArray[np.bool_]:
        """Whether its label is 1; in runs of former releases that is not known, and all are taken for 0."""
        return self.decisions >= _POSITIVE

    @classmethod
    def of(cls, run: ErrorRun, maturity_ms: int = 0) -> Errors:
        """Read a run; ValueError when it is not whole.

        A run without hours is taken for one of labels that came before ``maturity_ms``.
        """
        n = len(run.decisions)
        if len(run.times_ms) != 8 * n or len(run.hours) not in {0, n}:
            raise ValueError(f"{len(run.times_ms)} bytes of times and {len(run.hours)} hours do not fit {n} decisions")
        times_ms = np.frombuffer(run.times_ms, "<i8").astype(np.int64)
        hours = np.frombuffer(run.hours, np.uint8)
        if not len(hours):
            hours = hours_of(times_ms - maturity_ms).astype(np.uint8)
        errors = cls(times_ms, np.frombuffer(run.decisions, np.uint8), hours)
        if (errors.decisions > 1 + _POSITIVE).any() or (errors.hours >= HOURS).any():
            raise ValueError("of a run of errors, each is 0 to 3, in an hour of the week")
        return errors

    @classmethod
    def join(cls, parts: Iterable[Errors]) -> Errors:
        nothing = np.zeros(0, np.uint8)
        times_ms, decisions, hours = zip(cls(np.zeros(0, np.int64), nothing, nothing), *parts, strict=True)
        return cls(np.concatenate(times_ms), np.concatenate(decisions), np.concatenate(hours))

    def take(self, rows: Ints) -> Errors:
        """Some of them."""
        return Errors(self.times_ms[rows], self.decisions[rows], self.hours[rows])

    def to_bytes(self) -> tuple[bytes, bytes, bytes]:
        return self.times_ms.astype("<i8").tobytes(), self.decisions.tobytes(), self.hours.tobytes()


class _ErrorBytes(NamedTuple):
    """Errors as bytes: they take no more memory than that, and adding to them costs nothing."""

    times_ms: bytearray
    decisions: bytearray
    hours: bytearray

    def add(self, errors: Errors) -> None:
        for column, more in zip(self, errors.to_bytes(), strict=True):
            column.extend(more)

    def read(self) -> Errors:
        times_ms = np.frombuffer(bytes(self.times_ms), "<i8").astype(np.int64)
        return Errors(times_ms, *(np.frombuffer(bytes(column), np.uint8) for column in self[1:]))


#: Errors by the hour (of all time) in which they count.
_ByHour = dict[int, _ErrorBytes]


@dataclass(eq=False)
class ErrorStream:
    """What has been brought and not handed out, per version and partition.

    Parameters
    ----------
    maturity_ms
        As in the pipeline file, for runs of former releases.
    """

    maturity_ms: int = 0
    held: dict[str, dict[int, _ByHour]] = field(default_factory=dict)

    @staticmethod
    def check(record: SketchRecord) -> None:
        """ValueError when the errors of a record are not whole."""
        for run in record.errors:
            Errors.of(run)

    def add(self, record: SketchRecord) -> None:
        """Take the errors of a record of the sketches topic, in offset order per partition."""
        for run in record.errors:
            if run.decisions:
                self._hold(run.version, record.partition, Errors.of(run, self.maturity_ms))

    def _hold(self, version: str, partition: int, errors: Errors) -> None:
        by_hour = self.held.setdefault(version, {}).setdefault(partition, {})
        numbers = errors.times_ms // HOUR_MS
        order = np.argsort(numbers, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
            held = by_hour.setdefault(int(numbers[rows[0]]), _ErrorBytes(bytearray(), bytearray(), bytearray()))
            held.add(errors.take(rows))

    def take_due(self, version: str, watermark_ms: int | None) -> Errors:
        """Give the next errors of a version: all before the watermark (None: nothing may go yet)."""
        if watermark_ms is None or version not in self.held:
            return Errors.join([])
        due_runs = []
        for partition, by_hour in sorted(self.held[version].items()):
            for number in sorted(number for number in by_hour if number <= watermark_ms // HOUR_MS):
                errors = by_hour.pop(number).read()
                is_due = errors.times_ms < watermark_ms
                due_runs.append(errors.take(np.flatnonzero(is_due)))
                if not is_due.all():
                    self._hold(version, partition, errors.take(np.flatnonzero(~is_due)))
        left = {partition: by_hour for partition, by_hour in self.held.pop(version).items() if by_hour}
        if left:
            self.held[version] = left
        due = Errors.join(due_runs)
        # Stable: at the same time by partition, and within a partition as they came.
        return due.take(np.argsort(due.times_ms, kind="stable"))

    def snapshot(self) -> dict[str, Any]:
        """The whole state, as values that JSON keeps: equal states give equal values."""
        return {
            version: {str(partition): _to_text(by_hour) for partition, by_hour in sorted(of_version.items())}
            for version, of_version in sorted(self.held.items())
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state that `snapshot` gave."""
        self.held = {}
        for version, of_version in state.items():
            for partition, columns in of_version.items():
                held = _ErrorBytes(*(bytearray(b64decode(column)) for column in columns))
                self._hold(version, int(partition), held.read())


def _to_text(by_hour: _ByHour) -> list[str]:
    columns = zip(*(by_hour[number] for number in sorted(by_hour)), strict=True)
    return [b64encode(b"".join(column)).decode() for column in columns]
