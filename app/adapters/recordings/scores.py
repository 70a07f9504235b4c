"""The scores that a recording holds, in the order in which a replay gives their events."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from app.adapters.recordings.file import SCORES, RecordedLog
from app.core.batches import Floats, Ints
from app.core.replay.score_diff import Bools
from schemas.refusal import RefusedRecordError
from schemas.wire import Score, decode_json

SHADOW = "shadow"


class RecordedScores:
    """The published scores of one partition, by source offset; scores of shadow versions are passed over.

    Parameters
    ----------
    counts
        Whether the event at an offset is asked for at all.
    """

    def __init__(self, log: RecordedLog, partition: int, counts: Callable[[int], bool] = lambda _: True) -> None:
        self._scores = self._read(log, partition, counts)
        self._next: tuple[Score, bytes] | None = None

    @staticmethod
    def _read(log: RecordedLog, partition: int, counts: Callable[[int], bool]) -> Iterator[tuple[Score, bytes]]:
        for batch in log.read(SCORES, partition):
            for value in batch.values:
                try:
                    score = decode_json(value, Score)
                except RefusedRecordError:
                    continue  # another program wrote it
                if value is not None and score.role != SHADOW and counts(score.source.offset):
                    yield score, value

    def values(self) -> Iterator[bytes]:
        """The scores that are left, as they were published."""
        for _, value in self._scores:
            yield value

    def at(self, offsets: Ints) -> list[Score | None]:
        """The score of each event, None where there is none; offsets ascend from call to call."""
        scores: list[Score | None] = []
        for offset in offsets.tolist():
            while self._next is None or self._next[0].source.offset < offset:
                self._next = next(self._scores, None)
                if self._next is None:
                    break
            score = self._next[0] if self._next is not None else None
            scores.append(score if score is not None and score.source.offset == offset else None)
        return scores


def score_columns(scores: list[Score | None]) -> tuple[Floats, Bools]:
    """Scores (NaN: none) and decisions."""
    return (
        np.array([score.score if score is not None else np.nan for score in scores], dtype=np.float64),
        np.array([score is not None and score.decision for score in scores], dtype=bool),
    )
