"""Reads what a contestant published, and checks it: each score once, and equal to numpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.adapters.kafka.topic_reader import read_to_end
from app.bench.lane import BenchError, Lane
from app.core.counts.sketches import ALL
from schemas.wire import SketchRecord, decode_packed

#: Largest difference from numpy: others sum in another order, or in single precision decimals.
TOLERANCE = 1e-6


class Said(msgspec.Struct):
    """What every contestant's score says."""

    event_id: str
    score: float


@dataclass(frozen=True)
class Outputs:
    """Scores of a lane, in the order read: number of the event, score, when the broker appended it."""

    numbers: NDArray[np.int64]
    scores: NDArray[np.float64]
    appended_ms: NDArray[np.int64]

    @classmethod
    async def read(cls, lane: Lane) -> Outputs:
        """Every committed score of the lane."""
        decode = msgspec.json.Decoder(Said).decode
        said: list[Said] = []
        times: list[NDArray[np.int64]] = []
        async for batch in read_to_end(lane.settings.kafka_access, [lane.topics.scores]):
            said.extend(decode(value) for value in batch.values if value is not None)
            times.append(batch.timestamps_ms)
        if not said:
            raise BenchError("it published nothing")
        return cls(
            np.array([int(one.event_id[1:]) for one in said], dtype=np.int64),
            np.array([one.score for one in said]),
            np.concatenate(times),
        )

    def check(self, expected: NDArray[np.float64], *, whole: bool) -> None:
        """BenchError unless each is there once (``whole``: and none is missing) and as expected."""
        for fault in self._faults(expected, whole=whole):
            raise BenchError(fault)

    def _faults(self, expected: NDArray[np.float64], *, whole: bool) -> Iterator[str]:
        times = np.bincount(self.numbers, minlength=len(expected))
        if (times > 1).any():
            yield f"{int((times > 1).sum())} events were scored more than once"
        if whole and not times.all():
            yield f"{int((times == 0).sum())} of {len(expected)} events have no score"
        off = np.abs(self.scores - expected[self.numbers])
        if not (off <= TOLERANCE).all():
            row = int(np.nanargmax(np.where(np.isnan(off), np.inf, off)))
            wrong = int((~(off <= TOLERANCE)).sum())
            number = self.numbers[row]
            yield f"{wrong} scores differ from numpy's, e{number:08d}: {self.scores[row]} for {expected[number]}"


def n_events(record: SketchRecord) -> int:
    """Events that a record counts, each once: segments count them again."""
    return sum(delta.n for delta in record.deltas if delta.segment == ALL)


async def check_drift_counts(lane: Lane, events: int) -> None:
    """BenchError unless the drift statistics of our worker have counted each event once."""
    counted = 0
    async for batch in read_to_end(lane.settings.kafka_access, [lane.topics.sketches]):
        for value in batch.values:
            if value is not None:
                counted += n_events(decode_packed(value, SketchRecord))
    if counted != events:
        raise BenchError(f"its drift statistics counted {counted} of {events} events")
