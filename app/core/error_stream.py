"""The wrong decisions of each version as one stream, in an order that no worker, batch or restart can change.

What partitions bring is released in the order (effective label time, partition, place within the partition), up to the
label watermark of all partitions and strictly below it: at the watermark itself, more may come. Times within a
partition ascend (`app.core.merge.effective_times`, `PartitionPipeline`), and its watermark never passes what it has yet
to bring; so the sequence is a function of the logs alone. An idle partition holds nothing back, and what it then brings
from before the watermark is late: it comes out next.

A version's errors are held until the watermark passes them: 9 bytes a label.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.core.batches import Ints
    from app.core.detectors import Bits
    from schemas.wire import ErrorRun, SketchRecord


class Errors(NamedTuple):
    """Effective times of labels, and whether each decision was wrong."""

    times_ms: Ints
    wrong: Bits

    @classmethod
    def of(cls, run: ErrorRun) -> Errors:
        """Read a run; ValueError when it is not whole."""
        if len(run.times_ms) != 8 * len(run.wrong):
            raise ValueError(f"{len(run.times_ms)} bytes of times do not fit {len(run.wrong)} decisions")
        errors = cls.from_bytes(run.times_ms, run.wrong)
        if (errors.wrong > 1).any() or (np.diff(errors.times_ms) < 0).any():
            raise ValueError("of a run of errors, each is 1 or 0, and their times ascend")
        return errors

    @classmethod
    def from_bytes(cls, times_ms: bytes, wrong: bytes) -> Errors:
        return cls(np.frombuffer(times_ms, "<i8").astype(np.int64), np.frombuffer(wrong, np.uint8))

    @classmethod
    def join(cls, parts: Iterable[Errors]) -> Errors:
        times, wrong = [np.zeros(0, np.int64)], [np.zeros(0, np.uint8)]
        for part in parts:
            times.append(part.times_ms)
            wrong.append(part.wrong)
        return cls(np.concatenate(times), np.concatenate(wrong))


@dataclass(eq=False)
class ErrorStream:
    """What has been brought and not released, per version and partition."""

    held: dict[str, dict[int, list[Errors]]] = field(default_factory=dict)

    @staticmethod
    def check(record: SketchRecord) -> None:
        """ValueError when the errors of a record are not whole."""
        for run in record.errors:
            Errors.of(run)

    def add(self, record: SketchRecord) -> None:
        """Take the errors of a record of the sketches topic, in offset order per partition."""
        for run in record.errors:
            if run.wrong:
                self.held.setdefault(run.version, {}).setdefault(record.partition, []).append(Errors.of(run))

    def release(self, version: str, watermark_ms: int | None) -> Errors:
        """Give the next errors of a version: all before the watermark (None: no partition may go yet)."""
        of_version = self.held.get(version, {})
        if watermark_ms is None:
            return Errors.join([])
        released = []
        for partition, parts in sorted(of_version.items()):
            joined = Errors.join(parts)
            n = int(np.searchsorted(joined.times_ms, watermark_ms))
            released.append(Errors(joined.times_ms[:n], joined.wrong[:n]))
            of_version[partition] = [Errors(joined.times_ms[n:], joined.wrong[n:])] if n < len(joined.wrong) else []
        self.held[version] = {partition: parts for partition, parts in of_version.items() if parts}
        if not self.held[version]:
            del self.held[version]
        found = Errors.join(released)
        # Stable: at the same time by partition, and within a partition as they came.
        order = np.argsort(found.times_ms, kind="stable")
        return Errors(found.times_ms[order], found.wrong[order])

    def snapshot(self) -> dict[str, Any]:
        """The whole state, as values that JSON keeps: equal states give equal values."""
        return {
            version: {
                str(partition): [b64encode(bytes_).decode() for bytes_ in _to_bytes(Errors.join(parts))]
                for partition, parts in sorted(of_version.items())
            }
            for version, of_version in sorted(self.held.items())
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state that `snapshot` gave."""
        self.held = {
            version: {
                int(partition): [Errors.from_bytes(b64decode(times), b64decode(wrong))]
                for partition, (times, wrong) in of_version.items()
            }
            for version, of_version in state.items()
        }


def _to_bytes(errors: Errors) -> tuple[bytes, bytes]:
    return errors.times_ms.astype("<i8").tobytes(), errors.wrong.tobytes()
